//! Writing transitions on PostgreSQL: those of different instances in one statement and one commit.

use std::borrow::Cow;
use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Transaction, Value};
use phasegate_outbox::Outgoing;
use phasegate_planted::{self as planted, Bug};

use super::append::{Guard, Inbox, Transition, checkpoint_change, micros, rank, tools};
use super::group::{Piece, outcomes};
use super::{Error, signed};

/// No time.
const NEVER: i64 = -1;

/// Writes transitions in one statement, which is a transaction of its own.
pub(super) async fn write(
    db: &Database,
    pieces: &[Arc<Piece>],
) -> Result<Vec<Result<(), Error>>, phasegate_database::Error> {
    let rows = db.write(statement(), values(pieces)).await?;
    let outcomes = outcomes(pieces, &rows)?;
    for (piece, _) in pieces.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()) {
        Outgoing::hand_over(db, piece.outgoing.iter().cloned());
    }
    Ok(outcomes)
}

/// The same within a transaction that does more.
pub(super) async fn write_within(
    tx: &mut Transaction,
    pieces: &[Arc<Piece>],
) -> Result<Vec<Result<(), Error>>, phasegate_database::Error> {
    let rows = tx.fetch_all(statement(), values(pieces)).await?;
    outcomes(pieces, &rows)
}

/// The statement; with the mistake of not looking at the version, where that is made.
fn statement() -> Cow<'static, str> {
    let text = include_str!("append_postgres.sql");
    if !planted::is(Bug::CacheBelieved) {
        return text.into();
    }
    let anyway =
        |text: String, next: &str| text.replace(next, &format!("    on conflict do nothing\n{next}"));
    let text = text.replace("and instance.version = fits.before", "");
    anyway(anyway(text, "), kept as ("), "), ended as (").into()
}

/// The values of the statement, in its order.
fn values(pieces: &[Arc<Piece>]) -> Vec<Value> {
    let mut columns = Columns { pieces, values: Vec::with_capacity(70) };
    columns.instances();
    columns.receipts();
    columns.leases();
    columns.records();
    columns.work();
    columns.events();
    columns.heard();
    columns.each(|one| signed(one.state_lag));
    columns.values
}

struct Columns<'a> {
    pieces: &'a [Arc<Piece>],
    values: Vec<Value>,
}

impl<'a> Columns<'a> {
    fn transitions(&self) -> impl Iterator<Item = &'a Transition> + use<'a> {
        self.pieces.iter().map(|piece| &piece.transition)
    }

    /// A value of each transition.
    fn each<C>(&mut self, read: impl Fn(&'a Transition) -> C)
    where
        Value: From<Vec<C>>,
    {
        self.values.push(Value::from(self.transitions().map(read).collect::<Vec<C>>()));
    }

    /// Which transition each of its rows is of.
    fn numbers<T: 'a>(&mut self, rows: impl Fn(&'a Transition) -> &'a [T]) {
        let numbers = self.transitions().zip(0_i64..);
        let numbers = numbers.flat_map(|(one, n)| std::iter::repeat_n(n, rows(one).len()));
        self.values.push(Value::from(numbers.collect::<Vec<i64>>()));
    }

    /// A value of each of its rows.
    fn of<T: 'a, C>(&mut self, rows: impl Fn(&'a Transition) -> &'a [T], read: impl Fn(&'a T) -> C)
    where
        Value: From<Vec<C>>,
    {
        let cells: Vec<C> = self.transitions().flat_map(rows).map(read).collect();
        self.values.push(Value::from(cells));
    }

    fn instances(&mut self) {
        let count = i64::try_from(self.pieces.len()).unwrap_or(i64::MAX);
        self.values.push(Value::from((0..count).collect::<Vec<i64>>()));
        self.each(|one| one.tenant.clone());
        self.each(|one| one.after.id.to_string());
        self.each(|one| i64::from(!one.entries.is_empty()));
        self.each(|one| signed(one.before));
        self.each(|one| signed(one.after.version));
        self.each(|one| one.after.status.as_str().to_owned());
        let states: Vec<Vec<u8>> = self.pieces.iter().map(|piece| piece.state.clone()).collect();
        self.values.push(Value::from(states));
        self.each(|one| one.entries.last().map_or(super::NO_HASH, |entry| entry.hash).to_vec());
        self.each(|one| time(one.after.ended_at));
        self.each(|one| one.now.as_micros());
        self.each(|one| one.health.to_owned());
        self.each(|one| time(one.overdue_at));
        self.each(|one| one.after.process_id.to_string());
        self.each(|one| one.after.process_version.clone());
        self.each(|one| one.after.definition_digest.clone());
        self.each(|one| one.after.started_at.unwrap_or(one.now).as_micros());
        self.each(|one| one.pinned.as_ref().map(|pinned| pinned.document.clone()).unwrap_or_default());
    }

    fn receipts(&mut self) {
        self.each(|one| one.guard.as_ref().map(|guard| guard.task().to_string()).unwrap_or_default());
        self.each(|one| one.guard.as_ref().map_or(0, |guard| signed(guard.fencing())));
        self.each(|one| -> i64 {
            match &one.guard {
                None => 0,
                Some(Guard::Holds { .. }) => 1,
                Some(Guard::Over { .. }) if planted::is(Bug::EarlyTimer) => 3,
                Some(Guard::Over { .. }) => 2,
            }
        });
        let answer =
            |one: &'a Transition| one.receipt.answer.as_ref().filter(|_| !planted::is(Bug::RequestRunsAgain));
        self.each(|one| answer(one).map(|answer| answer.key.actor.clone()).unwrap_or_default());
        self.each(|one| answer(one).map(|answer| answer.key.method.clone()).unwrap_or_default());
        self.each(|one| answer(one).map(|answer| answer.key.request_id.clone()).unwrap_or_default());
        self.each(|one| answer(one).map(|answer| answer.fingerprint.to_vec()).unwrap_or_default());
        self.each(|one| answer(one).map(|answer| answer.message.clone()).unwrap_or_default());
    }

    fn leases(&mut self) {
        let touched = self.transitions().zip(0_i64..).flat_map(|(one, n)| {
            let guarded = one.guard.iter().map(|guard| guard.task().to_string());
            let granted = one.granted.iter().map(|lease| lease.task.to_string());
            guarded.chain(granted).map(move |task| (n, task))
        });
        let (numbers, tasks): (Vec<i64>, Vec<String>) = touched.unzip();
        self.values.push(Value::from(numbers));
        self.values.push(Value::from(tasks));
        self.numbers(|one| &one.granted);
        self.of(|one| &one.granted, |lease| lease.task.to_string());
        self.of(|one| &one.granted, |lease| signed(lease.fencing));
        self.of(|one| &one.granted, |lease| lease.worker.clone());
        self.of(|one| &one.granted, |lease| micros(lease.duration));
        self.of(|one| &one.granted, |lease| lease.ends_at.as_micros());
        self.of(|one| &one.granted, |lease| lease.queue.clone());
    }

    fn records(&mut self) {
        self.numbers(|one| &one.entries);
        self.of(|one| &one.entries, |entry| signed(entry.sequence));
        self.of(|one| &one.entries, |entry| entry.event_id.clone());
        self.of(|one| &one.entries, |entry| entry.kind.clone());
        self.of(|one| &one.entries, |entry| entry.audit_type.clone());
        self.of(|one| &one.entries, |entry| entry.occurred_at.as_micros());
        self.of(|one| &one.entries, |entry| entry.body.clone());
        self.of(|one| &one.entries, |entry| entry.previous_hash.to_vec());
        self.of(|one| &one.entries, |entry| entry.hash.to_vec());
        self.numbers(|one| &one.personal);
        self.of(|one| &one.personal, |row| signed(row.sequence));
        self.of(|one| &one.personal, |row| row.salt.clone());
        self.of(|one| &one.personal, |row| row.body.clone());
    }

    fn work(&mut self) {
        self.numbers(|one| &one.ended);
        self.of(|one| &one.ended, |lease| lease.task.to_string());
        self.of(|one| &one.ended, |lease| signed(lease.fencing));
        self.of(|one| &one.ended, |lease| checkpoint_change(&lease.checkpoint).0);
        self.of(|one| &one.ended, |lease| checkpoint_change(&lease.checkpoint).1);
        self.numbers(|one| &one.unqueued);
        self.of(|one| &one.unqueued, ToString::to_string);
        self.numbers(|one| &one.queued);
        self.of(|one| &one.queued, |work| work.task.to_string());
        self.of(|one| &one.queued, |work| work.queue.clone());
        self.of(|one| &one.queued, |work| rank(work.priority));
        self.of(|one| &one.queued, |work| work.ready_at.as_micros());
        self.of(|one| &one.queued, |work| signed(work.fencing));
        self.of(|one| &one.queued, tools);
    }

    fn heard(&mut self) {
        fn heard(one: &Transition) -> &[Inbox] {
            if planted::is(Bug::NoInbox) { &[] } else { &one.receipt.inbox }
        }
        self.numbers(heard);
        self.of(heard, |inbox| inbox.consumer.to_owned());
        self.of(heard, |inbox| inbox.event_id.clone());
    }

    fn events(&mut self) {
        let numbers = self.pieces.iter().zip(0_i64..);
        let numbers = numbers.flat_map(|(piece, n)| std::iter::repeat_n(n, piece.outgoing.len()));
        self.values.push(Value::from(numbers.collect::<Vec<i64>>()));
        self.values.extend(Outgoing::columns(self.pieces.iter().flat_map(|piece| &piece.outgoing)));
    }
}

fn time(time: Option<Timestamp>) -> i64 {
    time.map_or(NEVER, Timestamp::as_micros)
}
