//! Gives what is in the outbox to the bus.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::outgoing::Handover;
use crate::seen;
use crate::store::{self, Failure, Lane, Settled, Waiting};

/// Turns at a time, each of one instance, where receivers take an event while it is sent.
const TURNS_MAX: usize = 16;
/// The same where each turn is of many instances, whose events are sent together: while one is on its way to the bus,
/// another one is with the database, and what is new meanwhile goes into the next one.
const TURNS_TOGETHER_MAX: usize = 2;
/// Events of one instance that receivers in this process are given in one go.
const LANE_TOGETHER: usize = 16;
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
/// After this time an instance's turn ends.
const TURN: Duration = Duration::from_secs(10);
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
    /// Lanes that this process is working on, and whether one was claimed once more meanwhile.
    busy: Arc<Mutex<BTreeMap<Lane, bool>>>,
    /// The bus took nothing at the last try.
    is_refused: Arc<AtomicBool>,
    /// What is sent from memory; none where receivers take an event while it is sent.
    handover: Option<Arc<Handover>>,
}

impl Relay {
    /// A relay from the database of a service to a bus, for all tenants. Nothing is sent before [`Relay::run`].
    pub fn new(sender: &'static str, db: &Database, bus: Bus, clock: SharedClock) -> Self {
        if bus.is_confirmed_later() && db.dialect() == Dialect::Postgres {
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
            is_refused: Arc::default(),
        }
    }

    /// Something was committed: have a look at once. Cheap, and never lost. What is sent from memory needs no look.
    pub fn wake(&self) {
        if self.handover.is_none() {
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
            Box::pin(self.send_on(&shutdown)),
            Box::pin(self.hand_over_on(&shutdown)),
            Box::pin(self.send_again_on(&shutdown)),
            shutdown.run_until_cancelled(Box::pin(self.sweep_on()))
        );
    }

    async fn send_on(&self, shutdown: &CancellationToken) {
        let mut turns = JoinSet::new();
        let turns_max = if self.bus.is_confirmed_later() { TURNS_TOGETHER_MAX } else { TURNS_MAX };
        while !shutdown.is_cancelled() {
            if self.is_refused.swap(false, Ordering::Relaxed) {
                // A bus that is away takes what is new no more than what is old, and looking for it takes the longer the
                // more there is: once in a while is enough.
                shutdown.run_until_cancelled(pause(POLL)).await;
            }
            if turns.len() < turns_max {
                self.start_turns(&mut turns, shutdown).await;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.wake.notified(), if turns.len() < turns_max => {}
                Some(_) = turns.join_next() => {}
                () = pause(POLL) => {}
            }
            while turns.try_join_next().is_some() {}
        }
        while turns.join_next().await.is_some() {}
    }

    /// Sends what this process has just committed, and at last what is left of it.
    async fn hand_over_on(&self, shutdown: &CancellationToken) {
        let Some(handover) = &self.handover else { return };
        loop {
            let fresh = handover.take(HANDED_TOGETHER);
            if !fresh.is_empty() {
                self.hand_over(handover, fresh, shutdown).await;
            } else if shutdown.is_cancelled() {
                return;
            } else {
                shutdown.run_until_cancelled(handover.wake.notified()).await;
            }
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
        let behind = handover.take(usize::MAX);
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

    async fn start_turns(&self, turns: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let claimed = match store::lanes_claim(&self.db, self.clock.now()).await {
            Ok(claimed) => claimed,
            Err(error) => {
                phasegate_database::tell(&error, "the outbox cannot be read");
                tokio::time::sleep(POLL).await;
                return;
            }
        };
        let free: Vec<Lane> = claimed.into_iter().filter(|lane| self.take_lane(lane)).collect();
        if self.bus.is_confirmed_later() {
            if !free.is_empty() {
                self.start_turn(turns, free, shutdown);
            }
        } else {
            for lane in free {
                self.start_turn(turns, vec![lane], shutdown);
            }
        }
    }

    fn start_turn(&self, turns: &mut JoinSet<()>, mut lanes: Vec<Lane>, shutdown: &CancellationToken) {
        let (relay, shutdown) = (self.clone(), shutdown.clone());
        turns.spawn(async move {
            while !lanes.is_empty() {
                tokio::select! {
                    () = relay.run_lanes(&lanes, &shutdown) => {}
                    () = relay.keep_lanes(&lanes) => {}
                }
                lanes.retain(|lane| !relay.leave_lane(lane));
            }
            // What was appended in the meantime found the lanes busy.
            relay.look();
        });
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

    /// Keeps the claims of lanes, for as long as it is awaited. Claims are short, so that what a relay that died was at
    /// does not wait for long.
    async fn keep_lanes(&self, lanes: &[Lane]) {
        loop {
            tokio::time::sleep(store::RENEWAL).await;
            for lane in lanes {
                if let Err(error) = store::lane_keep(&self.db, lane, self.clock.now()).await {
                    phasegate_database::tell(&error, "a claim could not be renewed");
                }
            }
        }
    }

    async fn run_lanes(&self, lanes: &[Lane], shutdown: &CancellationToken) {
        if self.bus.is_confirmed_later() {
            self.send_together(lanes, shutdown).await;
            return;
        }
        for lane in lanes {
            self.run_lane(lane, shutdown).await;
        }
    }

    /// Sends the events of many instances in one go, those of each in order: all of them, or what can be read of them.
    async fn send_together(&self, lanes: &[Lane], shutdown: &CancellationToken) {
        let waiting = match store::lanes_load(&self.db, lanes).await {
            Ok(waiting) => waiting,
            Err(error) => {
                phasegate_database::tell(&error, "the outbox cannot be read");
                return;
            }
        };
        let now = self.clock.now();
        let mut together = Together::default();
        for (lane, event) in waiting {
            if together.failed.contains_key(&lane) {
                // Behind one that cannot be sent.
                continue;
            }
            match written(&event) {
                Ok(written) => {
                    together.spans.push(seen::span(self.sender, WorkKind::Send, &written.event, now));
                    together.written.push(written);
                    together.sent.push((lane, event));
                }
                Err(error) => together.fails(lane, event, &error, now),
            }
        }
        let publishing = self.publish(&together.written);
        if let Err(Stopped { error, .. }) = unless_stopped(publishing, shutdown).await {
            tracing::debug!(%error, "events were not taken");
            self.is_refused.store(true, Ordering::Relaxed);
            // The first one of each instance is what those behind it wait for.
            for (lane, event) in std::mem::take(&mut together.sent).into_iter().rev() {
                together.fails(lane, event, &error, now);
            }
        }
        let sent = together.sent.into_iter().map(|(lane, event)| (lane.tenant_id, event.event_id)).collect();
        let failed = together.failed.into_values().collect();
        if let Err(error) = store::lanes_settle(&self.db, sent, failed, now).await {
            // They are sent again, and the receivers know them.
            phasegate_database::tell(&error, "what was sent could not be marked");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends the events of one instance in order, up to the first that fails.
    async fn run_lane(&self, lane: &Lane, shutdown: &CancellationToken) {
        let waiting = match store::lane_load(&self.db, lane).await {
            Ok(waiting) => waiting,
            Err(error) => {
                phasegate_database::tell(&error, "the outbox cannot be read");
                return;
            }
        };
        let mut settled = Settled::default();
        let started = tokio::time::Instant::now();
        for next in waiting.chunks(LANE_TOGETHER) {
            // Others wait for their turn; the rest is claimed anew, by another copy where this one stops.
            if settled.failed.is_some() || started.elapsed() > TURN || shutdown.is_cancelled() {
                break;
            }
            self.send_whole(next, &mut settled, shutdown).await;
        }
        if let Err(error) = store::lane_settle(&self.db, lane.clone(), settled).await {
            // They are sent again, and the receivers know them.
            phasegate_database::tell(&error, "what was sent could not be marked");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends events of one instance in one go.
    async fn send_whole(&self, waiting: &[Waiting], settled: &mut Settled, shutdown: &CancellationToken) {
        let now = self.clock.now();
        let mut whole = Vec::with_capacity(waiting.len());
        let mut spans = Vec::with_capacity(waiting.len());
        let mut stopped = None;
        for event in waiting {
            match written(event) {
                Ok(written) => {
                    spans.push(seen::span(self.sender, WorkKind::Send, &written.event, now));
                    whole.push(written);
                }
                Err(error) => {
                    stopped = Some(Stopped { taken: whole.len(), error });
                    break;
                }
            }
        }
        let span = spans.first().cloned().unwrap_or_else(Span::none);
        if let Err(early) = unless_stopped(self.publish(&whole), shutdown).instrument(span).await {
            stopped = Some(early);
        }
        drop(spans);
        let taken = stopped.as_ref().map_or(whole.len(), |stopped| stopped.taken);
        settled.taken.extend(waiting.iter().take(taken).map(|event| event.event_id.clone()));
        if let (Some(Stopped { error, .. }), Some(event)) = (stopped, waiting.get(taken)) {
            tracing::debug!(event_id = event.event_id, %error, "an event was not taken");
            let due_at = backoff(self.clock.now(), event.failures);
            settled.failed = Some((event.event_id.clone(), Failure { error: error.to_string(), due_at }));
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

/// Events of many instances that are sent in one go.
#[derive(Default)]
struct Together {
    written: Vec<Written>,
    /// Of each of them.
    sent: Vec<(Lane, Waiting)>,
    /// The first event of an instance that was not sent, with why.
    failed: BTreeMap<Lane, (String, String, Failure)>,
    /// Open for as long as they are on their way.
    spans: Vec<Span>,
}

impl Together {
    fn fails(&mut self, lane: Lane, event: Waiting, error: &HandleError, now: Timestamp) {
        let due_at = backoff(now, event.failures);
        let (tenant_id, failure) = (lane.tenant_id.clone(), Failure { error: error.to_string(), due_at });
        self.failed.insert(lane, (tenant_id, event.event_id, failure));
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
