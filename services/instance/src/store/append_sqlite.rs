//! Writing transitions on SQLite: a statement that looks at what is in the way of all of them, and then row by row those which
//! fit. Nobody else writes meanwhile.

use std::sync::Arc;

use phasegate_database::{Transaction, Value, args, json_rows};
use phasegate_outbox::Outgoing;
use phasegate_planted::{self as planted, Bug};

use super::append::{Answer, Guard, Inbox, Transition, checkpoint_change, micros, rank, tools};
use super::group::{Piece, outcomes};
use super::{Error, NO_HASH, signed};

/// Writes transitions within a transaction.
pub(super) async fn write_within(
    tx: &mut Transaction,
    pieces: &[Arc<Piece>],
) -> Result<Vec<Result<(), Error>>, phasegate_database::Error> {
    let judged = tx.fetch_all(include_str!("append_judge_sqlite.sql"), vec![wishes(pieces)]).await?;
    let outcomes = outcomes(pieces, &judged)?;
    let fits = pieces.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
    let fits: Vec<&Piece> = fits.map(|(piece, _)| piece.as_ref()).collect();
    for (statement, rows) in rows(&fits) {
        tx.execute_each(statement, rows).await?;
    }
    Ok(outcomes)
}

/// What each of them depends on.
fn wishes(pieces: &[Arc<Piece>]) -> Value {
    json_rows(pieces.iter().map(|piece| {
        let one = &piece.transition;
        let before = (!one.entries.is_empty()).then(|| signed(one.before));
        let guard = one.guard.as_ref();
        let answer = answer(one).map(|answer| &answer.key);
        (
            &one.tenant,
            one.after.id.as_str(),
            before,
            one.now.as_micros(),
            guard.map(kind),
            guard.map(|guard| guard.task().as_str()),
            guard.map(|guard| signed(guard.fencing())),
            answer.map(|key| &key.actor),
            answer.map(|key| &key.method),
            answer.map(|key| &key.request_id),
            heard(one).iter().map(|inbox| (inbox.consumer, &inbox.event_id)).collect::<Vec<_>>(),
            one.granted.iter().map(|lease| lease.task.as_str()).collect::<Vec<_>>(),
        )
    }))
}

fn kind(guard: &Guard) -> i64 {
    match guard {
        Guard::Holds { .. } => 1,
        Guard::Over { .. } if planted::is(Bug::EarlyTimer) => 3,
        Guard::Over { .. } => 2,
    }
}

fn answer(one: &Transition) -> Option<&Answer> {
    one.receipt.answer.as_ref().filter(|_| !planted::is(Bug::RequestRunsAgain))
}

fn heard(one: &Transition) -> &[Inbox] {
    if planted::is(Bug::NoInbox) { &[] } else { &one.receipt.inbox }
}

/// A row of values for a statement.
type Cells = Vec<Value>;

/// What is written, in this order.
fn rows(pieces: &[&Piece]) -> [(&'static str, Vec<Cells>); 13] {
    let pieces = Pieces(pieces);
    [
        (
            DEFINITION,
            pieces.rows(
                |one| one.pinned.as_slice(),
                |one, pinned| args![&one.tenant, &pinned.digest, &pinned.document],
            ),
        ),
        (BEGUN, pieces.begun()),
        (MOVED, pieces.moved()),
        (MOVED_AHEAD, pieces.moved_ahead()),
        (HISTORY, pieces.history()),
        (
            PERSONAL,
            pieces.rows(
                |one| &one.personal,
                |one, row| args![&one.tenant, id(one), signed(row.sequence), &row.salt, &row.body],
            ),
        ),
        (ENDED, pieces.ended()),
        (UNQUEUED, pieces.rows(|one| &one.unqueued, |one, task| args![&one.tenant, id(one), task.as_str()])),
        (QUEUED, pieces.queued()),
        (GRANTED, pieces.granted()),
        (
            TAKEN,
            pieces.rows(heard, |one, inbox| args![&one.tenant, inbox.consumer, &inbox.event_id, one.now]),
        ),
        (ANSWERED, pieces.answers()),
        (Outgoing::SQLITE, pieces.0.iter().flat_map(|piece| &piece.outgoing).map(Outgoing::row).collect()),
    ]
}

fn id(one: &Transition) -> &str {
    one.after.id.as_str()
}

struct Pieces<'a>(&'a [&'a Piece]);

impl<'a> Pieces<'a> {
    /// Some rows of each transition.
    fn rows<T: 'a>(
        &self,
        rows: impl Fn(&'a Transition) -> &'a [T],
        read: impl Fn(&'a Transition, &'a T) -> Cells,
    ) -> Vec<Cells> {
        let read = &read;
        let all = self.0.iter().flat_map(|piece| {
            let one = &piece.transition;
            rows(one).iter().map(move |row| read(one, row))
        });
        all.collect()
    }

    /// The rows of those that begin.
    fn begun(&self) -> Vec<Cells> {
        let begun = self
            .0
            .iter()
            .filter(|piece| !piece.transition.entries.is_empty() && piece.transition.before == 0);
        let row = |piece: &&Piece| {
            let one = &piece.transition;
            let instance = &one.after;
            let mut cells = state(piece);
            cells.extend(args![
                instance.process_id.as_str(),
                &instance.process_version,
                &instance.definition_digest,
                instance.started_at.unwrap_or(one.now),
            ]);
            cells
        };
        begun.map(row).collect()
    }

    /// The rows of those that move on.
    fn moved(&self) -> Vec<Cells> {
        let moved = self.moving().filter(|piece| piece.transition.state_lag == 0);
        moved.map(state).collect()
    }

    /// The same where the state stays behind.
    fn moved_ahead(&self) -> Vec<Cells> {
        let moved = self.moving().filter(|piece| piece.transition.state_lag != 0);
        let row = |piece: &Piece| {
            let mut cells = state(piece);
            cells.push(signed(piece.transition.state_lag).into());
            cells
        };
        moved.map(row).collect()
    }

    fn moving(&self) -> impl Iterator<Item = &'a Piece> {
        let all = self.0.iter().copied();
        all.filter(|piece| !piece.transition.entries.is_empty() && piece.transition.before != 0)
    }

    fn history(&self) -> Vec<Cells> {
        self.rows(
            |one| &one.entries,
            |one, entry| {
                args![
                    &one.tenant,
                    id(one),
                    signed(entry.sequence),
                    &entry.event_id,
                    &entry.kind,
                    &entry.audit_type,
                    entry.occurred_at,
                    &entry.body,
                    &entry.previous_hash,
                    &entry.hash,
                ]
            },
        )
    }

    fn ended(&self) -> Vec<Cells> {
        self.rows(
            |one| &one.ended,
            |one, lease| {
                let (change, checkpoint) = checkpoint_change(&lease.checkpoint);
                args![&one.tenant, id(one), lease.task.as_str(), signed(lease.fencing), change, checkpoint]
            },
        )
    }

    fn queued(&self) -> Vec<Cells> {
        self.rows(
            |one| &one.queued,
            |one, work| {
                args![
                    &one.tenant,
                    id(one),
                    work.task.as_str(),
                    &work.queue,
                    rank(work.priority),
                    work.ready_at,
                    signed(work.fencing),
                    tools(work),
                ]
            },
        )
    }

    fn granted(&self) -> Vec<Cells> {
        self.rows(
            |one| &one.granted,
            |one, lease| {
                args![
                    &one.tenant,
                    id(one),
                    lease.task.as_str(),
                    signed(lease.fencing),
                    &lease.worker,
                    micros(lease.duration),
                    lease.ends_at,
                    &lease.queue,
                ]
            },
        )
    }

    fn answers(&self) -> Vec<Cells> {
        let answers = self.0.iter().filter_map(|piece| {
            let one = &piece.transition;
            let Answer { key, fingerprint, message } = answer(one)?;
            Some(args![&one.tenant, &key.actor, &key.method, &key.request_id, fingerprint, message, one.now,])
        });
        answers.collect()
    }
}

/// What changes with each transition.
fn state(piece: &Piece) -> Cells {
    let one = &piece.transition;
    let head = one.entries.last().map_or(&NO_HASH, |entry| &entry.hash);
    args![
        &one.tenant,
        id(one),
        one.after.status.as_str(),
        signed(one.after.version),
        head,
        &piece.state,
        one.after.ended_at,
        one.now,
        one.health,
        one.overdue_at,
    ]
}

const DEFINITION: &str = "
    insert into definition (tenant_id, digest, document) values ($1, $2, $3)
    on conflict do nothing";
const BEGUN: &str = "
    insert into instance (tenant_id, instance_id, status, version, head_hash, state, ended_at, updated_at, health,
                          overdue_at, process_id, process_version, definition_digest, started_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
const MOVED: &str = "
    update instance
       set status = $3, version = $4, head_hash = $5, state = $6, ended_at = $7, updated_at = $8, health = $9,
           overdue_at = $10, state_lag = 0
     where tenant_id = $1 and instance_id = $2";
const MOVED_AHEAD: &str = "
    update instance
       set status = $3, version = $4, head_hash = $5, ended_at = $7, updated_at = $8, health = $9, overdue_at = $10,
           state_lag = $11
     where tenant_id = $1 and instance_id = $2";
const HISTORY: &str = "
    insert into history (tenant_id, instance_id, sequence, event_id, kind, audit_type, occurred_at, body,
                         previous_hash, hash)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const PERSONAL: &str = "
    insert into personal (tenant_id, instance_id, sequence, salt, body) values ($1, $2, $3, $4, $5)";
/// `$5` is 0 where the checkpoint is kept, 1 where it is cleared, 2 where it is set.
const ENDED: &str = "
    update lease
       set ends_at = null, checkpoint = case $5 when 0 then checkpoint when 1 then null else $6 end
     where tenant_id = $1 and instance_id = $2 and task_id = $3 and fencing = $4 and ends_at is not null";
const UNQUEUED: &str = "
    delete from work where tenant_id = $1 and instance_id = $2 and task_id = $3";
/// A promise not to hand the task out for a moment outlives the lease that it was given under.
const QUEUED: &str = "
    insert into work (tenant_id, instance_id, task_id, queue, priority, ready_at, fencing, tools)
    values ($1, $2, $3, $4, $5,
            max($6, coalesce((select hold_until from lease
                               where tenant_id = $1 and instance_id = $2 and task_id = $3), 0)),
            $7, $8)
    on conflict (tenant_id, instance_id, task_id) do update
       set queue = excluded.queue, priority = excluded.priority, ready_at = excluded.ready_at,
           fencing = excluded.fencing, tools = excluded.tools";
const GRANTED: &str = "
    insert into lease (tenant_id, instance_id, task_id, fencing, worker, duration, ends_at, queue)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
    on conflict (tenant_id, instance_id, task_id) do update
       set fencing = excluded.fencing, worker = excluded.worker, duration = excluded.duration,
           ends_at = excluded.ends_at, queue = excluded.queue, progress = 0, message = ''";
const TAKEN: &str = "
    insert into inbox (tenant_id, consumer, event_id, received_at) values ($1, $2, $3, $4)";
const ANSWERED: &str = "
    insert into idempotency (tenant_id, actor_id, method, request_id, fingerprint, answer, created_at)
    values ($1, $2, $3, $4, $5, $6, $7)";
