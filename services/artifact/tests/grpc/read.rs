//! Reading artifacts.

use crate::world::{INSTANCE, World, operator, participant, refused};
use phasegate_principal::{Permission, Principal};
use phasegate_proto::artifact::v1::{
    GetArtifactRequest, ListArtifactVersionsRequest, ListArtifactsRequest, StoreArtifactRequest,
};
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::artifact::v1::GetCurrentVersionsRequest;
use phasegate_test_database::both;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use tonic::Code;

use crate::calls::{metadata, store, text};

#[tokio::test]
async fn lists_are_filtered_and_paged() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.artifacts();
        for number in 0..5 {
            let phase = if number < 3 { "discovery" } else { "build" };
            let request = StoreArtifactRequest {
                r#type: if number == 0 { "report".into() } else { "document".into() },
                metadata: Some(Struct { fields: [("phase".to_owned(), text(phase))].into() }),
                ..store(&format!("a{number}"), text("x"))
            };
            client.store_artifact(world.call(&operator(), request)).await?;
        }
        let list = |phase: &str, kind: &str, page_size, page_token: &str| ListArtifactsRequest {
            instance_id: INSTANCE.into(),
            phase: phase.into(),
            r#type: kind.into(),
            page_size,
            page_token: page_token.into(),
        };
        for (phase, kind, expected) in [
            ("", "", 5),
            ("discovery", "", 3),
            ("", "document", 4),
            ("discovery", "document", 2),
            ("launch", "", 0),
            ("", "poem", 0),
            ("disc\0very", "", 0),
            ("", "docu\0ment", 0),
        ] {
            let page =
                client.list_artifacts(world.call(&operator(), list(phase, kind, 0, ""))).await?.into_inner();
            assert_eq!(
                (page.artifacts.len(), page.next_page_token.as_str()),
                (expected, ""),
                "{phase} {kind}"
            );
        }

        let first =
            client.list_artifacts(world.call(&operator(), list("", "document", 3, ""))).await?.into_inner();
        let keys = |page: &[phasegate_proto::artifact::v1::Artifact]| {
            page.iter().map(|artifact| artifact.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(keys(&first.artifacts), ["a1", "a2", "a3"]);
        let token = first.next_page_token;
        let second = client
            .list_artifacts(world.call(&operator(), list("", "document", 3, &token)))
            .await?
            .into_inner();
        assert_eq!((keys(&second.artifacts), second.next_page_token.as_str()), (vec!["a4".to_owned()], ""));

        for (request, reason) in [
            (list("", "report", 3, &token), "PAGE_TOKEN_INVALID"),
            (list("", "document", 3, "bm9uc2Vuc2U"), "PAGE_TOKEN_INVALID"),
            (list("", "document", -1, ""), "PAGE_SIZE_INVALID"),
        ] {
            let answer = client.list_artifacts(world.call(&operator(), request)).await;
            refused(answer, Code::InvalidArgument, reason, reason)?;
        }
        Ok(())
    })
    .await
}

/// Metadata comes with every entry. A client that sets no limit of its own can read every page.
#[tokio::test]
async fn a_page_fits_a_message_however_large_its_metadata_is() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.artifacts();
        // Two bytes of JSON each, and eleven on the way.
        let ones = vec![Value { kind: Some(Kind::NumberValue(1.0)) }; 30_000];
        let ones = Value { kind: Some(Kind::ListValue(ListValue { values: ones })) };
        let metadata = Some(Struct { fields: [("ones".to_owned(), ones)].into() });
        for number in 0..11 {
            let request = StoreArtifactRequest {
                metadata: metadata.clone(),
                ..store(&format!("a{number:02}"), text("x"))
            };
            client.store_artifact(world.call(&operator(), request)).await?;
        }
        let (mut keys, mut token) = (Vec::new(), String::new());
        loop {
            let list = ListArtifactsRequest {
                instance_id: INSTANCE.into(),
                page_size: 500,
                page_token: token,
                ..Default::default()
            };
            let page = client.list_artifacts(world.call(&operator(), list)).await?.into_inner();
            assert!(page.encoded_len() < 4 << 20, "{}", page.encoded_len());
            keys.extend(page.artifacts.into_iter().map(|artifact| artifact.key));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        let expected: Vec<String> = (0..11).map(|number| format!("a{number:02}")).collect();
        assert_eq!(keys, expected);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn versions_are_listed_newest_first() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.artifacts();
        for content in ["one", "two", "three"] {
            client.store_artifact(world.call(&operator(), store("plan", text(content)))).await?;
        }
        let list = |key: &str, page_token: String| ListArtifactVersionsRequest {
            instance_id: INSTANCE.into(),
            key: key.into(),
            page_size: 2,
            page_token,
        };
        let page = client
            .list_artifact_versions(world.call(&operator(), list("plan", String::new())))
            .await?
            .into_inner();
        assert_eq!(page.artifacts.iter().map(|artifact| artifact.version).collect::<Vec<_>>(), [3, 2]);
        let rest = list("plan", page.next_page_token);
        let page = client.list_artifact_versions(world.call(&operator(), rest)).await?.into_inner();
        assert_eq!(page.artifacts.iter().map(|artifact| artifact.version).collect::<Vec<_>>(), [1]);
        assert_eq!(page.next_page_token, "");

        for key in ["missing", "../plan", ""] {
            let answer =
                client.list_artifact_versions(world.call(&operator(), list(key, String::new()))).await;
            refused(answer, Code::NotFound, "ARTIFACT_NOT_FOUND", key)?;
        }
        for (key, version) in [("missing", 0), ("plan", 4), ("plan", -1), ("", 0)] {
            let get = GetArtifactRequest { instance_id: INSTANCE.into(), key: key.into(), version };
            let answer = client.get_artifact(world.call(&operator(), get)).await;
            refused(answer, Code::NotFound, "ARTIFACT_NOT_FOUND", key)?;
        }
        let get = GetArtifactRequest { instance_id: INSTANCE.into(), key: "plan".into(), version: 1 };
        let got = client
            .get_artifact(world.call(&operator(), get))
            .await?
            .into_inner()
            .artifact
            .unwrap_or_default();
        assert_eq!(got.content, Some(text("one")));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn people_read_their_own_instance_if_their_link_lets_them() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut client = world.artifacts();
        client.store_artifact(world.call(&operator(), store("plan", text("one")))).await?;
        let get = || GetArtifactRequest { instance_id: INSTANCE.into(), key: "plan".into(), version: 0 };
        client.get_artifact(world.call(&participant(INSTANCE, &[Permission::View]), get())).await?;
        for (principal, code, reason) in [
            (
                participant(INSTANCE, &[Permission::Approve]),
                Code::PermissionDenied,
                "LINK_PERMISSION_MISSING",
            ),
            (participant("i-2", &[Permission::View]), Code::NotFound, "INSTANCE_NOT_FOUND"),
            (Principal { tenant: "other".into(), ..operator() }, Code::NotFound, "INSTANCE_NOT_FOUND"),
        ] {
            let answer = client.get_artifact(world.call(&principal, get())).await;
            refused(answer, code, reason, &format!("{principal:?}"))?;
            let list = ListArtifactsRequest { instance_id: INSTANCE.into(), ..Default::default() };
            let answer = client.list_artifacts(world.call(&principal, list)).await;
            refused(answer, code, reason, &format!("{principal:?}"))?;
        }
        // That an instance exists is asked once; whether it goes on, with every write.
        let asked = world.instance.asked();
        client.get_artifact(world.call(&operator(), get())).await?;
        assert_eq!(world.instance.asked(), asked);
        world.instance.set_status(INSTANCE, InstanceStatus::Cancelled);
        client.get_artifact(world.call(&operator(), get())).await?;
        let answer = client.store_artifact(world.call(&operator(), store("plan", text("two")))).await;
        let status = refused(answer, Code::FailedPrecondition, "INSTANCE_TERMINAL", "cancelled")?;
        assert_eq!(metadata(&status, "status").as_deref(), Some("cancelled"));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn other_services_ask_for_current_versions() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        for content in ["one", "two"] {
            world.artifacts().store_artifact(world.call(&operator(), store("plan", text(content)))).await?;
        }
        let ask = |tenant: &str, keys: &[&str]| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            world.call(
                &Principal::system("instance", tenant),
                GetCurrentVersionsRequest { instance_id: INSTANCE.into(), keys },
            )
        };
        let mut client = world.internal();
        for keys in [&["plan", "missing"][..], &[]] {
            let current = client.get_current_versions(ask("default", keys)).await?.into_inner().artifacts;
            assert_eq!(current.len(), 1);
            assert_eq!(
                (current[0].key.as_str(), current[0].version, current[0].r#type.as_str()),
                ("plan", 2, "document")
            );
        }
        assert!(client.get_current_versions(ask("other", &[])).await?.into_inner().artifacts.is_empty());
        let none = client.get_current_versions(ask("default", &["../plan", "pl\0n"])).await?.into_inner();
        assert!(none.artifacts.is_empty());
        let answer = client.get_current_versions(ask("default", &["k"; 1_001])).await;
        refused(answer, Code::InvalidArgument, "METADATA_INVALID", "too many keys")?;
        Ok(())
    })
    .await
}
