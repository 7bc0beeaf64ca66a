-- What this service tells the others, written in the transaction of the change.
create table outbox (
    tenant_id text not null,
    event_id text not null,
    instance_id text not null,
    -- Order within an instance. Never a cursor.
    position integer not null,
    payload blob not null,
    created_at integer not null,
    -- Null until the bus has it.
    sent_at integer,
    -- Receivers that have not confirmed it, as a number (`Receiver::bit`).
    receivers_left integer not null,
    -- Sent not before this, and sent again not before this; grows with every try.
    due_at integer not null,
    -- A relay works on it until then; another one may take it over afterwards.
    claimed_until integer not null default 0,
    -- Failed tries, and after it was sent those that were not confirmed in time.
    failures integer not null default 0,
    last_error text,
    constraint outbox_pk primary key (tenant_id, event_id)
) strict;

-- The next position is one more than the greatest.
create index outbox_position on outbox (position);
-- What waits, first the oldest; small however long the table is.
create index outbox_waiting on outbox (position) where sent_at is null;
-- Whether an event is the first one that waits in its instance.
create index outbox_lane on outbox (tenant_id, instance_id, position) where sent_at is null;
-- What was sent and not confirmed by all.
create index outbox_unconfirmed on outbox (due_at) where sent_at is not null and receivers_left <> 0;
-- What may be deleted.
create index outbox_sent on outbox (sent_at) where sent_at is not null and receivers_left = 0;

-- What this service has taken from the others, written in the transaction of the effect.
create table inbox (
    tenant_id text not null,
    consumer text not null,
    event_id text not null,
    received_at integer not null,
    constraint inbox_pk primary key (tenant_id, consumer, event_id)
) strict, without rowid;

create index inbox_received on inbox (received_at);

-- Events that this service could not take: counted, and set aside after a bounded number of tries.
create table dead_letter (
    tenant_id text not null,
    consumer text not null,
    event_id text not null,
    instance_id text not null,
    event blob not null,
    tries integer not null,
    last_error text not null,
    first_failed_at integer not null,
    -- Null while it is still tried, and again once an operator wants it tried anew.
    set_aside_at integer,
    -- Since when an operator wants it tried anew.
    wanted_at integer,
    constraint dead_letter_pk primary key (tenant_id, consumer, event_id)
) strict;

create index dead_letter_set_aside on dead_letter (set_aside_at) where set_aside_at is not null;
create index dead_letter_wanted on dead_letter (wanted_at) where wanted_at is not null;
