//! Takes the entries that were read: those of one instance one after the other, instances side by side. One that fails
//! keeps its own instance waiting and nobody else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phasegate_planted::{self as planted, Bug};
use phasegate_proto::internal::event::v1::Event;
use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Stream;
use crate::{Confirmation, HandleError, Handler, Receiver, take};

/// Entries that are held at once; the rest stays in Redis.
pub(super) const ENTRIES_MAX: usize = 1_024;
/// A handler that takes longer than this is asked again.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tries before an entry is left to be claimed again. As many as it takes to set a poisonous event aside.
const TRIES: u32 = 8;
/// Wait after the first failure; doubles with each.
const BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// One entry of a stream.
pub(super) struct Entry {
    pub(super) stream: u16,
    pub(super) id: String,
    pub(super) sender: String,
    pub(super) event: Arc<Event>,
    /// A process took it before and did not finish.
    pub(super) was_left: bool,
    pub(super) _room: OwnedSemaphorePermit,
}

/// The instances that are worked on.
#[derive(Clone)]
pub(super) struct Lanes {
    stream: Stream,
    receiver: Receiver,
    handler: Arc<dyn Handler>,
    room: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<(String, String), VecDeque<Entry>>,
    /// Entries that are held, so that none is taken twice by this process at the same time.
    held: BTreeSet<(u16, String)>,
}

impl Lanes {
    pub(super) fn new(stream: Stream, receiver: Receiver, handler: Arc<dyn Handler>) -> Self {
        let room = Arc::new(Semaphore::new(ENTRIES_MAX));
        Self { stream, receiver, handler, room, state: Arc::default() }
    }

    /// Takes room for a batch of entries of each of `streams` streams, once there is room for one of each, so that
    /// nothing is read that cannot be held.
    pub(super) async fn room(&self, streams: u16, batch: u32) -> Option<OwnedSemaphorePermit> {
        let (each, room) = (u32::from(streams), Arc::clone(&self.room));
        // Never closed.
        let mut taken = room.acquire_many_owned(each).await.ok()?;
        for _ in 1..batch {
            let Ok(more) = Arc::clone(&self.room).try_acquire_many_owned(each) else { break };
            taken.merge(more);
        }
        Some(taken)
    }

    /// Whether an entry is being worked on.
    pub(super) fn holds(&self, stream: u16, id: &str) -> bool {
        self.state().held.contains(&(stream, id.to_owned()))
    }

    /// Puts an entry behind the others of its instance.
    pub(super) fn add(&self, entry: Entry) {
        let lane = (entry.event.tenant_id.clone(), entry.event.instance_id.clone());
        let mut state = self.state();
        if !state.held.insert((entry.stream, entry.id.clone())) {
            return;
        }
        if let Some(waiting) = state.waiting.get_mut(&lane) {
            waiting.push_back(entry);
            return;
        }
        state.waiting.insert(lane.clone(), VecDeque::from([entry]));
        drop(state);
        let lanes = self.clone();
        tokio::spawn(async move { lanes.work(lane).await });
    }

    /// Waits until nothing is under way.
    pub(super) async fn idle(&self) {
        let all = u32::try_from(ENTRIES_MAX).unwrap_or(u32::MAX);
        drop(self.room.acquire_many(all).await);
    }

    async fn work(&self, lane: (String, String)) {
        while let Some(entry) = self.next(&lane) {
            match self.take(&entry).await {
                _ if planted::is(Bug::AckBeforeCommit) => {}
                Ok(()) => self.finish(&entry).await,
                // It stays pending in Redis and is claimed again, by us or by another copy.
                Err(error) => tracing::warn!(
                    event_id = entry.event.event_id,
                    receiver = self.receiver.name(),
                    %error,
                    "an event was left for later"
                ),
            }
            self.state().held.remove(&(entry.stream, entry.id.clone()));
        }
    }

    fn next(&self, lane: &(String, String)) -> Option<Entry> {
        let mut state = self.state();
        let next = state.waiting.get_mut(lane).and_then(VecDeque::pop_front);
        if next.is_none() {
            state.waiting.remove(lane);
        }
        next
    }

    async fn take(&self, entry: &Entry) -> Result<(), HandleError> {
        if entry.was_left {
            self.handler.was_left(Arc::clone(&entry.event)).await?;
        }
        let mut tries = 0;
        loop {
            let taking = take(self.handler.as_ref(), Arc::clone(&entry.event));
            let taken = match tokio::time::timeout(PATIENCE, taking).await {
                Ok(taken) => taken,
                Err(_) => Err(HandleError::Transient("it was not taken in time".to_owned())),
            };
            tries += 1;
            if planted::is(Bug::SetAsideSilently) && tries > 1 {
                return Ok(());
            }
            match taken {
                Ok(()) => return Ok(()),
                Err(error) if tries == TRIES => return Err(error),
                Err(error) => {
                    tracing::debug!(event_id = entry.event.event_id, %error, "an event was not taken");
                    tokio::time::sleep(backoff(tries)).await;
                }
            }
        }
    }

    /// Its effect is durable: Redis may forget it, and the sender stops sending it.
    pub(super) async fn finish(&self, entry: &Entry) {
        self.stream.acknowledge(self.receiver, entry.stream, &entry.id).await;
        let confirmation = Confirmation {
            sender: entry.sender.clone(),
            receiver: self.receiver,
            tenant_id: entry.event.tenant_id.clone(),
            event_id: entry.event.event_id.clone(),
        };
        if self.stream.0.confirmations.try_send(confirmation).is_err() {
            tracing::debug!(
                event_id = entry.event.event_id,
                "a confirmation was dropped; the event comes again"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Doubling, half of it chance.
fn backoff(tries: u32) -> Duration {
    let full = BACKOFF.saturating_mul(1 << tries.min(16)).min(BACKOFF_MAX);
    full.mul_f64(rand::rng().random_range(0.5..1.0))
}

impl Stream {
    /// Tells Redis that an entry is done. If that fails it comes again, and is known.
    pub(super) async fn acknowledge(&self, receiver: Receiver, stream: u16, id: &str) {
        let mut command = redis::cmd("XACK");
        command.arg(self.key(stream)).arg(receiver.name()).arg(id);
        let acknowledged = match self.writer().await {
            Ok(mut writer) => command.exec_async(&mut writer).await,
            Err(error) => Err(error),
        };
        if let Err(error) = acknowledged {
            tracing::debug!(%error, "an entry could not be acknowledged");
        }
    }
}
