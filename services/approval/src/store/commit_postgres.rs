//! Writing on PostgreSQL: what as many callers as are there write about different instances, in one statement and one
//! commit. What callers write about one instance comes one after another here, and does not wait for its row there.

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Row, Together, Value};
use phasegate_outbox::Outgoing;
use phasegate_planted::{self as planted, Bug};

use super::Error;
use super::commit::{Commit, InstanceChange};
use super::commit_rows::{NONE, Piece};

/// Notes events with which there is nothing else to do.
const RECEIPTS: &str = "
insert into inbox (tenant_id, consumer, event_id, received_at)
select tenant_id, consumer, event_id, received_at
  from unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) as noted (tenant_id, consumer, event_id, received_at)
 order by tenant_id, consumer, event_id
on conflict do nothing
returning tenant_id, consumer, event_id";

/// Commits on their way to the database. Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Group {
    db: Database,
    together: Together<Piece, Result<(), Error>>,
    receipts: Together<Commit, bool>,
}

// === impl Group ===

impl Group {
    /// For commits of all tenants, because they are written together.
    pub(super) fn new(db: &Database) -> Self {
        let db = db.across_tenants();
        let writes = db.clone();
        let together = Together::new(move |pieces: Vec<Arc<Piece>>| {
            let db = writes.clone();
            Box::pin(async move {
                let rows = db.write(include_str!("commit_postgres.sql"), values(&pieces)).await?;
                let outcomes = outcomes(pieces.len(), &rows)?;
                for (piece, _) in pieces.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()) {
                    Outgoing::hand_over(&db, piece.outgoing.iter().cloned());
                }
                Ok(outcomes)
            })
        });
        let notes = db.clone();
        let receipts = Together::new(move |commits: Vec<Arc<Commit>>| {
            let db = notes.clone();
            Box::pin(async move {
                let rows = db.write(RECEIPTS, receipt_values(&commits)).await?;
                noted(&commits, &rows)
            })
        });
        Self { db, together, receipts }
    }

    /// Writes a commit with others, or nothing of it.
    pub(super) async fn commit(&self, commit: Commit) -> Result<(), Error> {
        if commit.is_receipt_only() {
            return self.note(commit).await;
        }
        let now = commit.now;
        let repeat = commit.repeat.as_ref();
        let clears_up = repeat.is_some_and(|one| phasegate_idempotency::clears_up(&one.fingerprint));
        let key = format!("{}/{}", commit.tenant, commit.instance);
        let outgoing = Outgoing::of(&self.db, &commit.outbox);
        self.together.write(key, Piece::new(commit, outgoing)?).await.map_err(refused)??;
        if clears_up {
            self.clear_up(now).await;
        }
        Ok(())
    }

    /// Notes that an event was taken. Events of one instance do not wait for each other.
    async fn note(&self, commit: Commit) -> Result<(), Error> {
        let Some(receipt) = commit.receipt.as_ref().filter(|_| !planted::is(Bug::NoInbox)) else {
            return Ok(());
        };
        let key = format!("{}/{}", commit.tenant, receipt.event_id);
        if self.receipts.write(key, commit).await? { Ok(()) } else { Err(Error::Taken) }
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

/// What was written at the same time for the same key, by another copy of the service.
fn refused(error: phasegate_database::Error) -> Error {
    match error.constraint() {
        Some("inbox_pk") => Error::Taken,
        Some("idempotency_pk") => Error::Repeated,
        _ if error.is_unique_violation() => Error::Stale,
        _ => Error::Database(error),
    }
}

/// What became of each.
fn outcomes(count: usize, rows: &[Row]) -> Result<Vec<Result<(), Error>>, phasegate_database::Error> {
    let unsaid = || phasegate_database::Error::Aborted("its statement said nothing of it".to_owned());
    let mut outcomes: Vec<Result<(), Error>> = (0..count).map(|_| Err(unsaid().into())).collect();
    for row in rows {
        let n = usize::try_from(row.get::<i64>("n")?).unwrap_or(usize::MAX);
        let Some(outcome) = outcomes.get_mut(n) else { continue };
        *outcome = if row.get("is_moved")? {
            Ok(())
        } else if row.get("is_seen")? {
            Err(Error::Taken)
        } else if !row.get::<bool>("is_stale")? && row.get("is_raced")? {
            Err(Error::Repeated)
        } else {
            // Or its instance was changed by another copy of the service while the statement waited for it.
            Err(Error::Stale)
        };
    }
    Ok(outcomes)
}

/// Whether each event was new.
fn noted(commits: &[Arc<Commit>], rows: &[Row]) -> Result<Vec<bool>, phasegate_database::Error> {
    let read = |row: &Row| -> Result<(String, String, String), phasegate_database::Error> {
        Ok((row.get("tenant_id")?, row.get("consumer")?, row.get("event_id")?))
    };
    let new = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let is_new = |commit: &Arc<Commit>| {
        commit.receipt.as_ref().is_some_and(|receipt| {
            new.iter().any(|(tenant, consumer, event)| {
                (tenant.as_str(), consumer.as_str(), event)
                    == (commit.tenant.as_str(), receipt.consumer, &receipt.event_id)
            })
        })
    };
    Ok(commits.iter().map(is_new).collect())
}

fn receipt_values(commits: &[Arc<Commit>]) -> Vec<Value> {
    let receipts = || commits.iter().filter_map(|commit| Some((commit, commit.receipt.as_ref()?)));
    vec![
        receipts().map(|(commit, _)| commit.tenant.to_string()).collect::<Vec<_>>().into(),
        receipts().map(|(_, receipt)| receipt.consumer.to_owned()).collect::<Vec<_>>().into(),
        receipts().map(|(_, receipt)| receipt.event_id.clone()).collect::<Vec<_>>().into(),
        receipts().map(|(commit, _)| commit.now.as_micros()).collect::<Vec<_>>().into(),
    ]
}

/// The values of the statement, in its order.
fn values(pieces: &[Arc<Piece>]) -> Vec<Value> {
    let mut columns = Columns { pieces, values: Vec::with_capacity(56) };
    columns.commits();
    columns.requests();
    columns.people();
    columns.told();
    columns.values
}

struct Columns<'a> {
    pieces: &'a [Arc<Piece>],
    values: Vec<Value>,
}

impl<'a> Columns<'a> {
    /// A value of each commit.
    fn each<C>(&mut self, read: impl Fn(&'a Piece) -> C)
    where
        Value: From<Vec<C>>,
    {
        self.values.push(Value::from(self.pieces.iter().map(|piece| read(piece)).collect::<Vec<C>>()));
    }

    /// Which commit each of its rows is of.
    fn numbers<T: 'a>(&mut self, rows: impl Fn(&'a Piece) -> &'a [T]) {
        let numbers = self.pieces.iter().zip(0_i64..);
        let numbers = numbers.flat_map(|(piece, n)| std::iter::repeat_n(n, rows(piece).len()));
        self.values.push(Value::from(numbers.collect::<Vec<i64>>()));
    }

    /// A value of each of its rows.
    fn of<T: 'a, C>(&mut self, rows: impl Fn(&'a Piece) -> &'a [T], read: impl Fn(&'a T) -> C)
    where
        Value: From<Vec<C>>,
    {
        let cells: Vec<C> = self.pieces.iter().flat_map(|piece| rows(piece)).map(read).collect();
        self.values.push(Value::from(cells));
    }

    fn commits(&mut self) {
        let count = i64::try_from(self.pieces.len()).unwrap_or(i64::MAX);
        self.values.push(Value::from((0..count).collect::<Vec<i64>>()));
        self.each(|one| one.commit.tenant.to_string());
        self.each(|one| one.commit.instance.to_string());
        self.each(|one| one.commit.now.as_micros());
        self.each(|one| i64::from(one.touches()));
        self.each(|one| one.commit.at_revision.unwrap_or(NONE));
        self.each(|one| i64::try_from(one.responses.len()).unwrap_or(i64::MAX));
        self.each(|one| one.pause().0);
        self.each(|one| one.pause().1);
        self.each(|one| i64::from(one.commit.instance_change == Some(InstanceChange::Ended)));
        self.each(|one| one.receipt().map(|receipt| receipt.consumer.to_owned()).unwrap_or_default());
        self.each(|one| one.receipt().map(|receipt| receipt.event_id.clone()).unwrap_or_default());
        self.each(|one| one.repeat().map(|repeat| repeat.key.actor.clone()).unwrap_or_default());
        self.each(|one| one.repeat().map(|repeat| repeat.key.method.clone()).unwrap_or_default());
        self.each(|one| one.repeat().map(|repeat| repeat.key.request_id.clone()).unwrap_or_default());
        self.each(|one| one.repeat().map(|repeat| repeat.fingerprint.to_vec()).unwrap_or_default());
        self.each(|one| one.repeat().map(|repeat| repeat.answer.clone()).unwrap_or_default());
    }

    fn requests(&mut self) {
        self.numbers(|one| &one.requests);
        self.of(|one| &one.requests, |row| row.id.clone());
        self.of(|one| &one.requests, |row| row.before);
        self.of(|one| &one.requests, |row| row.version);
        self.of(|one| &one.requests, |row| row.subject_kind.clone());
        self.of(|one| &one.requests, |row| row.subject.clone());
        self.of(|one| &one.requests, |row| row.status.clone());
        self.of(|one| &one.requests, |row| row.requested_at);
        self.of(|one| &one.requests, |row| row.decided_at);
        self.of(|one| &one.requests, |row| row.substance.clone());
        self.of(|one| &one.requests, |row| row.state.clone());
        self.of(|one| &one.requests, |row| row.due_at);
        self.numbers(|one| &one.events);
        self.of(|one| &one.events, |row| row.request.clone());
        self.of(|one| &one.events, |row| row.version);
        self.of(|one| &one.events, |row| row.at);
        self.of(|one| &one.events, |row| row.payload.clone());
    }

    fn people(&mut self) {
        self.numbers(|one| &one.approvers);
        self.of(|one| &one.approvers, |row| row.request.clone());
        self.of(|one| &one.approvers, |row| row.person.clone());
        self.of(|one| &one.approvers, |row| row.standing.clone());
        self.numbers(|one| &one.people);
        self.of(|one| &one.people, |row| row.id.clone());
        self.of(|one| &one.people, |row| row.name.clone());
        self.of(|one| &one.people, |row| row.email.clone());
        self.numbers(|one| &one.responses);
        self.of(|one| &one.responses, |row| row.place);
        self.of(|one| &one.responses, |row| row.request.clone());
        self.of(|one| &one.responses, |row| row.person.clone());
        self.of(|one| &one.responses, |row| row.payload.clone());
    }

    fn told(&mut self) {
        self.numbers(|one| &one.commit.moot);
        self.of(|one| &one.commit.moot, |(approval, _)| approval.to_string());
        self.of(|one| &one.commit.moot, |(_, reason)| reason.clone());
        self.numbers(|one| &one.outgoing);
        self.values.extend(Outgoing::columns(self.pieces.iter().flat_map(|piece| &piece.outgoing)));
    }
}
