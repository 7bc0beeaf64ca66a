//! Lists of definitions, in pages.

use anyhow::ensure;
use phasegate_proto::definition::v1 as proto;
use phasegate_test_database::both;
use tonic::Code;

use crate::world::{World, create, process, refused, stranger};

#[tokio::test]
async fn lists_show_the_newest_of_each_process_in_pages() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        for (id, version, draft) in [
            ("b", "1.0.0", false),
            ("b", "1.10.0", false),
            ("b", "1.9.0", false),
            ("b", "2.0.0", true),
            ("a", "1.0.0", false),
            ("c", "0.1.0", true),
            ("d", "1.0.0-beta", false),
        ] {
            world.create(proto::ProcessDefinition { draft, ..process(id, version)? }).await?;
        }
        world
            .definitions()
            .create_process_definition(world.call_as(&stranger(), create(process("z", "1.0.0")?)))
            .await?;
        for (include_drafts, expected) in [
            (false, vec!["a 1.0.0", "b 1.10.0", "d 1.0.0-beta"]),
            (true, vec!["a 1.0.0", "b 2.0.0", "c 0.1.0", "d 1.0.0-beta"]),
        ] {
            for page_size in [0, 1, 2, 3, 4] {
                let mut found = Vec::new();
                let mut page_token = String::new();
                loop {
                    let request =
                        proto::ListProcessDefinitionsRequest { page_size, page_token, include_drafts };
                    let page =
                        world.definitions().list_process_definitions(world.call(request)).await?.into_inner();
                    found.extend(page.processes.iter().map(|one| format!("{} {}", one.id, one.version)));
                    page_token = page.next_page_token;
                    if page_token.is_empty() {
                        break;
                    }
                    ensure!(!page.processes.is_empty(), "an empty page is the last");
                }
                ensure!(found == expected, "{page_size}: {found:?}");
            }
        }
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListProcessDefinitionVersionsRequest {
                process_id: "b".into(),
                page_size: 3,
                page_token,
            };
            let page =
                world.definitions().list_process_definition_versions(world.call(request)).await?.into_inner();
            found.extend(page.versions.iter().map(|one| one.version.clone()));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        ensure!(found == ["2.0.0", "1.10.0", "1.9.0", "1.0.0"], "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn lists_refuse_what_is_no_page() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.create(process("a", "1.0.0")?).await?;
        world.create(process("b", "1.0.0")?).await?;
        let first = proto::ListProcessDefinitionsRequest { page_size: 1, ..Default::default() };
        let token = world
            .definitions()
            .list_process_definitions(world.call(first.clone()))
            .await?
            .into_inner()
            .next_page_token;
        let negative = proto::ListProcessDefinitionsRequest { page_size: -1, ..Default::default() };
        let answer = world.definitions().list_process_definitions(world.call(negative)).await;
        refused(answer, Code::InvalidArgument, "PAGE_SIZE_INVALID", "negative")?;
        let other = proto::ListProcessDefinitionsRequest {
            page_token: token.clone(),
            include_drafts: true,
            ..first.clone()
        };
        let answer = world.definitions().list_process_definitions(world.call(other)).await;
        refused(answer, Code::InvalidArgument, "PAGE_TOKEN_INVALID", "another filter")?;
        let theirs = proto::ListProcessDefinitionsRequest { page_token: token.clone(), ..first };
        let answer = world.definitions().list_process_definitions(world.call_as(&stranger(), theirs)).await;
        refused(answer, Code::InvalidArgument, "PAGE_TOKEN_INVALID", "another tenant")?;
        let versions =
            |process_id: &str, page_size, page_token: &str| proto::ListProcessDefinitionVersionsRequest {
                process_id: process_id.into(),
                page_size,
                page_token: page_token.into(),
            };
        for (request, code, reason) in [
            (versions("nothing", 0, ""), Code::NotFound, "PROCESS_NOT_FOUND"),
            (versions("no\u{0}thing", 0, ""), Code::NotFound, "PROCESS_NOT_FOUND"),
            (versions("a", -5, ""), Code::InvalidArgument, "PAGE_SIZE_INVALID"),
            (versions("a", 0, &token), Code::InvalidArgument, "PAGE_TOKEN_INVALID"),
        ] {
            let answer = world.definitions().list_process_definition_versions(world.call(request)).await;
            refused(answer, code, reason, reason)?;
        }
        let template = |page_size, page_token: &str| proto::ListTeamTemplatesRequest {
            page_size,
            page_token: page_token.into(),
        };
        for (request, reason) in
            [(template(-1, ""), "PAGE_SIZE_INVALID"), (template(0, "garbage"), "PAGE_TOKEN_INVALID")]
        {
            let answer = world.templates().list_team_templates(world.call(request)).await;
            refused(answer, Code::InvalidArgument, reason, reason)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_page_fits_a_message_however_large_its_definitions_are() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let count = 8;
        for number in 0..count {
            let mut large = process(&format!("p{number:02}"), "1.0.0")?;
            for phase in &mut large.phases {
                phase.description = Some("x".repeat(65_000));
                for task in &mut phase.tasks {
                    task.description = Some("x".repeat(65_000));
                }
            }
            world.create(large).await?;
        }
        let mut found = 0;
        let mut page_token = String::new();
        loop {
            let request =
                proto::ListProcessDefinitionsRequest { page_size: 500, page_token, include_drafts: false };
            let page = world.definitions().list_process_definitions(world.call(request)).await?.into_inner();
            ensure!(page.processes.len() < count, "eight of these do not fit");
            found += page.processes.len();
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        ensure!(found == count, "{found}");
        Ok(())
    })
    .await
}
