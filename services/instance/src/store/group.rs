//! Writing transitions: as many as are there, of different instances, in one commit. A commit waits for the disk and a
//! statement for the way there and back, and both cost the same for one as for many. Nobody waits for a transition that may
//! come: a writer that is free takes what is there.

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Dialect, Row, Together, Transaction};
use phasegate_outbox::Outgoing;

use super::append::{Transition, state};
use super::{Error, append_postgres, append_sqlite};

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
pub(super) struct Piece {
    pub(super) transition: Transition,
    /// The state after it; empty where it is not written.
    pub(super) state: Vec<u8>,
    /// What the others are told.
    pub(super) outgoing: Vec<Outgoing>,
}

impl Group {
    /// For transitions of all tenants, because they are written together.
    pub(super) fn new(db: &Database) -> Self {
        let db = db.across_tenants();
        let writes = db.clone();
        let together = Together::new(move |pieces: Vec<Arc<Piece>>| {
            let db = writes.clone();
            Box::pin(async move {
                match db.dialect() {
                    Dialect::Postgres => append_postgres::write(&db, &pieces).await,
                    Dialect::Sqlite => {
                        let writing = db.transaction(move |tx| {
                            Box::pin(async move {
                                let outcomes = append_sqlite::write_within(tx, &pieces).await?;
                                let written =
                                    pieces.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
                                let outgoing = written.flat_map(|(piece, _)| piece.outgoing.iter().cloned());
                                Outgoing::hand_over_after(tx, outgoing);
                                Ok(outcomes)
                            })
                        });
                        writing.await
                    }
                }
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
        let piece = Piece { state: state(&transition)?, outgoing, transition };
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
pub(super) async fn write_within(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    let outgoing = Outgoing::within(tx, &transition.outbox);
    let pieces = [Arc::new(Piece { state: state(transition)?, outgoing, transition: transition.clone() })];
    let outcomes = match tx.dialect() {
        Dialect::Postgres => append_postgres::write_within(tx, &pieces).await,
        Dialect::Sqlite => append_sqlite::write_within(tx, &pieces).await,
    };
    outcomes.map_err(refused)?.into_iter().next().unwrap_or_else(|| Err(unsaid()))
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
pub(super) fn outcomes(
    pieces: &[Arc<Piece>],
    rows: &[Row],
) -> Result<Vec<Result<(), Error>>, phasegate_database::Error> {
    let mut outcomes: Vec<Result<(), Error>> = pieces.iter().map(|_| Err(unsaid())).collect();
    for row in rows {
        let n = usize::try_from(row.get::<i64>("n")?).unwrap_or(usize::MAX);
        let (Some(outcome), Some(piece)) = (outcomes.get_mut(n), pieces.get(n)) else { continue };
        *outcome = if row.get("is_seen")? {
            Err(Error::Seen)
        } else if row.get("is_lease_lost")? {
            Err(Error::Lease)
        } else if row.get("is_raced")? {
            Err(Error::Raced)
        } else if row.get("is_moved")? {
            Ok(())
        } else if piece.transition.before == 0 {
            Err(Error::Exists)
        } else {
            Err(Error::Stale)
        };
    }
    Ok(outcomes)
}
