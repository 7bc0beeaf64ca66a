//! Turns with what this process has just committed, where it owns the database and has all the receivers: what is sent is in
//! memory already. The outbox is read for what a process before this one has left, and for what could not be sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phasegate_bus::{HandleError, Receiver, Stopped};
use phasegate_database::Error;
use phasegate_proto::internal::event::v1::Event;
use phasegate_telemetry::WorkKind;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::lanes::{Held, Lanes};
use super::turns::LANE_TOGETHER;
use super::{PATIENCE, POLL, Relay, backoff, pause, unless_stopped};
use crate::outgoing::Handover;
use crate::seen;
use crate::store::{self, Failure, Lane, Settled};

/// Turns at a time for each receiver. What they wait for is mostly a commit of theirs, which is one for many.
const TURNS_MAX: usize = 64;
/// Events that are taken over in one go.
const TAKEN_OVER: usize = 1_024;
/// Lanes that are looked for in the outbox at once.
const BEHIND_MAX: usize = 128;
/// Between two looks for what nobody has handed over: such as what was committed by a statement whose answer was lost.
const LOOK: Duration = Duration::from_secs(10);
/// How long what was taken stays in the outbox, so that much of it is deleted by one commit.
const TAKEN_KEPT: Duration = Duration::from_millis(20);

/// What was taken by all its receivers and is still in the outbox, each named by its tenant and its id.
#[derive(Debug, Default)]
pub(super) struct Taken {
    names: Mutex<Vec<(String, String)>>,
    wake: Notify,
}

/// Turns under way.
struct Turns {
    tasks: JoinSet<()>,
    /// Places for those with what is in memory, so that those of one receiver leave the others theirs.
    free: BTreeMap<Receiver, Arc<Semaphore>>,
    /// Places for those with what is in the outbox.
    free_behind: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Relay {
    pub(super) async fn send_own_on(&self, handover: &Handover, shutdown: &CancellationToken) {
        tokio::join!(self.start_on(handover, shutdown), self.forget_on(shutdown));
        // Its last turns have ended meanwhile.
        self.forget_taken().await;
    }

    async fn start_on(&self, handover: &Handover, shutdown: &CancellationToken) {
        let mut turns = Turns::new(shutdown.clone());
        let mut looked = Instant::now();
        while !shutdown.is_cancelled() {
            if looked.elapsed() > LOOK || handover.has_overflown() {
                self.lanes().doubt();
            }
            for written in handover.take(TAKEN_OVER) {
                if written.receivers == 0 {
                    self.taken.add([name(&written.event)]);
                    continue;
                }
                let (lane, receivers) = self.lanes().add(written);
                for receiver in receivers {
                    turns.start(self, &lane, receiver);
                }
            }
            if self.lanes().is_unsure() {
                looked = Instant::now();
            }
            if let Err(error) = self.start_behind(&mut turns).await {
                phasegate_database::tell(&error, "the outbox cannot be read");
                shutdown.run_until_cancelled(tokio::time::sleep(POLL)).await;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = handover.ready() => {}
                () = self.wake.notified() => {}
                () = pause(POLL) => {}
            }
            while turns.tasks.try_join_next().is_some() {}
        }
        while turns.tasks.join_next().await.is_some() {}
    }

    /// Finds out what is behind, where that is not known, and starts turns for what of it is due.
    async fn start_behind(&self, turns: &mut Turns) -> Result<(), Error> {
        let (is_unsure, busy) = {
            let lanes = self.lanes();
            let is_unsure = lanes.is_unsure();
            (is_unsure, if is_unsure { lanes.busy() } else { Vec::new() })
        };
        if is_unsure {
            // What is not busy now and was sent is forgotten first.
            self.forget_taken().await;
            let found = store::lanes_waiting(&self.db, &busy).await?;
            let is_all = found.len() < store::LANES_FOUND;
            self.lanes().find(found, is_all);
        }
        let behind = self.lanes().behind(BEHIND_MAX);
        if behind.is_empty() {
            return Ok(());
        }
        self.forget_taken().await;
        for lane in store::lanes_due(&self.db, &behind, self.clock.now()).await? {
            let begins = self.lanes().begin(&lane);
            if begins {
                turns.start_behind(self, lane);
            }
        }
        Ok(())
    }

    /// Gives a receiver what of a lane is in memory, for as long as there is something.
    async fn send_own(&self, lane: &Lane, receiver: Receiver, shutdown: &CancellationToken) {
        loop {
            let next = self.lanes().next(lane, receiver, LANE_TOGETHER);
            if next.is_empty() {
                return;
            }
            if shutdown.is_cancelled() {
                self.lanes().fall_behind(lane);
                continue;
            }
            let stopped = self.give(receiver, &next, shutdown).await.err();
            let taken = stopped.as_ref().map_or(next.len(), |stopped| stopped.taken);
            let all = next.iter().take(taken).filter(|held| held.is_taken(receiver));
            self.taken.add(all.map(|held| name(&held.event)));
            if let Some(Stopped { error, .. }) = stopped {
                let failed = next.get(taken).map(|held| {
                    tracing::debug!(event_id = held.event.event_id, %error, "an event was not taken");
                    let due_at = backoff(self.clock.now(), 0);
                    (held.event.event_id.clone(), Failure { error: error.to_string(), due_at })
                });
                self.settle(lane, Settled { taken: Vec::new(), failed }).await;
                self.lanes().fall_behind(lane);
            }
        }
    }

    async fn give(
        &self,
        receiver: Receiver,
        held: &[Arc<Held>],
        shutdown: &CancellationToken,
    ) -> Result<(), Stopped> {
        let now = self.clock.now();
        let spans: Vec<Span> =
            held.iter().map(|one| seen::span(self.sender, WorkKind::Send, &one.event, now)).collect();
        let span = spans.first().cloned().unwrap_or_else(Span::none);
        let events: Vec<Arc<Event>> = held.iter().map(|one| Arc::clone(&one.event)).collect();
        let giving = async {
            let given = tokio::time::timeout(PATIENCE, self.bus.give(receiver, &events)).await;
            let late = |_| Err(HandleError::Transient("it was not taken in time".to_owned()).into());
            given.unwrap_or_else(late)
        };
        unless_stopped(giving, shutdown).instrument(span).await
    }

    /// Sends what of a lane is in the outbox, and what has come meanwhile.
    async fn catch_up(&self, lane: &Lane, shutdown: &CancellationToken) {
        let Some(sent) = self.send_waiting(lane, shutdown).await else {
            self.lanes().fall_behind(lane);
            return;
        };
        let receivers = self.lanes().catch_up(lane, &sent);
        let sending = receivers.into_iter().map(|receiver| self.send_own(lane, receiver, shutdown));
        futures::future::join_all(sending).await;
    }

    async fn forget_on(&self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            shutdown.run_until_cancelled(self.taken.wake.notified()).await;
            shutdown.run_until_cancelled(tokio::time::sleep(TAKEN_KEPT)).await;
            self.forget_taken().await;
        }
    }

    /// Deletes what was taken. Where that fails it is found once more, and the receivers know it.
    async fn forget_taken(&self) {
        let taken = std::mem::take(&mut *self.taken.names());
        if taken.is_empty() {
            return;
        }
        if let Err(error) = store::delete_all(&self.db, taken).await {
            phasegate_database::tell(&error, "what was sent could not be marked");
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    fn new(shutdown: CancellationToken) -> Self {
        let places = || Arc::new(Semaphore::new(TURNS_MAX));
        let free = Receiver::ALL.into_iter().map(|receiver| (receiver, places())).collect();
        Self { tasks: JoinSet::new(), free, free_behind: places(), shutdown }
    }

    fn start(&mut self, relay: &Relay, lane: &Lane, receiver: Receiver) {
        let (relay, lane, shutdown) = (relay.clone(), lane.clone(), self.shutdown.clone());
        let free = self.free.get(&receiver).cloned();
        self.tasks.spawn(async move {
            let _place = place(free).await;
            relay.send_own(&lane, receiver, &shutdown).await;
        });
    }

    fn start_behind(&mut self, relay: &Relay, lane: Lane) {
        let (relay, shutdown) = (relay.clone(), self.shutdown.clone());
        let free = Some(Arc::clone(&self.free_behind));
        self.tasks.spawn(async move {
            let _place = place(free).await;
            relay.catch_up(&lane, &shutdown).await;
        });
    }
}

/// A place, once there is one.
async fn place(free: Option<Arc<Semaphore>>) -> Option<OwnedSemaphorePermit> {
    // Nobody closes it.
    free?.acquire_owned().await.ok()
}

impl Taken {
    fn add(&self, names: impl IntoIterator<Item = (String, String)>) {
        let mut known = self.names();
        let before = known.len();
        known.extend(names);
        if known.len() > before {
            self.wake.notify_one();
        }
    }

    fn names(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an event is named by in the outbox: its tenant and its id.
fn name(event: &Event) -> (String, String) {
    (event.tenant_id.clone(), event.event_id.clone())
}
