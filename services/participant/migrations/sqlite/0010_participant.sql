-- What this service knows of an instance. The row may come from its end before it comes from its start, because events
-- come in no promised order; people_at says whether the people are there.
create table instance (
    tenant_id text not null,
    instance_id text not null,
    people_at integer,
    end_state text,
    ended_at integer,
    constraint instance_pk primary key (tenant_id, instance_id),
    constraint instance_end_state check (end_state in ('completed', 'cancelled', 'failed')),
    constraint instance_ended_at_with_state check ((end_state is null) = (ended_at is null))
) strict;

-- People of an instance: the only place of names and addresses. Ids sort by their bytes, so that a page token means
-- the same on every database.
create table participant (
    tenant_id text not null,
    instance_id text not null,
    participant_id text not null,
    name text not null,
    email text not null,
    role text not null,
    raid_role text not null,
    external integer not null,
    required_approvals blob not null,
    notify_email integer,
    notify_slack integer,
    notify_in_app integer,
    can_delegate integer not null,
    created_at integer not null,
    constraint participant_pk primary key (tenant_id, instance_id, participant_id),
    constraint participant_booleans check (external in (0, 1) and can_delegate in (0, 1)),
    constraint participant_raid_role check (raid_role in ('responsible', 'approver', 'informed', 'delegator'))
) strict;
