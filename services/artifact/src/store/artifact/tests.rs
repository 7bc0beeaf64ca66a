//! Artifacts on both databases.

use phasegate_clock::Timestamp;
use phasegate_database::Database;
use phasegate_id::{InstanceId, TenantId};
use phasegate_test_database::both;

use super::*;
use crate::domain::Author;
use crate::domain::artifact::{Form, JSON};
use crate::store::MIGRATIONS;

#[tokio::test]
async fn every_version_stays_and_the_newest_is_listed() -> anyhow::Result<()> {
    both(|database| async move {
        let store = Store { db: database.open(&MIGRATIONS).await? };
        let here = place("default", "i-1");
        let key = ArtifactKey::trusted("plan");
        assert_eq!(store.artifact_get(&here, &key, None).await?, None);
        append(&store.db, &here, version("plan", 1, "document", "discovery")).await?;
        append(&store.db, &here, version("plan", 2, "report", "build")).await?;

        let newest = store.artifact_get(&here, &key, None).await?;
        assert_eq!(newest, Some((version("plan", 2, "report", "build"), b"{\"n\":2}".to_vec())));
        let first = store.artifact_get(&here, &key, Some(1)).await?;
        assert_eq!(first, Some((version("plan", 1, "document", "discovery"), b"{\"n\":1}".to_vec())));
        assert_eq!(store.artifact_get(&here, &key, Some(3)).await?, None);
        let numbers: Vec<i32> =
            store.version_list(&here, &key, i32::MAX, 9).await?.iter().map(|found| found.number).collect();
        assert_eq!(numbers, [2, 1]);
        assert_eq!(store.version_list(&here, &key, 2, 9).await?.len(), 1);
        // The older version's phase and kind no longer list it.
        for (phase, kind, count) in
            [("discovery", "", 0), ("build", "", 1), ("", "report", 1), ("", "document", 0)]
        {
            let filter = Filter { phase: phase.into(), kind: kind.into() };
            assert_eq!(store.artifact_list(&here, &filter, "", 9).await?.len(), count, "{filter:?}");
        }
        // Another instance and another tenant have nothing.
        for elsewhere in [place("default", "i-2"), place("other", "i-1")] {
            assert_eq!(store.artifact_get(&elsewhere, &key, None).await?, None);
            assert!(store.artifact_list(&elsewhere, &Filter::default(), "", 9).await?.is_empty());
            assert!(store.artifact_current(&elsewhere, &[]).await?.is_empty());
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn lists_go_by_key_in_bytes_and_from_page_to_page() -> anyhow::Result<()> {
    both(|database| async move {
        let store = Store { db: database.open(&MIGRATIONS).await? };
        let here = place("default", "i-1");
        for key in ["b", "B", "a-1", "a.1", "a_1", "Z"] {
            append(&store.db, &here, version(key, 1, "document", "discovery")).await?;
        }
        let mut seen = Vec::new();
        let mut after = String::new();
        loop {
            let page = store.artifact_list(&here, &Filter::default(), &after, 2).await?;
            let Some(last) = page.last() else { break };
            after = last.key.as_str().to_owned();
            seen.extend(page.into_iter().map(|found| found.key.into_string()));
        }
        assert_eq!(seen, ["B", "Z", "a-1", "a.1", "a_1", "b"]);
        let both = Filter { phase: "discovery".into(), kind: "document".into() };
        assert_eq!(store.artifact_list(&here, &both, "a", 9).await?.len(), 4);

        let named = ["b".to_owned(), "Z".to_owned(), "missing".to_owned(), "b".to_owned()];
        let current = store.artifact_current(&here, &named).await?;
        let keys: Vec<&str> = current.iter().map(|found| found.key.as_str()).collect();
        assert_eq!(keys, ["Z", "b"]);
        assert_eq!(store.artifact_current(&here, &[]).await?.len(), 6);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_slower_writer_of_a_version_is_told() -> anyhow::Result<()> {
    both(|database| async move {
        let store = Store { db: database.open(&MIGRATIONS).await? };
        let here = place("default", "i-1");
        append(&store.db, &here, version("plan", 1, "document", "")).await?;
        let late = append(&store.db, &here, version("plan", 1, "other", "")).await;
        assert!(late.is_err_and(|error| error.is_race()));
        let (kept, _) = store.artifact_get(&here, &ArtifactKey::trusted("plan"), None).await?.unwrap();
        assert_eq!(kept.kind, "document");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_row_that_nobody_wrote_is_named() -> anyhow::Result<()> {
    both(|database| async move {
        let store = Store { db: database.open(&MIGRATIONS).await? };
        let here = place("default", "i-1");
        append(&store.db, &here, version("plan", 1, "document", "")).await?;
        store
            .db
            .transaction(|tx| {
                Box::pin(async move {
                    let huge = i64::from(i32::MAX) + 1;
                    tx.execute(
                        "insert into artifact_version select tenant_id, instance_id, artifact_key, $1, kind, form,
                                content_type, size_bytes, digest, metadata, phase_id, task_id, created_by,
                                created_at, content
                           from artifact_version",
                        args![huge],
                    )
                    .await?;
                    tx.execute("update artifact set version = $1", args![huge]).await?;
                    Ok::<_, phasegate_database::Error>(())
                })
            })
            .await?;
        let read = store.artifact_get(&here, &ArtifactKey::trusted("plan"), None).await;
        assert!(
            matches!(&read, Err(Error::Inconsistent { table: "artifact_version", row }) if row == "plan 2147483648"),
            "{read:?}"
        );
        Ok(())
    })
    .await
}

async fn append(db: &Database, place: &Place, version: Version) -> Result<(), Error> {
    let place = place.clone();
    db.transaction(move |tx| {
        Box::pin(async move {
            let content = content(version.number);
            version_append_in(tx, &place, &version, content).await
        })
    })
    .await
}

fn place(tenant: &str, instance: &str) -> Place {
    Place { tenant: TenantId::trusted(tenant), instance: InstanceId::trusted(instance) }
}

fn content(number: i32) -> Vec<u8> {
    format!("{{\"n\":{number}}}").into_bytes()
}

fn version(key: &str, number: i32, kind: &str, phase: &str) -> Version {
    Version {
        key: ArtifactKey::trusted(key),
        number,
        kind: kind.into(),
        form: Form::Json,
        content_type: JSON.into(),
        size: i64::try_from(content(number).len()).unwrap(),
        digest: format!("sha256:{number}"),
        metadata: Some(b"{}".to_vec()),
        phase_id: phase.into(),
        task_id: "gather".into(),
        created_by: Author(b"somebody".to_vec()),
        created_at: Timestamp::from_micros(7),
    }
}
