//! Turns: what is in the outbox is sent by instance, that of each in order.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use phasegate_bus::{HandleError, Stopped, Written};
use phasegate_clock::Timestamp;
use phasegate_telemetry::WorkKind;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::{POLL, Relay, backoff, pause, unless_stopped, written};
use crate::seen;
use crate::store::{self, Failure, Lane, Settled, Waiting};

/// Turns at a time, each of one instance, where receivers take an event while it is sent.
const TURNS_MAX: usize = 16;
/// The same where each turn is of many instances, whose events are sent together: while one is on its way to the bus,
/// another one is with the database, and what is new meanwhile goes into the next one.
const TURNS_TOGETHER_MAX: usize = 2;
/// Events of one instance that receivers in this process are given in one go.
pub(super) const LANE_TOGETHER: usize = 16;
/// After this time an instance's turn ends.
const TURN: Duration = Duration::from_secs(10);

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

impl Relay {
    pub(super) async fn send_on(&self, shutdown: &CancellationToken) {
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
                taken.insert(true);
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
        // What is left is claimed anew.
        let _sent = self.send_waiting(lane, shutdown).await;
    }

    /// Sends what of an instance waits in the outbox, in order, up to the first that fails. The ids of it where nothing of
    /// what was there is left.
    pub(super) async fn send_waiting(
        &self,
        lane: &Lane,
        shutdown: &CancellationToken,
    ) -> Option<HashSet<String>> {
        let waiting = match store::lane_load(&self.db, lane).await {
            Ok(waiting) => waiting,
            Err(error) => {
                phasegate_database::tell(&error, "the outbox cannot be read");
                return None;
            }
        };
        let mut settled = Settled::default();
        let started = tokio::time::Instant::now();
        for next in waiting.chunks(LANE_TOGETHER) {
            // Others wait for their turn; the rest is claimed anew, by another copy where this one stops.
            if settled.failed.is_some() || started.elapsed() > TURN || shutdown.is_cancelled() {
                break;
            }
            self.send_some(next, &mut settled, shutdown).await;
        }
        let is_all = settled.taken.len() == waiting.len() && waiting.len() < store::LANE_LENGTH;
        let sent = settled.taken.iter().cloned().collect();
        (self.settle(lane, settled).await && is_all).then_some(sent)
    }

    /// Notes what became of events of an instance; false where that failed.
    pub(super) async fn settle(&self, lane: &Lane, settled: Settled) -> bool {
        let Err(error) = store::lane_settle(&self.db, lane.clone(), settled).await else { return true };
        // They are sent again, and the receivers know them.
        phasegate_database::tell(&error, "what was sent could not be marked");
        tokio::time::sleep(POLL).await;
        false
    }

    /// Sends events of one instance that can be read, in one go.
    async fn send_some(&self, waiting: &[Waiting], settled: &mut Settled, shutdown: &CancellationToken) {
        let mut whole = Vec::with_capacity(waiting.len());
        let mut stopped = None;
        for event in waiting {
            match written(event) {
                Ok(written) => whole.push(written),
                Err(error) => {
                    stopped = Some(Stopped { taken: whole.len(), error });
                    break;
                }
            }
        }
        if let Some(early) = self.send_whole(&whole, shutdown).await {
            stopped = Some(early);
        }
        let taken = stopped.as_ref().map_or(whole.len(), |stopped| stopped.taken);
        settled.taken.extend(waiting.iter().take(taken).map(|event| event.event_id.clone()));
        if let (Some(Stopped { error, .. }), Some(event)) = (stopped, waiting.get(taken)) {
            let due_at = backoff(self.clock.now(), event.failures);
            settled.failed = Some((event.event_id.clone(), Failure { error: error.to_string(), due_at }));
        }
    }

    /// Sends events of one instance in one go. Says how far that went where it did not go to the end.
    pub(super) async fn send_whole(
        &self,
        whole: &[Written],
        shutdown: &CancellationToken,
    ) -> Option<Stopped> {
        let now = self.clock.now();
        let spans: Vec<Span> =
            whole.iter().map(|one| seen::span(self.sender, WorkKind::Send, &one.event, now)).collect();
        let span = spans.first().cloned().unwrap_or_else(Span::none);
        let stopped = unless_stopped(self.publish(whole), shutdown).instrument(span).await.err()?;
        let event_id = whole.get(stopped.taken).map_or("", |one| &one.event.event_id);
        tracing::debug!(event_id, error = %stopped.error, "an event was not taken");
        Some(stopped)
    }
}

impl Together {
    fn fails(&mut self, lane: Lane, event: Waiting, error: &HandleError, now: Timestamp) {
        let due_at = backoff(now, event.failures);
        let (tenant_id, failure) = (lane.tenant_id.clone(), Failure { error: error.to_string(), due_at });
        self.failed.insert(lane, (tenant_id, event.event_id, failure));
    }
}
