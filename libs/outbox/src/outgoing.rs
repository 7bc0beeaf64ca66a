//! Events on their way from a commit to the bus, without a detour through the database: where receivers confirm what they
//! have taken, a row is written as sent, and whoever wrote it hands the event over from memory once it is committed. A
//! process that ends in between, or a bus that is away, costs a delay and no more: what is not confirmed in time is sent
//! again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use phasegate_bus::{Receiver, Written};
use phasegate_database::{Database, Hex, Transaction, Value, json_rows};
use phasegate_planted::{self as planted, Bug};
use phasegate_proto::internal::event::v1::Event;
use prost::Message as _;
use tokio::sync::Notify;

use crate::append::occurred_at;
use crate::store::CONFIRMED_WITHIN;

/// Events that wait in memory at most; those beyond are sent once they are overdue.
const WAITING_MAX: usize = 8_192;
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
    waiting: Mutex<VecDeque<Written>>,
    pub(crate) wake: Notify,
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
        let handover = tx.attached::<Handover>();
        let outgoing = Self::prepare(handover.is_some(), events);
        if let Some(handover) = handover {
            let written = outgoing.iter().map(|one| one.written.clone()).collect();
            tx.afterwards(move || handover.add(written));
        }
        outgoing
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

    /// The same for SQLite, as rows of `tenant_id`, `event_id`, `instance_id`, `payload`, `receivers_left` and `created_at`.
    pub fn rows<'a>(outgoing: impl Iterator<Item = &'a Self>) -> Value {
        json_rows(outgoing.map(|one| {
            let Written { event, bytes, receivers } = &one.written;
            (&event.tenant_id, &event.event_id, &event.instance_id, Hex(bytes), receivers, one.created_at)
        }))
    }

    /// Hands over what a statement by itself has committed.
    pub fn hand_over(db: &Database, outgoing: impl IntoIterator<Item = Self>) {
        if let Some(handover) = db.attached::<Handover>() {
            handover.add(outgoing.into_iter().filter(|one| one.is_handed).map(|one| one.written).collect());
        }
    }
}

impl Handover {
    fn add(&self, written: Vec<Written>) {
        if written.is_empty() {
            return;
        }
        let mut waiting = self.waiting();
        let room = WAITING_MAX.saturating_sub(waiting.len());
        waiting.extend(written.into_iter().take(room));
        drop(waiting);
        self.wake.notify_one();
    }

    /// The oldest ones, at most so many.
    pub(crate) fn take(&self, max: usize) -> Vec<Written> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(max);
        waiting.drain(..count).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Written>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
