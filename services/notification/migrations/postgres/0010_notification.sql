-- One message to one person, rendered once, with a placeholder where the link goes: the link itself is a secret and is signed
-- whenever the message is handed to the mail server.
create table notification (
    tenant_id text not null,
    notification_id text not null,
    instance_id text not null,
    participant_id text not null,
    template text not null
        constraint notification_template check (template in (
            'approval_requested', 'approval_reminder', 'approval_escalated', 'approval_decided',
            'phase_changed', 'task_escalated', 'instance_ended', 'link_new')),
    recipient text not null,
    recipient_name text not null,
    subject text not null,
    body_text text not null,
    body_html text not null,
    -- What stands in the bodies for the link; empty where the message has none.
    placeholder text not null,
    message_id text not null,
    link_expires_at bigint,
    link_id text,
    status text not null
        constraint notification_status check (status in ('queued', 'sent', 'failed', 'suppressed')),
    attempts integer not null constraint notification_attempts check (attempts >= 0),
    last_error text not null,
    created_at bigint not null,
    sent_at bigint,
    next_attempt_at bigint,
    -- The copy of the service that holds the message works until this time; its number grows with every claim, and only the
    -- newest one may write the outcome.
    leased_until bigint,
    lease_number bigint not null,
    constraint notification_pk primary key (tenant_id, notification_id),
    constraint notification_next_when_queued check ((status = 'queued') = (next_attempt_at is not null)),
    constraint notification_sent_when_sent check ((status = 'sent') = (sent_at is not null)),
    constraint notification_leased_when_queued check (status = 'queued' or leased_until is null),
    constraint notification_placeholder_for_link check ((placeholder = '') = (link_expires_at is null))
);

-- What is due, in order of its time.
create index notification_due on notification (next_attempt_at) where status = 'queued';
create index notification_by_instance on notification (tenant_id, instance_id, notification_id);

-- Requests that a message is about, in the order in which it lists them.
create table notification_approval (
    tenant_id text not null,
    notification_id text not null,
    approval_id text not null,
    position integer not null,
    constraint notification_approval_pk primary key (tenant_id, notification_id, approval_id)
);
create index notification_approval_by_approval on notification_approval (tenant_id, approval_id);

-- Requests that have come to their end, kept because the end may be heard of before the request.
create table settled_approval (
    tenant_id text not null,
    approval_id text not null,
    settled_at bigint not null,
    constraint settled_approval_pk primary key (tenant_id, approval_id)
);

-- What messages call an instance.
create table instance (
    tenant_id text not null,
    instance_id text not null,
    name text not null,
    process_name text not null,
    constraint instance_pk primary key (tenant_id, instance_id)
);

-- People of an instance, and whether it is their role to be told. Names and addresses stay with the participant service.
create table instance_person (
    tenant_id text not null,
    instance_id text not null,
    participant_id text not null,
    informed boolean not null,
    constraint instance_person_pk primary key (tenant_id, instance_id, participant_id)
);
