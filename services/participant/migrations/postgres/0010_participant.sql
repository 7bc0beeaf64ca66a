-- What this service knows of an instance. The row may come from its end before it comes from its start, because events
-- come in no promised order; people_at says whether the people are there.
create table instance (
    tenant_id text not null,
    instance_id text not null,
    people_at bigint,
    end_state text,
    ended_at bigint,
    constraint instance_pk primary key (tenant_id, instance_id),
    constraint instance_end_state check (end_state in ('completed', 'cancelled', 'failed')),
    constraint instance_ended_at_with_state check ((end_state is null) = (ended_at is null))
);

-- People of an instance: the only place of names and addresses. Ids sort by their bytes, so that a page token means
-- the same whatever the locale of the database is.
create table participant (
    tenant_id text not null,
    instance_id text not null,
    participant_id text collate "C" not null,
    name text not null,
    email text not null,
    role text not null,
    raid_role text not null,
    external boolean not null,
    required_approvals bytea not null,
    notify_email boolean,
    notify_slack boolean,
    notify_in_app boolean,
    can_delegate boolean not null,
    created_at bigint not null,
    constraint participant_pk primary key (tenant_id, instance_id, participant_id),
    constraint participant_raid_role check (raid_role in ('responsible', 'approver', 'informed', 'delegator'))
);
