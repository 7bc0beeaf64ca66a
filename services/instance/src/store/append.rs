//! Writing a transition with all that follows from it.

use std::sync::Arc;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::{Dialect, Transaction, Value, args};
use phasegate_id::TaskId;
use phasegate_planted::{self as planted, Bug};
use phasegate_process::Priority;
use phasegate_proto::internal::event::v1::Event as BusEvent;

use super::append_sqlite::write_sqlite;
use super::chain::Entry;
use super::lease::{self, Written};
use super::{Error, Store, signed};
use crate::domain::{Instance, ReadyWork};

/// All that one transition writes.
#[derive(Debug, Clone)]
pub(crate) struct Transition {
    pub(crate) tenant: String,
    /// The state after it.
    pub(crate) after: Arc<Instance>,
    /// Version that it was decided on; zero for a start.
    pub(crate) before: u64,
    /// Empty when nothing moved.
    pub(crate) entries: Vec<Entry>,
    pub(crate) personal: Vec<PersonalRow>,
    /// Tasks that may not be handed out any more.
    pub(crate) unqueued: Vec<TaskId>,
    /// Tasks that may be handed out.
    pub(crate) queued: Vec<ReadyWork>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) granted: Vec<Granted>,
    /// How the instance stands, as far as its state says.
    pub(crate) health: &'static str,
    /// The earliest deadline of a request that people have to decide.
    pub(crate) overdue_at: Option<Timestamp>,
    pub(crate) guard: Option<Guard>,
    /// A write under a lease that was heard of.
    pub(crate) written: Option<Written>,
    pub(crate) outbox: Vec<BusEvent>,
    pub(crate) receipt: Receipt,
    /// For a start.
    pub(crate) pinned: Option<Pinned>,
    pub(crate) now: Timestamp,
}

/// What the transition answers, kept with it so that it happens once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Receipt {
    /// The event of another service that led to it.
    pub(crate) inbox: Option<Inbox>,
    /// The request that led to it.
    pub(crate) answer: Option<Answer>,
}

/// An event of another service.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    pub(crate) consumer: &'static str,
    pub(crate) event_id: String,
}

/// The first answer to a request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) key: phasegate_idempotency::Key,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) message: Vec<u8>,
}

/// Personal data beside an entry.
#[derive(Debug, Clone)]
pub(crate) struct PersonalRow {
    pub(crate) sequence: u64,
    pub(crate) salt: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// A definition that is used for the first time.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    pub(crate) digest: String,
    pub(crate) document: Vec<u8>,
}

/// A lease that ends.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) task: TaskId,
    pub(crate) fencing: u64,
    pub(crate) checkpoint: CheckpointChange,
}

/// What becomes of the checkpoint of a lease that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckpointChange {
    /// The next attempt gets what the last heartbeat said.
    Keep,
    /// The work is done: the next round begins without.
    Clear,
    /// The worker said it with its last word.
    Set(Vec<u8>),
}

/// A lease that begins.
#[derive(Debug, Clone)]
pub(crate) struct Granted {
    pub(crate) task: TaskId,
    pub(crate) fencing: u64,
    pub(crate) worker: String,
    /// That it was handed out on.
    pub(crate) queue: String,
    pub(crate) duration: Duration,
    pub(crate) ends_at: Timestamp,
}

/// What must be true of a lease when the transition is written.
#[derive(Debug, Clone)]
pub(crate) enum Guard {
    /// Its worker acts: its time must not be over.
    Holds {
        /// Task.
        task: TaskId,
        /// Fencing token.
        fencing: u64,
    },
    /// Its time must be over: a heartbeat may have come in between.
    Over {
        /// Task.
        task: TaskId,
        /// Fencing token.
        fencing: u64,
    },
}

/// The rank of an urgency in the queue.
pub(super) fn rank(priority: Priority) -> i64 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
        Priority::Urgent => 3,
    }
}

impl Store {
    /// Writes a transition, or nothing.
    pub(crate) async fn instance_append(&self, transition: Transition) -> Result<(), Error> {
        self.db.transaction(move |tx| Box::pin(async move { append(tx, &transition).await })).await
    }
}

async fn append(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    if let Some(Inbox { consumer, event_id }) = &transition.receipt.inbox
        && !phasegate_outbox::inbox_receive(tx, &transition.tenant, consumer, event_id, transition.now)
            .await?
    {
        return Err(Error::Seen);
    }
    if let Some(guard) = &transition.guard {
        check(tx, transition, guard).await?;
    }
    // Before work is queued, which looks at what was promised.
    if let Some(written) = &transition.written {
        lease::release(tx, &transition.tenant, &transition.after.id, written).await?;
    }
    if let Some(pinned) = &transition.pinned {
        tx.execute(
            "insert into definition (tenant_id, digest, document) values ($1, $2, $3) on conflict do nothing",
            args![&transition.tenant, &pinned.digest, &pinned.document],
        )
        .await
        .map_err(Error::doing("keep the definition"))?;
    }
    if !transition.entries.is_empty() {
        if transition.before == 0 {
            begin(tx, transition).await?;
        }
        match tx.dialect() {
            Dialect::Postgres => write_postgres(tx, transition).await?,
            Dialect::Sqlite => write_sqlite(tx, transition).await?,
        }
    }
    phasegate_outbox::append_all(tx, &transition.outbox).await.map_err(Error::doing("write the events"))?;
    if let Some(answer) = &transition.receipt.answer {
        let message = answer.message.clone();
        let kept =
            phasegate_idempotency::store(tx, &answer.key, answer.fingerprint, message, transition.now).await;
        kept.map_err(|error| match error {
            phasegate_idempotency::Error::Raced | phasegate_idempotency::Error::Reused => Error::Raced,
            phasegate_idempotency::Error::Database(source) => {
                Error::Database { doing: "keep the answer", source }
            }
        })?;
    }
    Ok(())
}

/// Looks at the lease, and on PostgreSQL holds its row until the end of the transaction.
async fn check(tx: &mut Transaction, transition: &Transition, guard: &Guard) -> Result<(), Error> {
    let (Guard::Holds { task, fencing } | Guard::Over { task, fencing }) = guard;
    let row = tx
        .fetch_optional(
            tx.dialect().pick(
                "select ends_at from lease where tenant_id = $1 and instance_id = $2 and task_id = $3 and fencing = $4
                    for update",
                "select ends_at from lease where tenant_id = $1 and instance_id = $2 and task_id = $3 and fencing = $4",
            ),
            args![&transition.tenant, transition.after.id.as_str(), task.as_str(), signed(*fencing)],
        )
        .await
        .map_err(Error::doing("look at the lease"))?;
    let ends_at = match row {
        Some(row) => row.get::<Option<Timestamp>>("ends_at")?,
        None => None,
    };
    let fits = match (guard, ends_at) {
        (Guard::Holds { .. }, Some(ends_at)) => ends_at > transition.now,
        (Guard::Over { .. }, Some(ends_at)) => ends_at <= transition.now || planted::is(Bug::EarlyTimer),
        (Guard::Holds { .. } | Guard::Over { .. }, None) => false,
    };
    if fits { Ok(()) } else { Err(Error::Lease) }
}

/// Takes the id. The row says what is true only after the statements that follow.
async fn begin(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    let instance = &transition.after;
    let taken = tx
        .execute(
            "insert into instance (tenant_id, instance_id, process_id, process_version, definition_digest, status,
                                   version, head_hash, state, started_at, updated_at)
             values ($1, $2, $3, $4, $5, 'running', 0, $6, $7, $8, $9) on conflict do nothing",
            args![
                &transition.tenant,
                instance.id.as_str(),
                instance.process_id.as_str(),
                &instance.process_version,
                &instance.definition_digest,
                super::NO_HASH,
                Vec::<u8>::new(),
                instance.started_at.unwrap_or(transition.now),
                transition.now
            ],
        )
        .await
        .map_err(Error::doing("begin the instance"))?;
    if taken == 1 { Ok(()) } else { Err(Error::Exists) }
}

/// The state as the row keeps it.
fn state(instance: &Instance) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(instance).map_err(|error| Error::Inconsistent {
        table: "instance",
        row: instance.id.to_string(),
        problem: error.to_string(),
    })
}

/// What the row is set to, with the version that it must have: the first nine values of both texts.
pub(super) fn row_values(transition: &Transition) -> Result<Vec<Value>, Error> {
    let instance = &transition.after;
    let head = transition.entries.last().map_or(super::NO_HASH, |entry| entry.hash);
    Ok(args![
        &transition.tenant,
        instance.id.as_str(),
        signed(transition.before),
        signed(instance.version),
        instance.status.as_str(),
        state(instance)?,
        head,
        instance.ended_at,
        transition.now
    ])
}

async fn write_postgres(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    let mut values = row_values(transition)?;
    let entries = &transition.entries;
    values.push(column(entries, |entry| signed(entry.sequence)));
    values.push(column(entries, |entry| entry.event_id.clone()));
    values.push(column(entries, |entry| entry.kind.clone()));
    values.push(column(entries, |entry| entry.audit_type.clone()));
    values.push(column(entries, |entry| entry.occurred_at.as_micros()));
    values.push(column(entries, |entry| entry.body.clone()));
    values.push(column(entries, |entry| entry.previous_hash.to_vec()));
    values.push(column(entries, |entry| entry.hash.to_vec()));
    let personal = &transition.personal;
    values.push(column(personal, |row| signed(row.sequence)));
    values.push(column(personal, |row| row.salt.clone()));
    values.push(column(personal, |row| row.body.clone()));
    let ended = &transition.ended;
    values.push(column(ended, |lease| lease.task.to_string()));
    values.push(column(ended, |lease| signed(lease.fencing)));
    values.push(column(ended, |lease| checkpoint_change(&lease.checkpoint).0));
    values.push(column(ended, |lease| checkpoint_change(&lease.checkpoint).1));
    values.push(column(&transition.unqueued, TaskId::to_string));
    let queued = &transition.queued;
    values.push(column(queued, |work| work.task.to_string()));
    values.push(column(queued, |work| work.queue.clone()));
    values.push(column(queued, |work| rank(work.priority)));
    values.push(column(queued, |work| work.ready_at.as_micros()));
    values.push(column(queued, |work| signed(work.fencing)));
    values.push(column(queued, tools));
    let granted = &transition.granted;
    values.push(column(granted, |lease| lease.task.to_string()));
    values.push(column(granted, |lease| signed(lease.fencing)));
    values.push(column(granted, |lease| lease.worker.clone()));
    values.push(column(granted, |lease| micros(lease.duration)));
    values.push(column(granted, |lease| lease.ends_at.as_micros()));
    values.push(column(granted, |lease| lease.queue.clone()));
    values.extend(args![transition.health, transition.overdue_at]);
    let row = tx.fetch_optional(include_str!("append_postgres.sql"), values).await;
    let row = row.map_err(lost_or("write the transition"))?.ok_or(Error::Stale)?;
    if row.get::<i64>("moved")? != 1 {
        return Err(Error::Stale);
    }
    let is_granted = usize::try_from(row.get::<i64>("granted")?) == Ok(transition.granted.len());
    if is_granted { Ok(()) } else { Err(Error::Lease) }
}

/// Losing the primary key of the history is being stale, too.
pub(super) fn lost_or(doing: &'static str) -> impl FnOnce(phasegate_database::Error) -> Error {
    move |source| {
        if source.is_unique_violation() { Error::Stale } else { Error::Database { doing, source } }
    }
}

fn column<T, C>(rows: &[T], read: impl Fn(&T) -> C) -> Value
where
    Value: From<Vec<C>>,
{
    Value::from(rows.iter().map(read).collect::<Vec<C>>())
}

pub(super) fn checkpoint_change(change: &CheckpointChange) -> (i64, Vec<u8>) {
    match change {
        CheckpointChange::Keep => (0, Vec::new()),
        CheckpointChange::Clear => (1, Vec::new()),
        CheckpointChange::Set(checkpoint) => (2, checkpoint.clone()),
    }
}

pub(super) fn tools(work: &ReadyWork) -> String {
    serde_json::json!(work.tools).to_string()
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
