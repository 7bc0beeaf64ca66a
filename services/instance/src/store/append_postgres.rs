//! Writing transitions on PostgreSQL: as many as are there, of different instances, in one statement and one commit. A
//! commit waits for the disk and a statement for the way there and back, and both cost the same for one as for many. Nobody
//! waits for a transition that may come: a writer that is free takes what is there.

use std::borrow::Cow;
use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Row, Together, Transaction, Value};
use phasegate_outbox::Outgoing;
use phasegate_planted::{self as planted, Bug};

use super::append::{Guard, Inbox, Transition, checkpoint_change, micros, rank, state, tools};
use super::{Error, signed};

/// No time.
const NEVER: i64 = -1;

/// What is said where the database says nothing of a transition.
const DOING: &str = "write the transition";

/// Transitions on their way to the database. Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Group {
    db: Database,
    together: Together<Piece, Result<(), Error>>,
}

/// A transition as it is written.
#[derive(Debug)]
struct Piece {
    transition: Transition,
    /// The state after it.
    state: Vec<u8>,
    /// What the others are told.
    outgoing: Vec<Outgoing>,
}

impl Group {
    /// For transitions of all tenants, because they are written together.
    pub(super) fn new(db: &Database) -> Self {
        let db = db.across_tenants();
        let writes = db.clone();
        let together = Together::new(move |pieces: Vec<Arc<Piece>>| {
            let db = writes.clone();
            Box::pin(async move {
                let rows = db.write(statement(), values(&pieces)).await?;
                let outcomes = outcomes(&pieces, &rows)?;
                for (piece, _) in pieces.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()) {
                    Outgoing::hand_over(&db, piece.outgoing.iter().cloned());
                }
                Ok(outcomes)
            })
        });
        Self { db, together }
    }

    /// Writes a transition with others, or nothing of it.
    pub(super) async fn append(&self, transition: Transition) -> Result<(), Error> {
        let clears_up = transition
            .receipt
            .answer
            .as_ref()
            .is_some_and(|answer| phasegate_idempotency::clears_up(&answer.fingerprint));
        let now = transition.now;
        let key = format!("{}/{}", transition.tenant, transition.after.id);
        let outgoing = Outgoing::of(&self.db, &transition.outbox);
        let piece = Piece { state: state(&transition.after)?, outgoing, transition };
        self.together.write(key, piece).await.map_err(refused)??;
        if clears_up {
            self.clear_up(now).await;
        }
        Ok(())
    }

    /// Deletes old answers, now and then.
    async fn clear_up(&self, now: Timestamp) {
        let cleared = self
            .db
            .transaction(move |tx| Box::pin(async move { phasegate_idempotency::clear_up(tx, now).await }));
        if let Err(error) = cleared.await {
            phasegate_database::tell(&error, "old answers could not be deleted");
        }
    }
}

/// Writes one transition within a transaction that does more.
pub(super) async fn write_postgres(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    let outgoing = Outgoing::within(tx, &transition.outbox);
    let piece = Piece { state: state(&transition.after)?, outgoing, transition: transition.clone() };
    let pieces = [Arc::new(piece)];
    let rows = tx.fetch_all(statement(), values(&pieces)).await.map_err(refused)?;
    outcomes(&pieces, &rows).map_err(refused)?.into_iter().next().unwrap_or_else(|| Err(unsaid()))
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

fn unsaid() -> Error {
    let source = phasegate_database::Error::Aborted("its statement said nothing of it".to_owned());
    Error::Database { doing: DOING, source }
}

/// What was written at the same time for the same key.
fn refused(source: phasegate_database::Error) -> Error {
    match source.constraint() {
        Some("inbox_pk") => Error::Seen,
        Some("idempotency_pk") => Error::Raced,
        _ if source.is_unique_violation() => Error::Stale,
        _ => Error::Database { doing: DOING, source },
    }
}

/// What became of each.
fn outcomes(
    pieces: &[Arc<Piece>],
    rows: &[Row],
) -> Result<Vec<Result<(), Error>>, phasegate_database::Error> {
    let mut outcomes: Vec<Result<(), Error>> = pieces.iter().map(|_| Err(unsaid())).collect();
    for row in rows {
        let n = usize::try_from(row.get::<i64>("n")?).unwrap_or(usize::MAX);
        let (Some(outcome), Some(piece)) = (outcomes.get_mut(n), pieces.get(n)) else { continue };
        *outcome = if row.get("is_moved")? {
            Ok(())
        } else if row.get("is_seen")? {
            Err(Error::Seen)
        } else if row.get("is_lease_lost")? {
            Err(Error::Lease)
        } else if row.get("is_raced")? {
            Err(Error::Raced)
        } else if piece.transition.before == 0 {
            Err(Error::Exists)
        } else {
            Err(Error::Stale)
        };
    }
    Ok(outcomes)
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
