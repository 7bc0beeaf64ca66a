//! Writing transitions on PostgreSQL: as many as are there, of different instances, in one statement and one commit. A
//! commit waits for the disk and a statement for the way there and back, and both cost the same for one as for many. Nobody
//! waits for a transition that may come: a writer that is free takes what is there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use phasegate_bus::Receiver;
use phasegate_clock::Timestamp;
use phasegate_database::{Database, Row, Transaction, Value};
use phasegate_planted::{self as planted, Bug};
use tokio::sync::{Semaphore, oneshot};
use tracing::Instrument as _;

use super::append::{Guard, Transition, checkpoint_change, micros, rank, state, tools};
use super::{Error, signed};

/// Statements that are under way at a time: while one waits for the disk, the next one is prepared.
const WRITERS: usize = 2;
/// Transitions in one statement at most, so that none waits for long.
const TOGETHER_MAX: usize = 64;
/// No time.
const NEVER: i64 = -1;

/// Transitions on their way to the database. Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Group {
    db: Database,
    waiting: Arc<Mutex<Vec<Waiting>>>,
    writers: Arc<Semaphore>,
}

/// One that waits to be written.
#[derive(Debug)]
struct Waiting {
    transition: Transition,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Group {
    /// For transitions of all tenants, because they are written together.
    pub(super) fn new(db: &Database) -> Self {
        Self { db: db.across_tenants(), waiting: Arc::default(), writers: Arc::new(Semaphore::new(WRITERS)) }
    }

    /// Writes a transition with others, or nothing of it.
    pub(super) async fn append(&self, transition: Transition) -> Result<(), Error> {
        let (done, written) = oneshot::channel();
        self.waiting().push(Waiting { transition, done });
        // A task, because whoever waits may go away, and others wait for the same statement.
        let group = self.clone();
        tokio::spawn(async move { group.write().await }.in_current_span());
        written.await.unwrap_or_else(|_| Err(aborted()))
    }

    async fn write(&self) {
        let Ok(_turn) = self.writers.acquire().await else { return };
        let together: Vec<Waiting> = {
            let mut waiting = self.waiting();
            let count = waiting.len().min(TOGETHER_MAX);
            waiting.drain(..count).collect()
        };
        // Another one has taken it along.
        if together.is_empty() {
            return;
        }
        let (transitions, done): (Vec<_>, Vec<_>) =
            together.into_iter().map(|one| (one.transition, one.done)).unzip();
        let outcomes = self.write_all(&transitions).await;
        for (one, outcome) in done.into_iter().zip(outcomes) {
            // Whoever waited may have gone.
            let _ = one.send(outcome);
        }
        self.clear_up(&transitions).await;
    }

    async fn write_all(&self, transitions: &[Transition]) -> Vec<Result<(), Error>> {
        match self.write_together(transitions).await {
            Ok(outcomes) => outcomes,
            Err(Error::Database { doing, source }) if source.is_away() => transitions
                .iter()
                .map(|_| Err(Error::Database { doing, source: source.for_another() }))
                .collect(),
            // One of them is in the way of the others.
            Err(error) if transitions.len() > 1 => {
                tracing::debug!(%error, "transitions could not be written together");
                let mut outcomes = Vec::with_capacity(transitions.len());
                for one in transitions {
                    outcomes.push(self.write_one(one).await);
                }
                outcomes
            }
            Err(error) => vec![Err(error)],
        }
    }

    async fn write_one(&self, transition: &Transition) -> Result<(), Error> {
        let outcomes = self.write_together(std::slice::from_ref(transition)).await?;
        outcomes.into_iter().next().unwrap_or_else(|| Err(aborted()))
    }

    async fn write_together(&self, transitions: &[Transition]) -> Result<Vec<Result<(), Error>>, Error> {
        let values = values(transitions)?;
        let rows = self.db.write(include_str!("append_postgres.sql"), values).await.map_err(refused)?;
        outcomes(transitions, &rows)
    }

    /// Deletes old answers, now and then.
    async fn clear_up(&self, transitions: &[Transition]) {
        let answers = transitions.iter().filter_map(|one| Some((one.receipt.answer.as_ref()?, one.now)));
        let mut due = answers.filter(|(answer, _)| phasegate_idempotency::clears_up(&answer.fingerprint));
        let Some((_, now)) = due.next() else { return };
        let cleared = self
            .db
            .transaction(move |tx| Box::pin(async move { phasegate_idempotency::clear_up(tx, now).await }));
        if let Err(error) = cleared.await {
            phasegate_database::tell(&error, "old answers could not be deleted");
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one transition within a transaction that does more.
pub(super) async fn write_postgres(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    let transitions = std::slice::from_ref(transition);
    let rows =
        tx.fetch_all(include_str!("append_postgres.sql"), values(transitions)?).await.map_err(refused)?;
    outcomes(transitions, &rows)?.into_iter().next().unwrap_or_else(|| Err(aborted()))
}

fn aborted() -> Error {
    let source = phasegate_database::Error::Aborted("its task ended".to_owned());
    Error::Database { doing: "write the transition", source }
}

/// What was written at the same time for the same key.
fn refused(source: phasegate_database::Error) -> Error {
    match source.constraint() {
        Some("inbox_pk") => Error::Seen,
        Some("idempotency_pk") => Error::Raced,
        _ if source.is_unique_violation() => Error::Stale,
        _ => Error::Database { doing: "write the transition", source },
    }
}

/// What became of each.
fn outcomes(transitions: &[Transition], rows: &[Row]) -> Result<Vec<Result<(), Error>>, Error> {
    let mut outcomes: Vec<Result<(), Error>> = transitions.iter().map(|_| Err(aborted())).collect();
    for row in rows {
        let n = usize::try_from(row.get::<i64>("n")?).unwrap_or(usize::MAX);
        let (Some(outcome), Some(transition)) = (outcomes.get_mut(n), transitions.get(n)) else { continue };
        *outcome = if row.get("is_moved")? {
            Ok(())
        } else if row.get("is_seen")? {
            Err(Error::Seen)
        } else if row.get("is_lease_lost")? {
            Err(Error::Lease)
        } else if row.get("is_raced")? {
            Err(Error::Raced)
        } else if transition.before == 0 {
            Err(Error::Exists)
        } else {
            Err(Error::Stale)
        };
    }
    Ok(outcomes)
}

/// The values of the statement, in its order.
fn values(transitions: &[Transition]) -> Result<Vec<Value>, Error> {
    let mut columns = Columns { transitions, values: Vec::with_capacity(70) };
    columns.instances()?;
    columns.receipts();
    columns.leases();
    columns.records();
    columns.work();
    columns.events();
    Ok(columns.values)
}

struct Columns<'a> {
    transitions: &'a [Transition],
    values: Vec<Value>,
}

impl<'a> Columns<'a> {
    /// A value of each transition.
    fn each<C>(&mut self, read: impl Fn(&'a Transition) -> C)
    where
        Value: From<Vec<C>>,
    {
        self.values.push(Value::from(self.transitions.iter().map(read).collect::<Vec<C>>()));
    }

    /// Which transition each of its rows is of.
    fn numbers<T: 'a>(&mut self, rows: impl Fn(&'a Transition) -> &'a [T]) {
        let numbers = self.transitions.iter().zip(0_i64..);
        let numbers = numbers.flat_map(|(one, n)| std::iter::repeat_n(n, rows(one).len()));
        self.values.push(Value::from(numbers.collect::<Vec<i64>>()));
    }

    /// A value of each of its rows.
    fn of<T: 'a, C>(&mut self, rows: impl Fn(&'a Transition) -> &'a [T], read: impl Fn(&'a T) -> C)
    where
        Value: From<Vec<C>>,
    {
        let cells: Vec<C> = self.transitions.iter().flat_map(rows).map(read).collect();
        self.values.push(Value::from(cells));
    }

    fn instances(&mut self) -> Result<(), Error> {
        let states: Vec<Vec<u8>> =
            self.transitions.iter().map(|one| state(&one.after)).collect::<Result<_, _>>()?;
        let count = i64::try_from(self.transitions.len()).unwrap_or(i64::MAX);
        self.values.push(Value::from((0..count).collect::<Vec<i64>>()));
        self.each(|one| one.tenant.clone());
        self.each(|one| one.after.id.to_string());
        self.each(|one| i64::from(!one.entries.is_empty()));
        self.each(|one| signed(one.before));
        self.each(|one| signed(one.after.version));
        self.each(|one| one.after.status.as_str().to_owned());
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
        Ok(())
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
        let inbox = |one: &'a Transition| one.receipt.inbox.as_ref().filter(|_| !planted::is(Bug::NoInbox));
        self.each(|one| inbox(one).map(|inbox| inbox.consumer.to_owned()).unwrap_or_default());
        self.each(|one| inbox(one).map(|inbox| inbox.event_id.clone()).unwrap_or_default());
        let answer =
            |one: &'a Transition| one.receipt.answer.as_ref().filter(|_| !planted::is(Bug::RequestRunsAgain));
        self.each(|one| answer(one).map(|answer| answer.key.actor.clone()).unwrap_or_default());
        self.each(|one| answer(one).map(|answer| answer.key.method.clone()).unwrap_or_default());
        self.each(|one| answer(one).map(|answer| answer.key.request_id.clone()).unwrap_or_default());
        self.each(|one| answer(one).map(|answer| answer.fingerprint.to_vec()).unwrap_or_default());
        self.each(|one| answer(one).map(|answer| answer.message.clone()).unwrap_or_default());
    }

    fn leases(&mut self) {
        let touched = self.transitions.iter().zip(0_i64..).flat_map(|(one, n)| {
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

    fn events(&mut self) {
        self.numbers(|one| &one.outbox);
        self.of(|one| &one.outbox, |event| event.event_id.clone());
        self.of(|one| &one.outbox, |event| event.instance_id.clone());
        self.of(|one| &one.outbox, prost::Message::encode_to_vec);
        self.of(|one| &one.outbox, |event| Receiver::set_of(event.payload.as_ref()));
        self.of(|one| &one.outbox, |event| phasegate_outbox::occurred_at(event).as_micros());
    }
}

fn time(time: Option<Timestamp>) -> i64 {
    time.map_or(NEVER, Timestamp::as_micros)
}
