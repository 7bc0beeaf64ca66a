//! Writing what events say on PostgreSQL: as many events as are there, of different instances, in one statement and one
//! commit.

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Row, Together, Value};
use phasegate_id::{ApprovalId, EventId, InstanceId, LinkId, ParticipantId, TenantId};
use phasegate_planted::{self as planted, Bug};

use super::{CONSUMER, Error};
use crate::domain::{Notification, Status};

/// No time.
const NEVER: i64 = -1;

/// What is written of an event.
#[derive(Debug)]
pub(super) struct Piece {
    /// Whose it is.
    pub(super) tenant: TenantId,
    /// Instance that it is of.
    pub(super) instance: InstanceId,
    /// The event; `None` where writing it twice changes nothing.
    pub(super) event: Option<EventId>,
    /// When it is written.
    pub(super) now: Timestamp,
    /// What it says.
    pub(super) news: News,
}

/// What an event says.
#[derive(Debug)]
pub(super) enum News {
    /// Messages are to be sent.
    Messages {
        /// The messages.
        messages: Vec<Notification>,
        /// The trace in which they were prepared.
        trace_parent: String,
    },
    /// A request has come to its end.
    Settled(ApprovalId),
    /// An instance starts.
    Started {
        /// What it is called, and its process.
        names: (String, String),
        /// Its people, and whether it is their role to be told.
        people: Vec<(ParticipantId, bool)>,
    },
}

/// What becomes of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is written.
    Written {
        /// The instance was not known before.
        is_new: bool,
    },
    /// The event was taken before.
    Seen,
}

/// Events on their way to the database. Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Group(Together<Piece, Heard>);

impl Group {
    /// For events of all tenants, because they are written together.
    pub(super) fn new(database: &Database) -> Group {
        let database = database.across_tenants();
        Group(Together::new(move |pieces: Vec<Arc<Piece>>| {
            let database = database.clone();
            Box::pin(async move {
                let rows = database.write(include_str!("hear_postgres.sql"), values(&pieces)).await?;
                outcomes(pieces.len(), &rows)
            })
        }))
    }

    /// Writes what an event says, with others.
    pub(super) async fn hear(&self, piece: Piece) -> Result<Heard, Error> {
        let key = format!("{}/{}", piece.tenant, piece.instance);
        match self.0.write(key, piece).await {
            Ok(heard) => Ok(heard),
            // Another copy took it at the same time.
            Err(error) if error.constraint() == Some("inbox_pk") => Ok(Heard::Seen),
            Err(error) => Err(error.into()),
        }
    }
}

/// What became of each; what the answer does not name had been taken before.
fn outcomes(count: usize, rows: &[Row]) -> Result<Vec<Heard>, phasegate_database::Error> {
    let mut outcomes = vec![Heard::Seen; count];
    for row in rows {
        let n = usize::try_from(row.get::<i64>("n")?).unwrap_or(usize::MAX);
        if let Some(outcome) = outcomes.get_mut(n) {
            *outcome = Heard::Written { is_new: row.get("is_new")? };
        }
    }
    Ok(outcomes)
}

/// The values of the statement, in its order.
fn values(pieces: &[Arc<Piece>]) -> Vec<Value> {
    let mut values = Vec::with_capacity(38);
    receipts(pieces, &mut values);
    messages(pieces, &mut values);
    let settled = numbered(pieces).filter_map(|(n, piece)| match &piece.news {
        News::Settled(approval) => Some((n, approval.to_string())),
        News::Messages { .. } | News::Started { .. } => None,
    });
    let (numbers, approvals): (Vec<i64>, Vec<String>) = settled.unzip();
    values.extend([Value::from(numbers), Value::from(approvals)]);
    starts(pieces, &mut values);
    values
}

fn numbered(pieces: &[Arc<Piece>]) -> impl Iterator<Item = (i64, &Piece)> {
    (0_i64..).zip(pieces.iter().map(AsRef::as_ref))
}

fn receipts(pieces: &[Arc<Piece>], values: &mut Vec<Value>) {
    let event = |piece: &Piece| {
        let event = piece.event.as_ref().filter(|_| !planted::is(Bug::NoInbox));
        event.map(ToString::to_string).unwrap_or_default()
    };
    values.push(Value::from(numbered(pieces).map(|(n, _)| n).collect::<Vec<i64>>()));
    for read in [|piece: &Piece| piece.tenant.to_string(), |piece: &Piece| piece.instance.to_string()] {
        values.push(Value::from(pieces.iter().map(|piece| read(piece)).collect::<Vec<String>>()));
    }
    values.push(Value::from(vec![CONSUMER.to_owned(); pieces.len()]));
    values.push(Value::from(pieces.iter().map(|piece| event(piece)).collect::<Vec<String>>()));
    values.push(Value::from(pieces.iter().map(|piece| piece.now.as_micros()).collect::<Vec<i64>>()));
}

fn messages(pieces: &[Arc<Piece>], values: &mut Vec<Value>) {
    let all: Vec<(i64, &Notification, &str)> = numbered(pieces)
        .filter_map(|(n, piece)| match &piece.news {
            News::Messages { messages, trace_parent } => Some((n, messages, trace_parent.as_str())),
            News::Settled(_) | News::Started { .. } => None,
        })
        .flat_map(|(n, messages, trace_parent)| messages.iter().map(move |one| (n, one, trace_parent)))
        .collect();
    let texts = |read: fn(&Notification) -> String| {
        Value::from(all.iter().map(|(_, one, _)| read(one)).collect::<Vec<String>>())
    };
    let whole = |read: fn(&Notification) -> i64| {
        Value::from(all.iter().map(|(_, one, _)| read(one)).collect::<Vec<i64>>())
    };
    values.extend([
        Value::from(all.iter().map(|(n, _, _)| *n).collect::<Vec<i64>>()),
        texts(|one| one.id.to_string()),
        texts(|one| one.participant_id.to_string()),
        texts(|one| one.template.as_str().to_owned()),
        texts(|one| one.recipient.clone()),
        texts(|one| one.recipient_name.clone()),
        texts(|one| one.subject.clone()),
        texts(|one| one.body_text.clone()),
        texts(|one| one.body_html.clone()),
        texts(|one| one.link.as_ref().map(|link| link.placeholder.clone()).unwrap_or_default()),
        texts(|one| one.message_id.clone()),
        whole(|one| one.link.as_ref().map_or(NEVER, |link| link.expires_at.as_micros())),
        texts(|one| {
            let link = one.link.as_ref().and_then(|link| link.link_id.as_ref());
            link.map(LinkId::to_string).unwrap_or_default()
        }),
        texts(|one| one.status.as_str().to_owned()),
        whole(|one| i64::from(one.attempts)),
        texts(|one| one.last_error.clone()),
        whole(|one| one.created_at.as_micros()),
        whole(|one| times(&one.status).0),
        whole(|one| times(&one.status).1),
        Value::from(all.iter().map(|(_, _, trace)| (*trace).to_owned()).collect::<Vec<String>>()),
    ]);
    let (mut numbers, mut ids, mut approvals, mut positions) = (vec![], vec![], vec![], vec![]);
    for (n, one, _) in &all {
        for (position, approval) in (0_i64..).zip(&one.approval_ids) {
            numbers.push(*n);
            ids.push(one.id.to_string());
            approvals.push(approval.to_string());
            positions.push(position);
        }
    }
    values.extend([numbers.into(), ids.into(), approvals.into(), positions.into()]);
}

/// When it was sent, and when it is tried.
fn times(status: &Status) -> (i64, i64) {
    match status {
        Status::Queued { next_attempt_at } => (NEVER, next_attempt_at.as_micros()),
        Status::Sent { sent_at } => (sent_at.as_micros(), NEVER),
        Status::Failed | Status::Suppressed => (NEVER, NEVER),
    }
}

fn starts(pieces: &[Arc<Piece>], values: &mut Vec<Value>) {
    let (mut numbers, mut names, mut processes) = (vec![], vec![], vec![]);
    let (mut of, mut ids, mut informed) = (vec![], vec![], vec![]);
    for (n, piece) in numbered(pieces) {
        let News::Started { names: (name, process), people } = &piece.news else { continue };
        numbers.push(n);
        names.push(name.clone());
        processes.push(process.clone());
        for (id, is_informed) in people {
            of.push(n);
            ids.push(id.to_string());
            informed.push(i64::from(*is_informed));
        }
    }
    values.extend([numbers.into(), names.into(), processes.into()]);
    values.extend([of.into(), ids.into(), Value::from(informed)]);
}
