//! The record: what it says, that it agrees with the state, and that nobody can change it unseen.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_database::{Database, args};
use phasegate_principal::{Participation, Permission, Principal};
use phasegate_proto::instance::v1::{
    ListAuditEntriesRequest, PauseInstanceRequest, ResumeInstanceRequest, VerifyAuditChainRequest,
    WatchEventsRequest, WatchEventsResponse,
};
use phasegate_proto::internal::event::v1::CommentCreated;
use phasegate_proto::internal::event::v1::event::Payload;
use tonic::{Code, Streaming};

use super::house::{House, both, plain, reason, reviewed};
use crate::app::struct_to_json;
use crate::domain::{self, Instance};
use crate::store::StoredEntry;

/// Runs [`plain`] to its end and says its id.
async fn finished(house: &House) -> anyhow::Result<String> {
    house.define(plain())?;
    let id = house.start("plain").await?;
    let (_, token) = house.lease("bot", "first").await?;
    house.complete(&token).await?;
    house.store_artifact(&id, "report", "second").await?;
    let (_, token) = house.lease("bot", "second").await?;
    house.complete(&token).await?;
    Ok(id)
}

async fn change(db: &Database, sql: &'static str, id: &str) -> anyhow::Result<u64> {
    let id = id.to_owned();
    let changed = db.transaction(move |tx| Box::pin(async move { tx.execute(sql, args![id]).await })).await;
    Ok(changed.map_err(|error: phasegate_database::Error| error)?)
}

#[tokio::test]
async fn folding_the_history_gives_the_row() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        let id = finished(house).await?;
        let db = house.database().await?;
        let rows = db
            .fetch_all("select body from history where instance_id = $1 order by sequence", args![&id])
            .await?;
        let mut folded = Instance::unstarted();
        for row in &rows {
            let stored: StoredEntry = serde_json::from_slice(&row.get::<Vec<u8>>("body")?)?;
            folded = domain::evolve(folded, &stored.event);
        }
        let row = db.fetch_optional("select state from instance where instance_id = $1", args![&id]).await?;
        let kept: Instance = serde_json::from_slice(&row.context("a row")?.get::<Vec<u8>>("state")?)?;
        ensure!(rows.len() > 8, "only {} entries: the test shows little", rows.len());
        ensure!(folded == kept, "{folded:#?}\n{kept:#?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_was_altered_deleted_or_added_shows() -> anyhow::Result<()> {
    // Each on its own instance, since a broken chain stays broken.
    let tampering: [(&str, &str, &str); 9] = [
        ("a changed body", "update history set body = replace(cast(body as text), 'first', 'fIrst') where instance_id = $1 and sequence = 3", "3"),
        ("a changed time", "update history set occurred_at = occurred_at + 1 where instance_id = $1 and sequence = 4", "4"),
        ("a changed kind", "update history set kind = 'task.skipped' where instance_id = $1 and sequence = 4", "4"),
        ("a changed audit type", "update history set audit_type = 'comment' where instance_id = $1 and sequence = 4", "4"),
        ("a deleted entry", "delete from history where instance_id = $1 and sequence = 4", "4"),
        ("a deleted beginning", "delete from history where instance_id = $1 and sequence = 1", "1"),
        (
            "a deleted end",
            "delete from history where instance_id = $1 and sequence = (select max(sequence) from history as h where h.instance_id = $1)",
            "the last one found",
        ),
        (
            "an added entry",
            "insert into history (tenant_id, instance_id, sequence, event_id, kind, audit_type, occurred_at, body, previous_hash, hash)
             select tenant_id, instance_id, sequence + 1, 'forged', kind, audit_type, occurred_at, body, hash, previous_hash
               from history as h where instance_id = $1 and sequence = (select max(sequence) from history as g where g.instance_id = $1)",
            "forged",
        ),
        (
            "a forged head",
            "update instance set head_hash = (select hash from history where instance_id = $1 and sequence = 1) where instance_id = $1",
            "remembers",
        ),
    ];
    both(async |house: &mut House| {
        let db = house.database().await?;
        for (what, sql, sign) in tampering {
            let id = finished(house).await?;
            ensure!(house.verify(&id).await?.intact);
            let sql = if db.dialect() == phasegate_database::Dialect::Postgres && what == "a changed body" {
                "update history set body = convert_to(replace(convert_from(body, 'utf8'), 'first', 'fIrst'), 'utf8')
                  where instance_id = $1 and sequence = 3"
            } else if what == "a changed body" {
                "update history set body = cast(replace(cast(body as text), 'first', 'fIrst') as blob)
                  where instance_id = $1 and sequence = 3"
            } else {
                sql
            };
            ensure!(change(&db, sql, &id).await? == 1, "{what} was not done");
            if what == "an added entry" {
                // Whoever adds one also says that it is there.
                change(&db, "update instance set version = version + 1 where instance_id = $1", &id).await?;
            }
            let request = VerifyAuditChainRequest { instance_id: id.clone() };
            let proof = house.events().verify_audit_chain(house.call(request)).await?.into_inner();
            ensure!(!proof.intact, "{what} went unseen");
            let said = format!("{} {}", proof.message, proof.first_bad_entry_id);
            ensure!(said.contains(sign), "{what}: {said}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn personal_data_may_be_erased_and_not_changed() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        let (erased, changed) = (house.start("reviewed").await?, house.start("reviewed").await?);
        let db = house.database().await?;
        ensure!(change(&db, "delete from personal where instance_id = $1", &erased).await? == 1);
        ensure!(house.verify(&erased).await?.intact);
        let salted = if db.dialect() == phasegate_database::Dialect::Postgres {
            "update personal set body = convert_to(replace(convert_from(body, 'utf8'), 'Ann Lee', 'Eve Lee'), 'utf8')
              where instance_id = $1"
        } else {
            "update personal set body = cast(replace(cast(body as text), 'Ann Lee', 'Eve Lee') as blob)
              where instance_id = $1"
        };
        ensure!(change(&db, salted, &changed).await? == 1);
        let proof = house.verify(&changed).await?;
        ensure!(!proof.intact && proof.message.contains("personal"), "{proof:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_audit_log_is_filtered_and_paged() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        let id = finished(house).await?;
        let all = ListAuditEntriesRequest { instance_id: id.clone(), page_size: 3, ..Default::default() };
        let mut found = Vec::new();
        let mut request = all.clone();
        loop {
            let page = house.events().list_audit_entries(house.call(request.clone())).await?.into_inner();
            found.extend(page.entries);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let sequences: Vec<i32> = found.iter().map(|entry| entry.sequence).collect();
        ensure!(sequences == (1..=i32::try_from(found.len())?).collect::<Vec<_>>(), "{sequences:?}");
        ensure!(found[0].previous_hash == "0".repeat(64) && found[1].previous_hash == found[0].hash);
        let actions: Vec<&str> = found.iter().map(|entry| entry.action.as_str()).collect();
        ensure!(actions.contains(&"started") && actions.contains(&"stored_artifact"), "{actions:?}");

        let types = vec!["task_completion".to_owned()];
        let some = ListAuditEntriesRequest { types, page_size: 0, ..all.clone() };
        let some = house.events().list_audit_entries(house.call(some)).await?.into_inner().entries;
        ensure!(!some.is_empty() && some.iter().all(|entry| entry.r#type == "task_completion"), "{some:?}");
        let none = ListAuditEntriesRequest { types: vec!["votes".to_owned()], ..all.clone() };
        let refused = house.events().list_audit_entries(house.call(none)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "FILTER_INVALID");
        house.clock.advance(Duration::from_secs(1));
        let later = ListAuditEntriesRequest {
            since: Some(phasegate_clock::Clock::now(house.clock.as_ref()).to_proto()),
            ..all
        };
        let later = house.events().list_audit_entries(house.call(later)).await?.into_inner();
        ensure!(later.entries.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn words_and_addresses_are_shown_only_to_those_inside() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        let id = house.start("reviewed").await?;
        let comment = |internal, body: &str| {
            Payload::CommentCreated(CommentCreated {
                comment_id: format!("cmt-{internal}"),
                subject: "task:make".to_owned(),
                body: body.to_owned(),
                internal,
            })
        };
        house.tell(&id, comment(true, "they are slow")).await?;
        house.tell(&id, comment(false, "thank you")).await?;
        let ann = Principal::participant(
            "default",
            "Ann",
            Participation {
                instance_id: id.clone(),
                participant_id: "ann".to_owned(),
                link_id: "lnk-1".to_owned(),
                permissions: vec![Permission::View],
            },
        );
        for (principal, sees) in [(&house.principal, true), (&ann, false)] {
            let request = ListAuditEntriesRequest { instance_id: id.clone(), ..Default::default() };
            let listed =
                house.events().list_audit_entries(house.call_as(principal, request)).await?.into_inner();
            let details: Vec<String> = listed
                .entries
                .iter()
                .filter_map(|entry| entry.details.as_ref())
                .map(|details| serde_json::json!(struct_to_json(details)).to_string())
                .collect();
            let all = details.join("\n");
            ensure!(all.contains("thank you") && all.contains("Ann Lee"), "{all}");
            ensure!(all.contains("they are slow") == sees, "{all}");
            ensure!(all.contains("ann@example.com") == sees, "{all}");
        }
        Ok(())
    })
    .await
}

async fn next(stream: &mut Streaming<WatchEventsResponse>) -> anyhow::Result<Option<WatchEventsResponse>> {
    Ok(tokio::time::timeout(Duration::from_secs(10), stream.message()).await.context("nothing came")??)
}

#[tokio::test]
async fn a_watcher_that_was_away_misses_nothing() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let from_start = WatchEventsRequest {
            instance_id: id.clone(),
            resume_token: "0".to_owned(),
            until_terminal: true,
            ..Default::default()
        };
        let mut stream = house.events().watch_events(house.call(from_start.clone())).await?.into_inner();
        let first = next(&mut stream).await?.context("a message")?;
        ensure!(first.events[0].r#type == "instance.started" && first.events[0].sequence == 1);
        drop(stream);
        // Away; meanwhile something happens. Resumes with the token, and with the id of the last event.
        let (_, token) = house.lease("bot", "first").await?;
        let last = first.events.last().context("an event")?.id.clone();
        let mut seen = Vec::new();
        for resume_token in [first.resume_token.clone(), last] {
            let request = WatchEventsRequest { resume_token, ..from_start.clone() };
            let mut stream = house.events().watch_events(house.call(request)).await?.into_inner();
            let message = next(&mut stream).await?.context("a message")?;
            ensure!(message.events[0].r#type == "task.leased", "{message:?}");
            seen.push(message.events[0].id.clone());
        }
        ensure!(seen[0] == seen[1], "the same event had two ids");

        // Live, filtered, and to the end.
        let request = WatchEventsRequest {
            types: vec!["task.completed".to_owned(), "instance.*".to_owned()],
            resume_token: String::new(),
            ..from_start.clone()
        };
        let mut stream = house.events().watch_events(house.call(request)).await?.into_inner();
        house.complete(&token).await?;
        house.store_artifact(&id, "report", "second").await?;
        let (_, token) = house.lease("bot", "second").await?;
        house.complete(&token).await?;
        let mut types = Vec::new();
        while let Some(message) = next(&mut stream).await? {
            types.extend(message.events.into_iter().map(|event| event.r#type));
        }
        ensure!(types == ["task.completed", "task.completed", "instance.completed"], "{types:?}");

        // What follows the end is not part of it, for those who come late and for those who come back right behind it.
        let db = house.database().await?;
        let follows = "insert into history (tenant_id, instance_id, sequence, event_id, kind, audit_type, occurred_at, body, previous_hash, hash)
            select tenant_id, instance_id, sequence + 1, 'late', 'approval.requested', audit_type, occurred_at, body, hash, previous_hash
              from history as h where instance_id = $1 and sequence = (select max(sequence) from history as g where g.instance_id = $1)";
        ensure!(change(&db, follows, &id).await? == 1);
        let mut stream = house.events().watch_events(house.call(from_start.clone())).await?.into_inner();
        let (mut types, mut end) = (Vec::new(), String::new());
        while let Some(message) = next(&mut stream).await? {
            types.extend(message.events.into_iter().map(|event| event.r#type));
            end = message.resume_token;
        }
        ensure!(types.last().is_some_and(|last| last == "instance.completed"), "{types:?}");
        let back = WatchEventsRequest { resume_token: end, ..from_start.clone() };
        let mut stream = house.events().watch_events(house.call(back)).await?.into_inner();
        let more = next(&mut stream).await?;
        ensure!(more.is_none(), "{more:?}");

        for wrong in ["99999", "-1", "no-such-event", "1.5"] {
            let request = WatchEventsRequest { resume_token: wrong.to_owned(), ..from_start.clone() };
            let refused =
                house.events().watch_events(house.call(request)).await.err().context("a refusal")?;
            ensure!(reason(&refused) == "RESUME_TOKEN_INVALID" && refused.code() == Code::InvalidArgument);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_watcher_is_told_when_the_server_stops() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let request = WatchEventsRequest { instance_id: id.clone(), ..Default::default() };
        let mut stream = house.events().watch_events(house.call(request)).await?.into_inner();
        let pause =
            PauseInstanceRequest { instance_id: id.clone(), reason: "x".to_owned(), ..Default::default() };
        house.instances().pause_instance(house.call(pause)).await?;
        let paused = next(&mut stream).await?.context("a message")?;
        ensure!(paused.events[0].r#type == "instance.paused", "{paused:?}");
        let resume = ResumeInstanceRequest { instance_id: id, reason: "on".to_owned(), ..Default::default() };
        house.instances().resume_instance(house.call(resume)).await?;
        ensure!(next(&mut stream).await?.context("a message")?.events[0].r#type == "instance.resumed");
        house.context.shutdown.cancel();
        let mut said = false;
        while let Ok(Some(message)) = next(&mut stream).await {
            said |= message.going_away;
        }
        ensure!(said, "the watcher was not told");
        Ok(())
    })
    .await
}
