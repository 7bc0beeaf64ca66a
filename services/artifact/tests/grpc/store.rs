//! Storing artifacts.

use std::time::Duration;

use crate::world::{INSTANCE, World, is_repeated, operator, participant, refused};
use phasegate_principal::{Permission, Principal};
use phasegate_proto::actor::v1::ActorKind;
use phasegate_proto::artifact::v1::{GetArtifactRequest, StoreArtifactRequest};
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_test_database::both;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::Code;

use crate::calls::{list, metadata, store, text};

#[tokio::test]
async fn json_is_stored_read_and_told_of() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.artifacts();
        let request = store("requirements", text("SAML 2.0"));
        let stored = client.store_artifact(world.call(&operator(), request.clone())).await?;
        assert!(!is_repeated(&stored));
        let artifact = stored.into_inner().artifact.unwrap_or_default();
        assert_eq!((artifact.version, artifact.size_bytes), (1, 10));
        assert_eq!(artifact.content, None);
        assert_eq!(artifact.content_type, "application/json");
        assert_eq!(artifact.created_by.as_ref().map(|actor| actor.id.as_str()), Some("dev"));
        // sha256sum over "SAML 2.0" with its quotes.
        assert_eq!(
            artifact.digest,
            "sha256:4244c2d64cd0a6e1a64fa1d4846c4eeb431d170fb04788775e747a11ce7e28d2"
        );

        let get = GetArtifactRequest { instance_id: INSTANCE.into(), key: "requirements".into(), version: 0 };
        let got = client
            .get_artifact(world.call(&operator(), get))
            .await?
            .into_inner()
            .artifact
            .unwrap_or_default();
        assert_eq!(got.content, Some(text("SAML 2.0")));
        assert_eq!(got.metadata, request.metadata);

        let events = world.heard.events(1).await?;
        let Some(Payload::ArtifactStored(told)) = &events[0].payload else { anyhow::bail!("{events:?}") };
        assert_eq!(
            (told.key.as_str(), told.version, told.digest.as_str()),
            ("requirements", 1, artifact.digest.as_str())
        );
        assert_eq!(events[0].instance_id, INSTANCE);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn bytes_up_to_8_mib_come_back_as_they_were() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.artifacts();
        let bytes: Vec<u8> = (0..8_u32 << 20).map(|n| n.to_le_bytes()[0]).collect();
        let mut request = StoreArtifactRequest {
            raw_content: bytes.clone(),
            content_type: "image/png".into(),
            ..store("diagram", text(""))
        };
        request.content = None;
        client.store_artifact(world.call(&operator(), request.clone())).await?;
        let get = GetArtifactRequest { instance_id: INSTANCE.into(), key: "diagram".into(), version: 1 };
        let got = client
            .get_artifact(world.call(&operator(), get))
            .await?
            .into_inner()
            .artifact
            .unwrap_or_default();
        assert_eq!((got.content_type.as_str(), got.content.is_none()), ("image/png", true));
        assert!(got.raw_content == bytes);

        let before = world.rows().await?;
        request.raw_content.push(0);
        let answer = client.store_artifact(world.call(&operator(), request)).await;
        refused(answer, Code::ResourceExhausted, "ARTIFACT_TOO_LARGE", "8 MiB and a byte")?;
        assert_eq!(world.rows().await?, before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_same_content_makes_no_version_and_the_same_request_no_second_answer() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.artifacts();
        let first = StoreArtifactRequest { request_id: "r-1".into(), ..store("plan", text("one")) };
        let answer = client.store_artifact(world.call(&operator(), first.clone())).await?.into_inner();

        let unchanged = client.store_artifact(world.call(&operator(), store("plan", text("one")))).await?;
        assert!(is_repeated(&unchanged));
        assert_eq!(unchanged.into_inner(), answer);

        let second = client.store_artifact(world.call(&operator(), store("plan", text("two")))).await?;
        assert!(!is_repeated(&second));
        assert_eq!(second.into_inner().artifact.unwrap_or_default().version, 2);

        let rows = world.rows().await?;
        let repeated = client.store_artifact(world.call(&operator(), first.clone())).await?;
        assert!(is_repeated(&repeated));
        assert_eq!(repeated.into_inner(), answer);
        let other = StoreArtifactRequest { content: Some(text("three")), ..first };
        let answer = client.store_artifact(world.call(&operator(), other)).await;
        refused(answer, Code::InvalidArgument, "REQUEST_ID_REUSED", "another request")?;
        assert_eq!(world.rows().await?, rows);
        assert_eq!(world.heard.events(2).await?.len(), 2);
        Ok(())
    })
    .await
}

/// A caller that gave up waiting comes again while its first request is still being done, and must not stumble over it.
#[tokio::test]
async fn a_request_that_overtakes_itself_gets_the_answer_of_the_first() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        for round in 0..20 {
            let request = StoreArtifactRequest {
                if_version: Some(0),
                request_id: format!("r-{round}"),
                ..store(&format!("plan-{round}"), text("one"))
            };
            let mut callers = tokio::task::JoinSet::new();
            for _ in 0..4 {
                let (mut client, request) = (world.artifacts(), world.call(&operator(), request.clone()));
                callers.spawn(async move { client.store_artifact(request).await });
            }
            let mut answers = Vec::new();
            while let Some(done) = callers.join_next().await {
                answers.push(done??.into_inner());
            }
            assert_eq!(answers.len(), 4);
            assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_store_is_conditional_on_what_the_caller_saw() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.artifacts();
        for (if_version, content, expected) in
            [(Some(1), "a", Err("0")), (Some(0), "a", Ok(1)), (Some(0), "b", Err("1")), (Some(1), "b", Ok(2))]
        {
            let request = StoreArtifactRequest { if_version, ..store("plan", text(content)) };
            let answer = client.store_artifact(world.call(&operator(), request)).await;
            match expected {
                Ok(version) => assert_eq!(answer?.into_inner().artifact.unwrap_or_default().version, version),
                Err(current) => {
                    let status = refused(answer, Code::Aborted, "ARTIFACT_VERSION_CONFLICT", content)?;
                    assert_eq!(metadata(&status, "current_version").as_deref(), Some(current));
                }
            }
        }

        // Of sixteen writers who saw the same version, one wins; sixteen who did not look all get a version.
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..32 {
            let (mut client, if_version) = (world.artifacts(), (number < 16).then_some(0));
            let key = if number < 16 { "one" } else { "all" };
            let content = Some(text(&format!("{number}")));
            let call =
                world.call(&operator(), StoreArtifactRequest { if_version, content, ..store(key, text("")) });
            writers.spawn(async move { (number, client.store_artifact(call).await) });
        }
        let (mut won, mut versions) = (0, Vec::new());
        while let Some(done) = writers.join_next().await {
            match done? {
                (..16, Ok(_)) => won += 1,
                (..16, answer) => {
                    drop(refused(answer, Code::Aborted, "ARTIFACT_VERSION_CONFLICT", "a loser")?);
                }
                (_, answer) => versions.push(answer?.into_inner().artifact.unwrap_or_default().version),
            }
        }
        versions.sort_unstable();
        assert_eq!(won, 1);
        assert_eq!(versions, (1..=16).collect::<Vec<_>>());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_leaves_no_trace() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.instance.set_status("i-done", InstanceStatus::Completed);
        world.instance.set_status("i-cancelled", InstanceStatus::Cancelled);
        world.instance.set_status("i-failed", InstanceStatus::Failed);
        let mut client = world.artifacts();
        let good = || store("plan", text("one"));
        let number = |number| Some(Value { kind: Some(Kind::NumberValue(number)) });
        let phase = |phase: Value| Some(Struct { fields: [("phase".to_owned(), phase)].into() });
        let long = Some(Struct { fields: [("note".to_owned(), text(&"x".repeat(64 << 10)))].into() });
        let both_contents = StoreArtifactRequest { raw_content: vec![1], ..good() };
        let table = [
            ("key", StoreArtifactRequest { key: "../plan".into(), ..good() }, "METADATA_INVALID"),
            ("no key", StoreArtifactRequest { key: String::new(), ..good() }, "METADATA_INVALID"),
            ("no type", StoreArtifactRequest { r#type: String::new(), ..good() }, "METADATA_INVALID"),
            ("long type", StoreArtifactRequest { r#type: "x".repeat(65), ..good() }, "METADATA_INVALID"),
            (
                "content type",
                StoreArtifactRequest { content_type: "text/plain".into(), ..good() },
                "METADATA_INVALID",
            ),
            (
                "unknown phase",
                StoreArtifactRequest { metadata: phase(text("launch")), ..good() },
                "METADATA_INVALID",
            ),
            (
                "phase is no text",
                StoreArtifactRequest { metadata: phase(list(1)), ..good() },
                "METADATA_INVALID",
            ),
            ("long metadata", StoreArtifactRequest { metadata: long, ..good() }, "METADATA_INVALID"),
            ("no content", StoreArtifactRequest { content: None, ..good() }, "CONTENT_INVALID"),
            ("two contents", both_contents, "CONTENT_INVALID"),
            ("not a number", StoreArtifactRequest { content: number(f64::NAN), ..good() }, "CONTENT_INVALID"),
            (
                "request id",
                StoreArtifactRequest { request_id: "x".repeat(129), ..good() },
                "REQUEST_ID_INVALID",
            ),
            ("token", StoreArtifactRequest { task_token: "garbage".into(), ..good() }, "TOKEN_MALFORMED"),
        ];
        let before = world.rows().await?;
        for (what, request, reason) in table {
            let answer = client.store_artifact(world.call(&operator(), request)).await;
            refused(answer, Code::InvalidArgument, reason, what)?;
        }
        let large = StoreArtifactRequest { content: Some(text(&"x".repeat(8 << 20))), ..good() };
        let answer = client.store_artifact(world.call(&operator(), large)).await;
        let status = refused(answer, Code::ResourceExhausted, "ARTIFACT_TOO_LARGE", "large json")?;
        assert_eq!(metadata(&status, "bytes_max").as_deref(), Some("8388608"));

        for (instance, code, reason) in [
            ("i-2", Code::NotFound, "INSTANCE_NOT_FOUND"),
            ("", Code::NotFound, "INSTANCE_NOT_FOUND"),
            ("i 1", Code::NotFound, "INSTANCE_NOT_FOUND"),
            ("i-done", Code::FailedPrecondition, "INSTANCE_TERMINAL"),
            ("i-cancelled", Code::FailedPrecondition, "INSTANCE_TERMINAL"),
            ("i-failed", Code::FailedPrecondition, "INSTANCE_TERMINAL"),
        ] {
            let request = StoreArtifactRequest { instance_id: instance.into(), ..good() };
            let answer = client.store_artifact(world.call(&operator(), request)).await;
            refused(answer, code, reason, instance)?;
        }

        let elsewhere = Principal { tenant: "other".into(), ..operator() };
        let stranger = participant("i-2", &[Permission::View]);
        let person = participant(INSTANCE, &[Permission::View, Permission::Approve, Permission::Comment]);
        for (principal, code, reason) in [
            (elsewhere, Code::NotFound, "INSTANCE_NOT_FOUND"),
            (stranger, Code::NotFound, "INSTANCE_NOT_FOUND"),
            (person, Code::PermissionDenied, "ROLE_FORBIDDEN"),
        ] {
            let answer = client.store_artifact(world.call(&principal, good())).await;
            refused(answer, code, reason, &format!("{principal:?}"))?;
        }
        assert_eq!(world.rows().await?, before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_lease_says_who_stores_and_a_lost_one_stores_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.artifacts();
        world.instance.grant("lease-1", "requirements_agent");
        let leased = |key: &str, content: &str| StoreArtifactRequest {
            task_token: "lease-1".into(),
            metadata: None,
            request_id: key.into(),
            ..store(key, text(content))
        };
        let stored = client.store_artifact(world.call(&operator(), leased("plan", "one"))).await?;
        let artifact = stored.into_inner().artifact.unwrap_or_default();
        assert_eq!((artifact.phase.as_str(), artifact.task_id.as_str()), ("discovery", "gather"));
        let author = artifact.created_by.clone().unwrap_or_default();
        assert_eq!((author.kind(), author.id.as_str()), (ActorKind::Agent, "requirements_agent"));
        let event = world.heard.events(1).await?.remove(0);
        assert_eq!(event.actor.unwrap_or_default(), author);
        let told = match event.payload {
            Some(Payload::ArtifactStored(stored)) => stored.hold_id,
            other => anyhow::bail!("{other:?}"),
        };
        assert_eq!(told, "hold-1", "the promise of the lease cannot end before its time");
        // Somebody else's instance is no business of this lease.
        world.instance.set_status("i-2", InstanceStatus::Running);
        let astray = StoreArtifactRequest { instance_id: "i-2".into(), ..leased("astray", "x") };
        let answer = client.store_artifact(world.call(&operator(), astray)).await;
        refused(answer, Code::FailedPrecondition, "LEASE_LOST", "another instance")?;

        let before = world.rows().await?;
        world.instance.withdraw("lease-1");
        let answer = client.store_artifact(world.call(&operator(), leased("late", "x"))).await;
        refused(answer, Code::FailedPrecondition, "LEASE_LOST", "a zombie")?;
        // What was acknowledged under the lease stays acknowledged.
        let repeated = client.store_artifact(world.call(&operator(), leased("plan", "one"))).await?;
        assert!(is_repeated(&repeated));

        // The answer came so late that somebody else may have the task by the time of the commit.
        world.instance.grant("lease-1", "requirements_agent");
        world.instance.set_delay(Duration::from_millis(3_100));
        let answer = client.store_artifact(world.call(&operator(), leased("slow", "x"))).await;
        refused(answer, Code::Unavailable, "STORE_UNAVAILABLE", "a slow confirmation")?;
        assert_eq!(world.rows().await?, before);
        Ok(())
    })
    .await
}
