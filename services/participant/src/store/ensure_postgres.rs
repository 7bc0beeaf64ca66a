//! Making links of notifications on PostgreSQL: as many as are there in one statement and one commit.

use std::sync::Arc;

use phasegate_database::{Database, Row, Together, Value};
use phasegate_outbox::Outgoing;
use phasegate_proto::internal::event::v1::Event;

use super::{Error, row};
use crate::domain::link::Link;

/// A link that is to be made.
#[derive(Debug)]
struct Piece {
    link: Link,
    /// What the others hear of it.
    outgoing: Vec<Outgoing>,
}

/// What becomes of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ensured {
    /// It is made.
    Made,
    /// There is one for its purpose.
    There(Box<Link>),
    /// Neither: its instance is called off or not known, or another copy makes one at the same time.
    Otherwise,
}

/// Links on their way to the database. Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Group {
    db: Database,
    together: Together<Piece, Result<Ensured, Error>>,
}

impl Group {
    /// For links of all tenants, because they are written together.
    pub(super) fn new(db: &Database) -> Self {
        let db = db.across_tenants();
        let writes = db.clone();
        let together = Together::new(move |pieces: Vec<Arc<Piece>>| {
            let db = writes.clone();
            Box::pin(async move {
                let rows = db.write(include_str!("ensure_postgres.sql"), values(&pieces)).await?;
                let outcomes = outcomes(pieces.len(), &rows)?;
                for (piece, outcome) in pieces.iter().zip(&outcomes) {
                    if matches!(outcome, Ok(Ensured::Made)) {
                        Outgoing::hand_over(&db, piece.outgoing.iter().cloned());
                    }
                }
                Ok(outcomes)
            })
        });
        Self { db, together }
    }

    /// Makes a link, with others.
    pub(super) async fn ensure(&self, link: Link, event: Event) -> Result<Ensured, Error> {
        let purpose = link.purpose.as_deref().unwrap_or_default();
        let key = format!("{}/{}/{}/{purpose}", link.tenant, link.instance, link.participant);
        let outgoing = Outgoing::of(&self.db, &[event]);
        self.together.write(key, Piece { link, outgoing }).await?
    }
}

fn outcomes(count: usize, rows: &[Row]) -> Result<Vec<Result<Ensured, Error>>, phasegate_database::Error> {
    let mut outcomes: Vec<Result<Ensured, Error>> = (0..count).map(|_| Ok(Ensured::Otherwise)).collect();
    for found in rows {
        let n = usize::try_from(found.get::<i64>("n")?).unwrap_or(usize::MAX);
        let Some(outcome) = outcomes.get_mut(n) else { continue };
        if found.get("is_made")? {
            *outcome = Ok(Ensured::Made);
        } else if found.get::<Option<String>>("link_id")?.is_some() {
            *outcome = row::link(found).map(|link| Ensured::There(Box::new(link)));
        }
    }
    Ok(outcomes)
}

/// The values of the statement, in its order.
fn values(pieces: &[Arc<Piece>]) -> Vec<Value> {
    let texts = |read: fn(&Piece) -> String| {
        Value::from(pieces.iter().map(|piece| read(piece)).collect::<Vec<String>>())
    };
    let whole =
        |read: fn(&Piece) -> i64| Value::from(pieces.iter().map(|piece| read(piece)).collect::<Vec<i64>>());
    let bytes = |read: fn(&Piece) -> Vec<u8>| {
        Value::from(pieces.iter().map(|piece| read(piece)).collect::<Vec<Vec<u8>>>())
    };
    let mut values = vec![
        Value::from((0_i64..).zip(pieces).map(|(n, _)| n).collect::<Vec<i64>>()),
        texts(|piece| piece.link.tenant.to_string()),
        texts(|piece| piece.link.instance.to_string()),
        texts(|piece| piece.link.participant.to_string()),
        texts(|piece| piece.link.id.to_string()),
        texts(|piece| piece.link.purpose.clone().unwrap_or_default()),
        whole(|piece| piece.link.permissions.to_bits()),
        bytes(|piece| piece.link.created_by.0.clone()),
        whole(|piece| piece.link.created_at.as_micros()),
        whole(|piece| piece.link.expires_at.as_micros()),
        // One of each.
        Value::from((0_i64..).zip(pieces).map(|(n, _)| n).collect::<Vec<i64>>()),
    ];
    values.extend(Outgoing::columns(pieces.iter().flat_map(|piece| &piece.outgoing)));
    values
}
