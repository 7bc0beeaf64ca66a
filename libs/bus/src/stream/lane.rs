//! Takes the entries that were read: those of one instance one after the other, instances side by side. One that fails
//! keeps its own instance waiting; others wait only where there is no room left, which is why an event has one place
//! however often it is sent again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phasegate_planted::{self as planted, Bug};
use phasegate_proto::internal::event::v1::Event;
use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Stream, field, seal};
use crate::{Confirmation, HandleError, Handler, Receiver, take, unwound};

/// Entries that are held at once; the rest stays in Redis.
pub(super) const ENTRIES_MAX: usize = 1_024;
/// Entries of one instance that a handler is given together at most.
const TOGETHER_MAX: usize = 16;
/// A handler that takes longer than this is asked again.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tries before an entry is left to be claimed again. As many as it takes to set a poisonous event aside.
const TRIES: u32 = 8;
/// Wait after the first failure, as a part of the time after which an entry counts as left; doubles with each.
const BACKOFF: u32 = 120;
/// Longest wait between two tries, likewise.
const BACKOFF_MAX: u32 = 6;
/// How long a handler may take once the process stops.
const GRACE: Duration = Duration::from_secs(1);

/// What became of an entry.
enum Outcome {
    /// Its effect is durable.
    Taken,
    /// Others are to take it.
    Handed,
}

/// One entry of a stream.
pub(super) struct Entry {
    pub(super) stream: u16,
    pub(super) id: String,
    pub(super) sender: String,
    pub(super) event: Arc<Event>,
    /// The event as it was written.
    pub(super) bytes: Vec<u8>,
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
    /// Held by whoever tells Redis what is done: of all that is done by then.
    telling: Arc<tokio::sync::Mutex<()>>,
    /// What is not taken by then is handed back.
    shutdown: CancellationToken,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<(String, String), VecDeque<Entry>>,
    /// Entries that are held, so that none is taken twice by this process at the same time.
    held: BTreeSet<(u16, String)>,
    /// Their events, by tenant and id.
    events: BTreeSet<(String, String)>,
    /// Entries that are done, which Redis has not been told.
    done: BTreeMap<u16, Vec<String>>,
}

impl Lanes {
    pub(super) fn new(
        stream: Stream,
        receiver: Receiver,
        handler: Arc<dyn Handler>,
        shutdown: CancellationToken,
    ) -> Self {
        let room = Arc::new(Semaphore::new(ENTRIES_MAX));
        Self { stream, receiver, handler, room, state: Arc::default(), telling: Arc::default(), shutdown }
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

    /// Whether an event is being worked on.
    pub(super) fn holds_event(&self, event: &Event) -> bool {
        self.state().events.contains(&name(event))
    }

    /// Puts an entry behind the others of its instance.
    pub(super) fn add(&self, entry: Entry) {
        let lane = (entry.event.tenant_id.clone(), entry.event.instance_id.clone());
        let mut state = self.state();
        if !state.held.insert((entry.stream, entry.id.clone())) {
            return;
        }
        state.events.insert(name(&entry.event));
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
        loop {
            let entries = self.next(&lane);
            if entries.is_empty() {
                return;
            }
            if entries.len() > 1 && self.take_together(&entries).await {
                self.finish(&entries).await;
                self.let_go(&entries);
                continue;
            }
            for entry in entries {
                self.work_off(&entry).await;
                self.let_go(&[entry]);
            }
        }
    }

    async fn work_off(&self, entry: &Entry) {
        if planted::is(Bug::AckBeforeCommit) {
            self.finish(std::slice::from_ref(entry)).await;
        }
        match self.take_or_leave(entry).await {
            _ if planted::is(Bug::AckBeforeCommit) => {}
            Ok(Outcome::Taken) => self.finish(std::slice::from_ref(entry)).await,
            Ok(Outcome::Handed) => self.hand_back(entry).await,
            // It stays pending in Redis and is claimed again, by us or by another copy. What is not there tells so
            // itself; an event that cannot be taken is counted and set aside.
            Err(error) => tracing::debug!(
                event_id = entry.event.event_id,
                receiver = self.receiver.name(),
                %error,
                "an event was left for later"
            ),
        }
    }

    fn let_go(&self, entries: &[Entry]) {
        let mut state = self.state();
        for entry in entries {
            state.events.remove(&name(&entry.event));
            state.held.remove(&(entry.stream, entry.id.clone()));
        }
    }

    /// The next entry of an instance, with those behind it that the handler takes together with it.
    fn next(&self, lane: &(String, String)) -> Vec<Entry> {
        let mut state = self.state();
        let Some(waiting) = state.waiting.get_mut(lane) else { return Vec::new() };
        let whole = waiting.iter().take(TOGETHER_MAX).take_while(|entry| !entry.was_left);
        let events: Vec<Arc<Event>> = whole.map(|entry| Arc::clone(&entry.event)).collect();
        let count = if events.len() < 2 || planted::is(Bug::AckBeforeCommit) {
            1
        } else {
            self.handler.together(&events).clamp(1, events.len())
        };
        let next: Vec<Entry> = waiting.drain(..count.min(waiting.len())).collect();
        if next.is_empty() {
            state.waiting.remove(lane);
        }
        next
    }

    /// Whether several entries could be taken at once.
    async fn take_together(&self, entries: &[Entry]) -> bool {
        let events = entries.iter().map(|entry| Arc::clone(&entry.event)).collect();
        let taking = tokio::time::timeout(PATIENCE, unwound(self.handler.handle_together(events)));
        let stopped = async {
            self.shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            taken = taking => matches!(taken, Ok(Ok(()))),
            () = stopped => false,
        }
    }

    /// Takes an entry, unless the time to stop comes first. What a handler has begun may take a moment longer.
    async fn take_or_leave(&self, entry: &Entry) -> Result<Outcome, HandleError> {
        if self.shutdown.is_cancelled() {
            return Ok(Outcome::Handed);
        }
        let stopped = async {
            self.shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let is_counted = AtomicBool::new(false);
        let outcome = tokio::select! {
            taken = self.take(entry, &is_counted) => taken.map(|()| Outcome::Taken),
            () = stopped => Ok(Outcome::Handed),
        };
        if matches!(outcome, Ok(Outcome::Handed)) {
            self.survive(entry, &is_counted).await;
        }
        outcome
    }

    /// Puts an entry into its stream anew, for this receiver alone, where another copy finds it at once. Left as it is, it
    /// would wait until it is claimed, and pass for one that ended a process.
    async fn hand_back(&self, entry: &Entry) {
        if let Err(error) = self.stream.put_back(self.receiver, entry).await {
            tracing::debug!(%error, "an entry could not be handed back; it is claimed by others later");
        }
    }

    /// Tries several times. One that was left is counted for the first try only: a process that has an answer, whatever it
    /// says, did not end.
    async fn take(&self, entry: &Entry, is_counted: &AtomicBool) -> Result<(), HandleError> {
        if entry.was_left {
            unwound(self.handler.was_left(Arc::clone(&entry.event))).await?;
            is_counted.store(true, Ordering::Relaxed);
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
            if taken.is_err() {
                self.survive(entry, is_counted).await;
            }
            match taken {
                Ok(()) => return Ok(()),
                Err(error) if tries == TRIES => return Err(error),
                Err(error) => {
                    tracing::debug!(event_id = entry.event.event_id, %error, "an event was not taken");
                    tokio::time::sleep(backoff(self.stream.0.left_after, tries)).await;
                }
            }
        }
    }

    /// Takes back what was counted, if it was.
    async fn survive(&self, entry: &Entry, is_counted: &AtomicBool) {
        if is_counted.swap(false, Ordering::Relaxed) {
            let surviving = self.handler.was_survived(Arc::clone(&entry.event));
            // What panics here leaves the count as it is.
            let surviving = async {
                surviving.await;
                Ok(())
            };
            let _ = unwound(Box::pin(surviving)).await;
        }
    }

    /// Their effect is durable: Redis may forget them, and the sender stops sending them.
    async fn finish(&self, entries: &[Entry]) {
        self.note_done(entries);
        let telling = self.telling.lock().await;
        let done = std::mem::take(&mut self.state().done);
        // Nothing is left where somebody has told of these, too.
        self.stream.acknowledge(self.receiver, &done).await;
        drop(telling);
        for entry in entries {
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
    }

    fn note_done(&self, entries: &[Entry]) {
        let mut state = self.state();
        for entry in entries {
            state.done.entry(entry.stream).or_default().push(entry.id.clone());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(event: &Event) -> (String, String) {
    (event.tenant_id.clone(), event.event_id.clone())
}

/// Doubling, half of it chance.
fn backoff(left_after: Duration, tries: u32) -> Duration {
    let full = (left_after / BACKOFF).saturating_mul(1 << tries.min(16)).min(left_after / BACKOFF_MAX);
    full.mul_f64(rand::rng().random_range(0.5..1.0))
}

impl Stream {
    /// Adds an entry anew for one receiver, and is done with the old one.
    pub(super) async fn put_back(&self, receiver: Receiver, entry: &Entry) -> redis::RedisResult<()> {
        let key = self.key(entry.stream);
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.cmd("XADD").arg(&key).arg("*").arg(field::SENDER).arg(&entry.sender);
        pipeline.arg(field::RECEIVERS).arg(receiver.bit()).arg(field::EVENT).arg(&entry.bytes);
        pipeline.arg(field::SEAL).arg(&seal::seal(&self.0.keys, &entry.sender, &entry.bytes));
        pipeline.cmd("XACK").arg(&key).arg(receiver.name()).arg(&entry.id);
        pipeline.exec_async(&mut self.writer().await?).await
    }

    /// Tells Redis that entries are done, by the streams that they are in. If that fails they come again, and are known.
    pub(super) async fn acknowledge(&self, receiver: Receiver, done: &BTreeMap<u16, Vec<String>>) {
        let mut pipeline = redis::pipe();
        for (stream, ids) in done.iter().filter(|(_, ids)| !ids.is_empty()) {
            pipeline.cmd("XACK").arg(self.key(*stream)).arg(receiver.name()).arg(ids);
        }
        if pipeline.is_empty() {
            return;
        }
        let acknowledged = match self.writer().await {
            Ok(mut writer) => pipeline.exec_async(&mut writer).await,
            Err(error) => Err(error),
        };
        if let Err(error) = acknowledged {
            tracing::debug!(%error, "entries could not be acknowledged");
        }
    }
}
