//! Gives what is in the outbox to the bus.

mod lanes;
mod memory;
mod turns;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phasegate_bus::{Bus, Delivery, HandleError, Stopped, Written};
use phasegate_clock::{SharedClock, Timestamp};
use phasegate_database::{Database, Dialect};
use phasegate_planted::{self as planted, Bug};
use phasegate_proto::internal::event::v1::Event;
use phasegate_telemetry::WorkKind;
use prost::Message as _;
use rand::Rng as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::lanes::Lanes;
use self::memory::Taken;
use crate::outgoing::Handover;
use crate::seen;
use crate::store::{self, Failure, Lane, Waiting};

/// Events that are sent from memory in one go.
const HANDED_TOGETHER: usize = 256;
/// Looks for what got stuck, with half as much jitter. What is new wakes the relay.
const POLL: Duration = Duration::from_millis(300);
/// Wait after the first failure; doubles with each.
const BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A receiver that takes longer than this is asked again later.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an event that is under way may take once the process stops.
const GRACE: Duration = Duration::from_secs(1);
/// How long what was sent stays: longer than a receiver may be away.
const SENT_KEPT: Duration = Duration::from_hours(7 * 24);
/// How long what was received stays known: longer than a sender keeps what it could send again.
const RECEIVED_KEPT: Duration = Duration::from_hours(30 * 24);
/// Between two looks for what was sent and not confirmed.
const UNCONFIRMED_EVERY: Duration = Duration::from_millis(500);
/// Events that are sent again in one go.
const RESENT_TOGETHER: usize = 64;
/// What could not be sent again is due again after this time.
const RESENT_AFTER: Duration = Duration::from_secs(1);
/// How long what failed and was never set aside stays counted: it has been taken since, by another copy.
const FAILED_KEPT: Duration = Duration::from_hours(24);
/// Between two rounds of deleting.
const SWEEP: Duration = Duration::from_mins(10);

/// Sends what the outbox holds. Copies share one wake-up.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Service that it sends for.
    sender: &'static str,
    db: Database,
    bus: Bus,
    clock: SharedClock,
    wake: Arc<Notify>,
    /// Claimed lanes that this process is working on, and whether one was claimed once more meanwhile.
    busy: Arc<Mutex<BTreeMap<Lane, bool>>>,
    /// Lanes of a database that this process owns.
    lanes: Arc<Mutex<Lanes>>,
    taken: Arc<Taken>,
    /// The bus took nothing at the last try.
    is_refused: Arc<AtomicBool>,
    /// What is sent from memory; none where receivers take an event while it is sent.
    handover: Option<Arc<Handover>>,
}

impl Relay {
    /// A relay from the database of a service to a bus, for all tenants. Nothing is sent before [`Relay::run`].
    pub fn new(sender: &'static str, db: &Database, bus: Bus, clock: SharedClock) -> Self {
        if bus.is_confirmed_later() || db.dialect() == Dialect::Sqlite {
            db.attach(Arc::new(Handover::default()));
        }
        Self {
            handover: db.attached(),
            sender,
            db: db.across_tenants(),
            bus,
            clock,
            wake: Arc::new(Notify::new()),
            busy: Arc::default(),
            lanes: Arc::new(Mutex::new(Lanes::unsure())),
            taken: Arc::default(),
            is_refused: Arc::default(),
        }
    }

    /// Something was committed: have a look at once. Cheap, and never lost. What is given to Redis from memory needs no look.
    pub fn wake(&self) {
        if !self.bus.is_confirmed_later() {
            self.look();
        }
    }

    fn look(&self) {
        self.wake.notify_one();
    }

    /// Sends until `shutdown`, then finishes what is under way.
    pub async fn run(&self, shutdown: CancellationToken) {
        let _told = seen::observe(self.sender, self.db.clone(), self.clock.clone());
        // Side by side, so that old events never keep new ones waiting; boxed, because whoever runs this holds it.
        tokio::join!(
            Box::pin(self.send_all_on(&shutdown)),
            shutdown.run_until_cancelled(Box::pin(self.sweep_on()))
        );
    }

    async fn send_all_on(&self, shutdown: &CancellationToken) {
        match &self.handover {
            Some(handover) if !self.bus.is_confirmed_later() => {
                self.send_own_on(handover, shutdown).await;
            }
            Some(_) | None => {
                tokio::join!(
                    self.send_on(shutdown),
                    self.hand_over_on(shutdown),
                    self.send_again_on(shutdown)
                );
            }
        }
    }

    /// Sends what this process has just committed, and at last what is left of it.
    async fn hand_over_on(&self, shutdown: &CancellationToken) {
        let Some(handover) = &self.handover else { return };
        loop {
            let fresh = handover.take(HANDED_TOGETHER);
            if !fresh.is_empty() {
                self.hand_over(handover, fresh, shutdown).await;
            } else if shutdown.run_until_cancelled(handover.ready()).await.is_none() {
                break;
            }
        }
        for last in handover.take_all().chunks(HANDED_TOGETHER) {
            self.hand_over(handover, last.to_vec(), shutdown).await;
        }
    }

    async fn hand_over(&self, handover: &Handover, fresh: Vec<Written>, shutdown: &CancellationToken) {
        let now = self.clock.now();
        let spans: Vec<Span> =
            fresh.iter().map(|one| seen::span(self.sender, WorkKind::Send, &one.event, now)).collect();
        let outcome = unless_stopped(self.publish(&fresh), shutdown).await;
        drop(spans);
        let Err(Stopped { error, .. }) = outcome else { return };
        tracing::debug!(%error, "events were not taken");
        self.is_refused.store(true, Ordering::Relaxed);
        // A bus that is away is not asked again for each of them.
        let behind = handover.take_all();
        let events =
            fresh.iter().chain(&behind).map(|one| (one.event.tenant_id.clone(), one.event.event_id.clone()));
        let failure = Failure { error: error.to_string(), due_at: backoff(now, 0) };
        if let Err(error) = store::unsend(&self.db, events.collect(), failure).await {
            phasegate_database::tell(
                &error,
                "what was not sent could not be marked, and is sent once it is overdue",
            );
        }
        self.look();
    }

    /// Sends again what was not confirmed, where the bus may lose it.
    async fn send_again_on(&self, shutdown: &CancellationToken) {
        if planted::is(Bug::NeverResent) {
            return;
        }
        while self.bus.is_confirmed_later() && !shutdown.is_cancelled() {
            shutdown.run_until_cancelled(pause(UNCONFIRMED_EVERY)).await;
            while !shutdown.is_cancelled() && self.send_again(shutdown).await {}
        }
    }

    async fn sweep_on(&self) {
        loop {
            pause(SWEEP).await;
            self.sweep().await;
        }
    }

    async fn publish(&self, written: &[Written]) -> Result<Delivery, Stopped> {
        match tokio::time::timeout(PATIENCE, self.bus.send(self.sender, written)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HandleError::Transient("a receiver did not answer in time".to_owned()).into()),
        }
    }

    /// Sends again what was sent and not confirmed in time, to those who have not confirmed it: whatever kept what was sent
    /// may have lost it. True when there may be more.
    async fn send_again(&self, shutdown: &CancellationToken) -> bool {
        let overdue = match store::unconfirmed_claim(&self.db, self.clock.now()).await {
            Ok(overdue) => overdue,
            Err(error) => {
                phasegate_database::tell(&error, "the outbox cannot be read");
                return false;
            }
        };
        for (at, together) in overdue.chunks(RESENT_TOGETHER).enumerate() {
            // What cannot be read was said when it was sent for the first time.
            let together: Vec<Written> =
                together.iter().filter_map(|row| written(&row.waiting).ok()).collect();
            let sent = if shutdown.is_cancelled() {
                Err(HandleError::Transient("the process stops".to_owned()).into())
            } else {
                self.publish(&together).await
            };
            if let Err(Stopped { error, .. }) = sent {
                tracing::debug!(%error, "events could not be sent again");
                // They were claimed for longer with every try: one that failed does not count as one.
                let unsent = overdue.iter().skip(at * RESENT_TOGETHER).map(|row| row.name.clone()).collect();
                let due_at = self.clock.now() + RESENT_AFTER;
                if let Err(error) = store::unconfirmed_give_back(&self.db, unsent, due_at).await {
                    phasegate_database::tell(&error, "what was not sent again could not be given back");
                }
                return false;
            }
        }
        overdue.len() == store::RESENT_AT_ONCE
    }

    /// Deletes what is old. [`Relay::run`] does it once in a while.
    pub async fn sweep(&self) {
        let now = self.clock.now();
        loop {
            match store::sweep(&self.db, now - SENT_KEPT, now - RECEIVED_KEPT, now - FAILED_KEPT).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    phasegate_database::tell(&error, "old events could not be deleted");
                    return;
                }
            }
        }
    }
}

/// What comes of sending, given up a moment after the time to stop: what was on its way is sent again, and known.
async fn unless_stopped<T>(
    sending: impl Future<Output = Result<T, Stopped>>,
    shutdown: &CancellationToken,
) -> Result<T, Stopped> {
    let stopped = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        outcome = sending => outcome,
        () = stopped => Err(HandleError::Transient("the process stopped".to_owned()).into()),
    }
}

/// An event of the outbox, as the bus sends it.
fn written(waiting: &Waiting) -> Result<Written, HandleError> {
    let event = Event::decode(waiting.payload.as_slice())
        .map_err(|error| HandleError::Poison(format!("not an event: {error}")))?;
    let (bytes, receivers) = (waiting.payload.clone(), waiting.receivers_left);
    Ok(Written { event: Arc::new(event), bytes, receivers })
}

/// Waits for about this long.
async fn pause(length: Duration) {
    let length = length.mul_f64(rand::rng().random_range(0.5..1.5));
    tokio::time::sleep(length).await;
}

/// When to try again: doubling, half of it chance, so that what failed together does not come back together.
fn backoff(now: Timestamp, failures: u32) -> Timestamp {
    let full = BACKOFF.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    now + full.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use phasegate_clock::Timestamp;

    use super::{BACKOFF_MAX, backoff};

    #[test]
    fn waits_grow_and_stay_bounded() {
        let now = Timestamp::from_micros(0);
        let first = backoff(now, 0).duration_since(now);
        assert!(first >= Duration::from_millis(50) && first <= Duration::from_millis(100), "{first:?}");
        for failures in [20, 1_000, u32::MAX] {
            let wait = backoff(now, failures).duration_since(now);
            assert!(wait >= BACKOFF_MAX / 2 && wait <= BACKOFF_MAX, "{wait:?}");
        }
    }
}
