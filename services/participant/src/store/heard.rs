//! What events say of instances, and links of notifications: on PostgreSQL with what others write at the time.

use phasegate_clock::Timestamp;
use phasegate_outbox::inbox_receive;
use phasegate_proto::internal::event::v1::Event;

use super::ensure_postgres::Ensured;
use super::hear_postgres::{News, Piece};
use super::participant::{self as rows, End};
use super::{Error, Place, Store};
use crate::domain::link::Link;
use crate::domain::person::Person;

impl Store {
    /// Writes the people of an instance that an event brings, once; those who are there stay as they are.
    pub async fn instance_started(
        &self,
        place: Place,
        consumer: &'static str,
        event_id: String,
        people: Vec<Person>,
        now: Timestamp,
    ) -> Result<(), Error> {
        if let Some(hearing) = &self.hearing {
            return hearing.hear(Piece { place, consumer, event_id, now, news: News::Started(people) }).await;
        }
        self.db
            .transaction(move |tx| {
                Box::pin(async move {
                    if inbox_receive(tx, &place.tenant, consumer, &event_id, now).await? {
                        rows::people_insert_in(tx, &place, &people, now).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Notes how an instance ended whose links stay, once.
    pub async fn instance_ended(
        &self,
        place: Place,
        consumer: &'static str,
        event_id: String,
        end: End,
        now: Timestamp,
    ) -> Result<(), Error> {
        if let Some(hearing) = &self.hearing {
            return hearing.hear(Piece { place, consumer, event_id, now, news: News::Ended(end) }).await;
        }
        self.db
            .transaction(move |tx| {
                Box::pin(async move {
                    tx.linger();
                    if inbox_receive(tx, &place.tenant, consumer, &event_id, now).await? {
                        rows::instance_end_in(tx, &place, end, now).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Makes the link of a notification, unless there is one, with what the others hear of it. [`Ensured::Otherwise`] on
    /// SQLite, where a transaction does it.
    pub async fn link_ensure(&self, link: Link, event: Event) -> Result<Ensured, Error> {
        match &self.ensuring {
            Some(ensuring) => ensuring.ensure(link, event).await,
            None => Ok(Ensured::Otherwise),
        }
    }
}
