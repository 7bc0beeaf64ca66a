//! Events that a receiver could not take: the statements.

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Error, args};
use phasegate_proto::internal::event::v1::Event;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::seen;

/// Dead letters that are tried anew at once.
const WANTED_AT_ONCE: i64 = 100;

/// An event that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Tenant.
    pub tenant_id: String,
    /// Service that could not take it.
    pub consumer: String,
    /// The event.
    pub event_id: String,
    /// Instance that it belongs to.
    pub instance_id: String,
    /// What it tells of.
    pub topic: &'static str,
    /// When it was set aside.
    pub set_aside_at: Timestamp,
    /// How often it was tried.
    pub tries: u32,
    /// What happened at the last try.
    pub last_error: String,
}

/// A try that failed.
pub(crate) struct Failed {
    pub(crate) consumer: &'static str,
    pub(crate) tenant_id: String,
    pub(crate) event_id: String,
    pub(crate) instance_id: String,
    pub(crate) event: Vec<u8>,
    pub(crate) error: String,
}

/// Counts a try that failed, and sets the event aside at the last one. True when it is set aside.
pub(crate) async fn count(
    db: &Database,
    failed: Failed,
    tries_max: u32,
    now: Timestamp,
) -> Result<bool, Error> {
    let row = db
        .transaction(move |tx| {
            Box::pin(async move {
                tx.fetch_optional(
                    "insert into dead_letter
                            (tenant_id, consumer, event_id, instance_id, event, tries, last_error, first_failed_at)
                     values ($1, $2, $3, $4, $5, 1, $6, $7)
                         on conflict (tenant_id, consumer, event_id) do update
                        set tries = dead_letter.tries + 1, last_error = excluded.last_error, wanted_at = null,
                            set_aside_at = case when dead_letter.tries + 1 >= $8 then $7 end
                     returning set_aside_at",
                    args![
                        failed.tenant_id,
                        failed.consumer,
                        failed.event_id,
                        failed.instance_id,
                        failed.event,
                        failed.error,
                        now,
                        tries_max
                    ],
                )
                .await
            })
        })
        .await?;
    let set_aside_at = row.map(|row| row.get::<Option<Timestamp>>("set_aside_at")).transpose()?;
    Ok(set_aside_at.flatten().is_some())
}

/// Takes back one try that was counted and did not end the process. What was set aside stays set aside.
pub(crate) async fn count_back(
    db: &Database,
    consumer: &'static str,
    (tenant_id, event_id): (String, String),
) -> Result<(), Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            tx.execute(
                "delete from dead_letter
                  where tenant_id = $1 and consumer = $2 and event_id = $3 and set_aside_at is null and tries <= 1",
                args![&tenant_id, consumer, &event_id],
            )
            .await?;
            tx.execute(
                "update dead_letter set tries = tries - 1
                  where tenant_id = $1 and consumer = $2 and event_id = $3 and set_aside_at is null",
                args![&tenant_id, consumer, &event_id],
            )
            .await?;
            Ok(())
        })
    })
    .await
}

/// Whether an event is set aside, and nobody wants it tried anew.
pub(crate) async fn is_set_aside(
    db: &Database,
    consumer: &str,
    tenant_id: &str,
    event_id: &str,
) -> Result<bool, Error> {
    let row = db
        .fetch_optional(
            "select 1 as found from dead_letter
              where tenant_id = $1 and consumer = $2 and event_id = $3
                and set_aside_at is not null and wanted_at is null",
            args![tenant_id, consumer, event_id],
        )
        .await?;
    Ok(row.is_some())
}

/// The event was taken.
pub(crate) async fn forget(
    db: &Database,
    consumer: &'static str,
    (tenant_id, event_id): (String, String),
) -> Result<(), Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            tx.execute(
                "delete from dead_letter where tenant_id = $1 and consumer = $2 and event_id = $3",
                args![tenant_id, consumer, event_id],
            )
            .await?;
            Ok(())
        })
    })
    .await
}

/// Takes the wish that an event be tried anew. False where another copy was first.
pub(crate) async fn wish_take(
    db: &Database,
    consumer: &'static str,
    (tenant_id, event_id): (String, String),
) -> Result<bool, Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            let taken = tx
                .execute(
                    "update dead_letter set wanted_at = null
                      where tenant_id = $1 and consumer = $2 and event_id = $3 and wanted_at is not null",
                    args![tenant_id, consumer, event_id],
                )
                .await?;
            Ok(taken == 1)
        })
    })
    .await
}

/// Wishes that an event that is set aside be tried anew.
pub(crate) async fn wish(
    db: &Database,
    consumer: &'static str,
    (tenant_id, event_id): (String, String),
    now: Timestamp,
) -> Result<(), Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            tx.execute(
                "update dead_letter set wanted_at = $4
                  where tenant_id = $1 and consumer = $2 and event_id = $3 and set_aside_at is not null",
                args![tenant_id, consumer, event_id, now],
            )
            .await?;
            Ok(())
        })
    })
    .await
}

/// The events that operators want tried anew, the longest waiting first.
pub(crate) async fn wanted(db: &Database, consumer: &str) -> Result<Vec<Vec<u8>>, Error> {
    let rows = db
        .fetch_all(
            "select event from dead_letter where wanted_at is not null and consumer = $1
              order by wanted_at limit $2",
            args![consumer, WANTED_AT_ONCE],
        )
        .await?;
    rows.iter().map(|row| row.get("event")).collect()
}

/// Where a page of a list begins: behind this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterPosition {
    /// When it was set aside.
    pub set_aside_at: Timestamp,
    /// Its tenant.
    pub tenant_id: String,
    /// Its event.
    pub event_id: String,
}

/// Events of all tenants that were set aside, the oldest first, behind the given one.
pub async fn dead_letters(
    db: &Database,
    after: Option<&DeadLetterPosition>,
    limit: u32,
) -> Result<Vec<DeadLetter>, Error> {
    let (at, tenant_id, event_id) = after.map_or((Timestamp::from_micros(i64::MIN), "", ""), |after| {
        (after.set_aside_at, after.tenant_id.as_str(), after.event_id.as_str())
    });
    let rows = db
        .across_tenants()
        .fetch_all(
            "select tenant_id, consumer, event_id, instance_id, event, set_aside_at, tries, last_error
               from dead_letter
              where set_aside_at is not null and (set_aside_at, tenant_id, event_id) > ($2, $3, $4)
              order by set_aside_at, tenant_id, event_id limit $1",
            args![limit, at, tenant_id, event_id],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let event = Event::decode(row.get::<Vec<u8>>("event")?.as_slice()).unwrap_or_default();
            Ok(DeadLetter {
                tenant_id: row.get("tenant_id")?,
                consumer: row.get("consumer")?,
                event_id: row.get("event_id")?,
                instance_id: row.get("instance_id")?,
                topic: seen::topic(&event),
                set_aside_at: row.get("set_aside_at")?,
                tries: row.get("tries")?,
                last_error: row.get("last_error")?,
            })
        })
        .collect()
}

/// Has the receiver try an event anew that was set aside: one, or all of all tenants without an id. Returns how many.
pub async fn replay(db: &Database, event_id: Option<&str>, now: Timestamp) -> Result<u64, Error> {
    let event_id = event_id.map(str::to_owned);
    db.across_tenants()
        .transaction(move |tx| {
            Box::pin(async move {
                tx.execute(
                    "update dead_letter set wanted_at = $2
                  where set_aside_at is not null and ($1 is null or event_id = $1)",
                    args![event_id, now],
                )
                .await
            })
        })
        .await
}
