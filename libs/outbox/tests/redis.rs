//! What is committed takes effect once, whatever Redis does: it is emptied, killed, refuses writes, and a receiver dies.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::BoxFuture;
use hmac::{Hmac, Mac as _};
use phasegate_bus::{Bus, HandleError, Handler, Receiver, Settings};
use phasegate_clock::SystemClock;
use phasegate_database::{Database, Error, Migration, args};
use phasegate_keyring::KeyRing;
use phasegate_outbox::{Guard, MIGRATION, Relay, append_all, confirm, dead_letters, event, inbox_receive};
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, InstanceEnded, InstancePaused};
use phasegate_test_database::{TestDatabase, postgres};
use phasegate_test_redis::TestRedis;
use prost::Message as _;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;
use sha2::Sha256;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const EFFECT: Migration = Migration {
    version: 10,
    name: "effect",
    postgres: "create table effect (event_id text not null, instance_id text not null, place bigint generated always as identity);",
    sqlite: "create table effect (place integer primary key autoincrement, event_id text not null, instance_id text not null) strict;",
};

/// Writes down what it takes, once; the first events may hang or fail.
struct Recorder {
    db: Database,
    hangs: AtomicUsize,
    poisons: Mutex<BTreeSet<String>>,
}

impl Handler for Recorder {
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move {
            if self.poisons.lock().unwrap_or_else(PoisonError::into_inner).contains(&event.instance_id) {
                return Err(HandleError::Poison("cannot be read".to_owned()));
            }
            let hangs =
                self.hangs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if hangs.is_ok() {
                std::future::pending::<()>().await;
            }
            let done = self
                .db
                .transaction(move |tx| {
                    Box::pin(async move {
                        let now = SystemClock::shared().now();
                        if inbox_receive(tx, &event.tenant_id, "approval", &event.event_id, now).await? {
                            tx.execute(
                                "insert into effect (event_id, instance_id) values ($1, $2)",
                                args![&event.event_id, &event.instance_id],
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

/// Seals events.
const KEY: [u8; 32] = [7; 32];

/// One copy of the sender and of the receiver, as separate processes would be.
struct Copy {
    relay: Relay,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Copy {
    fn start(redis: &str, sender: &Database, recorder: Arc<Recorder>) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let clock = SystemClock::shared();
        let mut tasks = JoinSet::new();
        // The sender's process.
        let (bus, _none) = Bus::redis(&Settings::new(redis), KeyRing::of(KEY))?;
        let relay = Relay::new("instance", sender, bus, clock.clone());
        tasks.spawn({
            let (relay, stop) = (relay.clone(), stop.clone());
            async move { relay.run(stop).await }
        });
        // The receiver's process.
        let (bus, mut confirmations) = Bus::redis(&Settings::new(redis), KeyRing::of(KEY))?;
        let guard = Guard::new(recorder.db.clone(), Receiver::Approval, recorder, clock);
        bus.subscribe(Receiver::Approval, Arc::new(guard.clone()));
        tasks.spawn({
            let stop = stop.clone();
            async move {
                tokio::join!(bus.run(stop.clone()), guard.run(stop));
            }
        });
        let sender = sender.clone();
        tasks.spawn(async move {
            while let Some(confirmed) = confirmations.recv().await {
                let event = (confirmed.tenant_id, confirmed.event_id);
                // One that fails is like one that was lost on its way.
                let _ = confirm(&sender, confirmed.receiver, vec![event]).await;
            }
        });
        Ok(Self { relay, tasks, stop })
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(10), ended).await.context("it does not stop")
    }
}

/// A sender's and a receiver's database, and a Redis between them.
struct World {
    redis: TestRedis,
    sender: Database,
    recorder: Arc<Recorder>,
    _databases: [TestDatabase; 2],
}

impl World {
    async fn new() -> anyhow::Result<Self> {
        let (first, second) = (postgres().await?, postgres().await?);
        let sender = first.open(&[MIGRATION, EFFECT]).await?;
        let db = second.open(&[MIGRATION, EFFECT]).await?;
        let recorder = Recorder { db, hangs: AtomicUsize::new(0), poisons: Mutex::default() };
        let redis = TestRedis::start().await?;
        Ok(Self { redis, sender, recorder: Arc::new(recorder), _databases: [first, second] })
    }

    fn copy(&self) -> anyhow::Result<Copy> {
        Copy::start(&self.redis.url(), &self.sender, self.recorder.clone())
    }

    /// Commits `number` events of each of ten instances.
    async fn commit(&self, copy: &Copy, number: usize) -> anyhow::Result<()> {
        for at in 0..number {
            let events = (0..10).map(|instance| paused(&format!("i-{instance}"), at)).collect::<Vec<_>>();
            self.write(copy, events).await?;
        }
        Ok(())
    }

    async fn write(&self, copy: &Copy, events: Vec<Event>) -> anyhow::Result<()> {
        self.sender
            .transaction(move |tx| {
                Box::pin(async move {
                    append_all(tx, &events).await?;
                    Ok::<_, Error>(())
                })
            })
            .await?;
        copy.relay.wake();
        Ok(())
    }

    /// Waits until everything is confirmed, and checks that `number` effects were had, each once.
    async fn settled(&self, number: i64, within: Duration) -> anyhow::Result<()> {
        let done = async {
            while count(&self.sender, "outbox where receivers_left <> 0").await? != 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        if tokio::time::timeout(within, done).await.is_err() {
            let left = count(&self.sender, "outbox where receivers_left <> 0").await?;
            anyhow::bail!("{left} events were not confirmed within {within:?}");
        }
        let effects = count(&self.recorder.db, "effect").await?;
        let different = count(&self.recorder.db, "(select distinct event_id from effect) as once").await?;
        ensure!(effects == number && different == number, "{effects} effects of {different} events");
        Ok(())
    }
}

fn paused(instance: &str, at: usize) -> Event {
    let payload = Payload::InstancePaused(InstancePaused { reason: at.to_string(), instance_version: 1 });
    event("t", instance, Actor::default(), SystemClock::shared().now(), payload)
}

async fn count(db: &Database, what: &str) -> anyhow::Result<i64> {
    let row = db.fetch_optional(format!("select count(*) as n from {what}"), args![]).await?;
    Ok(row.context("one row")?.get("n")?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_copies_of_each_take_every_event_once() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (first, second) = (world.copy()?, world.copy()?);
    world.commit(&first, 20).await?;
    world.settled(200, Duration::from_secs(20)).await?;
    // Nobody waits for a receiver that is not there.
    let others = Payload::InstanceEnded(InstanceEnded::default());
    let ended = event("t", "i-1", Actor::default(), SystemClock::shared().now(), others);
    world.write(&second, vec![ended]).await?;
    let left = async {
        while count(&world.sender, "outbox where receivers_left = 12").await? != 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), left).await.context("two receivers are left")??;
    first.stop().await?;
    second.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_that_loses_everything_loses_nothing() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let copy = world.copy()?;
    world.commit(&copy, 10).await?;
    world.settled(100, Duration::from_secs(20)).await?;
    for _ in 0..5 {
        world.commit(&copy, 4).await?;
        world.redis.empty().await?;
        world.commit(&copy, 2).await?;
    }
    world.settled(400, Duration::from_secs(30)).await?;
    world.commit(&copy, 5).await?;
    world.redis.kill();
    world.commit(&copy, 5).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.redis.restart().await?;
    world.settled(500, Duration::from_secs(30)).await?;
    copy.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_that_is_full_delays_and_no_more() -> anyhow::Result<()> {
    let world = World::new().await?;
    let copy = world.copy()?;
    world.commit(&copy, 2).await?;
    world.settled(20, Duration::from_secs(20)).await?;
    world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await?;
    world.commit(&copy, 3).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(count(&world.recorder.db, "effect").await? == 20, "a full Redis takes no events");
    world.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    world.settled(50, Duration::from_secs(20)).await?;
    copy.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_dead_receiver_held_is_taken_by_another() -> anyhow::Result<()> {
    let world = World::new().await?;
    world.recorder.hangs.store(3, Ordering::SeqCst);
    let dies = world.copy()?;
    world.commit(&dies, 1).await?;
    let hanging = async {
        while world.recorder.hangs.load(Ordering::SeqCst) != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), hanging).await.context("three events hang")?;
    // Its tasks end where they stand, as in a process that is killed.
    let Copy { mut tasks, relay: _, stop } = dies;
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    let lives = world.copy()?;
    world.settled(10, Duration::from_secs(30)).await?;
    stop.cancel();
    lives.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn poison_is_set_aside_and_holds_nobody_up() -> anyhow::Result<()> {
    let world = World::new().await?;
    world.recorder.poisons.lock().unwrap_or_else(PoisonError::into_inner).insert("i-3".to_owned());
    let copy = world.copy()?;
    world.commit(&copy, 2).await?;
    world.settled(18, Duration::from_mins(1)).await?;
    let letters = dead_letters(&world.recorder.db, None, 10).await?;
    ensure!(letters.len() == 2 && letters.iter().all(|letter| letter.tries == 8), "{letters:?}");
    copy.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_stopping_receiver_has_not_taken_another_takes_at_once() -> anyhow::Result<()> {
    let world = World::new().await?;
    world.recorder.hangs.store(3, Ordering::SeqCst);
    let stops = world.copy()?;
    world.commit(&stops, 2).await?;
    let hanging = async {
        while world.recorder.hangs.load(Ordering::SeqCst) != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), hanging).await.context("three events hang")?;
    let began = Instant::now();
    stops.stop().await?;
    ensure!(began.elapsed() < Duration::from_secs(5), "it took {:?} to stop", began.elapsed());
    let lives = world.copy()?;
    // Long before anything is claimed that was left.
    world.settled(20, Duration::from_secs(8)).await?;
    ensure!(count(&world.recorder.db, "dead_letter").await? == 0, "and nothing counts as having failed");
    lives.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_no_service_has_sealed_is_dropped() -> anyhow::Result<()> {
    let world = World::new().await?;
    let copy = world.copy()?;
    world.commit(&copy, 1).await?;
    world.settled(10, Duration::from_secs(20)).await?;
    let mut redis = world.redis.connection().await?;
    let made_up = |at| paused("i-1", at).encode_to_vec();
    let (first, second, third) = (made_up(1), made_up(2), made_up(3));
    add(&mut redis, &first, &[]).await?;
    add(&mut redis, &second, &seal(&[8; 32], &second)?).await?;
    // One that is good for another event.
    add(&mut redis, &third, &seal(&KEY, &first)?).await?;
    world.commit(&copy, 1).await?;
    world.settled(20, Duration::from_secs(20)).await?;
    let done = async {
        loop {
            let mut pending = redis::cmd("XPENDING");
            pending.arg("phasegate:events:0").arg("approval");
            let pending: Vec<redis::Value> = pending.query_async(&mut redis).await?;
            if pending.first() == Some(&redis::Value::Int(0)) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done).await.context("they are looked at once")??;
    let metrics = phasegate_telemetry::metrics::text().await;
    ensure!(metrics.contains("phasegate_events_forged_total{receiver=\"approval\"} 3"), "{metrics}");
    ensure!(count(&world.recorder.db, "effect").await? == 20, "and have no effect");
    copy.stop().await
}

/// Puts an event into a stream, as the relay of another version does.
async fn add(redis: &mut MultiplexedConnection, event: &[u8], seal: &[u8]) -> anyhow::Result<()> {
    let mut command = redis::cmd("XADD");
    command.arg("phasegate:events:0").arg("*").arg("s").arg("instance");
    command.arg("r").arg(Receiver::Approval.bit()).arg("e").arg(event).arg("h").arg(seal);
    Ok(command.exec_async(redis).await?)
}

/// What the instance service seals an event with, written down a second time.
fn seal(key: &[u8; 32], event: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(&[0, 0, 0, 0, 0, 0, 0, 8]);
    mac.update(b"instance");
    mac.update(event);
    Ok(mac.finalize().into_bytes().to_vec())
}

/// A field that no version knows yet.
const UNKNOWN: [u8; 8] = [0xa2, 0x06, 5, b'l', b'a', b't', b'e', b'r'];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_later_version_says_is_kept_whole_for_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let copy = world.copy()?;
    // A kind of event that this version does not know, and one that it knows with more in it than it knows.
    let known = paused("i-1", 1);
    let unknown = Event { payload: None, ..paused("i-2", 2) };
    let mut written = Vec::new();
    for event in [&known, &unknown] {
        let bytes = [event.encode_to_vec(), UNKNOWN.to_vec()].concat();
        written.push(bytes.clone());
        let arguments =
            args![&event.tenant_id, &event.event_id, &event.instance_id, bytes, Receiver::Approval.bit()];
        let insert = "insert into outbox
                (tenant_id, event_id, instance_id, payload, created_at, receivers_left, due_at)
             values ($1, $2, $3, $4, 0, $5, 0)";
        let put =
            world.sender.transaction(move |tx| Box::pin(async move { tx.execute(insert, arguments).await }));
        put.await?;
    }
    // As the relay of that version sends it.
    let mut redis = world.redis.connection().await?;
    add(&mut redis, &written[1], &seal(&KEY, &written[1])?).await?;
    copy.relay.wake();
    let taken = async {
        while count(&world.recorder.db, "effect").await? != 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.context("what is known is taken")??;
    let mut sent = Vec::new();
    for stream in 0..16 {
        let mut range = redis::cmd("XRANGE");
        range.arg(format!("phasegate:events:{stream}")).arg("-").arg("+");
        let entries: StreamRangeReply = range.query_async(&mut redis).await?;
        sent.extend(entries.ids.iter().filter_map(|entry| entry.get::<Vec<u8>>("e")));
    }
    ensure!(sent.contains(&written[0]), "it travels as it was written: {sent:?}");
    tokio::time::sleep(Duration::from_secs(6)).await;
    ensure!(count(&world.sender, "outbox where receivers_left = 2").await? == 1, "it waits for that version");
    ensure!(count(&world.recorder.db, "dead_letter").await? == 0, "it is no poison");
    copy.stop().await
}
