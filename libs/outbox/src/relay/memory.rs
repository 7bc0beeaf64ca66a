//! Turns with what this process has just committed, where it owns the database and has all the receivers: what is sent is in
//! memory already. The outbox is read for what a process before this one has left, and for what could not be sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phasegate_bus::{Stopped, Written};
use phasegate_database::Error;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lanes::Lanes;
use super::turns::LANE_TOGETHER;
use super::{POLL, Relay, backoff, pause};
use crate::outgoing::Handover;
use crate::store::{self, Failure, Lane, Settled};

/// Turns at a time. What they wait for is mostly a commit of the receivers, which is one for many.
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

impl Relay {
    pub(super) async fn send_own_on(&self, handover: &Handover, shutdown: &CancellationToken) {
        tokio::join!(self.start_on(handover, shutdown), self.forget_on(shutdown));
        // Its last turns have ended meanwhile.
        self.forget_taken().await;
    }

    async fn start_on(&self, handover: &Handover, shutdown: &CancellationToken) {
        let mut turns = JoinSet::new();
        let free = Arc::new(Semaphore::new(TURNS_MAX));
        let mut looked = Instant::now();
        while !shutdown.is_cancelled() {
            if looked.elapsed() > LOOK || handover.has_overflown() {
                self.lanes().doubt();
            }
            for written in handover.take(TAKEN_OVER) {
                let starts = self.lanes().add(written);
                if let Some(lane) = starts {
                    self.start_own(&mut turns, &free, lane, shutdown);
                }
            }
            if self.lanes().is_unsure() {
                looked = Instant::now();
            }
            if let Err(error) = self.start_behind(&mut turns, &free, shutdown).await {
                phasegate_database::tell(&error, "the outbox cannot be read");
                shutdown.run_until_cancelled(tokio::time::sleep(POLL)).await;
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = handover.ready() => {}
                () = self.wake.notified() => {}
                () = pause(POLL) => {}
            }
            while turns.try_join_next().is_some() {}
        }
        while turns.join_next().await.is_some() {}
    }

    /// Finds out what is behind, where that is not known, and starts turns for what of it is due.
    async fn start_behind(
        &self,
        turns: &mut JoinSet<()>,
        free: &Arc<Semaphore>,
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let (is_unsure, busy) = {
            let lanes = self.lanes();
            (lanes.is_unsure(), lanes.busy())
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
                let (relay, free, shutdown) = (self.clone(), Arc::clone(free), shutdown.clone());
                turns.spawn(async move {
                    let Ok(_turn) = free.acquire().await else { return };
                    if relay.catch_up(&lane, &shutdown).await {
                        relay.send_own(&lane, &shutdown).await;
                    }
                });
            }
        }
        Ok(())
    }

    fn start_own(
        &self,
        turns: &mut JoinSet<()>,
        free: &Arc<Semaphore>,
        lane: Lane,
        shutdown: &CancellationToken,
    ) {
        let (relay, free, shutdown) = (self.clone(), Arc::clone(free), shutdown.clone());
        turns.spawn(async move {
            let Ok(_turn) = free.acquire().await else { return };
            relay.send_own(&lane, &shutdown).await;
        });
    }

    /// Sends what of a lane is in memory, for as long as there is something.
    async fn send_own(&self, lane: &Lane, shutdown: &CancellationToken) {
        loop {
            let next = self.lanes().next(lane, LANE_TOGETHER);
            if next.is_empty() {
                return;
            }
            if shutdown.is_cancelled() {
                self.lanes().fall_behind(lane);
                return;
            }
            let stopped = self.send_whole(&next, shutdown).await;
            let taken = stopped.as_ref().map_or(next.len(), |stopped| stopped.taken);
            let names = next.iter().take(taken).map(name);
            if let Some(Stopped { error, .. }) = stopped {
                let failed = next.get(taken).map(|event| {
                    let due_at = backoff(self.clock.now(), 0);
                    (event.event.event_id.clone(), Failure { error: error.to_string(), due_at })
                });
                let taken = names.map(|(_, id)| id).collect();
                self.settle(lane, Settled { taken, failed }).await;
                self.lanes().fall_behind(lane);
                return;
            }
            self.taken.names().extend(names);
            self.taken.wake.notify_one();
        }
    }

    /// Sends what of a lane is in the outbox. False where something is left there.
    async fn catch_up(&self, lane: &Lane, shutdown: &CancellationToken) -> bool {
        let sent = self.send_waiting(lane, shutdown).await;
        let mut lanes = self.lanes();
        if let Some(sent) = &sent {
            lanes.catch_up(lane, sent);
        } else {
            lanes.fall_behind(lane);
        }
        sent.is_some()
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

impl Taken {
    fn names(&self) -> MutexGuard<'_, Vec<(String, String)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an event is named by in the outbox: its tenant and its id.
fn name(written: &Written) -> (String, String) {
    (written.event.tenant_id.clone(), written.event.event_id.clone())
}
