//! What others do to events while somebody is away for long: nothing is set aside for it, nothing is sent to those who
//! have it, and what waited is there soon afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::BoxFuture;
use phasegate_bus::{Bus, HandleError, Handler, Receiver, Settings};
use phasegate_clock::{SystemClock, Timestamp};
use phasegate_database::{Database, Error, args};
use phasegate_keyring::KeyRing;
use phasegate_outbox::{Guard, MIGRATION, Relay, append_all, confirm, event, replay};
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, InstanceEnded, InstancePaused};
use phasegate_test_database::{TestDatabase, postgres};
use phasegate_test_redis::TestRedis;
use redis::streams::StreamRangeReply;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Takes nothing while another service is away.
#[derive(Default)]
struct Leaning {
    is_away: AtomicBool,
    /// Cannot take anything.
    is_broken: AtomicBool,
    /// What is done with an event does not end.
    is_deadly: AtomicBool,
    tried: AtomicUsize,
    taken: AtomicUsize,
}

impl Handler for Leaning {
    fn handle(&self, _: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async {
            self.tried.fetch_add(1, Ordering::SeqCst);
            if self.is_deadly.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.is_broken.load(Ordering::SeqCst) {
                return Err(HandleError::Poison("it cannot be read".to_owned()));
            }
            if self.is_away.load(Ordering::SeqCst) {
                return Err(HandleError::Transient("the other service is away".to_owned()));
            }
            self.taken.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }
}

/// A sender and a receiver with a Redis between them.
struct World {
    redis: TestRedis,
    sender: Database,
    receiver: Database,
    handler: Arc<Leaning>,
    relay: Relay,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _databases: [TestDatabase; 2],
}

impl World {
    async fn new(left_after: Option<Duration>) -> anyhow::Result<Self> {
        let (first, second) = (postgres().await?, postgres().await?);
        let (sender, receiver) = (first.open(&[MIGRATION]).await?, second.open(&[MIGRATION]).await?);
        let redis = TestRedis::start().await?;
        let mut settings = Settings::new(redis.url());
        settings.left_after = left_after.unwrap_or(settings.left_after);
        let (bus, mut confirmations) = Bus::redis(&settings, KeyRing::of([7; 32]))?;
        let (clock, stop, mut tasks) = (SystemClock::shared(), CancellationToken::new(), JoinSet::new());
        let relay = Relay::new("instance", &sender, bus.clone(), clock.clone());
        let handler = Arc::new(Leaning::default());
        let guard = Guard::new(receiver.clone(), Receiver::Approval, handler.clone(), clock);
        bus.subscribe(Receiver::Approval, Arc::new(guard));
        tasks.spawn({
            let (relay, stop) = (relay.clone(), stop.clone());
            async move {
                tokio::join!(relay.run(stop.clone()), bus.run(stop));
            }
        });
        tasks.spawn({
            let sender = sender.clone();
            async move {
                while let Some(confirmed) = confirmations.recv().await {
                    let event = (confirmed.tenant_id, confirmed.event_id);
                    // One that fails is like one that was lost on its way.
                    let _ = confirm(&sender, confirmed.receiver, vec![event]).await;
                }
            }
        });
        let databases = [first, second];
        Ok(Self { redis, sender, receiver, handler, relay, stop, tasks, _databases: databases })
    }

    async fn commit(&self, payloads: Vec<Payload>) -> anyhow::Result<()> {
        let now = SystemClock::shared().now();
        let events: Vec<Event> = payloads
            .into_iter()
            .enumerate()
            .map(|(at, payload)| event("t", format!("i-{at}"), Actor::default(), now, payload))
            .collect();
        let committed = self.sender.transaction(move |tx| {
            Box::pin(async move {
                append_all(tx, &events).await?;
                Ok::<_, Error>(())
            })
        });
        committed.await?;
        self.relay.wake();
        Ok(())
    }

    /// Waits until no row is so.
    async fn none(&self, condition: &str, within: Duration) -> anyhow::Result<()> {
        let none = async {
            while count(&self.sender, &format!("outbox where {condition}")).await? != 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        let waited = tokio::time::timeout(within, none).await;
        waited.with_context(|| format!("some rows are still {condition} after {within:?}"))?
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        drop(self.relay);
        tokio::time::timeout(Duration::from_secs(10), ended).await.context("it does not stop")
    }
}

fn paused() -> Payload {
    Payload::InstancePaused(InstancePaused { reason: String::new(), instance_version: 1 })
}

async fn count(db: &Database, what: &str) -> anyhow::Result<i64> {
    let row = db.fetch_optional(format!("select count(*) as n from {what}"), args![]).await?;
    Ok(row.context("one row")?.get("n")?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_outage_sets_nothing_aside_however_often_it_is_claimed() -> anyhow::Result<()> {
    let world = World::new(Some(Duration::from_millis(300))).await?;
    world.handler.is_away.store(true, Ordering::SeqCst);
    world.commit(vec![paused(), paused(), paused()]).await?;
    // Each claim brings eight tries, and an event that ends processes is set aside at the eighth claim.
    let claimed = async {
        while world.handler.tried.load(Ordering::SeqCst) < 3 * 8 * 14 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), claimed).await.context("it is claimed again and again")?;
    ensure!(count(&world.receiver, "dead_letter where set_aside_at is not null").await? == 0);
    ensure!(count(&world.sender, "outbox where receivers_left <> 0").await? == 3, "nothing is confirmed");
    world.handler.is_away.store(false, Ordering::SeqCst);
    world.none("receivers_left <> 0", Duration::from_secs(30)).await?;
    ensure!(world.handler.taken.load(Ordering::SeqCst) >= 3);
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_redis_has_lost_is_there_soon_after_it_is_back() -> anyhow::Result<()> {
    let mut world = World::new(None).await?;
    world.handler.is_away.store(true, Ordering::SeqCst);
    world.commit(vec![paused(); 20]).await?;
    world.none("sent_at is null", Duration::from_secs(20)).await?;
    world.redis.kill();
    world.handler.is_away.store(false, Ordering::SeqCst);
    // Twice it would have been sent again.
    tokio::time::sleep(Duration::from_secs(18)).await;
    world.redis.restart().await?;
    world.none("receivers_left <> 0", Duration::from_secs(10)).await?;
    world.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_sent_again_is_for_those_who_have_not_confirmed_it() -> anyhow::Result<()> {
    let world = World::new(None).await?;
    world.handler.is_away.store(true, Ordering::SeqCst);
    world.commit(vec![Payload::InstanceEnded(InstanceEnded::default())]).await?;
    world.none("sent_at is null", Duration::from_secs(20)).await?;
    let row = world.sender.fetch_optional("select event_id from outbox", args![]).await?;
    let event_id: String = row.context("one row")?.get("event_id")?;
    confirm(&world.sender, Receiver::Participant, vec![("t".to_owned(), event_id)]).await?;
    let mut connection = world.redis.connection().await?;
    let mut receivers: Vec<i64> = Vec::new();
    for _ in 0..600 {
        receivers.clear();
        for stream in 0..16 {
            let mut range = redis::cmd("XRANGE");
            range.arg(format!("phasegate:events:{stream}")).arg("-").arg("+");
            let entries: StreamRangeReply = range.query_async(&mut connection).await?;
            receivers.extend(entries.ids.iter().filter_map(|entry| entry.get::<i64>("r")));
        }
        if receivers.len() > 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = Receiver::set_of(Some(&Payload::InstanceEnded(InstanceEnded::default())));
    ensure!(receivers.first() == Some(&all), "{receivers:?}");
    ensure!(receivers.last() == Some(&(all & !Receiver::Participant.bit())), "{receivers:?}");
    world.stop().await
}

#[tokio::test]
async fn what_failed_elsewhere_is_not_counted_for_ever() -> anyhow::Result<()> {
    let world = World::new(None).await?;
    let long_ago = Timestamp::from_micros(1);
    let put = world.receiver.transaction(move |tx| {
        Box::pin(async move {
            for (event_id, set_aside_at) in [("taken by another copy", None), ("kept", Some(long_ago))] {
                tx.execute(
                    "insert into dead_letter (tenant_id, consumer, event_id, instance_id, event, tries, last_error,
                                              first_failed_at, set_aside_at)
                     values ('t', 'approval', $1, 'i', '', 1, '', $2, $3)",
                    args![event_id, long_ago, set_aside_at],
                )
                .await?;
            }
            Ok::<_, Error>(())
        })
    });
    put.await?;
    // The receiver's own relay clears up.
    let relay = Relay::new("approval", &world.receiver, Bus::local(), SystemClock::shared());
    relay.sweep().await;
    ensure!(count(&world.receiver, "dead_letter").await? == 1);
    ensure!(count(&world.receiver, "dead_letter where event_id = 'kept'").await? == 1);
    world.stop().await
}

#[tokio::test]
async fn what_ends_the_process_that_tries_it_anew_is_not_tried_by_the_next() -> anyhow::Result<()> {
    let fresh = postgres().await?;
    let db = fresh.open(&[MIGRATION]).await?;
    let handler = Arc::new(Leaning::default());
    let guard = || {
        Guard::new(db.clone(), Receiver::Approval, handler.clone() as Arc<dyn Handler>, SystemClock::shared())
    };
    let tried = || handler.tried.load(Ordering::SeqCst);
    let reach = async |wanted: usize| {
        let reached = async {
            while tried() < wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.context("it is not tried")
    };
    handler.is_broken.store(true, Ordering::SeqCst);
    let now = SystemClock::shared().now();
    let event = Arc::new(event("t", "i", Actor::default(), now, paused()));
    let before = guard();
    while before.handle(event.clone()).await.is_err() {}
    ensure!(tried() == 8 && count(&db, "dead_letter where set_aside_at is not null").await? == 1);
    handler.is_deadly.store(true, Ordering::SeqCst);
    ensure!(replay(&db, None, now).await? == 1);
    for killed in [9, 10] {
        // It ends where it stands, as with its process.
        let dies = tokio::spawn({
            let guard = guard();
            async move { guard.run(CancellationToken::new()).await }
        });
        reach(killed).await?;
        dies.abort();
        let (stop, lives) = (CancellationToken::new(), guard());
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { lives.run(stop).await }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        ensure!(tried() == killed, "the next process tries it, too");
        stop.cancel();
        running.await?;
        // Whoever wants it tried once more says so once more.
        ensure!(replay(&db, None, now).await? == 1);
    }
    // What passes does not use the wish up.
    handler.is_deadly.store(false, Ordering::SeqCst);
    handler.is_broken.store(false, Ordering::SeqCst);
    handler.is_away.store(true, Ordering::SeqCst);
    let running = tokio::spawn({
        let guard = guard();
        async move { guard.run(CancellationToken::new()).await }
    });
    reach(12).await?;
    handler.is_away.store(false, Ordering::SeqCst);
    let taken = async {
        while count(&db, "dead_letter").await? != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.context("it is taken in the end")??;
    running.abort();
    Ok(())
}
