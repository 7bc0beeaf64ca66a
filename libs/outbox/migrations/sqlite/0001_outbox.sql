-- What this service tells the others, written in the transaction of the change.
create table outbox (
    tenant_id text not null,
    event_id text not null,
    instance_id text not null,
    -- Order within an instance. Never a cursor.
    position integer not null,
    payload blob not null,
    created_at integer not null,
    -- Null until every receiver has taken it.
    sent_at integer,
    -- Not before this; grows with every failed try.
    due_at integer not null,
    -- A relay works on it until then; another one may take it over afterwards.
    claimed_until integer not null default 0,
    -- Failed tries of every kind, for the time between them.
    failures integer not null default 0,
    -- Tries that failed because of the event itself.
    poisonings integer not null default 0,
    last_error text,
    -- Set aside: it holds nobody up and waits for an operator.
    dead_at integer,
    constraint outbox_pk primary key (tenant_id, event_id),
    constraint outbox_dead_is_not_sent check (dead_at is null or sent_at is null)
) strict;

-- The next position is one more than the greatest.
create index outbox_position on outbox (position);
-- What waits, first the oldest; small however long the table is.
create index outbox_waiting on outbox (position) where sent_at is null and dead_at is null;
-- Whether an event is the first one that waits in its instance.
create index outbox_lane on outbox (tenant_id, instance_id, position) where sent_at is null and dead_at is null;
-- What may be deleted.
create index outbox_sent on outbox (sent_at) where sent_at is not null;

-- What this service has taken from the others, written in the transaction of the effect.
create table inbox (
    tenant_id text not null,
    consumer text not null,
    event_id text not null,
    received_at integer not null,
    constraint inbox_pk primary key (tenant_id, consumer, event_id)
) strict, without rowid;

create index inbox_received on inbox (received_at);
