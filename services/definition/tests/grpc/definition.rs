//! Definitions: stored, published, pinned, and the same again.

use anyhow::{Context as _, ensure};
use phasegate_clock::Timestamp;
use phasegate_proto::definition::v1 as proto;
use phasegate_proto::internal::definition::v1::PinDefinitionRequest;
use phasegate_test_database::both;
use tonic::Code;

use crate::world::{World, create, get, is_repeated, page_process, process, refused, stranger};

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
        let answer = world.internal().pin_definition(world.call_between(pin.clone())).await;
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

        let pinned = world.internal().pin_definition(world.call_between(pin)).await?.into_inner();
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
            let pinned = world.internal().pin_definition(world.call_between(pin)).await?.into_inner();
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
            let answer =
                world.internal().pin_definition(world.call_as(&principal.asked_by("instance"), pin)).await;
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
