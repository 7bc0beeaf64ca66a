//! The service over an in-memory pipe, on both databases: for each method what it does, what it refuses, and what it
//! answers when it is asked again.

mod world;

use anyhow::{Context as _, ensure};
use phasegate_clock::Timestamp;
use phasegate_proto::definition::v1 as proto;
use phasegate_proto::internal::definition::v1::PinDefinitionRequest;
use phasegate_proto_json::from_json;
use phasegate_test_database::both;
use prost_types::Struct;
use serde_json::{Value, json};
use tonic::Code;

use world::{
    World, create, definition, get, is_repeated, page_process, page_template, participant, process, refused,
    stranger, violations,
};

fn structure(json: &Value) -> anyhow::Result<Struct> {
    let context = json!({"onboarding": json});
    let team: proto::Team = from_json(&context, "phasegate.definition.v1.Team")
        .map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
    team.onboarding.context("no values")
}

// DefinitionService.

#[tokio::test]
async fn a_definition_is_stored_published_and_read_again() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let stored = world.create(page_process()?).await?;
        ensure!(stored.status() == proto::DefinitionStatus::Published && !stored.draft, "{stored:?}");
        ensure!(stored.content_digest.starts_with("sha256:"));
        ensure!(stored.created_at.is_some() && stored.published_at == stored.created_at);
        ensure!(stored.created_by.as_ref().is_some_and(|actor| actor.id == "dev"));
        let warnings: Vec<&str> = stored.warnings.iter().map(|issue| issue.code.as_str()).collect();
        ensure!(warnings == ["PHASE_UNAPPROVED"], "{warnings:?}");
        let bare = proto::ProcessDefinition {
            status: 0,
            created_at: None,
            published_at: None,
            created_by: None,
            content_digest: String::new(),
            warnings: Vec::new(),
            ..stored.clone()
        };
        ensure!(bare == page_process()?, "what the author wrote comes back as it was");
        for version in ["", "1.0.0"] {
            let answer =
                world.definitions().get_process_definition(world.call(get(&stored.id, version))).await?;
            ensure!(answer.into_inner().process_definition.as_ref() == Some(&stored));
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_published_version_never_changes() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let stored = world.create(page_process()?).await?;
        let rows = world.rows().await?;
        world.clock.advance(std::time::Duration::from_hours(1));

        // The same again, even with what only the server sets, or held back: nothing happens.
        for same in
            [page_process()?, stored.clone(), proto::ProcessDefinition { draft: true, ..page_process()? }]
        {
            let again = world.definitions().create_process_definition(world.call(create(same))).await?;
            ensure!(is_repeated(&again) && again.into_inner().process_definition.as_ref() == Some(&stored));
        }
        let other = proto::ProcessDefinition { name: "Other".into(), ..page_process()? };
        let answer = world.definitions().create_process_definition(world.call(create(other))).await;
        let status = refused(answer, Code::AlreadyExists, "VERSION_IMMUTABLE", "other content")?;
        ensure!(status.message().contains("1.0.0"), "{status:?}");
        ensure!(world.rows().await? == rows);

        // Another tenant has its own.
        let elsewhere = proto::ProcessDefinition { name: "Other".into(), ..page_process()? };
        world.definitions().create_process_definition(world.call_as(&stranger(), create(elsewhere))).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_draft_is_held_back_replaced_and_published() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let draft = |name: &str| -> anyhow::Result<_> {
            Ok(proto::ProcessDefinition { draft: true, name: name.into(), ..page_process()? })
        };
        let first = world.create(draft("One")?).await?;
        ensure!(
            first.draft && first.status() == proto::DefinitionStatus::Draft && first.published_at.is_none()
        );
        let again = world.definitions().create_process_definition(world.call(create(draft("One")?))).await?;
        ensure!(is_repeated(&again));
        let second = world.create(draft("Two")?).await?;
        ensure!(second.name == "Two" && second.content_digest != first.content_digest);

        let id = second.id.clone();
        let latest = world.definitions().get_process_definition(world.call(get(&id, ""))).await;
        refused(latest, Code::NotFound, "PROCESS_NOT_FOUND", "nothing is published")?;
        let pin = PinDefinitionRequest { process_id: id.clone(), version: "1.0.0".into() };
        let answer = world.internal().pin_definition(world.call(pin.clone())).await;
        refused(answer, Code::FailedPrecondition, "DEFINITION_NOT_STARTABLE", "a draft")?;

        let publish = proto::PublishProcessDefinitionRequest {
            process_id: id.clone(),
            version: "1.0.0".into(),
            request_id: "p-1".into(),
        };
        let published = world.definitions().publish_process_definition(world.call(publish.clone())).await?;
        ensure!(!is_repeated(&published));
        let published = published.into_inner().process_definition.context("no definition")?;
        ensure!(published.status() == proto::DefinitionStatus::Published && !published.draft);
        ensure!(published.content_digest == second.content_digest && published.published_at.is_some());
        // The same request, and another one: both find it done.
        for request_id in ["p-1", "p-2", ""] {
            let request =
                proto::PublishProcessDefinitionRequest { request_id: request_id.into(), ..publish.clone() };
            let again = world.definitions().publish_process_definition(world.call(request)).await?;
            ensure!(
                is_repeated(&again) && again.into_inner().process_definition.as_ref() == Some(&published)
            );
        }
        let other = proto::PublishProcessDefinitionRequest { version: "2.0.0".into(), ..publish };
        let answer = world.definitions().publish_process_definition(world.call(other.clone())).await;
        refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED", "another version")?;
        let other = proto::PublishProcessDefinitionRequest { request_id: String::new(), ..other };
        let answer = world.definitions().publish_process_definition(world.call(other)).await;
        refused(answer, Code::NotFound, "PROCESS_NOT_FOUND", "no such version")?;

        let pinned = world.internal().pin_definition(world.call(pin)).await?.into_inner();
        ensure!(pinned.content_digest == published.content_digest && pinned.version == "1.0.0");
        // Storing the published content without `draft` publishes, too.
        world.create(proto::ProcessDefinition { draft: true, ..process("other", "1.0.0")? }).await?;
        let stored = world.create(process("other", "1.0.0")?).await?;
        ensure!(stored.status() == proto::DefinitionStatus::Published);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_pinned_is_what_was_written() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.create(process("p", "1.0.0")?).await?;
        world.create(process("p", "1.10.0")?).await?;
        world.create(process("p", "1.9.0")?).await?;
        world.create(process("p", "2.0.0-rc.1")?).await?;
        for (version, expected) in [("", "2.0.0-rc.1"), ("1.0.0", "1.0.0")] {
            let pin = PinDefinitionRequest { process_id: "p".into(), version: version.into() };
            let pinned = world.internal().pin_definition(world.call(pin)).await?.into_inner();
            ensure!(pinned.version == expected, "{}", pinned.version);
            ensure!(phasegate_process::digest(&pinned.definition_json) == pinned.content_digest);
            let draft = phasegate_process::Draft::from_slice(&pinned.definition_json)?;
            ensure!(
                phasegate_process::validate(&draft).definition.is_some_and(|found| found.version == expected)
            );
        }
        for (principal, id, version) in [
            (phasegate_principal::Principal::dev_operator(), "nothing", ""),
            (phasegate_principal::Principal::dev_operator(), "p", "9.9.9"),
            (stranger(), "p", "1.0.0"),
        ] {
            let pin = PinDefinitionRequest { process_id: id.into(), version: version.into() };
            let answer = world.internal().pin_definition(world.call_as(&principal, pin)).await;
            refused(answer, Code::NotFound, "PROCESS_NOT_FOUND", id)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let request =
            proto::CreateProcessDefinitionRequest { request_id: "c-1".into(), ..create(page_process()?) };
        let first = world.definitions().create_process_definition(world.call(request.clone())).await?;
        ensure!(!is_repeated(&first));
        let rows = world.rows().await?;
        world.clock.advance(std::time::Duration::from_hours(24));
        let again = world.definitions().create_process_definition(world.call(request.clone())).await?;
        ensure!(is_repeated(&again) && again.into_inner() == first.into_inner());
        let other = proto::CreateProcessDefinitionRequest {
            process_definition: Some(process("other", "1.0.0")?),
            ..request
        };
        let answer = world.definitions().create_process_definition(world.call(other)).await;
        refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED", "another definition")?;
        for request_id in ["a".repeat(129), "a b".to_owned(), "\u{e9}".to_owned()] {
            let request = proto::CreateProcessDefinitionRequest { request_id, ..create(page_process()?) };
            let answer = world.definitions().create_process_definition(world.call(request)).await;
            refused(answer, Code::InvalidArgument, "REQUEST_ID_INVALID", "request id")?;
        }
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn of_many_who_store_at_once_one_wins_and_all_are_answered() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut same = tokio::task::JoinSet::new();
        for number in 0..16 {
            let request_id = if number % 2 == 0 { "same".to_owned() } else { String::new() };
            let request = proto::CreateProcessDefinitionRequest { request_id, ..create(page_process()?) };
            let (mut client, request) = (world.definitions(), world.call(request));
            same.spawn(async move { client.create_process_definition(request).await });
        }
        while let Some(answer) = same.join_next().await {
            answer??;
        }
        let mut different = tokio::task::JoinSet::new();
        for number in 0..8 {
            let request =
                create(proto::ProcessDefinition { name: format!("N{number}"), ..process("race", "1.0.0")? });
            let (mut client, request) = (world.definitions(), world.call(request));
            different.spawn(async move { client.create_process_definition(request).await });
        }
        let mut won = 0;
        while let Some(answer) = different.join_next().await {
            match answer? {
                Ok(_) => won += 1,
                Err(status) => {
                    refused::<()>(Err(status), Code::AlreadyExists, "VERSION_IMMUTABLE", "a race")?;
                }
            }
        }
        ensure!(won == 1, "{won}");
        ensure!(world.rows().await?[0] == 2);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_fault_is_reported_at_once_and_changes_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let mut wrong = page_process()?;
        wrong.version = "1".into();
        wrong.phases[0].order = 2;
        wrong.phases[1].tasks[0].dependencies = vec!["nothing".into(), "sso_setup".into()];
        wrong.gates[0].r#type = 99;
        wrong.gates[1].r#type = 0;
        wrong.gates[1].before_phase = "nowhere".into();
        for request in [
            create(wrong.clone()),
            proto::CreateProcessDefinitionRequest { validate_only: true, ..create(wrong.clone()) },
            create(proto::ProcessDefinition { draft: true, ..wrong.clone() }),
        ] {
            let answer = world.definitions().create_process_definition(world.call(request)).await;
            let status = refused(answer, Code::InvalidArgument, "VALIDATION_FAILED", "faults")?;
            let found = violations(&status);
            let expected = [
                ("/version", "VERSION_INVALID"),
                ("/phases/1/order", "ORDER_INVALID"),
                ("/gates/0/type", "ENUM_INVALID"),
                ("/gates/1/beforePhase", "GATE_PHASE_UNKNOWN"),
                ("/gates/1/type", "ENUM_INVALID"),
                ("/phases/1/tasks/0/dependencies/0", "DEPENDENCY_UNKNOWN"),
                ("/phases/1/tasks/0/dependencies", "DEPENDENCY_CYCLE"),
            ];
            let expected = expected.map(|(path, code)| (path.to_owned(), code.to_owned()));
            ensure!(found == expected, "{found:?}");
        }
        let answer = world
            .definitions()
            .create_process_definition(world.call(proto::CreateProcessDefinitionRequest::default()))
            .await;
        refused(answer, Code::InvalidArgument, "VALIDATION_FAILED", "nothing at all")?;

        // A hundred faults are told as far as an error carries them, and how many there are.
        let many = proto::ProcessDefinition {
            phases: (0..90).map(|_| proto::ProcessPhase::default()).collect(),
            ..page_process()?
        };
        let answer = world.definitions().create_process_definition(world.call(create(many))).await;
        let status = refused(answer, Code::InvalidArgument, "VALIDATION_FAILED", "many")?;
        ensure!(
            (10..100).contains(&violations(&status).len()) && status.message().contains("100 faults"),
            "{status:?}"
        );
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_too_large_is_refused() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let phases =
            (0..101).map(|n| proto::ProcessPhase { id: format!("p{n}"), ..Default::default() }).collect();
        for (large, what) in [
            (proto::ProcessDefinition { phases, ..page_process()? }, "phases"),
            (
                proto::ProcessDefinition { description: Some("x".repeat(1_100_000)), ..page_process()? },
                "bytes",
            ),
            (
                proto::ProcessDefinition { description: Some("x".repeat(10_000_000)), ..page_process()? },
                "message",
            ),
        ] {
            let answer =
                world.definitions().create_process_definition(world.call(create(large.clone()))).await;
            refused(answer, Code::ResourceExhausted, "DEFINITION_TOO_LARGE", what)?;
            let check =
                proto::ValidateProcessDefinitionRequest { process_definition: Some(large), context: None };
            let answer = world.definitions().validate_process_definition(world.call(check)).await;
            refused(answer, Code::ResourceExhausted, "DEFINITION_TOO_LARGE", what)?;
        }
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_trial_stores_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let trial = |definition| proto::CreateProcessDefinitionRequest {
            validate_only: true,
            request_id: "t-1".into(),
            ..create(definition)
        };
        let answer =
            world.definitions().create_process_definition(world.call(trial(page_process()?))).await?;
        ensure!(!is_repeated(&answer));
        ensure!(answer.into_inner().process_definition.is_some_and(|tried| tried.warnings.len() == 1));
        ensure!(world.rows().await? == rows);
        world.create(page_process()?).await?;
        let other = proto::ProcessDefinition { name: "Other".into(), ..page_process()? };
        let answer = world.definitions().create_process_definition(world.call(trial(other))).await;
        refused(answer, Code::AlreadyExists, "VERSION_IMMUTABLE", "it would be refused")?;
        let template = proto::CreateTeamTemplateRequest {
            team_template: Some(page_template()?),
            validate_only: true,
            ..Default::default()
        };
        let answer = world.templates().create_team_template(world.call(template)).await?.into_inner();
        ensure!(answer.team_template.is_some_and(|tried| tried.id == "enterprise-deployment-team"));
        ensure!(world.rows().await?[1] == 0);
        Ok(())
    })
    .await
}

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

#[tokio::test]
async fn what_is_not_there_or_not_ones_own_is_not_found() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.create(page_process()?).await?;
        let id = "enterprise_sso_deployment";
        for (id, version) in [
            ("nothing", ""),
            ("", ""),
            (id, "2.0.0"),
            (id, "1.0.0\u{0}"),
            (id, &"1".repeat(500)),
            ("' or 1=1 --", ""),
        ] {
            let answer = world.definitions().get_process_definition(world.call(get(id, version))).await;
            refused(answer, Code::NotFound, "PROCESS_NOT_FOUND", id)?;
        }
        let answer =
            world.definitions().get_process_definition(world.call_as(&stranger(), get(id, "1.0.0"))).await;
        let theirs = refused(answer, Code::NotFound, "PROCESS_NOT_FOUND", "another tenant's")?;
        let answer = world
            .definitions()
            .get_process_definition(world.call_as(&stranger(), get("random", "1.0.0")))
            .await;
        let nobodys = refused(answer, Code::NotFound, "PROCESS_NOT_FOUND", "nobody's")?;
        ensure!(theirs.message().replace(id, "random") == nobodys.message(), "the two are told apart");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn people_with_a_link_have_no_business_here() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.create(page_process()?).await?;
        let rows = world.rows().await?;
        let me = participant();
        let (mut definitions, mut templates) = (world.definitions(), world.templates());
        let (code, reason) = (Code::PermissionDenied, "ROLE_FORBIDDEN");
        let message = world.call_as(&me, proto::ListProcessDefinitionsRequest::default());
        refused(definitions.list_process_definitions(message).await, code, reason, "list")?;
        let message = world.call_as(&me, get("enterprise_sso_deployment", ""));
        refused(definitions.get_process_definition(message).await, code, reason, "get")?;
        let message = world.call_as(&me, create(process("mine", "1.0.0")?));
        refused(definitions.create_process_definition(message).await, code, reason, "create")?;
        let message = world.call_as(&me, proto::PublishProcessDefinitionRequest::default());
        refused(definitions.publish_process_definition(message).await, code, reason, "publish")?;
        let message = world.call_as(&me, proto::ListProcessDefinitionVersionsRequest::default());
        refused(definitions.list_process_definition_versions(message).await, code, reason, "versions")?;
        let message = world.call_as(&me, proto::ValidateProcessDefinitionRequest::default());
        refused(definitions.validate_process_definition(message).await, code, reason, "validate")?;
        let message = world.call_as(&me, proto::ListTeamTemplatesRequest::default());
        refused(templates.list_team_templates(message).await, code, reason, "templates")?;
        let message = world.call_as(&me, proto::GetTeamTemplateRequest::default());
        refused(templates.get_team_template(message).await, code, reason, "template")?;
        let create =
            proto::CreateTeamTemplateRequest { team_template: Some(page_template()?), ..Default::default() };
        refused(
            templates.create_team_template(world.call_as(&me, create)).await,
            code,
            reason,
            "create template",
        )?;
        let message = world.call_as(&me, proto::InstantiateTeamTemplateRequest::default());
        refused(templates.instantiate_team_template(message).await, code, reason, "instantiate")?;
        let message = world.call_as(&me, proto::GetTeamRequest::default());
        refused(templates.get_team(message).await, code, reason, "team")?;
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_check_reports_everything_and_stores_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let check = async |definition, context: Option<Value>| -> anyhow::Result<_> {
            let context = context.map(|context| structure(&context)).transpose()?;
            let request =
                proto::ValidateProcessDefinitionRequest { process_definition: Some(definition), context };
            Ok(world.definitions().validate_process_definition(world.call(request)).await?.into_inner())
        };
        let sound = check(page_process()?, None).await?;
        ensure!(sound.valid && sound.execution_order.len() == 7, "{sound:?}");
        ensure!(sound.issues.len() == 1 && sound.issues[0].severity() == proto::Severity::Warning);

        let wrong =
            proto::ProcessDefinition { phases: vec![proto::ProcessPhase::default(); 90], ..page_process()? };
        let found = check(wrong, None).await?;
        ensure!(!found.valid && found.issues.len() == 100 && found.execution_order.is_empty());
        ensure!(found.issues.iter().all(|issue| issue.severity() == proto::Severity::Error));

        let mut with_schema: Value =
            serde_json::from_slice(include_bytes!("../../../libs/process/tests/data/process.json"))?;
        with_schema["contextSchema"] =
            json!({"properties": {"userCount": {"type": "integer"}}, "required": ["customerName"]});
        let with_schema = definition(&with_schema)?;
        let good = json!({"customerName": "Acme", "userCount": 5000});
        ensure!(check(with_schema.clone(), Some(good)).await?.valid);
        let found = check(with_schema, Some(json!({"userCount": 0.5}))).await?;
        let faults: Vec<(&str, &str)> =
            found.issues.iter().map(|issue| (issue.code.as_str(), issue.path.as_str())).collect();
        ensure!(!found.valid && found.execution_order.is_empty());
        ensure!(faults.contains(&("CONTEXT_INVALID", "/context/customerName")), "{faults:?}");
        ensure!(faults.contains(&("CONTEXT_INVALID", "/context/userCount")), "{faults:?}");
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

// TeamTemplateService.

#[tokio::test]
async fn a_template_is_stored_under_an_id_made_from_its_name() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let create = |team_template, request_id: &str| proto::CreateTeamTemplateRequest {
            team_template: Some(team_template),
            validate_only: false,
            request_id: request_id.into(),
        };
        let mut client = world.templates();
        let stored = client.create_team_template(world.call(create(page_template()?, "t-1"))).await?;
        ensure!(!is_repeated(&stored));
        let stored = stored.into_inner().team_template.context("no template")?;
        ensure!(stored.id == "enterprise-deployment-team" && stored.created_at.is_some());
        ensure!(
            stored.warnings.iter().all(|issue| issue.code == "AGENT_NOT_DESCRIBED")
                && stored.warnings.len() == 5
        );
        let bare = proto::TeamTemplate {
            id: String::new(),
            created_at: None,
            warnings: Vec::new(),
            ..stored.clone()
        };
        ensure!(bare == page_template()?, "what the author wrote comes back as it was");

        let rows = world.rows().await?;
        for (template, request_id) in
            [(page_template()?, "t-1"), (page_template()?, ""), (stored.clone(), "")]
        {
            let again = client.create_team_template(world.call(create(template, request_id))).await?;
            ensure!(is_repeated(&again) && again.into_inner().team_template.as_ref() == Some(&stored));
        }
        let other = proto::TeamTemplate { category: "other".into(), ..page_template()? };
        let answer = client.create_team_template(world.call(create(other.clone(), ""))).await;
        refused(answer, Code::AlreadyExists, "ALREADY_EXISTS", "other content")?;
        let answer = client.create_team_template(world.call(create(other, "t-1"))).await;
        refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED", "other content")?;
        ensure!(world.rows().await? == rows);

        let get = |id: &str| proto::GetTeamTemplateRequest { team_template_id: id.into() };
        let found = client.get_team_template(world.call(get(&stored.id))).await?.into_inner();
        ensure!(found.team_template.as_ref() == Some(&stored));
        for (principal, id) in [
            (phasegate_principal::Principal::dev_operator(), "nothing"),
            (phasegate_principal::Principal::dev_operator(), "\u{0}"),
            (stranger(), "enterprise-deployment-team"),
        ] {
            let answer = client.get_team_template(world.call_as(&principal, get(id))).await;
            refused(answer, Code::NotFound, "TEAM_TEMPLATE_NOT_FOUND", id)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn templates_are_listed_by_id() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        for id in ["b", "c", "a-1", "a_1", "a"] {
            let team_template = Some(proto::TeamTemplate { id: id.into(), ..page_template()? });
            let create = proto::CreateTeamTemplateRequest { team_template, ..Default::default() };
            world.templates().create_team_template(world.call(create)).await?;
        }
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListTeamTemplatesRequest { page_size: 2, page_token };
            let page = world.templates().list_team_templates(world.call(request)).await?.into_inner();
            found.extend(page.team_templates.into_iter().map(|template| template.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        ensure!(found == ["a", "a-1", "a_1", "b", "c"], "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_template_with_faults_is_refused() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let rows = world.rows().await?;
        let mut wrong = page_template()?;
        wrong.interaction_rules[0].action = "explode".into();
        wrong.interaction_rules[0].priority = 42;
        wrong.interaction_rules[1].timeout = Some("soon".into());
        wrong.agents[1].id = "deployment_lead".into();
        let create = |team_template| proto::CreateTeamTemplateRequest {
            team_template: Some(team_template),
            ..Default::default()
        };
        let answer = world.templates().create_team_template(world.call(create(wrong))).await;
        let status = refused(answer, Code::InvalidArgument, "VALIDATION_FAILED", "faults")?;
        let found = violations(&status);
        for (path, code) in [
            ("/agents/1/id", "ID_DUPLICATE"),
            ("/interactionRules/0/action", "RULE_INVALID"),
            ("/interactionRules/0/priority", "RULE_INVALID"),
            ("/interactionRules/1/timeout", "RULE_INVALID"),
        ] {
            ensure!(found.contains(&(path.to_owned(), code.to_owned())), "no {code} at {path}: {found:?}");
        }
        let mut large = page_template()?;
        large.agents[0].system_prompt = "x".repeat(65_537);
        let answer = world.templates().create_team_template(world.call(create(large))).await;
        refused(answer, Code::ResourceExhausted, "TEAM_TEMPLATE_TOO_LARGE", "a long prompt")?;
        ensure!(world.rows().await? == rows);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_team_is_made_from_a_template_and_fitting_values() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let create = proto::CreateTeamTemplateRequest { team_template: Some(page_template()?), ..Default::default() };
        world.templates().create_team_template(world.call(create)).await?;
        let values = json!({"customerName": "Acme", "customerDomain": "acme.com", "idpType": "okta", "userCount": 5000});
        let request = |values: &Value| -> anyhow::Result<_> {
            Ok(proto::InstantiateTeamTemplateRequest {
                team_template_id: "enterprise-deployment-team".into(),
                name: String::new(),
                onboarding: Some(structure(values)?),
                request_id: String::new(),
            })
        };
        let mut client = world.templates();
        let rows = world.rows().await?;
        for (values, paths) in [
            (json!({}), vec!["/onboarding/customerName", "/onboarding/customerDomain", "/onboarding/idpType"]),
            (json!({"customerName": "A", "customerDomain": "b", "idpType": "saml"}), vec!["/onboarding/idpType"]),
            (json!({"customerName": 1, "customerDomain": "b", "idpType": "okta"}), vec!["/onboarding/customerName"]),
        ] {
            let answer = client.instantiate_team_template(world.call(request(&values)?)).await;
            let status = refused(answer, Code::InvalidArgument, "ONBOARDING_INVALID", "values")?;
            let found = violations(&status);
            ensure!(found.len() == paths.len() && paths.iter().all(|path| found.iter().any(|(at, _)| at == path)), "{found:?}");
        }
        let large = json!({"customerName": "x".repeat(300_000), "customerDomain": "b", "idpType": "okta"});
        let answer = client.instantiate_team_template(world.call(request(&large)?)).await;
        refused(answer, Code::InvalidArgument, "ONBOARDING_INVALID", "too large")?;
        let named = proto::InstantiateTeamTemplateRequest { name: "a\nb".into(), ..request(&values)? };
        let answer = client.instantiate_team_template(world.call(named)).await;
        refused(answer, Code::InvalidArgument, "NAME_INVALID", "two lines")?;
        let nothing = proto::InstantiateTeamTemplateRequest { team_template_id: "nothing".into(), ..request(&values)? };
        let answer = client.instantiate_team_template(world.call(nothing)).await;
        refused(answer, Code::NotFound, "TEAM_TEMPLATE_NOT_FOUND", "nothing")?;
        ensure!(world.rows().await? == rows);

        let once = proto::InstantiateTeamTemplateRequest { request_id: "i-1".into(), ..request(&values)? };
        let made = client.instantiate_team_template(world.call(once.clone())).await?;
        ensure!(!is_repeated(&made));
        let team = made.into_inner().team.context("no team")?;
        ensure!(team.id.starts_with("team-") && team.name == "Enterprise Deployment Team" && team.agents.len() == 2);
        ensure!(team.onboarding == Some(structure(&values)?) && team.interaction_rules.len() == 2);
        ensure!(team.orchestration.is_some() && team.team_template_id == "enterprise-deployment-team");
        let again = client.instantiate_team_template(world.call(once)).await?;
        ensure!(is_repeated(&again) && again.into_inner().team.as_ref() == Some(&team));
        let second = proto::InstantiateTeamTemplateRequest { name: "Mine".into(), ..request(&values)? };
        let second = client.instantiate_team_template(world.call(second)).await?.into_inner().team.context("no team")?;
        ensure!(second.id != team.id && second.name == "Mine");

        let get = |id: &str| proto::GetTeamRequest { team_id: id.into() };
        ensure!(client.get_team(world.call(get(&team.id))).await?.into_inner().team.as_ref() == Some(&team));
        refused(client.get_team(world.call(get("team-0"))).await, Code::NotFound, "TEAM_NOT_FOUND", "nobody's")?;
        let theirs = world.call_as(&stranger(), get(&team.id));
        refused(client.get_team(theirs).await, Code::NotFound, "TEAM_NOT_FOUND", "another tenant's")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn times_come_from_the_clock_of_the_service() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let before = world.create(process("a", "1.0.0")?).await?;
        world.clock.advance(std::time::Duration::from_mins(10));
        let after = world.create(process("b", "1.0.0")?).await?;
        let at = |definition: &proto::ProcessDefinition| {
            definition.created_at.as_ref().and_then(Timestamp::from_proto)
        };
        let (before, after) = (at(&before).context("no time")?, at(&after).context("no time")?);
        ensure!(after.duration_since(before) == std::time::Duration::from_mins(10));
        Ok(())
    })
    .await
}
