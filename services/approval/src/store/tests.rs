//! Every promise of the store, on both databases.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_clock::Timestamp;
use phasegate_database::{Dialect, args};
use phasegate_id::{ApprovalId, InstanceId, TenantId};
use phasegate_idempotency as idempotency;
use phasegate_test_database::{TestDatabase, both, sqlite};

use super::*;
use crate::domain::examples::{START, answer, hours, operator, person, request};
use crate::domain::{Command, Decision, Event, Request, SubjectKind, decide, evolve, fold, substance};

mod batch;
mod list;

#[tokio::test]
async fn what_was_appended_is_loaded() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let asked = put(&store, &named("apr-1", &["ada", "bob"])).await?;
        ensure!(asked.version == 1 && asked.approval.is_pending());
        ensure!(asked.people[&person("ada")].email == "ada@example.com");
        let answered = write(&store, &asked, &reply(&asked, "ada", Decision::Approve)).await?;
        let settled = write(&store, &answered, &reply(&answered, "bob", Decision::Reject)).await?;
        ensure!(settled.version == 4, "each answer is an event, and the outcome, too");
        store.approval_verify(&key("apr-1")).await?;
        let history = store.approval_history(&key("apr-1")).await?;
        ensure!(fold(&history) == Some(settled.approval.clone()));
        ensure!(store.approval_load(&other_tenant(), &settled.approval.request.id).await?.is_none());
        ensure!(store.timer_due(&key("apr-1")).await?.is_none(), "its timer is gone");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_waits_is_counted_by_definition() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        for (id, process, now) in
            [("apr-1", "sso", START), ("apr-2", "sso", START - hours(1)), ("apr-3", "", START)]
        {
            let request = Request { process: process.to_owned(), ..named(id, &["ada"]) };
            store.commit(asking_at(&request, now)?).await?;
        }
        let answered = load(&store, "apr-3").await?;
        let counted = |mut counted: Vec<Pending>| {
            counted.sort_by(|one, other| one.process.cmp(&other.process));
            counted
                .into_iter()
                .map(|one| (one.process, one.overdue, one.number, one.oldest))
                .collect::<Vec<_>>()
        };
        let sso = ("sso".to_owned(), false, 2, START - hours(1));
        ensure!(
            counted(store.pending_count(START).await?) == [(String::new(), false, 1, START), sso.clone()]
        );
        write(&store, &answered, &reply(&answered, "ada", Decision::Approve)).await?;
        ensure!(counted(store.pending_count(START).await?) == [sso]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_second_writer_is_stale_and_leaves_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let asked = put(&store, &named("apr-1", &["ada", "bob"])).await?;
        let after = write(&store, &asked, &reply(&asked, "ada", Decision::Approve)).await?;
        let before = count(&store).await?;
        let late = write(&store, &asked, &reply(&asked, "bob", Decision::Reject)).await;
        ensure!(matches!(late, Err(Error::Stale)), "{late:?}");
        ensure!(count(&store).await? == before);
        ensure!(load(&store, "apr-1").await? == after);
        let again = put(&store, &named("apr-1", &["cy"])).await;
        ensure!(matches!(again, Err(Error::Stale)), "an id is given out once: {again:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_change_of_the_instance_is_noticed() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let revision = async || {
            let state = store.instance_load(&tenant(), &instance()).await?;
            anyhow::Ok(state.unwrap_or(InstanceState::UNHEARD).revision)
        };
        let seen = revision().await?;
        put(&store, &named("apr-1", &["ada"])).await?;
        let mut late = asking(&named("apr-2", &["ada"]))?;
        late.at_revision = Some(seen);
        ensure!(matches!(store.commit(late.clone()).await, Err(Error::Stale)));
        late.at_revision = Some(revision().await?);
        store.commit(late).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_did_not_see_what_was_called_off_is_stale() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        put(&store, &named("apr-1", &["ada"])).await?;
        let seen = load(&store, "apr-1").await?.revision;
        let called_off = |id: &str| {
            let mut commit = Commit::new(tenant(), instance(), START);
            commit.at_revision = Some(seen);
            commit.moot = vec![(ApprovalId::trusted(id), "nobody needs it".to_owned())];
            commit
        };
        store.commit(called_off("apr-2")).await?;
        let mut late = asking(&named("apr-2", &["ada"]))?;
        late.at_revision = Some(seen);
        let late = store.commit(late).await;
        ensure!(matches!(late, Err(Error::Stale)), "{late:?}");
        let late = store.commit(called_off("apr-3")).await;
        ensure!(matches!(late, Err(Error::Stale)), "it may have arrived meanwhile: {late:?}");
        ensure!(
            store.approval_is_moot(&key("apr-2")).await? && !store.approval_is_moot(&key("apr-3")).await?
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_event_is_taken_once_and_an_answer_kept_once() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let mut first = asking(&named("apr-1", &["ada"]))?;
        first.receipt = Some(Receipt { consumer: "approval", event_id: "event-1".to_owned() });
        let key = idempotency::Key::new("default", "operator:dev", "RequestApproval", "once");
        let repeat = Repeat { key: key.clone(), fingerprint: [1; 32], answer: b"first".to_vec() };
        first.repeat = Some(repeat.clone());
        store.commit(first).await?;
        let before = count(&store).await?;

        let mut second = asking(&named("apr-2", &["ada"]))?;
        second.receipt = Some(Receipt { consumer: "approval", event_id: "event-1".to_owned() });
        ensure!(matches!(store.commit(second.clone()).await, Err(Error::Taken)));
        second.receipt = None;
        second.repeat = Some(Repeat { answer: b"second".to_vec(), ..repeat });
        ensure!(matches!(store.commit(second).await, Err(Error::Repeated)));
        ensure!(count(&store).await? == before);
        ensure!(store.repeat_load(&key, [1; 32]).await? == Some(b"first".to_vec()));
        ensure!(matches!(store.repeat_load(&key, [2; 32]).await, Err(Error::RequestIdReused)));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_impossible_row_is_reported_and_not_believed() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        put(&store, &named("apr-1", &["ada"])).await?;
        put(&store, &named("apr-2", &["ada"])).await?;
        execute(
            &store,
            "update approval set state = (select state from approval where approval_id = 'apr-2')",
        )
        .await?;
        let id = ApprovalId::trusted("apr-1");
        let loaded = store.approval_load(&tenant(), &id).await;
        ensure!(matches!(loaded, Err(Error::Inconsistent { table: "approval", .. })), "{loaded:?}");
        execute(&store, "update approval set state = payload from (select payload from approval_event) e")
            .await?;
        let loaded = store.approval_load(&tenant(), &id).await;
        ensure!(matches!(loaded, Err(Error::Inconsistent { table: "approval", .. })), "{loaded:?}");
        let settled = execute(&store, "update approval set status = 'approved'").await;
        ensure!(settled.is_err(), "the table itself knows that what is settled has a time");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn timers_are_claimed_once_and_not_while_on_hold() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        put(&store, &named("apr-1", &["ada"])).await?;
        let due = START + hours(12);
        ensure!(store.timer_due(&key("apr-1")).await? == Some(due));
        let early = Timestamp::from_micros(due.as_micros() - 1);
        ensure!(store.timer_claim(early, 10).await?.is_empty(), "never early");

        pause(&store, true, 5).await?;
        ensure!(store.timer_claim(due, 10).await?.is_empty(), "not while on hold");
        put(&store, &named("apr-2", &["ada"])).await?;
        ensure!(store.timer_claim(due, 10).await?.is_empty(), "nor one that was made meanwhile");
        pause(&store, false, 9).await?;
        pause(&store, true, 7).await?;
        let claimed = store.timer_claim(due, 10).await?;
        ensure!(claimed.len() == 2, "an old pause does not undo a newer resumption");
        ensure!(store.timer_claim(due, 10).await?.is_empty(), "somebody is at it");
        let later = due + Duration::from_secs(30);
        ensure!(store.timer_claim(later, 1).await?.len() == 1, "whoever was at it has died");

        let record = load(&store, "apr-1").await?;
        let reminded = write_at(&store, &record, &Command::Elapse, due).await?;
        ensure!(store.timer_due(&key("apr-1")).await? == Some(START + hours(24)));
        write(&store, &reminded, &reply(&reminded, "ada", Decision::Approve)).await?;
        ensure!(store.timer_due(&key("apr-1")).await?.is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn copies_share_the_timers() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        for index in 0..20 {
            put(&store, &named(&format!("apr-{index}"), &["ada"])).await?;
        }
        let claims = (0..4).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.timer_claim(START + hours(12), 10).await })
        });
        let mut seen = Vec::new();
        for claim in claims.collect::<Vec<_>>() {
            seen.extend(claim.await??.into_iter().map(|timer| timer.key));
        }
        seen.extend(store.timer_claim(START + hours(12), 20).await?.into_iter().map(|timer| timer.key));
        let all = seen.len();
        seen.sort();
        seen.dedup();
        ensure!((all, seen.len()) == (20, 20), "each is claimed by one: {all} claims of {}", seen.len());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn answers_are_numbered_so_that_a_watcher_misses_none() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        for index in 0..12 {
            put(&store, &named(&format!("apr-{index}"), &["ada"])).await?;
        }
        let writers = (0..12).map(|index| {
            let store = store.clone();
            tokio::spawn(async move {
                let record = load(&store, &format!("apr-{index}")).await?;
                write(&store, &record, &reply(&record, "ada", Decision::Approve)).await?;
                anyhow::Ok(())
            })
        });
        let writers: Vec<_> = writers.collect();
        let (mut position, mut seen) = (0, Vec::new());
        while seen.len() < 12 {
            for response in store.response_list(&tenant(), &instance(), position, 5).await? {
                ensure!(response.sequence == position + 1, "{} after {position}", response.sequence);
                ensure!(response.email == "ada@example.com");
                position = response.sequence;
                seen.push(response.approval);
            }
        }
        for writer in writers {
            writer.await??;
        }
        seen.sort();
        seen.dedup();
        ensure!(seen.len() == 12);
        ensure!(store.response_list(&other_tenant(), &instance(), 0, 5).await?.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_was_rejected_is_found_by_its_substance() -> anyhow::Result<()> {
    both(|database| async move {
        let store = open(&database).await?;
        let asked = put(&store, &named("apr-1", &["ada"])).await?;
        let what = substance(&asked.approval.request);
        ensure!(store.approval_find_rejected(&tenant(), &instance(), &what).await?.is_none());
        write(&store, &asked, &reply(&asked, "ada", Decision::Reject)).await?;
        let found = store.approval_find_rejected(&tenant(), &instance(), &what).await?;
        ensure!(found == Some(ApprovalId::trusted("apr-1")));
        ensure!(store.approval_find_rejected(&other_tenant(), &instance(), &what).await?.is_none());
        Ok(())
    })
    .await
}

fn tenant() -> TenantId {
    TenantId::trusted("default")
}

fn other_tenant() -> TenantId {
    TenantId::trusted("other")
}

fn instance() -> InstanceId {
    InstanceId::trusted("proc-inst-1")
}

fn key(id: &str) -> Key {
    Key { tenant: tenant(), approval: ApprovalId::trusted(id) }
}

fn name(record: &Record) -> String {
    record.approval.request.id.to_string()
}

/// A request with an id of its own.
fn named(id: &str, people: &[&str]) -> Request {
    let mut request = request(people);
    request.id = ApprovalId::trusted(id);
    request.subject.kind = SubjectKind::AdHoc;
    request
}

fn reply(record: &Record, who: &str, decision: Decision) -> Command {
    Command::Answer(answer(&record.approval, who, decision))
}

async fn open(database: &TestDatabase) -> anyhow::Result<Store> {
    let store = Store::open(&database.settings()).await?;
    Ok(Store { db: store.db.across_tenants(), ..store })
}

async fn load(store: &Store, id: &str) -> anyhow::Result<Record> {
    store.approval_load(&tenant(), &ApprovalId::trusted(id)).await?.context("it is stored")
}

fn asking(request: &Request) -> anyhow::Result<Commit> {
    asking_at(request, START)
}

fn asking_at(request: &Request, now: Timestamp) -> anyhow::Result<Commit> {
    let events = crate::domain::request(request.clone(), now)?;
    let after = fold(&events).context("a request")?;
    let mut commit = Commit::new(tenant(), request.instance.clone(), now);
    let known = |id: &phasegate_id::ParticipantId| {
        (id.clone(), Person { name: id.to_string(), email: format!("{id}@example.com") })
    };
    commit.people = request.approvers.iter().map(known).collect();
    commit.changes.push(Change { version: 0, events, after });
    Ok(commit)
}

async fn put(store: &Store, request: &Request) -> Result<Record, Error> {
    let commit = asking(request).map_err(|_| Error::Stale)?;
    store.commit(commit).await?;
    let record = store.approval_load(&tenant(), &request.id).await?;
    record.ok_or(Error::Stale)
}

async fn write(store: &Store, record: &Record, command: &Command) -> Result<Record, Error> {
    write_at(store, record, command, START + hours(1)).await
}

async fn write_at(
    store: &Store,
    record: &Record,
    command: &Command,
    now: Timestamp,
) -> Result<Record, Error> {
    let events = decide(&record.approval, command, now).unwrap_or_default();
    let request = &record.approval.request;
    let mut commit = Commit::new(tenant(), request.instance.clone(), now);
    for event in &events {
        if let Event::Responded { approver, .. } = event {
            let approval = request.id.clone();
            commit.responses.push(NewResponse { approval, approver: approver.clone(), payload: Vec::new() });
        }
    }
    let after = events.iter().fold(record.approval.clone(), evolve);
    commit.changes.push(Change { version: record.version, events, after });
    store.commit(commit).await?;
    let written = store.approval_load(&tenant(), &request.id).await?;
    written.ok_or(Error::Stale)
}

async fn pause(store: &Store, paused: bool, version: i64) -> anyhow::Result<()> {
    let mut commit = Commit::new(tenant(), instance(), START);
    commit.instance_change = Some(InstanceChange::Paused { paused, version });
    Ok(store.commit(commit).await?)
}

async fn execute(store: &Store, sql: &'static str) -> Result<u64, Error> {
    store
        .db
        .transaction(move |tx| Box::pin(async move { Ok::<_, Error>(tx.execute(sql, args![]).await?) }))
        .await
}

/// The number of rows of each table.
async fn count(store: &Store) -> anyhow::Result<BTreeMap<&'static str, i64>> {
    let tables = [
        "instance",
        "approval",
        "approval_event",
        "approver",
        "person",
        "approval_timer",
        "approval_response",
        "approval_moot",
        "outbox",
        "inbox",
        "idempotency",
    ];
    let mut counts = BTreeMap::new();
    for table in tables {
        let row = store.db.fetch_optional(format!("select count(*) as n from {table}"), args![]).await?;
        counts.insert(table, row.context("a count")?.get("n")?);
    }
    Ok(counts)
}
