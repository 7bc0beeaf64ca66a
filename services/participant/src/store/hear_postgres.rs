//! Writing what events say of instances on PostgreSQL: as many events as are there, of different instances, in one
//! statement and one commit.

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Together, Value};
use phasegate_planted::{self as planted, Bug};

use super::participant::{End, approvals_json};
use super::{Error, Place};
use crate::domain::person::Person;

/// No time.
const NEVER: i64 = -1;

/// What is written of an event.
#[derive(Debug)]
pub(super) struct Piece {
    /// Instance that it is of.
    pub(super) place: Place,
    /// The receiver.
    pub(super) consumer: &'static str,
    /// The event.
    pub(super) event_id: String,
    /// When it is written.
    pub(super) now: Timestamp,
    /// What it says.
    pub(super) news: News,
}

/// What an event says.
#[derive(Debug)]
pub(super) enum News {
    /// The instance starts with these people.
    Started(Vec<Person>),
    /// It has ended, and its links stay.
    Ended(End),
}

/// Events on their way to the database. Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Group(Together<Piece, ()>);

impl Group {
    /// For events of all tenants, because they are written together.
    pub(super) fn new(db: &Database) -> Self {
        let db = db.across_tenants();
        Self(Together::new(move |pieces: Vec<Arc<Piece>>| {
            let db = db.clone();
            Box::pin(async move {
                db.write(include_str!("hear_postgres.sql"), values(&pieces)).await?;
                // What it does not name had been taken before, which is as good.
                Ok(vec![(); pieces.len()])
            })
        }))
    }

    /// Writes what an event says, with others, once.
    pub(super) async fn hear(&self, piece: Piece) -> Result<(), Error> {
        let key = format!("{}/{}", piece.place.tenant, piece.place.instance);
        match self.0.write(key, piece).await {
            Ok(()) => Ok(()),
            // Another copy took it at the same time.
            Err(error) if error.constraint() == Some("inbox_pk") => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The values of the statement, in its order.
fn values(pieces: &[Arc<Piece>]) -> Vec<Value> {
    let texts = |read: fn(&Piece) -> String| {
        Value::from(pieces.iter().map(|piece| read(piece)).collect::<Vec<String>>())
    };
    let whole =
        |read: fn(&Piece) -> i64| Value::from(pieces.iter().map(|piece| read(piece)).collect::<Vec<i64>>());
    let mut values = vec![
        Value::from((0_i64..).zip(pieces).map(|(n, _)| n).collect::<Vec<i64>>()),
        texts(|piece| piece.place.tenant.to_string()),
        texts(|piece| piece.place.instance.to_string()),
        texts(|piece| piece.consumer.to_owned()),
        texts(|piece| if planted::is(Bug::NoInbox) { String::new() } else { piece.event_id.clone() }),
        whole(|piece| piece.now.as_micros()),
        whole(|piece| match piece.news {
            News::Started(_) => piece.now.as_micros(),
            News::Ended(_) => NEVER,
        }),
        texts(|piece| match piece.news {
            News::Started(_) => String::new(),
            News::Ended(end) => end.as_str().to_owned(),
        }),
    ];
    people(pieces, &mut values);
    values
}

fn people(pieces: &[Arc<Piece>], values: &mut Vec<Value>) {
    let all: Vec<(i64, &Person)> = (0_i64..)
        .zip(pieces)
        .filter_map(|(n, piece)| match &piece.news {
            News::Started(people) => Some((n, people)),
            News::Ended(_) => None,
        })
        .flat_map(|(n, people)| people.iter().map(move |person| (n, person)))
        .collect();
    let texts = |read: fn(&Person) -> String| {
        Value::from(all.iter().map(|(_, person)| read(person)).collect::<Vec<String>>())
    };
    let whole = |read: fn(&Person) -> i64| {
        Value::from(all.iter().map(|(_, person)| read(person)).collect::<Vec<i64>>())
    };
    values.extend([
        Value::from(all.iter().map(|(n, _)| *n).collect::<Vec<i64>>()),
        texts(|person| person.id.to_string()),
        texts(|person| person.name.clone()),
        texts(|person| person.email.clone()),
        texts(|person| person.role.clone()),
        texts(|person| person.raid_role.as_str().to_owned()),
        whole(|person| i64::from(person.external)),
        Value::from(all.iter().map(|(_, person)| approvals_json(person)).collect::<Vec<Vec<u8>>>()),
        whole(|person| said(person.preferences.email)),
        whole(|person| said(person.preferences.slack)),
        whole(|person| said(person.preferences.in_app)),
        whole(|person| i64::from(person.can_delegate)),
        whole(|person| person.created_at.as_micros()),
    ]);
}

/// What is said of a wish; -1 where nothing is.
fn said(wish: Option<bool>) -> i64 {
    wish.map_or(-1, i64::from)
}
