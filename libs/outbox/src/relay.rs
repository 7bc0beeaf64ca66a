//! Gives what is in the outbox to the bus.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use phasegate_bus::{Bus, Delivery, HandleError};
use phasegate_clock::{SharedClock, Timestamp};
use phasegate_database::{Database, Dialect, Error};
use phasegate_proto::internal::event::v1::Event;
use phasegate_telemetry::WorkKind;
use prost::Message as _;
use rand::Rng as _;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::seen;
use crate::store::{self, Failure, Lane, Settled};

/// Instances that are worked on at once.
const LANES_MAX: usize = 16;
/// Looks for what got stuck, with half as much jitter. What is new wakes the relay.
const POLL: Duration = Duration::from_millis(300);
/// Wait after the first failure; doubles with each.
const BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A receiver that takes longer than this is asked again later.
const PATIENCE: Duration = Duration::from_secs(20);
/// After this time an instance's turn ends.
const TURN: Duration = Duration::from_secs(10);
/// How long what was sent stays: longer than a receiver may be away.
const SENT_KEPT: Duration = Duration::from_hours(7 * 24);
/// How long what was received stays known: longer than a sender keeps what it could send again.
const RECEIVED_KEPT: Duration = Duration::from_hours(30 * 24);
/// Between two looks for what was sent and not confirmed.
const UNCONFIRMED_EVERY: Duration = Duration::from_millis(500);
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
    /// Lanes that this process is working on, and whether one was claimed once more meanwhile.
    busy: Arc<Mutex<BTreeMap<Lane, bool>>>,
}

impl Relay {
    /// A relay from the database of a service to a bus, for all tenants. Nothing is sent before [`Relay::run`].
    pub fn new(sender: &'static str, db: &Database, bus: Bus, clock: SharedClock) -> Self {
        let db = db.across_tenants();
        Self { sender, db, bus, clock, wake: Arc::new(Notify::new()), busy: Arc::default() }
    }

    /// Something was committed: have a look at once. Cheap, and never lost.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Sends until `shutdown`, then finishes what is under way.
    pub async fn run(&self, shutdown: CancellationToken) {
        let _told = seen::observe(self.sender, self.db.clone(), self.clock.clone());
        let mut lanes = JoinSet::new();
        let mut swept = tokio::time::Instant::now();
        let mut looked = swept;
        while !shutdown.is_cancelled() {
            if lanes.len() < LANES_MAX {
                self.start_lanes(&mut lanes).await;
            }
            let pause = POLL.mul_f64(rand::rng().random_range(0.5..1.5));
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.wake.notified(), if lanes.len() < LANES_MAX => {}
                Some(_) = lanes.join_next() => {}
                () = tokio::time::sleep(pause) => {}
            }
            if self.bus.is_confirmed_later() && looked.elapsed() > UNCONFIRMED_EVERY {
                looked = tokio::time::Instant::now();
                self.send_again().await;
            }
            if swept.elapsed() > SWEEP {
                swept = tokio::time::Instant::now();
                self.sweep().await;
            }
        }
        while lanes.join_next().await.is_some() {}
    }

    async fn start_lanes(&self, lanes: &mut JoinSet<()>) {
        let claimed = match store::lanes_claim(&self.db, self.clock.now()).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the outbox cannot be read");
                tokio::time::sleep(POLL).await;
                return;
            }
        };
        for lane in claimed {
            if self.take_lane(&lane) {
                let relay = self.clone();
                lanes.spawn(async move {
                    loop {
                        tokio::select! {
                            () = relay.run_lane(&lane) => {}
                            () = relay.keep_lane(&lane) => {}
                        }
                        if relay.leave_lane(&lane) {
                            break;
                        }
                    }
                    // What was appended in the meantime found the lane busy.
                    relay.wake();
                });
            }
        }
    }

    /// Marks a claimed lane as worked on; false where it is already.
    ///
    /// A turn gives its lane up in two steps, in the database and then here. What is claimed between them is a claim
    /// that nobody would work on until it lapses: so it is left to that turn, which goes on with it.
    fn take_lane(&self, lane: &Lane) -> bool {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        match busy.entry(lane.clone()) {
            Entry::Vacant(free) => {
                free.insert(false);
                true
            }
            Entry::Occupied(mut taken) => {
                // On SQLite claims are not written: there the lane is found busy whenever it is looked at.
                taken.insert(self.db.dialect() == Dialect::Postgres);
                false
            }
        }
    }

    /// Ends a turn; false where the lane was claimed once more during it.
    fn leave_lane(&self, lane: &Lane) -> bool {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let is_claimed = busy.remove(lane) == Some(true);
        if is_claimed {
            busy.insert(lane.clone(), false);
        }
        !is_claimed
    }

    /// Keeps the claim of a lane, for as long as it is awaited. Claims are short, so that what a relay that died was at
    /// does not wait for long.
    async fn keep_lane(&self, lane: &Lane) {
        loop {
            tokio::time::sleep(store::RENEWAL).await;
            if let Err(error) = store::lane_keep(&self.db, lane, self.clock.now()).await {
                tracing::warn!(error = %chain(&error), "a claim could not be renewed");
            }
        }
    }

    /// Sends the events of one instance in order, up to the first that fails.
    async fn run_lane(&self, lane: &Lane) {
        let waiting = match store::lane_load(&self.db, lane).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the outbox cannot be read");
                return;
            }
        };
        let mut settled = Settled::default();
        let started = tokio::time::Instant::now();
        for event in waiting {
            // Others wait for their turn; the rest is claimed anew.
            if started.elapsed() > TURN {
                break;
            }
            match self.send(&event.payload).await {
                Ok(Delivery::Taken) => settled.taken.push(event.event_id),
                Ok(Delivery::Sent) => settled.sent.push(event.event_id),
                Err(error) => {
                    tracing::debug!(event_id = event.event_id, %error, "an event was not taken");
                    let due_at = backoff(self.clock.now(), event.failures);
                    let failure = Failure { error: error.to_string(), due_at };
                    settled.failed = Some((event.event_id, failure));
                    break;
                }
            }
        }
        let now = self.clock.now();
        if let Err(error) = store::lane_settle(&self.db, lane.clone(), settled, now).await {
            // They are sent again, and the receivers know them.
            tracing::warn!(error = %chain(&error), "what was sent could not be marked");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn send(&self, payload: &[u8]) -> Result<Delivery, HandleError> {
        let event =
            Event::decode(payload).map_err(|error| HandleError::Poison(format!("not an event: {error}")))?;
        let span = seen::span(self.sender, WorkKind::Send, &event, self.clock.now());
        let publishing = self.bus.publish(self.sender, Arc::new(event)).instrument(span);
        match tokio::time::timeout(PATIENCE, publishing).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HandleError::Transient("a receiver did not answer in time".to_owned())),
        }
    }

    /// Sends again what was sent and not confirmed in time: whatever kept what was sent may have lost it.
    async fn send_again(&self) {
        let overdue = match store::unconfirmed_claim(&self.db, self.clock.now()).await {
            Ok(overdue) => overdue,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the outbox cannot be read");
                return;
            }
        };
        for payload in overdue {
            if let Err(error) = self.send(&payload).await {
                tracing::debug!(%error, "an event could not be sent again");
                return;
            }
        }
    }

    async fn sweep(&self) {
        let now = self.clock.now();
        loop {
            match store::sweep(&self.db, now - SENT_KEPT, now - RECEIVED_KEPT).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "old events could not be deleted");
                    return;
                }
            }
        }
    }
}

/// When to try again: doubling, half of it chance, so that what failed together does not come back together.
fn backoff(now: Timestamp, failures: u32) -> Timestamp {
    let full = BACKOFF.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    now + full.mul_f64(rand::rng().random_range(0.5..1.0))
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
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
