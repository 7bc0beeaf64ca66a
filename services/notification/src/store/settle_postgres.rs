//! Writing what became of messages on PostgreSQL: as many as are there in one statement and one commit, with what the
//! others hear of them.

use std::sync::Arc;

use phasegate_bus::Receiver;
use phasegate_clock::Timestamp;
use phasegate_database::{Database, Together, Value};
use phasegate_id::{LinkId, NotificationId, TenantId};
use phasegate_proto::internal::event::v1::Event;
use prost::Message as _;

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

/// Outcomes on their way to the database. Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Group(Together<Piece, bool>);

impl Group {
    /// For messages of all tenants, because they are written together.
    pub(super) fn new(database: &Database) -> Group {
        let database = database.across_tenants();
        Group(Together::new(move |pieces: Vec<Arc<Piece>>| {
            let database = database.clone();
            Box::pin(async move {
                let rows = database.write(include_str!("settle_postgres.sql"), values(&pieces)).await?;
                let mut written = vec![false; pieces.len()];
                for row in rows {
                    let n = usize::try_from(row.get::<i64>("n")?).unwrap_or(usize::MAX);
                    if let Some(is_written) = written.get_mut(n) {
                        *is_written = true;
                    }
                }
                Ok(written)
            })
        }))
    }

    /// Writes an outcome, with others. False where the claim is not the newest.
    pub(super) async fn settle(&self, piece: Piece) -> Result<bool, Error> {
        let key = format!("{}/{}", piece.tenant, piece.id);
        Ok(self.0.write(key, piece).await?)
    }
}

/// The values of the statement, in its order.
fn values(pieces: &[Arc<Piece>]) -> Vec<Value> {
    let texts = |read: fn(&Piece) -> String| {
        Value::from(pieces.iter().map(|piece| read(piece)).collect::<Vec<String>>())
    };
    let whole =
        |read: fn(&Piece) -> i64| Value::from(pieces.iter().map(|piece| read(piece)).collect::<Vec<i64>>());
    let time = |time: Option<Timestamp>| time.map_or(NEVER, Timestamp::as_micros);
    let times = |read: fn(&Outcome) -> Option<Timestamp>| {
        Value::from(pieces.iter().map(|piece| time(read(&piece.outcome))).collect::<Vec<i64>>())
    };
    let numbered = || (0_i64..).zip(pieces);
    let events: Vec<(i64, &Event)> =
        numbered().filter_map(|(n, piece)| piece.event.as_ref().map(|event| (n, event))).collect();
    vec![
        Value::from(numbered().map(|(n, _)| n).collect::<Vec<i64>>()),
        texts(|piece| piece.tenant.to_string()),
        texts(|piece| piece.id.to_string()),
        whole(|piece| piece.number),
        texts(|piece| piece.outcome.status.to_owned()),
        times(|outcome| outcome.sent_at),
        times(|outcome| outcome.next_attempt_at),
        whole(|piece| i64::from(piece.outcome.tried)),
        texts(|piece| piece.outcome.why.clone()),
        texts(|piece| piece.link.as_ref().map(LinkId::to_string).unwrap_or_default()),
        Value::from(events.iter().map(|(n, _)| *n).collect::<Vec<i64>>()),
        Value::from(events.iter().map(|(_, event)| event.event_id.clone()).collect::<Vec<String>>()),
        Value::from(events.iter().map(|(_, event)| event.instance_id.clone()).collect::<Vec<String>>()),
        Value::from(events.iter().map(|(_, event)| event.encode_to_vec()).collect::<Vec<Vec<u8>>>()),
        Value::from(
            events.iter().map(|(_, event)| Receiver::set_of(event.payload.as_ref())).collect::<Vec<i64>>(),
        ),
        Value::from(
            events
                .iter()
                .map(|(_, event)| phasegate_outbox::occurred_at(event).as_micros())
                .collect::<Vec<i64>>(),
        ),
    ]
}
