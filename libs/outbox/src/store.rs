//! The statements of the relay.

use std::time::Duration;

use phasegate_bus::Receiver;
use phasegate_clock::Timestamp;
use phasegate_database::{Database, Dialect, Error, Row, Transaction, Value, args, json_rows};
use phasegate_planted::{self as planted, Bug};
use phasegate_proto::internal::event::v1::Event;

/// Instances that are claimed at once.
const LANES_CLAIMED: i64 = 128;
/// Events of one instance that are sent before another one gets its turn.
pub(crate) const LANE_LENGTH: usize = 64;
/// Instances that are looked for at once.
pub(crate) const LANES_FOUND: usize = 4_096;
/// Rows that one statement deletes, so that no transaction is long.
const DELETED_AT_ONCE: i64 = 1_000;
/// A relay that has not renewed its claim by then has died.
const CLAIM: Duration = Duration::from_secs(8);
/// What was sent is sent again when it has not been confirmed by then; in microseconds.
pub(crate) const CONFIRMED_WITHIN: i64 = 5_000_000;
/// Longest wait for a confirmation: a receiver that is away for long must not have everything sent to it all the time.
const CONFIRMED_WITHIN_MAX: Duration = Duration::from_secs(10);
/// Events that are sent again at once.
pub(crate) const RESENT_AT_ONCE: usize = 500;
/// How often a claim is renewed.
pub(crate) const RENEWAL: Duration = Duration::from_secs(2);

/// Notes that an event was not sent, and gives it back.
const FAILED: &str =
    "update outbox set failures = failures + 1, last_error = $3, due_at = $4, claimed_until = 0
                       where tenant_id = $1 and event_id = $2 and sent_at is null";

/// Takes a receiver off events, and deletes those that are left with none. In one order, so that two such statements never
/// wait for each other in a circle.
const CONFIRM: &str = "
    with named as materialized (
        select outbox.tenant_id, outbox.event_id, outbox.receivers_left & $3 as receivers_left
          from unnest($1::text[], $2::text[]) as named (tenant_id, event_id)
          join outbox on outbox.tenant_id = named.tenant_id and outbox.event_id = named.event_id
         order by outbox.tenant_id, outbox.event_id
           for update of outbox
    ), gone as (
        delete from outbox using named
         where outbox.tenant_id = named.tenant_id and outbox.event_id = named.event_id and named.receivers_left = 0
    )
    update outbox set receivers_left = named.receivers_left from named
     where outbox.tenant_id = named.tenant_id and outbox.event_id = named.event_id and named.receivers_left <> 0";

/// The same without deleting, for who looks for the last one that was sent.
const CONFIRM_AND_KEEP: &str = "
    update outbox set receivers_left = receivers_left & $3
     where (tenant_id, event_id) in (
           select tenant_id, event_id from outbox
            where (tenant_id, event_id) in (select * from unnest($1::text[], $2::text[]))
            order by tenant_id, event_id
              for update)";

/// The events of one instance: they are sent in order, by one relay at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) tenant_id: String,
    pub(crate) instance_id: String,
}

impl Lane {
    pub(crate) fn of(event: &Event) -> Self {
        Self { tenant_id: event.tenant_id.clone(), instance_id: event.instance_id.clone() }
    }
}

/// An event that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) event_id: String,
    pub(crate) payload: Vec<u8>,
    /// Receivers that have not confirmed it.
    pub(crate) receivers_left: i64,
    pub(crate) failures: u32,
}

/// An event that was sent and not confirmed in time.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    /// Its tenant and its id.
    pub(crate) name: (String, String),
    pub(crate) waiting: Waiting,
}

/// How a try failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: String,
    pub(crate) due_at: Timestamp,
}

/// What became of the events of a lane.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Taken by all their receivers.
    pub(crate) taken: Vec<String>,
    /// The one that failed, behind those.
    pub(crate) failed: Option<(String, Failure)>,
}

/// Claims the instances whose first waiting event is due. On PostgreSQL, where a relay is not alone.
///
/// Only the first event of an instance can be claimed, and whoever claimed it owns those behind it, too: so two relays
/// never send events of one instance at the same time, and a failed one keeps those behind it waiting.
pub(crate) async fn lanes_claim(db: &Database, now: Timestamp) -> Result<Vec<Lane>, Error> {
    let rows = if planted::is(Bug::OutboxByPosition) {
        // The mistake: what is committed late, or could not be sent at once, is behind the last one that was sent.
        let sql = "update outbox set claimed_until = $2
                    where claimed_until <= $1 and sent_at is null
                      and position > (select coalesce(max(position), 0) from outbox where sent_at is not null)
                   returning tenant_id, instance_id";
        db.write(sql, args![now, now + CLAIM]).await?
    } else {
        let sql = "update outbox set claimed_until = $2
                    where (tenant_id, event_id) in (
                          select tenant_id, event_id from outbox as head
                           where sent_at is null and due_at <= $1 and claimed_until <= $1
                             and not exists (
                                 select 1 from outbox as before
                                  where before.tenant_id = head.tenant_id
                                    and before.instance_id = head.instance_id
                                    and before.position < head.position
                                    and before.sent_at is null)
                           order by position limit $3
                             for update skip locked)
                   returning tenant_id, instance_id";
        db.write(sql, args![now, now + CLAIM, LANES_CLAIMED]).await?
    };
    rows.iter().map(lane).collect()
}

/// Instances of which something waits, but for those that are `busy`; at most [`LANES_FOUND`]. On SQLite.
pub(crate) async fn lanes_waiting(db: &Database, busy: &[Lane]) -> Result<Vec<Lane>, Error> {
    let sql = "select distinct tenant_id, instance_id from outbox
                where sent_at is null
                  and (tenant_id, instance_id) not in (select value ->> 0, value ->> 1 from json_each($1))
                limit $2";
    let max = i64::try_from(LANES_FOUND).unwrap_or(i64::MAX);
    let rows = db.fetch_all(sql, vec![lane_rows(busy), max.into()]).await?;
    rows.iter().map(lane).collect()
}

/// Those of some instances whose first waiting event is due, or of which nothing waits. On SQLite.
pub(crate) async fn lanes_due(db: &Database, lanes: &[Lane], now: Timestamp) -> Result<Vec<Lane>, Error> {
    let sql = "select lane.value ->> 0 as tenant_id, lane.value ->> 1 as instance_id
                 from json_each($1) as lane
                where coalesce((select due_at from outbox
                                 where tenant_id = lane.value ->> 0 and instance_id = lane.value ->> 1
                                   and sent_at is null
                                 order by position limit 1), 0) <= $2";
    let rows = db.fetch_all(sql, vec![lane_rows(lanes), now.into()]).await?;
    rows.iter().map(lane).collect()
}

fn lane_rows(lanes: &[Lane]) -> Value {
    json_rows(lanes.iter().map(|lane| (&lane.tenant_id, &lane.instance_id)))
}

/// Deletes what all have taken, each named by its tenant and its id. On SQLite.
pub(crate) async fn delete_all(db: &Database, events: Vec<(String, String)>) -> Result<(), Error> {
    let sql = "delete from outbox
                where (tenant_id, event_id) in (select value ->> 0, value ->> 1 from json_each($1))";
    db.transaction(move |tx| {
        Box::pin(async move {
            tx.linger();
            tx.execute(sql, vec![json_rows(events)]).await.map(drop)
        })
    })
    .await
}

fn lane(row: &Row) -> Result<Lane, Error> {
    Ok(Lane { tenant_id: row.get("tenant_id")?, instance_id: row.get("instance_id")? })
}

/// Renews the claim of a lane that is being worked on.
pub(crate) async fn lane_keep(db: &Database, lane: &Lane, now: Timestamp) -> Result<(), Error> {
    let lane = lane.clone();
    db.transaction(move |tx| {
        Box::pin(async move {
            // What was given back has no claim, and gets none by this.
            tx.execute(
                "update outbox set claimed_until = $3
                  where tenant_id = $1 and instance_id = $2 and claimed_until > 0
                    and sent_at is null",
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
            "select event_id, payload, receivers_left, failures from outbox
              where tenant_id = $1 and instance_id = $2 and sent_at is null
              order by position limit $3",
            args![&lane.tenant_id, &lane.instance_id, lane_length()],
        )
        .await?;
    rows.iter().map(waiting).collect()
}

fn lane_length() -> i64 {
    i64::try_from(LANE_LENGTH).unwrap_or(i64::MAX)
}

fn waiting(row: &Row) -> Result<Waiting, Error> {
    Ok(Waiting {
        event_id: row.get("event_id")?,
        payload: row.get("payload")?,
        receivers_left: row.get("receivers_left")?,
        failures: row.get("failures")?,
    })
}

/// Deletes what was taken and marks what failed, in one transaction. What is behind in the lane can be claimed afterwards.
pub(crate) async fn lane_settle(db: &Database, lane: Lane, settled: Settled) -> Result<(), Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            delete_taken(tx, &lane, settled.taken).await?;
            if let Some((event_id, failure)) = settled.failed {
                tx.execute(FAILED, args![&lane.tenant_id, event_id, failure.error, failure.due_at]).await?;
            }
            Ok(())
        })
    })
    .await
}

/// Deletes what all have taken.
async fn delete_taken(tx: &mut Transaction, lane: &Lane, events: Vec<String>) -> Result<(), Error> {
    let (sql, events) = match tx.dialect() {
        Dialect::Postgres => {
            ("delete from outbox where tenant_id = $1 and event_id = any($2)", Value::from(events))
        }
        Dialect::Sqlite => (
            "delete from outbox where tenant_id = $1 and event_id in (select value from json_each($2))",
            json_rows(events),
        ),
    };
    tx.execute(sql, args![&lane.tenant_id, events]).await.map(drop)
}

/// What waits in several lanes, those of each in order. Only where the bus is another process, and so the database.
pub(crate) async fn lanes_load(db: &Database, lanes: &[Lane]) -> Result<Vec<(Lane, Waiting)>, Error> {
    let (tenants, instances): (Vec<String>, Vec<String>) =
        lanes.iter().map(|lane| (lane.tenant_id.clone(), lane.instance_id.clone())).unzip();
    let rows = db
        .fetch_all(
            "select lane.tenant_id, lane.instance_id, event.event_id, event.payload, event.receivers_left,
                    event.failures
               from unnest($1::text[], $2::text[]) as lane (tenant_id, instance_id)
              cross join lateral (
                    select event_id, payload, receivers_left, failures, position from outbox
                     where tenant_id = lane.tenant_id and instance_id = lane.instance_id and sent_at is null
                     order by position limit $3) as event
              order by event.position",
            args![tenants, instances, lane_length()],
        )
        .await?;
    rows.iter().map(|row| Ok((lane(row)?, waiting(row)?))).collect()
}

/// Marks what was sent and is to be confirmed, and what failed, each named by its tenant and its id. What is behind in the
/// lanes can be claimed afterwards.
pub(crate) async fn lanes_settle(
    db: &Database,
    sent: Vec<(String, String)>,
    failed: Vec<(String, String, Failure)>,
    now: Timestamp,
) -> Result<(), Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            if !sent.is_empty() {
                let (tenants, ids): (Vec<String>, Vec<String>) = sent.into_iter().unzip();
                // In one order, as those who confirm them do.
                tx.execute(
                    "update outbox set sent_at = $3, due_at = $4, failures = 0
                      where (tenant_id, event_id) in (
                            select tenant_id, event_id from outbox
                             where (tenant_id, event_id) in (select * from unnest($1::text[], $2::text[]))
                             order by tenant_id, event_id
                               for update)",
                    args![tenants, ids, now, now.as_micros().saturating_add(CONFIRMED_WITHIN)],
                )
                .await?;
            }
            for (tenant_id, event_id, failure) in failed {
                tx.execute(FAILED, args![tenant_id, event_id, failure.error, failure.due_at]).await?;
            }
            Ok(())
        })
    })
    .await
}

/// Notes that events which were written as sent were not, each named by its tenant and its id: they are sent as any others.
pub(crate) async fn unsend(
    db: &Database,
    events: Vec<(String, String)>,
    failure: Failure,
) -> Result<(), Error> {
    let (tenants, ids): (Vec<String>, Vec<String>) = events.into_iter().unzip();
    let sql = "update outbox
                  set sent_at = null, failures = failures + 1, last_error = $3, due_at = $4, claimed_until = 0
                where (tenant_id, event_id) in (
                      select tenant_id, event_id from outbox
                       where (tenant_id, event_id) in (select * from unnest($1::text[], $2::text[]))
                         and sent_at is not null
                       order by tenant_id, event_id
                         for update)";
    db.write(sql, args![tenants, ids, failure.error, failure.due_at]).await.map(drop)
}

/// Claims what was sent and not confirmed in time, the longest overdue first, until it is due again: each time twice as
/// late, up to [`CONFIRMED_WITHIN_MAX`].
pub(crate) async fn unconfirmed_claim(db: &Database, now: Timestamp) -> Result<Vec<Unconfirmed>, Error> {
    let sql = db.dialect().pick(
        "update outbox
            set failures = failures + 1, due_at = $1 + least($2 << least(failures + 1, 10), $3)
          where (tenant_id, event_id) in (
                select tenant_id, event_id from outbox
                 where sent_at is not null and receivers_left <> 0 and due_at <= $1
                 order by due_at limit $4
                   for update skip locked)
         returning tenant_id, event_id, payload, receivers_left, failures",
        "update outbox
            set failures = failures + 1, due_at = $1 + min($2 << min(failures + 1, 10), $3)
          where (tenant_id, event_id) in (
                select tenant_id, event_id from outbox
                 where sent_at is not null and receivers_left <> 0 and due_at <= $1
                 order by due_at limit $4)
         returning tenant_id, event_id, payload, receivers_left, failures",
    );
    let rows = db
        .transaction(move |tx| {
            Box::pin(async move {
                let (first, longest) = (CONFIRMED_WITHIN, micros(CONFIRMED_WITHIN_MAX));
                let at_once = i64::try_from(RESENT_AT_ONCE).unwrap_or(i64::MAX);
                tx.fetch_all(sql, args![now, first, longest, at_once]).await
            })
        })
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Unconfirmed { name: (row.get("tenant_id")?, row.get("event_id")?), waiting: waiting(row)? })
        })
        .collect()
}

/// Gives back what was claimed and could not be sent, each named by its tenant and its id.
pub(crate) async fn unconfirmed_give_back(
    db: &Database,
    events: Vec<(String, String)>,
    due_at: Timestamp,
) -> Result<(), Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            match tx.dialect() {
                Dialect::Postgres => {
                    let (tenants, ids): (Vec<String>, Vec<String>) = events.into_iter().unzip();
                    tx.execute(
                        "update outbox set failures = greatest(failures - 1, 0), due_at = $3
                          where (tenant_id, event_id) in (
                                select tenant_id, event_id from outbox
                                 where (tenant_id, event_id) in (
                                       select * from unnest($1::text[], $2::text[]))
                                 order by tenant_id, event_id
                                   for update)",
                        args![tenants, ids, due_at],
                    )
                    .await?;
                }
                Dialect::Sqlite => {
                    for (tenant_id, event_id) in events {
                        tx.execute(
                            "update outbox set failures = max(failures - 1, 0), due_at = $3
                              where tenant_id = $1 and event_id = $2",
                            args![tenant_id, event_id, due_at],
                        )
                        .await?;
                    }
                }
            }
            Ok(())
        })
    })
    .await
}

/// Notes that a receiver has taken events, each named by its tenant and its id, and deletes those that all have taken.
/// Unknown ones are passed over.
pub async fn confirm(db: &Database, receiver: Receiver, events: Vec<(String, String)>) -> Result<(), Error> {
    let others = if planted::is(Bug::ConfirmedForAll) { 0 } else { !receiver.bit() };
    // A receiver tells of what it took from all tenants at once.
    let db = db.across_tenants();
    if db.dialect() == Dialect::Postgres {
        let (tenants, ids): (Vec<String>, Vec<String>) = events.into_iter().unzip();
        // In one order, so that two such statements never wait for each other in a circle.
        let sql = if planted::is(Bug::OutboxByPosition) { CONFIRM_AND_KEEP } else { CONFIRM };
        return db.write(sql, args![tenants, ids, others]).await.map(drop);
    }
    db.transaction(move |tx| {
        Box::pin(async move {
            for (tenant_id, event_id) in events {
                tx.execute(
                    "update outbox set receivers_left = receivers_left & $3
                      where tenant_id = $1 and event_id = $2",
                    args![&tenant_id, &event_id, others],
                )
                .await?;
                tx.execute(
                    "delete from outbox where tenant_id = $1 and event_id = $2 and receivers_left = 0",
                    args![tenant_id, event_id],
                )
                .await?;
            }
            Ok(())
        })
    })
    .await
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

/// Deletes what was sent, what was received, and what failed and was not set aside, before the given times. What another
/// copy is deleting is left to it. Returns false when nothing was left to do.
pub(crate) async fn sweep(
    db: &Database,
    sent: Timestamp,
    received: Timestamp,
    failed: Timestamp,
) -> Result<bool, Error> {
    let skip = db.dialect().pick(" for update skip locked", "");
    let old = [
        (
            sent,
            format!(
                "delete from outbox where (tenant_id, event_id) in (
                        select tenant_id, event_id from outbox
                         where sent_at < $1 and receivers_left = 0 limit $2{skip})"
            ),
        ),
        (
            received,
            format!(
                "delete from inbox where (tenant_id, consumer, event_id) in (
                        select tenant_id, consumer, event_id from inbox where received_at < $1 limit $2{skip})"
            ),
        ),
        (
            failed,
            format!(
                "delete from dead_letter where (tenant_id, consumer, event_id) in (
                        select tenant_id, consumer, event_id from dead_letter
                         where set_aside_at is null and first_failed_at < $1 limit $2{skip})"
            ),
        ),
    ];
    db.transaction(move |tx| {
        Box::pin(async move {
            let mut deleted = 0;
            for (before, sql) in old {
                deleted += tx.execute(sql, args![before, DELETED_AT_ONCE]).await?;
            }
            Ok(deleted > 0)
        })
    })
    .await
}
