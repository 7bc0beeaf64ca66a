//! Writing events with the change that they tell of.

use phasegate_clock::Timestamp;
use phasegate_database::{Dialect, Error, Transaction};
use phasegate_id::EventId;
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::internal::event::v1::{Event, event::Payload};

use crate::outgoing::Outgoing;

/// Makes an event with a new id.
pub fn event(
    tenant: impl AsRef<str>,
    instance_id: impl AsRef<str>,
    actor: Actor,
    now: Timestamp,
    payload: Payload,
) -> Event {
    Event {
        event_id: EventId::generate().into_string(),
        tenant_id: tenant.as_ref().to_owned(),
        instance_id: instance_id.as_ref().to_owned(),
        occurred_at: Some(now.to_proto()),
        actor: Some(actor),
        trace_parent: phasegate_telemetry::trace_parent().unwrap_or_default(),
        payload: Some(payload),
    }
}

/// Writes an event. It is sent after the transaction has been committed, or never.
pub async fn append(tx: &mut Transaction, event: &Event) -> Result<(), Error> {
    append_all(tx, std::slice::from_ref(event)).await
}

/// Writes several events, which are sent in this order once the transaction is committed.
pub async fn append_all(tx: &mut Transaction, events: &[Event]) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    match tx.dialect() {
        Dialect::Postgres => append_postgres(tx, events).await,
        Dialect::Sqlite => append_sqlite(tx, events).await,
    }
}

/// One statement however many events there are.
async fn append_postgres(tx: &mut Transaction, events: &[Event]) -> Result<(), Error> {
    let outgoing = Outgoing::within(tx, events);
    tx.execute(
        "insert into outbox (tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at, due_at)
         select tenant_id, event_id, instance_id, payload, receivers_left, created_at, nullif(sent_at, -1), due_at
           from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[],
                       $8::bigint[])
                with ordinality
                as added (tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at, due_at,
                          place)
          order by place",
        Outgoing::columns(outgoing.iter()).into(),
    )
    .await?;
    Ok(())
}

async fn append_sqlite(tx: &mut Transaction, events: &[Event]) -> Result<(), Error> {
    let outgoing = Outgoing::within(tx, events);
    tx.execute_each(Outgoing::SQLITE, outgoing.iter().map(Outgoing::row).collect()).await
}

/// When an event happened. Events are made by [`event`], which sets the time.
pub(crate) fn occurred_at(event: &Event) -> Timestamp {
    event.occurred_at.as_ref().and_then(Timestamp::from_proto).unwrap_or_default()
}
