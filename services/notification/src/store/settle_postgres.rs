//! Writing what became of messages on PostgreSQL: as many as are there in one statement and one commit, with what the
//! others hear of them.

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Together, Value};
use phasegate_id::{LinkId, NotificationId, TenantId};
use phasegate_outbox::Outgoing;
use phasegate_proto::internal::event::v1::Event;

use super::Error;
use super::settle::Outcome;

/// No time.
const NEVER: i64 = -1;

/// What became of a message.
#[derive(Debug)]
pub(super) struct Piece {
    /// Whose it is.
    pub(super) tenant: TenantId,
    /// The message.
    pub(super) id: NotificationId,
    /// Number of its claim.
    pub(super) number: i64,
    /// The outcome.
    pub(super) outcome: Outcome,
    /// Its link.
    pub(super) link: Option<LinkId>,
    /// What the others hear of it.
    pub(super) event: Option<Event>,
}

/// The same with its row for the others.
#[derive(Debug)]
struct Prepared {
    piece: Piece,
    /// One, where they hear of it.
    outgoing: Vec<Outgoing>,
}

/// Outcomes on their way to the database. Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Group {
    database: Database,
    together: Together<Prepared, bool>,
}

impl Group {
    /// For messages of all tenants, because they are written together.
    pub(super) fn new(database: &Database) -> Group {
        let database = database.across_tenants();
        let writes = database.clone();
        let together = Together::new(move |pieces: Vec<Arc<Prepared>>| {
            let database = writes.clone();
            Box::pin(async move {
                let rows = database.write(include_str!("settle_postgres.sql"), values(&pieces)).await?;
                let mut written = vec![false; pieces.len()];
                for row in rows {
                    let n = usize::try_from(row.get::<i64>("n")?).unwrap_or(usize::MAX);
                    let (Some(is_written), Some(piece)) = (written.get_mut(n), pieces.get(n)) else {
                        continue;
                    };
                    *is_written = true;
                    Outgoing::hand_over(&database, piece.outgoing.iter().cloned());
                }
                Ok(written)
            })
        });
        Group { database, together }
    }

    /// Writes an outcome, with others. False where the claim is not the newest.
    pub(super) async fn settle(&self, piece: Piece) -> Result<bool, Error> {
        let key = format!("{}/{}", piece.tenant, piece.id);
        let outgoing = Outgoing::of(&self.database, piece.event.as_slice());
        Ok(self.together.write(key, Prepared { piece, outgoing }).await?)
    }
}

/// The values of the statement, in its order.
fn values(pieces: &[Arc<Prepared>]) -> Vec<Value> {
    let texts = |read: fn(&Piece) -> String| {
        Value::from(pieces.iter().map(|one| read(&one.piece)).collect::<Vec<String>>())
    };
    let whole = |read: fn(&Piece) -> i64| {
        Value::from(pieces.iter().map(|one| read(&one.piece)).collect::<Vec<i64>>())
    };
    let time = |time: Option<Timestamp>| time.map_or(NEVER, Timestamp::as_micros);
    let times = |read: fn(&Outcome) -> Option<Timestamp>| {
        Value::from(pieces.iter().map(|one| time(read(&one.piece.outcome))).collect::<Vec<i64>>())
    };
    let numbers = (0_i64..).zip(pieces).flat_map(|(n, one)| std::iter::repeat_n(n, one.outgoing.len()));
    let mut values = vec![
        Value::from((0_i64..).zip(pieces).map(|(n, _)| n).collect::<Vec<i64>>()),
        texts(|piece| piece.tenant.to_string()),
        texts(|piece| piece.id.to_string()),
        whole(|piece| piece.number),
        texts(|piece| piece.outcome.status.to_owned()),
        times(|outcome| outcome.sent_at),
        times(|outcome| outcome.next_attempt_at),
        whole(|piece| i64::from(piece.outcome.tried)),
        texts(|piece| piece.outcome.why.clone()),
        texts(|piece| piece.link.as_ref().map(LinkId::to_string).unwrap_or_default()),
        Value::from(numbers.collect::<Vec<i64>>()),
    ];
    values.extend(Outgoing::columns(pieces.iter().flat_map(|one| &one.outgoing)));
    values
}
