-- Definitions that instances are pinned to, byte for byte, so that an instance never depends on another service to go on.
create table definition (
    tenant_id text not null,
    digest text not null,
    document blob not null,
    constraint definition_pk primary key (tenant_id, digest)
) strict;

-- One run. A cache of its history, written in the same transaction, with the columns that lists need.
create table instance (
    tenant_id text not null,
    instance_id text not null,
    process_id text not null,
    process_version text not null,
    definition_digest text not null,
    status text not null,
    -- Sequence of the last entry of the history; whoever writes says which one it has seen.
    version integer not null,
    -- Hash of that entry.
    head_hash blob not null,
    -- The state, as JSON.
    state blob not null,
    started_at integer not null,
    ended_at integer,
    updated_at integer not null,
    constraint instance_pk primary key (tenant_id, instance_id),
    constraint instance_status check (status in ('running', 'paused', 'completed', 'cancelled', 'failed')),
    constraint instance_ended_when_terminal
        check ((status in ('completed', 'cancelled', 'failed')) = (ended_at is not null)),
    constraint instance_hash_length check (length(head_hash) = 32)
) strict;

-- The lists: all, of one definition, in one state; newest first.
create index instance_newest on instance (tenant_id, started_at desc, instance_id desc);
create index instance_of_process on instance (tenant_id, process_id, started_at desc, instance_id desc);
create index instance_in_status on instance (tenant_id, status, started_at desc, instance_id desc);

-- What happened, for ever: history, audit log and feed in one. Losing the race for a sequence is how two writers find
-- out about each other.
create table history (
    tenant_id text not null,
    instance_id text not null,
    -- From 1, without gaps.
    sequence integer not null,
    event_id text not null,
    -- noun.past_tense.
    kind text not null,
    audit_type text not null,
    -- By the clock of the service that it happened in, so it does not follow the sequence.
    occurred_at integer not null,
    -- The bytes that are hashed. They name nobody: personal data stands in its own table.
    body blob not null,
    previous_hash blob not null,
    -- sha256(previous_hash || body).
    hash blob not null,
    constraint history_pk primary key (tenant_id, instance_id, sequence),
    constraint history_event unique (tenant_id, instance_id, event_id),
    constraint history_sequence_positive check (sequence > 0),
    constraint history_hash_length check (length(hash) = 32 and length(previous_hash) = 32)
) strict;

-- The audit log by kind.
create index history_by_audit_type on history (tenant_id, instance_id, audit_type, sequence);

-- Names, addresses and words of people. The entry carries sha256(salt || body), so that erasing a row here leaves the
-- chain whole, and changing one shows.
create table personal (
    tenant_id text not null,
    instance_id text not null,
    sequence integer not null,
    salt blob not null,
    body blob not null,
    constraint personal_pk primary key (tenant_id, instance_id, sequence)
) strict;

-- Work that may be handed out.
create table work (
    tenant_id text not null,
    instance_id text not null,
    task_id text not null,
    queue text not null,
    -- 0 low, 1 normal, 2 high, 3 urgent.
    priority integer not null,
    -- Not before this: the time of the next attempt.
    ready_at integer not null,
    -- Fencing token before the next lease.
    fencing integer not null,
    -- Tools that the work needs, as a JSON list.
    tools text not null,
    constraint work_pk primary key (tenant_id, instance_id, task_id),
    constraint work_priority check (priority between 0 and 3)
) strict;

-- A claim reads the beginning of this, however much waits.
create index work_claim on work (tenant_id, queue, priority desc, ready_at, instance_id, task_id);

-- One row for each task that was ever leased. Heartbeats touch only this.
create table lease (
    tenant_id text not null,
    instance_id text not null,
    task_id text not null,
    fencing integer not null,
    worker text not null,
    -- Length that a heartbeat extends it by, in microseconds.
    duration integer not null,
    -- Null when it has ended.
    ends_at integer,
    progress integer not null default 0,
    message text not null default '',
    -- What the worker wants the next attempt to know, as JSON.
    checkpoint blob,
    -- No new lease of the task before this: somebody was promised so, to write an artifact.
    hold_until integer not null default 0,
    -- Writes that the promise was given for and that were not heard of yet: their ids, a comma after each.
    holds text not null default '',
    constraint lease_pk primary key (tenant_id, instance_id, task_id),
    constraint lease_progress check (progress between 0 and 100)
) strict;

-- What has run out.
create index lease_due on lease (ends_at) where ends_at is not null;

-- When somebody asked for work of a queue last. Written at most every few seconds.
create table queue_poll (
    tenant_id text not null,
    queue text not null,
    polled_at integer not null,
    constraint queue_poll_pk primary key (tenant_id, queue)
) strict;
