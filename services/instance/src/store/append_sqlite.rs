//! Writing transitions on SQLite: those of different instances in two statements, one that looks at what is in their way and
//! one text that writes those which fit. Nobody else writes meanwhile.

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Hex, Transaction, Value, json_rows};
use phasegate_outbox::Outgoing;
use phasegate_planted::{self as planted, Bug};
use serde::Serialize;

use super::append::{Answer, Guard, Inbox, Transition, checkpoint_change, micros, rank, tools};
use super::group::{Piece, outcomes};
use super::{Error, NO_HASH, signed};

/// Writes transitions within a transaction.
pub(super) async fn write_within(
    tx: &mut Transaction,
    pieces: &[Arc<Piece>],
) -> Result<Vec<Result<(), Error>>, phasegate_database::Error> {
    let rows = tx.fetch_all(include_str!("append_judge_sqlite.sql"), vec![wishes(pieces)]).await?;
    let outcomes = outcomes(pieces, &rows)?;
    let fits = pieces.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
    let fits: Vec<&Piece> = fits.map(|(piece, _)| piece.as_ref()).collect();
    if !fits.is_empty() {
        tx.execute(include_str!("append_sqlite.sql"), values(&fits)).await?;
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

/// The lists of the text, in its order.
fn values(pieces: &[&Piece]) -> Vec<Value> {
    let pieces = Pieces(pieces);
    vec![
        pieces.rows(
            |one| one.pinned.as_slice(),
            |one, pinned| (&one.tenant, &pinned.digest, Hex(&pinned.document)),
        ),
        pieces.instances(true),
        pieces.instances(false),
        pieces.history(),
        pieces.rows(
            |one| &one.personal,
            |one, row| (&one.tenant, id(one), signed(row.sequence), Hex(&row.salt), Hex(&row.body)),
        ),
        pieces.ended(),
        pieces.rows(|one| &one.unqueued, |one, task| (&one.tenant, id(one), task.as_str())),
        pieces.queued(),
        pieces.granted(),
        pieces.rows(heard, |one, inbox| (&one.tenant, inbox.consumer, &inbox.event_id, one.now.as_micros())),
        pieces.answers(),
        Outgoing::rows(pieces.0.iter().flat_map(|piece| &piece.outgoing)),
    ]
}

fn id(one: &Transition) -> &str {
    one.after.id.as_str()
}

struct Pieces<'a>(&'a [&'a Piece]);

impl<'a> Pieces<'a> {
    /// Some rows of each transition.
    fn rows<T: 'a, R: Serialize>(
        &self,
        rows: impl Fn(&'a Transition) -> &'a [T],
        read: impl Fn(&'a Transition, &'a T) -> R,
    ) -> Value {
        let read = &read;
        json_rows(self.0.iter().flat_map(|piece| {
            let one = &piece.transition;
            rows(one).iter().map(move |row| read(one, row))
        }))
    }

    /// The rows of those that begin, or of those that move on.
    fn instances(&self, begin: bool) -> Value {
        let moves = |one: &Transition| !one.entries.is_empty() && (one.before == 0) == begin;
        json_rows(self.0.iter().filter(|piece| moves(&piece.transition)).map(|piece| {
            let one = &piece.transition;
            let instance = &one.after;
            (
                &one.tenant,
                id(one),
                instance.process_id.as_str(),
                &instance.process_version,
                &instance.definition_digest,
                instance.started_at.unwrap_or(one.now).as_micros(),
                instance.status.as_str(),
                signed(instance.version),
                Hex(one.entries.last().map_or(&NO_HASH, |entry| &entry.hash)),
                Hex(&piece.state),
                instance.ended_at.map(Timestamp::as_micros),
                one.now.as_micros(),
                one.health,
                one.overdue_at.map(Timestamp::as_micros),
            )
        }))
    }

    fn history(&self) -> Value {
        self.rows(
            |one| &one.entries,
            |one, entry| {
                (
                    &one.tenant,
                    id(one),
                    signed(entry.sequence),
                    &entry.event_id,
                    &entry.kind,
                    &entry.audit_type,
                    entry.occurred_at.as_micros(),
                    Hex(&entry.body),
                    Hex(&entry.previous_hash),
                    Hex(&entry.hash),
                )
            },
        )
    }

    fn ended(&self) -> Value {
        json_rows(self.0.iter().flat_map(|piece| {
            let one = &piece.transition;
            one.ended.iter().map(move |lease| {
                let (change, checkpoint) = checkpoint_change(&lease.checkpoint);
                let (task, fencing) = (lease.task.as_str(), signed(lease.fencing));
                (&one.tenant, id(one), task, fencing, change, hex::encode(checkpoint))
            })
        }))
    }

    fn queued(&self) -> Value {
        self.rows(
            |one| &one.queued,
            |one, work| {
                (
                    &one.tenant,
                    id(one),
                    work.task.as_str(),
                    &work.queue,
                    rank(work.priority),
                    work.ready_at.as_micros(),
                    signed(work.fencing),
                    tools(work),
                )
            },
        )
    }

    fn granted(&self) -> Value {
        self.rows(
            |one| &one.granted,
            |one, lease| {
                (
                    &one.tenant,
                    id(one),
                    lease.task.as_str(),
                    signed(lease.fencing),
                    &lease.worker,
                    micros(lease.duration),
                    lease.ends_at.as_micros(),
                    &lease.queue,
                )
            },
        )
    }

    fn answers(&self) -> Value {
        json_rows(self.0.iter().filter_map(|piece| {
            let one = &piece.transition;
            let answer = answer(one)?;
            let key = &answer.key;
            let (fingerprint, message) = (Hex(&answer.fingerprint), Hex(&answer.message));
            Some((
                &one.tenant,
                &key.actor,
                &key.method,
                &key.request_id,
                fingerprint,
                message,
                one.now.as_micros(),
            ))
        }))
    }
}
