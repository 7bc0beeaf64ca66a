//! What is committed is sent, in order, and takes effect once: on both databases.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::BoxFuture;
use phasegate_bus::{Bus, HandleError, Handler, Receiver};
use phasegate_clock::{ManualClock, SharedClock, SystemClock, Timestamp};
use phasegate_database::{Database, Error, Migration, args};
use phasegate_outbox::{
    Guard, MIGRATION, Relay, append, append_all, dead_letters, event, inbox_receive, replay,
};
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, InstancePaused};
use phasegate_test_database::{TestDatabase, both};
use tokio_util::sync::CancellationToken;

const EFFECT: Migration = Migration {
    version: 10,
    name: "effect",
    postgres: "create table effect (instance_id text not null, reason text not null, place bigint generated always as identity);",
    sqlite: "create table effect (place integer primary key autoincrement, instance_id text not null, reason text not null) strict;",
};

type Fail = dyn Fn(&str) -> Option<HandleError> + Send + Sync;

/// Writes each event down in its database, once; fails as it is told.
struct Recorder {
    db: Database,
    fail: Box<Fail>,
    seen: Mutex<Vec<String>>,
}

impl Recorder {
    fn new(db: &Database, fail: impl Fn(&str) -> Option<HandleError> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { db: db.clone(), fail: Box::new(fail), seen: Mutex::default() })
    }

    fn seen(&self, reason: &str) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|seen| *seen == reason).count()
    }
}

impl Handler for Recorder {
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move {
            let reason = reason(&event);
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(reason.clone());
            if let Some(error) = (self.fail)(&reason) {
                return Err(error);
            }
            let done = self
                .db
                .transaction(move |tx| {
                    Box::pin(async move {
                        let now = Timestamp::from_micros(1);
                        if inbox_receive(tx, &event.tenant_id, "recorder", &event.event_id, now).await? {
                            tx.execute(
                                "insert into effect (instance_id, reason) values ($1, $2)",
                                args![&event.instance_id, reason],
                            )
                            .await?;
                        }
                        Ok::<_, Error>(())
                    })
                })
                .await;
            done.map_err(|error| HandleError::Transient(error.to_string()))
        })
    }
}

/// Takes an event for as long as the test wants.
struct Slow {
    gate: tokio::sync::Semaphore,
    seen: AtomicUsize,
}

impl Handler for Slow {
    fn handle(&self, _: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move {
            self.seen.fetch_add(1, Ordering::SeqCst);
            let opened = self.gate.acquire().await;
            opened.map(drop).map_err(|error| HandleError::Transient(error.to_string()))
        })
    }
}

fn reason(event: &Event) -> String {
    match &event.payload {
        Some(Payload::InstancePaused(paused)) => paused.reason.clone(),
        other => format!("{other:?}"),
    }
}

fn paused(instance: &str, reason: impl Into<String>, now: Timestamp) -> Event {
    let payload = Payload::InstancePaused(InstancePaused { reason: reason.into(), instance_version: 1 });
    event("t", instance, Actor::default(), now, payload)
}

async fn commit(db: &Database, events: Vec<Event>) -> anyhow::Result<()> {
    db.transaction(move |tx| {
        Box::pin(async move {
            append_all(tx, &events).await?;
            Ok::<_, Error>(())
        })
    })
    .await?;
    Ok(())
}

async fn effects(db: &Database, instance: &str) -> anyhow::Result<Vec<String>> {
    let rows = db
        .fetch_all("select reason from effect where instance_id = $1 order by place", args![instance])
        .await?;
    Ok(rows.iter().map(|row| row.get("reason")).collect::<Result<_, _>>()?)
}

async fn number(db: &Database, condition: &str) -> anyhow::Result<i64> {
    let row =
        db.fetch_optional(format!("select count(*) as n from outbox where {condition}"), args![]).await?;
    Ok(row.context("one row")?.get("n")?)
}

/// Waits until `condition` rows are `wanted`, for at most twenty seconds.
async fn until(db: &Database, condition: &str, wanted: i64) -> anyhow::Result<()> {
    for _ in 0..1_000 {
        if number(db, condition).await? == wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{} rows are {condition}, not {wanted}", number(db, condition).await?)
}

/// Waits until something holds, for at most twenty seconds.
async fn eventually(holds: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    for _ in 0..1_000 {
        if holds().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("it did not come to hold")
}

struct Running {
    stop: CancellationToken,
    relay: Relay,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(db: &Database, handler: Arc<dyn Handler>, clock: SharedClock) -> Self {
        let bus = Bus::local();
        let guard = Guard::new(db.clone(), Receiver::Approval, handler, clock.clone());
        bus.subscribe(Receiver::Approval, Arc::new(guard.clone()));
        let relay = Relay::new("instance", db, bus, clock);
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (relay, stop) = (relay.clone(), stop.clone());
            async move {
                tokio::join!(relay.run(stop.clone()), guard.run(stop));
            }
        });
        Self { stop, relay, task }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task).await??;
        Ok(())
    }
}

#[tokio::test]
async fn what_was_committed_before_a_crash_is_sent_by_the_next_relay() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[MIGRATION, EFFECT]).await?;
        let clock = SystemClock::shared();
        let now = clock.now();
        commit(&db, vec![paused("i", "kept", now)]).await?;
        // A transaction that failed tells nobody.
        let refused: Result<(), Error> = db
            .transaction(move |tx| {
                Box::pin(async move {
                    append(tx, &paused("i", "gone", now)).await?;
                    Err(Error::Settings("refused".to_owned()))
                })
            })
            .await;
        ensure!(refused.is_err());
        // The process ends here: nothing was sent. The next one opens the same database.
        db.close().await;
        let db = fresh.open(&[MIGRATION, EFFECT]).await?;
        let running = Running::start(&db, Recorder::new(&db, |_| None), clock);
        until(&db, "receivers_left <> 0", 0).await?;
        ensure!(effects(&db, "i").await? == ["kept"]);
        running.stop().await
    })
    .await
}

#[tokio::test]
async fn an_event_that_is_delivered_twice_takes_effect_once() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[MIGRATION, EFFECT]).await?;
        let clock = SystemClock::shared();
        let recorder = Recorder::new(&db, |_| None);
        let running = Running::start(&db, recorder.clone(), clock.clone());
        let event = paused("i", "once", clock.now());
        commit(&db, vec![event.clone()]).await?;
        running.relay.wake();
        until(&db, "receivers_left <> 0", 0).await?;
        // As if the process had died after the effect and before the sender heard of it.
        commit(&db, vec![event]).await?;
        running.relay.wake();
        until(&db, "receivers_left <> 0", 0).await?;
        ensure!(recorder.seen("once") == 2, "it was not delivered twice: the test shows nothing");
        ensure!(effects(&db, "i").await? == ["once"]);
        running.stop().await
    })
    .await
}

#[tokio::test]
async fn the_same_id_in_another_tenant_or_with_another_consumer_is_another_event() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[MIGRATION, EFFECT]).await?;
        for (tenant, consumer, is_new) in
            [("t", "a", true), ("t", "a", false), ("u", "a", true), ("t", "b", true), ("u", "a", false)]
        {
            let noted = db.transaction(move |tx| {
                Box::pin(async move {
                    inbox_receive(tx, tenant, consumer, "e-1", Timestamp::from_micros(1)).await
                })
            });
            let noted: Result<bool, Error> = noted.await;
            ensure!(noted? == is_new, "{tenant} {consumer}");
        }
        Ok(())
    })
    .await
}

/// On SQLite one process owns the file, and its relay makes no claims.
#[tokio::test]
async fn a_claim_lasts_while_its_relay_lives_and_little_longer() -> anyhow::Result<()> {
    let fresh = phasegate_test_database::postgres().await?;
    let db = fresh.open(&[MIGRATION, EFFECT]).await?;
    let start = Timestamp::from_micros(1_000_000_000);
    let clock = Arc::new(ManualClock::new(start));
    let slow = Arc::new(Slow { gate: tokio::sync::Semaphore::new(0), seen: AtomicUsize::new(0) });
    let first = Running::start(&db, slow.clone(), clock.clone());
    commit(&db, vec![paused("i", "slow", start)]).await?;
    first.relay.wake();
    until(&db, "claimed_until > 0", 1).await?;
    let second = Running::start(&db, Recorder::new(&db, |_| None), clock.clone());
    // The first one works for far longer than a claim lasts, and nobody takes its work away.
    for step in 1..=3 {
        clock.advance(Duration::from_secs(6));
        let renewed = (start + Duration::from_secs(6 * step + 8)).as_micros();
        until(&db, &format!("claimed_until >= {renewed}"), 1).await?;
        second.relay.wake();
    }
    ensure!(slow.seen.load(Ordering::SeqCst) == 1 && effects(&db, "i").await?.is_empty());
    // It dies, as far as anybody can tell: its work is free soon after.
    first.task.abort();
    clock.advance(Duration::from_secs(9));
    until(&db, "receivers_left <> 0", 0).await?;
    ensure!(effects(&db, "i").await? == ["slow"]);
    second.stop().await
}

#[tokio::test]
async fn poison_is_set_aside_and_holds_nobody_up() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[MIGRATION, EFFECT]).await?;
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_000_000)));
        let now = Timestamp::from_micros(1_000_000);
        let cured = Arc::new(AtomicBool::new(false));
        let is_cured = cured.clone();
        let recorder = Recorder::new(&db, move |reason| {
            let is_poison = reason == "poison" && !is_cured.load(Ordering::SeqCst);
            is_poison.then(|| HandleError::Poison("cannot be read".to_owned()))
        });
        let running = Running::start(&db, recorder.clone(), clock.clone());
        commit(
            &db,
            vec![paused("bad", "before", now), paused("bad", "poison", now), paused("bad", "behind", now)],
        )
        .await?;
        commit(&db, vec![paused("good", "other", now)]).await?;
        running.relay.wake();
        // The other instance does not wait for the poisoned one.
        until(&db, "receivers_left <> 0", 2).await?;
        ensure!(effects(&db, "good").await? == ["other"]);
        ensure!(effects(&db, "bad").await? == ["before"]);
        for tried in 1..8 {
            until(&db, &format!("failures >= {tried}"), 1).await?;
            clock.advance(Duration::from_secs(30));
            running.relay.wake();
        }
        until(&db, "receivers_left <> 0", 0).await?;
        ensure!(effects(&db, "bad").await? == ["before", "behind"]);
        ensure!(recorder.seen("poison") == 8);
        let aside = dead_letters(&db, None, 10).await?;
        ensure!(aside.len() == 1 && aside[0].instance_id == "bad" && aside[0].tries == 8, "{aside:?}");
        ensure!(aside[0].last_error.contains("cannot be read"), "{aside:?}");
        // An operator has it tried again, for nothing.
        ensure!(replay(&db, Some("no such event"), now).await? == 0);
        ensure!(replay(&db, Some(&aside[0].event_id), now).await? == 1);
        eventually(async || Ok(dead_letters(&db, None, 10).await?.iter().any(|letter| letter.tries == 9)))
            .await?;
        // What was wrong is mended, and it is taken and forgotten.
        cured.store(true, Ordering::SeqCst);
        ensure!(replay(&db, None, now).await? == 1);
        eventually(async || Ok(dead_letters(&db, None, 10).await?.is_empty())).await?;
        ensure!(effects(&db, "bad").await? == ["before", "behind", "poison"]);
        running.stop().await
    })
    .await
}

#[tokio::test]
async fn what_passes_is_tried_for_as_long_as_it_takes_and_keeps_its_order() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[MIGRATION, EFFECT]).await?;
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_000_000)));
        let left = Mutex::new(20);
        let recorder = Recorder::new(&db, move |reason| {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            if reason == "first" && *left > 0 {
                *left -= 1;
                return Some(HandleError::Transient("away".to_owned()));
            }
            None
        });
        let running = Running::start(&db, recorder.clone(), clock.clone());
        let now = Timestamp::from_micros(1_000_000);
        commit(&db, vec![paused("i", "first", now), paused("i", "second", now)]).await?;
        for tried in 1..=20 {
            running.relay.wake();
            until(&db, &format!("failures >= {tried}"), 1).await?;
            ensure!(effects(&db, "i").await?.is_empty());
            clock.advance(Duration::from_secs(15));
        }
        running.relay.wake();
        until(&db, "receivers_left <> 0", 0).await?;
        ensure!(effects(&db, "i").await? == ["first", "second"]);
        ensure!(dead_letters(&db, None, 10).await?.is_empty());
        running.stop().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_order_of_an_instance_holds_with_many_writers_and_two_relays() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[MIGRATION, EFFECT]).await?;
        let clock = SystemClock::shared();
        // Some are refused at random, so that claims are given back and taken over.
        let flaky = |_: &str| {
            (rand::random_range(0..10) == 0).then(|| HandleError::Transient("by chance".to_owned()))
        };
        let mut relays = vec![Running::start(&db, Recorder::new(&db, flaky), clock.clone())];
        // On SQLite one process owns the file, and one relay is all there is.
        if db.dialect() == phasegate_database::Dialect::Postgres {
            relays.push(Running::start(&db, Recorder::new(&db, flaky), clock.clone()));
        }
        let writers = (0..6).map(|writer| {
            let (db, clock, relay) = (db.clone(), clock.clone(), relays[0].relay.clone());
            tokio::spawn(async move {
                let instance = format!("i-{writer}");
                for step in 0..20 {
                    let events = (0..3).map(|part| paused(&instance, format!("{step}.{part}"), clock.now()));
                    commit(&db, events.collect()).await?;
                    relay.wake();
                }
                anyhow::Ok(())
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await??;
        }
        until(&db, "receivers_left <> 0", 0).await?;
        let expected: Vec<String> =
            (0..20).flat_map(|step| (0..3).map(move |part| format!("{step}.{part}"))).collect();
        for writer in 0..6 {
            let found = effects(&db, &format!("i-{writer}")).await?;
            ensure!(found == expected, "instance {writer}: {found:?}");
        }
        for relay in relays {
            relay.stop().await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_appended_while_a_turn_ends_does_not_wait_for_a_claim_to_lapse() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[MIGRATION, EFFECT]).await?;
        // No time passes, so that a claim that nobody works on lasts for ever.
        let clock: SharedClock = Arc::new(ManualClock::new(Timestamp::from_micros(1_000_000)));
        let relay = Running::start(&db, Recorder::new(&db, |_| None), clock.clone());
        let writers = (0..4).map(|writer| {
            let (db, clock, relay) = (db.clone(), clock.clone(), relay.relay.clone());
            tokio::spawn(async move {
                for step in 0..60 {
                    commit(&db, vec![paused("i", format!("{writer}.{step}"), clock.now())]).await?;
                    relay.wake();
                    tokio::time::sleep(Duration::from_millis(step % 4)).await;
                }
                anyhow::Ok(())
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await??;
        }
        until(&db, "receivers_left <> 0", 0).await?;
        relay.stop().await
    })
    .await
}
