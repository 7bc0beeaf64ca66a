//! The statements of the relay.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Dialect, Error, Row, args};

/// Instances that are claimed at once.
const LANES_CLAIMED: i64 = 32;
/// Events of one instance that are sent before another one gets its turn.
const LANE_LENGTH: i64 = 64;
/// Rows that one statement deletes, so that no transaction is long.
const DELETED_AT_ONCE: i64 = 1_000;
/// A relay that has not renewed its claim by then has died.
const CLAIM: Duration = Duration::from_secs(8);
/// How often a claim is renewed.
pub(crate) const RENEWAL: Duration = Duration::from_secs(2);

/// The events of one instance: they are sent in order, by one relay at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) tenant_id: String,
    pub(crate) instance_id: String,
}

/// An event that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) event_id: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) failures: u32,
    pub(crate) poisonings: u32,
}

/// How a try failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: String,
    pub(crate) is_poison: bool,
    pub(crate) due_at: Timestamp,
    pub(crate) is_dead: bool,
}

/// An event that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadEvent {
    /// Tenant.
    pub tenant_id: String,
    /// The event.
    pub event_id: String,
    /// Instance that it belongs to.
    pub instance_id: String,
    /// When it was set aside.
    pub dead_at: Timestamp,
    /// What happened at the last try.
    pub last_error: String,
}

/// Claims the instances whose first waiting event is due.
///
/// Only the first event of an instance can be claimed, and whoever claimed it owns those behind it, too: so two relays
/// never send events of one instance at the same time, and a failed one keeps those behind it waiting. On SQLite one
/// process owns the file, and its relay knows what it is working on; no claim is written.
pub(crate) async fn lanes_claim(db: &Database, now: Timestamp) -> Result<Vec<Lane>, Error> {
    let rows = match db.dialect() {
        Dialect::Postgres => {
            db.transaction(move |tx| {
                Box::pin(async move {
                    tx.fetch_all(
                        "update outbox set claimed_until = $2
                          where (tenant_id, event_id) in (
                                select tenant_id, event_id from outbox as head
                                 where sent_at is null and dead_at is null and due_at <= $1 and claimed_until <= $1
                                   and not exists (
                                       select 1 from outbox as before
                                        where before.tenant_id = head.tenant_id
                                          and before.instance_id = head.instance_id
                                          and before.position < head.position
                                          and before.sent_at is null and before.dead_at is null)
                                 order by position limit $3
                                   for update skip locked)
                         returning tenant_id, instance_id",
                        args![now, now + CLAIM, LANES_CLAIMED],
                    )
                    .await
                })
            })
            .await
        }
        Dialect::Sqlite => {
            db.fetch_all(
                "select tenant_id, instance_id from outbox as head
                  where sent_at is null and dead_at is null and due_at <= $1
                    and not exists (
                        select 1 from outbox as before
                         where before.tenant_id = head.tenant_id and before.instance_id = head.instance_id
                           and before.position < head.position
                           and before.sent_at is null and before.dead_at is null)
                  order by position limit $2",
                args![now, LANES_CLAIMED * 4],
            )
            .await
        }
    }?;
    rows.iter().map(lane).collect()
}

fn lane(row: &Row) -> Result<Lane, Error> {
    Ok(Lane { tenant_id: row.get("tenant_id")?, instance_id: row.get("instance_id")? })
}

/// Renews the claim of a lane that is being worked on.
pub(crate) async fn lane_keep(db: &Database, lane: &Lane, now: Timestamp) -> Result<(), Error> {
    if db.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    let lane = lane.clone();
    db.transaction(move |tx| {
        Box::pin(async move {
            // What was given back has no claim, and gets none by this.
            tx.execute(
                "update outbox set claimed_until = $3
                  where tenant_id = $1 and instance_id = $2 and claimed_until > 0
                    and sent_at is null and dead_at is null",
                args![&lane.tenant_id, &lane.instance_id, now + CLAIM],
            )
            .await?;
            Ok(())
        })
    })
    .await
}

/// What waits in a lane, in order.
pub(crate) async fn lane_load(db: &Database, lane: &Lane) -> Result<Vec<Waiting>, Error> {
    let rows = db
        .fetch_all(
            "select event_id, payload, failures, poisonings from outbox
              where tenant_id = $1 and instance_id = $2 and sent_at is null and dead_at is null
              order by position limit $3",
            args![&lane.tenant_id, &lane.instance_id, LANE_LENGTH],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Waiting {
                event_id: row.get("event_id")?,
                payload: row.get("payload")?,
                failures: row.get("failures")?,
                poisonings: row.get("poisonings")?,
            })
        })
        .collect()
}

/// Marks what was sent and what failed, in one transaction. What is behind in the lane can be claimed afterwards.
pub(crate) async fn lane_settle(
    db: &Database,
    lane: Lane,
    sent: Vec<String>,
    failed: Option<(String, Failure)>,
    now: Timestamp,
) -> Result<(), Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            match tx.dialect() {
                Dialect::Postgres if !sent.is_empty() => {
                    tx.execute(
                        "update outbox set sent_at = $3 where tenant_id = $1 and event_id = any($2)",
                        args![&lane.tenant_id, sent, now],
                    )
                    .await?;
                }
                Dialect::Postgres => {}
                Dialect::Sqlite => {
                    for event_id in sent {
                        tx.execute(
                            "update outbox set sent_at = $3 where tenant_id = $1 and event_id = $2",
                            args![&lane.tenant_id, event_id, now],
                        )
                        .await?;
                    }
                }
            }
            if let Some((event_id, failure)) = failed {
                tx.execute(
                    "update outbox
                        set failures = failures + 1, poisonings = poisonings + $3, last_error = $4, due_at = $5,
                            dead_at = $6, claimed_until = 0
                      where tenant_id = $1 and event_id = $2 and sent_at is null",
                    args![
                        &lane.tenant_id,
                        event_id,
                        i64::from(failure.is_poison),
                        failure.error,
                        failure.due_at,
                        failure.is_dead.then_some(now)
                    ],
                )
                .await?;
            }
            Ok(())
        })
    })
    .await
}

/// Deletes what was sent, and what was received, before the given times. Returns false when nothing was left to do.
pub(crate) async fn sweep(db: &Database, sent: Timestamp, received: Timestamp) -> Result<bool, Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            let outbox = tx
                .execute(
                    "delete from outbox where (tenant_id, event_id) in (
                            select tenant_id, event_id from outbox where sent_at < $1 limit $2)",
                    args![sent, DELETED_AT_ONCE],
                )
                .await?;
            let inbox = tx
                .execute(
                    "delete from inbox where (tenant_id, consumer, event_id) in (
                            select tenant_id, consumer, event_id from inbox where received_at < $1 limit $2)",
                    args![received, DELETED_AT_ONCE],
                )
                .await?;
            Ok(outbox + inbox > 0)
        })
    })
    .await
}

/// Events that were set aside, the oldest first.
pub async fn dead(db: &Database, limit: u32) -> Result<Vec<DeadEvent>, Error> {
    let rows = db
        .fetch_all(
            "select tenant_id, event_id, instance_id, dead_at, last_error from outbox
              where dead_at is not null order by dead_at, event_id limit $1",
            args![limit],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(DeadEvent {
                tenant_id: row.get("tenant_id")?,
                event_id: row.get("event_id")?,
                instance_id: row.get("instance_id")?,
                dead_at: row.get("dead_at")?,
                last_error: row.get::<Option<String>>("last_error")?.unwrap_or_default(),
            })
        })
        .collect()
}

/// Lets an event that was set aside be sent again. False when there is no such event.
pub async fn revive(db: &Database, tenant_id: &str, event_id: &str) -> Result<bool, Error> {
    let (tenant_id, event_id) = (tenant_id.to_owned(), event_id.to_owned());
    let revived = db
        .transaction(move |tx| {
            Box::pin(async move {
                tx.execute(
                    "update outbox set dead_at = null, failures = 0, poisonings = 0, due_at = 0, claimed_until = 0
                      where tenant_id = $1 and event_id = $2 and dead_at is not null",
                    args![tenant_id, event_id],
                )
                .await
            })
        })
        .await;
    revived.map(|rows| rows == 1)
}
