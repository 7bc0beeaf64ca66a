//! Events on their way from a commit to the bus, without a detour through the database: whoever wrote one hands it over from
//! memory once it is committed. Where receivers confirm what they have taken, its row is written as sent: a process that ends
//! in between, or a bus that is away, costs a delay and no more, and what is not confirmed in time is sent again. On SQLite the
//! row waits until the event was taken, and whoever opens the file next finds it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phasegate_bus::{Receiver, Written, is_note};
use phasegate_database::{Database, Transaction, Value, args};
use phasegate_planted::{self as planted, Bug};
use phasegate_proto::internal::event::v1::Event;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::append::occurred_at;
use crate::store::{CONFIRMED_WITHIN, Lane};

/// Events that wait in memory at most; those beyond are found in the outbox.
const WAITING_MAX: usize = 8_192;
/// How long notes wait for others of their instance, so that the record takes them together: nobody waits for them.
const NOTES_HELD: Duration = Duration::from_millis(200);
/// Not sent yet, in a column of times.
const NEVER: i64 = -1;

/// An event as the outbox keeps it.
#[derive(Debug, Clone)]
pub struct Outgoing {
    written: Written,
    created_at: i64,
    /// Handed over once it is committed.
    is_handed: bool,
}

/// What was committed and not yet given to the bus. Kept with the database whose relay takes it.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    waiting: Mutex<Waiting>,
    /// There were more than it takes.
    is_overflown: AtomicBool,
    pub(crate) wake: Notify,
}

/// Events in memory, those of an instance in their order.
#[derive(Debug, Default)]
struct Waiting {
    ready: VecDeque<Written>,
    /// Notes of an instance that wait for each other, since when, and how many there are of all.
    notes: HashMap<Lane, (Instant, Vec<Written>)>,
    /// The instances with notes, that which has waited longest first; perhaps some without any.
    oldest: VecDeque<(Instant, Lane)>,
    count: usize,
}

impl Outgoing {
    /// Prepares events for the outbox of a database, in their order.
    pub fn of(db: &Database, events: &[Event]) -> Vec<Self> {
        if events.is_empty() {
            return Vec::new();
        }
        Self::prepare(db.attached::<Handover>().is_some(), events)
    }

    /// The same within a transaction, which hands them over by itself.
    pub fn within(tx: &mut Transaction, events: &[Event]) -> Vec<Self> {
        let outgoing = Self::prepare(tx.attached::<Handover>().is_some(), events);
        Self::hand_over_after(tx, outgoing.iter().cloned());
        outgoing
    }

    /// Hands over what a transaction writes, once it is committed.
    pub fn hand_over_after(tx: &mut Transaction, outgoing: impl IntoIterator<Item = Self>) {
        if let Some(handover) = tx.attached::<Handover>() {
            let written = handed(outgoing);
            tx.afterwards(move || handover.add(written));
        }
    }

    fn prepare(is_handed: bool, events: &[Event]) -> Vec<Self> {
        let is_handed = is_handed && !planted::is(Bug::OutboxByPosition);
        let prepare = |event: &Event| Self {
            created_at: occurred_at(event).as_micros(),
            written: Written {
                bytes: event.encode_to_vec(),
                receivers: Receiver::set_of(event.payload.as_ref()),
                event: Arc::new(event.clone()),
            },
            is_handed,
        };
        events.iter().map(prepare).collect()
    }

    /// Its row, a column for each of `tenant_id`, `event_id`, `instance_id`, `payload`, `receivers_left`, `created_at`,
    /// `sent_at` and `due_at`, in this order, for `unnest`. A `sent_at` of -1 is none.
    pub fn columns<'a>(outgoing: impl Iterator<Item = &'a Self> + Clone) -> [Value; 8] {
        let texts = |read: fn(&Event) -> &String| -> Value {
            outgoing.clone().map(|one| read(&one.written.event).clone()).collect::<Vec<String>>().into()
        };
        let numbers =
            |read: fn(&Self) -> i64| -> Value { outgoing.clone().map(read).collect::<Vec<i64>>().into() };
        [
            texts(|event| &event.tenant_id),
            texts(|event| &event.event_id),
            texts(|event| &event.instance_id),
            outgoing.clone().map(|one| one.written.bytes.clone()).collect::<Vec<Vec<u8>>>().into(),
            numbers(|one| one.written.receivers),
            numbers(|one| one.created_at),
            numbers(|one| if one.is_handed { one.created_at } else { NEVER }),
            // What is not handed over is due at once, whatever the clock of the writer says.
            numbers(|one| if one.is_handed { one.created_at.saturating_add(CONFIRMED_WITHIN) } else { 0 }),
        ]
    }

    /// Writes an event on SQLite, given a [`Outgoing::row`].
    pub const SQLITE: &str = "
        insert into outbox (tenant_id, event_id, instance_id, position, payload, receivers_left, created_at, due_at)
        values ($1, $2, $3, (select coalesce(max(position), 0) + 1 from outbox), $4, $5, $6, 0)";

    /// Its row on SQLite.
    pub fn row(&self) -> Vec<Value> {
        let Written { event, bytes, receivers } = &self.written;
        args![&event.tenant_id, &event.event_id, &event.instance_id, bytes, *receivers, self.created_at]
    }

    /// Hands over what a statement by itself has committed.
    pub fn hand_over(db: &Database, outgoing: impl IntoIterator<Item = Self>) {
        if let Some(handover) = db.attached::<Handover>() {
            handover.add(handed(outgoing));
        }
    }
}

fn handed(outgoing: impl IntoIterator<Item = Outgoing>) -> Vec<Written> {
    outgoing.into_iter().filter(|one| one.is_handed).map(|one| one.written).collect()
}

impl Handover {
    fn add(&self, written: Vec<Written>) {
        if written.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut waiting = self.waiting();
        for one in written {
            if waiting.count == WAITING_MAX {
                self.is_overflown.store(true, Ordering::SeqCst);
                break;
            }
            waiting.add(one, now);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// The oldest ones that need not wait any longer, at most so many.
    pub(crate) fn take(&self, max: usize) -> Vec<Written> {
        let mut waiting = self.waiting();
        waiting.release(Instant::now().checked_sub(NOTES_HELD));
        waiting.take(max)
    }

    /// All of them.
    pub(crate) fn take_all(&self) -> Vec<Written> {
        let mut waiting = self.waiting();
        waiting.release(Some(Instant::now()));
        waiting.take(usize::MAX)
    }

    /// Waits until there is something to take.
    pub(crate) async fn ready(&self) {
        loop {
            let until = {
                let waiting = self.waiting();
                if !waiting.ready.is_empty() {
                    return;
                }
                waiting.oldest.front().map(|(since, _)| *since + NOTES_HELD)
            };
            match until {
                Some(until) if until <= Instant::now() => return,
                Some(until) => {
                    // Whether it is woken or not, there may be something.
                    let _ = tokio::time::timeout_at(until, self.wake.notified()).await;
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// Whether there were more than it takes, since this was asked.
    pub(crate) fn has_overflown(&self) -> bool {
        self.is_overflown.swap(false, Ordering::SeqCst)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn add(&mut self, written: Written, now: Instant) {
        self.count += 1;
        let lane = Lane::of(&written.event);
        if written.event.payload.as_ref().is_some_and(is_note) {
            match self.notes.entry(lane) {
                Entry::Occupied(mut held) => held.get_mut().1.push(written),
                Entry::Vacant(free) => {
                    self.oldest.push_back((now, free.key().clone()));
                    free.insert((now, vec![written]));
                }
            }
            return;
        }
        // What it comes after goes with it.
        if let Some((_, notes)) = self.notes.remove(&lane) {
            self.ready.extend(notes);
        }
        self.ready.push_back(written);
    }

    /// Has notes wait no longer that have waited since then.
    fn release(&mut self, since: Option<Instant>) {
        while self.oldest.front().is_some_and(|(began, _)| since.is_some_and(|since| *began <= since)) {
            let Some((began, lane)) = self.oldest.pop_front() else { return };
            if let Entry::Occupied(held) = self.notes.entry(lane)
                && held.get().0 == began
            {
                self.ready.extend(held.remove().1);
            }
        }
    }

    fn take(&mut self, max: usize) -> Vec<Written> {
        let count = self.ready.len().min(max);
        self.count -= count;
        self.ready.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use phasegate_proto::internal::event::v1::event::Payload;
    use phasegate_proto::internal::event::v1::{InstancePaused, LinkOpened};

    use super::*;

    fn written(instance: &str, id: &str, payload: Payload) -> Written {
        let event = Event {
            event_id: id.to_owned(),
            instance_id: instance.to_owned(),
            payload: Some(payload),
            ..Event::default()
        };
        Written { event: Arc::new(event), bytes: Vec::new(), receivers: 0 }
    }

    fn note(instance: &str, id: &str) -> Written {
        written(instance, id, Payload::LinkOpened(LinkOpened::default()))
    }

    fn word(instance: &str, id: &str) -> Written {
        written(instance, id, Payload::InstancePaused(InstancePaused::default()))
    }

    fn ids(written: &[Written]) -> Vec<&str> {
        written.iter().map(|one| one.event.event_id.as_str()).collect()
    }

    #[test]
    fn notes_wait_for_each_other_and_for_nothing_else() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.add(note("i", "1"), now);
        waiting.add(word("j", "2"), now);
        assert_eq!(ids(&waiting.take(9)), ["2"]);
        waiting.add(note("i", "3"), now + NOTES_HELD / 2);
        waiting.release(Some(now - NOTES_HELD / 2));
        assert!(waiting.take(9).is_empty());
        waiting.release(Some(now));
        assert_eq!(ids(&waiting.take(1)), ["1"]);
        assert_eq!(ids(&waiting.take(9)), ["3"]);
        assert!(waiting.count == 0 && waiting.oldest.is_empty() && waiting.notes.is_empty());
    }

    #[test]
    fn nothing_overtakes_a_note_of_its_instance() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let later = now + NOTES_HELD / 2;
        for (one, when) in
            [(note("i", "1"), now), (note("j", "2"), now), (word("i", "3"), now), (note("i", "4"), later)]
        {
            waiting.add(one, when);
        }
        assert_eq!(ids(&waiting.take(9)), ["1", "3"]);
        // What went along has left its place, and what came after it has not waited yet.
        waiting.release(Some(now));
        assert_eq!(ids(&waiting.take(9)), ["2"]);
        waiting.release(Some(later));
        assert_eq!(ids(&waiting.take(9)), ["4"]);
    }

    #[test]
    fn what_is_too_much_is_left_in_the_outbox() {
        let handover = Handover::default();
        let all = (0..=WAITING_MAX).map(|n| note("i", &n.to_string())).collect();
        handover.add(all);
        assert!(handover.has_overflown() && !handover.has_overflown());
        assert_eq!(handover.take_all().len(), WAITING_MAX);
        handover.add(vec![word("i", "one more")]);
        assert!(!handover.has_overflown());
    }

    #[tokio::test]
    async fn who_takes_is_woken_once_notes_have_waited() {
        let handover = Handover::default();
        assert!(tokio::time::timeout(Duration::ZERO, handover.ready()).await.is_err());
        handover.add(vec![note("i", "1")]);
        assert!(handover.take(9).is_empty());
        handover.ready().await;
        assert_eq!(ids(&handover.take(9)), ["1"]);
    }
}
