-- Definitions that instances are pinned to, byte for byte, so that an instance never depends on another service to go on.
create table definition (
    tenant_id text not null,
    digest text not null,
    document bytea not null,
    constraint definition_pk primary key (tenant_id, digest)
);

-- One run. A cache of its history, written in the same transaction, with the columns that lists need.
create table instance (
    tenant_id text not null,
    instance_id text not null,
    process_id text not null,
    process_version text not null,
    definition_digest text not null,
    status text not null,
    -- Sequence of the last entry of the history; whoever writes says which one it has seen.
    version bigint not null,
    -- Hash of that entry.
    head_hash bytea not null,
    -- The state, as JSON.
    state bytea not null,
    started_at bigint not null,
    ended_at bigint,
    updated_at bigint not null,
    constraint instance_pk primary key (tenant_id, instance_id),
    constraint instance_status check (status in ('running', 'paused', 'completed', 'cancelled', 'failed')),
    constraint instance_ended_when_terminal
        check ((status in ('completed', 'cancelled', 'failed')) = (ended_at is not null)),
    constraint instance_hash_length check (length(head_hash) = 32)
);

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
    sequence bigint not null,
    event_id text not null,
    -- noun.past_tense.
    kind text not null,
    audit_type text not null,
    -- By the clock of the service that it happened in, so it does not follow the sequence.
    occurred_at bigint not null,
    -- The bytes that are hashed. They name nobody: personal data stands in its own table.
    body bytea not null,
    previous_hash bytea not null,
    -- sha256(previous_hash || body).
    hash bytea not null,
    constraint history_pk primary key (tenant_id, instance_id, sequence),
    constraint history_event unique (tenant_id, instance_id, event_id),
    constraint history_sequence_positive check (sequence > 0),
    constraint history_hash_length check (length(hash) = 32 and length(previous_hash) = 32)
);

-- The audit log by kind.
create index history_by_audit_type on history (tenant_id, instance_id, audit_type, sequence);

-- Names, addresses and words of people. The entry carries sha256(salt || body), so that erasing a row here leaves the
-- chain whole, and changing one shows.
create table personal (
    tenant_id text not null,
    instance_id text not null,
    sequence bigint not null,
    salt bytea not null,
    body bytea not null,
    constraint personal_pk primary key (tenant_id, instance_id, sequence)
);

-- Work that may be handed out.
create table work (
    tenant_id text not null,
    instance_id text not null,
    task_id text not null,
    queue text not null,
    -- 0 low, 1 normal, 2 high, 3 urgent.
    priority integer not null,
    -- Not before this: the time of the next attempt.
    ready_at bigint not null,
    -- Fencing token before the next lease.
    fencing bigint not null,
    -- Tools that the work needs, as a JSON list.
    tools text not null,
    constraint work_pk primary key (tenant_id, instance_id, task_id),
    constraint work_priority check (priority between 0 and 3)
);

-- A claim reads the beginning of this, however much waits.
create index work_claim on work (tenant_id, queue, priority desc, ready_at, instance_id, task_id);

-- One row for each task that was ever leased. Heartbeats touch only this.
create table lease (
    tenant_id text not null,
    instance_id text not null,
    task_id text not null,
    fencing bigint not null,
    worker text not null,
    -- Length that a heartbeat extends it by, in microseconds.
    duration bigint not null,
    -- Null when it has ended.
    ends_at bigint,
    progress integer not null default 0,
    message text not null default '',
    -- What the worker wants the next attempt to know, as JSON.
    checkpoint bytea,
    -- No new lease of the task before this: somebody was promised so, to write an artifact.
    hold_until bigint not null default 0,
    -- Writes that the promise was given for and that were not heard of yet: their ids, a comma after each.
    holds text not null default '',
    constraint lease_pk primary key (tenant_id, instance_id, task_id),
    constraint lease_progress check (progress between 0 and 100)
);

-- What has run out.
create index lease_due on lease (ends_at) where ends_at is not null;

-- When somebody asked for work of a queue last. Written at most every few seconds.
create table queue_poll (
    tenant_id text not null,
    queue text not null,
    polled_at bigint not null,
    constraint queue_poll_pk primary key (tenant_id, queue)
);

-- Rows of these are rewritten all the time: leave room beside them, and vacuum by number rather than by share.
alter table instance set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
alter table lease set (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
alter table work set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
