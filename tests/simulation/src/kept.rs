//! What the database of a service keeps beside its own tables: the outbox, the inbox, the first answers to requests, and
//! what was set aside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use phasegate_bus::Receiver;
use phasegate_clock::Timestamp;
use phasegate_proto::internal::event::v1::Event;

use crate::bus::Delivery;

/// What was sent is sent again when it has not been confirmed by then, as `libs/outbox` has it; doubles with each time.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for a confirmation.
const CONFIRMED_WITHIN_MAX: Duration = Duration::from_mins(1);
/// A relay that has not renewed its claim by then has died.
const CLAIM: Duration = Duration::from_secs(8);
/// How often a receiver tries what an operator wants tried anew.
const LETTERS_EVERY: Duration = Duration::from_secs(2);
/// Tries after which an event that cannot be taken is set aside.
pub(crate) const TRIES_MAX: u32 = 8;

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was done, or was so already.
    Done(String),
    /// The rules say no.
    Refused(String),
}

/// A request id, and what it was used for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Once {
    pub(crate) id: String,
    pub(crate) fingerprint: String,
}

/// An event in the outbox.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) event: Arc<Event>,
    /// Receivers that have not confirmed it.
    pub(crate) left: i64,
    pub(crate) sent: bool,
    pub(crate) due_at: Timestamp,
    pub(crate) failures: u32,
}

/// The tables that every service has.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By position. Positions are given when a transaction begins to write, not in the order in which they commit.
    pub(crate) outbox: BTreeMap<u64, Row>,
    positions: BTreeMap<String, u64>,
    /// Those that were not sent, and those that were sent and not confirmed.
    unsent: BTreeSet<u64>,
    unconfirmed: BTreeSet<u64>,
    next: u64,
    pub(crate) inbox: BTreeSet<String>,
    answers: BTreeMap<String, (String, Answer)>,
    /// Tries that failed for good, by event; set aside at the last one.
    pub(crate) failures: BTreeMap<String, u32>,
    /// Events that were set aside, and those of them that are to be tried anew.
    pub(crate) letters: BTreeMap<String, Delivery>,
    wanted: BTreeSet<String>,
    /// Instances whose events somebody is sending, and until when nobody else does.
    lanes: BTreeMap<String, Timestamp>,
    /// What a relay that reads by position believes to have sent.
    pub(crate) sent_up_to: u64,
}

/// The part of a transaction that goes into these tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Receipt {
    /// The event that it is the effect of.
    pub(crate) inbox: Option<String>,
    /// The request that it answers.
    pub(crate) answer: Option<(Once, Answer)>,
    /// What the others are told, with the positions.
    pub(crate) outbox: Vec<(u64, Arc<Event>)>,
}

/// Why a transaction is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Somebody else was faster.
    Stale,
    /// The event was taken before.
    Seen,
    /// The same request was answered meanwhile.
    Raced,
    /// The lease does not hold.
    Lease,
    /// The id is taken.
    Exists,
}

impl Kept {
    /// Gives events their positions.
    pub(crate) fn place(&mut self, events: Vec<Event>) -> Vec<(u64, Arc<Event>)> {
        let placed = events.into_iter().map(|event| {
            self.next += 1;
            (self.next, Arc::new(event))
        });
        placed.collect()
    }

    /// The first answer to a request; `Err` where the id was used for another one.
    pub(crate) fn answer(&self, once: &Once) -> Result<Option<Answer>, Answer> {
        match self.answers.get(&once.id) {
            None => Ok(None),
            Some((fingerprint, answer)) if *fingerprint == once.fingerprint => Ok(Some(answer.clone())),
            Some(_) => Err(Answer::Refused("RequestIdReused".to_owned())),
        }
    }

    /// Refuses what must not be written twice. Nothing has been written before.
    pub(crate) fn check(&self, receipt: &Receipt, looks_into_inbox: bool) -> Result<(), Conflict> {
        if looks_into_inbox && receipt.inbox.as_ref().is_some_and(|event| self.inbox.contains(event)) {
            return Err(Conflict::Seen);
        }
        if receipt.answer.as_ref().is_some_and(|(once, _)| self.answers.contains_key(&once.id)) {
            return Err(Conflict::Raced);
        }
        Ok(())
    }

    /// Writes what was checked.
    pub(crate) fn write(&mut self, receipt: Receipt, now: Timestamp) {
        self.inbox.extend(receipt.inbox);
        if let Some((once, answer)) = receipt.answer {
            self.answers.insert(once.id, (once.fingerprint, answer));
        }
        for (position, event) in receipt.outbox {
            let left = Receiver::set_of(event.payload.as_ref());
            self.positions.insert(event.event_id.clone(), position);
            self.unsent.insert(position);
            self.outbox.insert(position, Row { event, left, sent: false, due_at: now, failures: 0 });
        }
    }

    /// Whether something is written that nobody has sent yet.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether an event was ever committed here.
    pub(crate) fn knows(&self, event: &str) -> bool {
        self.positions.contains_key(event)
    }

    /// The first event of an instance that waits to be sent, where nobody else is sending for that instance.
    pub(crate) fn heads(&self, now: Timestamp) -> Vec<u64> {
        let mut instances = BTreeSet::new();
        let waiting = self.unsent.iter().filter_map(|position| Some((position, self.outbox.get(position)?)));
        let heads = waiting.filter(|(_, row)| instances.insert(row.event.instance_id.as_str()));
        let free = heads.filter(|(_, row)| {
            row.due_at <= now && self.lanes.get(&row.event.instance_id).is_none_or(|until| *until <= now)
        });
        free.map(|(position, _)| *position).collect()
    }

    /// Takes on the events of an instance.
    pub(crate) fn claim(&mut self, position: u64, now: Timestamp) -> Option<Arc<Event>> {
        let event = Arc::clone(&self.outbox.get(&position)?.event);
        self.lanes.insert(event.instance_id.clone(), now + CLAIM);
        Some(event)
    }

    /// Notes that an event is on the bus.
    pub(crate) fn sent(&mut self, position: u64, now: Timestamp) {
        if let Some(row) = self.outbox.get_mut(&position) {
            row.sent = true;
            row.due_at = now + CONFIRMED_WITHIN;
            self.unsent.remove(&position);
            if row.left != 0 {
                self.unconfirmed.insert(position);
            }
            self.lanes.remove(&row.event.instance_id);
        }
    }

    /// Notes that a receiver has taken an event.
    pub(crate) fn confirm(&mut self, receiver: Receiver, event: &str) {
        self.clear(event, receiver.bit());
    }

    /// Counts a confirmation for everybody.
    pub(crate) fn confirm_for_all(&mut self, event: &str) {
        self.clear(event, -1);
    }

    fn clear(&mut self, event: &str, bits: i64) {
        let Some(position) = self.positions.get(event) else { return };
        if let Some(row) = self.outbox.get_mut(position) {
            row.left &= !bits;
            if row.left == 0 {
                self.unconfirmed.remove(position);
            }
        }
    }

    /// What was sent and not confirmed in time; each is due again, twice as late.
    pub(crate) fn overdue(&mut self, now: Timestamp) -> Vec<Arc<Event>> {
        let mut overdue = Vec::new();
        for position in &self.unconfirmed {
            let row = self.outbox.get_mut(position).filter(|row| row.due_at <= now);
            let Some(row) = row else { continue };
            row.failures += 1;
            let wait = CONFIRMED_WITHIN.saturating_mul(1 << row.failures.min(10));
            row.due_at = now + wait.min(CONFIRMED_WITHIN_MAX);
            overdue.push(Arc::clone(&row.event));
        }
        overdue
    }

    /// When something of the outbox is due next.
    pub(crate) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let open = self.unsent.iter().chain(&self.unconfirmed).filter_map(|at| self.outbox.get(at));
        open.map(|row| {
            let lane = self.lanes.get(&row.event.instance_id).filter(|_| !row.sent);
            lane.map_or(row.due_at, |until| row.due_at.max(*until))
        })
        .filter(|due| *due > now)
        .min()
    }

    /// Whether an event was set aside, and nobody wants it tried anew.
    pub(crate) fn is_set_aside(&self, event: &str) -> bool {
        let is_over = self.failures.get(event).is_some_and(|tries| *tries >= TRIES_MAX);
        is_over && !self.wanted.contains(event)
    }

    /// An operator wants everything tried anew that was set aside.
    pub(crate) fn want_letters(&mut self) {
        self.wanted.extend(self.letters.keys().cloned());
    }

    /// What is to be tried anew, at most once in a while each.
    pub(crate) fn letters_due(&mut self, now: Timestamp) -> Vec<Delivery> {
        let mut due = Vec::new();
        for event in &self.wanted {
            let letter = self.letters.get_mut(event).filter(|letter| letter.not_before <= now);
            let Some(letter) = letter else { continue };
            letter.not_before = now + LETTERS_EVERY;
            due.push(letter.clone());
        }
        due
    }

    /// When a dead letter is tried anew next.
    pub(crate) fn next_letter(&self, now: Timestamp) -> Option<Timestamp> {
        let wanted = self.wanted.iter().filter_map(|event| self.letters.get(event));
        wanted.map(|letter| letter.not_before).filter(|due| *due > now).min()
    }

    /// An event was taken after all.
    pub(crate) fn forget_letter(&mut self, event: &str) {
        if self.letters.remove(event).is_some() {
            self.wanted.remove(event);
            self.failures.remove(event);
        }
    }
}
