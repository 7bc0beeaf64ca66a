-- What is known here of an instance. Every change of a request of the instance writes this row first, so that changes
-- of one instance come one after another.
create table instance (
    tenant_id text not null,
    instance_id text not null,
    -- Grows with every change, so that a new request can tell that nothing else was asked since it looked.
    revision bigint not null,
    paused boolean not null,
    -- Version of the instance at its newest pause or resumption: they may arrive in the wrong order.
    paused_version bigint not null,
    ended boolean not null,
    -- Number of the newest answer. Numbers are given out under this row, so that none appears before a smaller one.
    response_sequence bigint not null,
    constraint instance_pk primary key (tenant_id, instance_id)
);

-- The current row: a cache of the history, written with it.
create table approval (
    tenant_id text not null,
    approval_id text not null,
    -- Number of the events that made it.
    version bigint not null,
    instance_id text not null,
    subject_kind text not null,
    subject_id text not null,
    status text not null,
    requested_at bigint not null,
    decided_at bigint,
    -- What is asked, whoever is asked: what was rejected is recognised by it.
    substance text not null,
    -- The request and what has become of it, as JSON.
    state bytea not null,
    constraint approval_pk primary key (tenant_id, approval_id),
    constraint approval_subject check (subject_kind in ('task', 'phase', 'gate', 'ad_hoc')),
    constraint approval_status check (status in (
        'pending', 'approved', 'rejected', 'changes_requested', 'expired', 'withdrawn', 'superseded')),
    constraint approval_decided_when_settled check ((status = 'pending') = (decided_at is null))
);
-- One for each way to list: of an instance or of the tenant, in one state or in any, newest first.
create index approval_of_instance on approval (tenant_id, instance_id, requested_at, approval_id);
create index approval_of_instance_in_status on approval (tenant_id, instance_id, status, requested_at, approval_id);
create index approval_of_tenant on approval (tenant_id, requested_at, approval_id);
create index approval_of_tenant_in_status on approval (tenant_id, status, requested_at, approval_id);
create index approval_rejected on approval (tenant_id, instance_id, substance) where status = 'rejected';

-- The history. Only added to; the key decides who was first.
create table approval_event (
    tenant_id text not null,
    approval_id text not null,
    version bigint not null,
    occurred_at bigint not null,
    -- What happened, as JSON.
    payload bytea not null,
    constraint approval_event_pk primary key (tenant_id, approval_id, version)
);

-- Who answers which request: what a person has to do is a range of this table.
create table approver (
    tenant_id text not null,
    approval_id text not null,
    participant_id text not null,
    standing text not null,
    -- These three repeat the request, so that lists of a person are ranges, too.
    instance_id text not null,
    status text not null,
    requested_at bigint not null,
    constraint approver_pk primary key (tenant_id, approval_id, participant_id),
    constraint approver_standing check (
        standing in ('pending', 'approved', 'rejected', 'changes_requested', 'not_needed')),
    constraint approver_status check (status in (
        'pending', 'approved', 'rejected', 'changes_requested', 'expired', 'withdrawn', 'superseded')),
    constraint approver_waits_while_pending check (standing <> 'pending' or status = 'pending')
);
create index approver_in_instance on approver
    (tenant_id, participant_id, instance_id, requested_at, approval_id) where standing <> 'not_needed';
create index approver_in_instance_in_status on approver
    (tenant_id, participant_id, instance_id, status, requested_at, approval_id) where standing <> 'not_needed';
create index approver_in_tenant on approver
    (tenant_id, participant_id, requested_at, approval_id) where standing <> 'not_needed';
create index approver_in_tenant_in_status on approver
    (tenant_id, participant_id, status, requested_at, approval_id) where standing <> 'not_needed';

-- Names and addresses of the people that are asked, copied for reading. The history has ids only.
create table person (
    tenant_id text not null,
    instance_id text not null,
    participant_id text not null,
    name text not null,
    email text not null,
    constraint person_pk primary key (tenant_id, instance_id, participant_id)
);

-- When time changes something about a request next: at most one row for each, gone with the request's end.
create table approval_timer (
    tenant_id text not null,
    approval_id text not null,
    instance_id text not null,
    due_at bigint not null,
    -- No timer of an instance on hold fires.
    paused boolean not null,
    -- A copy of the service is at it until then.
    claimed_until bigint not null,
    constraint approval_timer_pk primary key (tenant_id, approval_id)
);
create index approval_timer_due on approval_timer (due_at) where not paused;
create index approval_timer_of_instance on approval_timer (tenant_id, instance_id);

-- The answers of an instance, in order, for those who watch.
create table approval_response (
    tenant_id text not null,
    instance_id text not null,
    sequence bigint not null,
    approval_id text not null,
    participant_id text not null,
    -- The answer without the address of the person, as protobuf.
    payload bytea not null,
    constraint approval_response_pk primary key (tenant_id, instance_id, sequence),
    constraint approval_response_counted check (sequence > 0)
);

-- Requests that were called off before they arrived.
create table approval_moot (
    tenant_id text not null,
    approval_id text not null,
    reason text not null,
    constraint approval_moot_pk primary key (tenant_id, approval_id)
);
