-- Magic links. The row decides what a link may do; its token is signed anew whenever it is needed and never stored.
create table link (
    tenant_id text not null,
    link_id text collate "C" not null,
    instance_id text not null,
    participant_id text collate "C" not null,
    -- The notification that it was made for.
    purpose text,
    -- One bit each: view, approve, comment, delegate.
    permissions bigint not null,
    created_by bytea not null,
    created_at bigint not null,
    expires_at bigint not null,
    last_used_at bigint,
    -- When a session of it wrote for the first time.
    opened_at bigint,
    -- Sessions of it that have written.
    writers bigint not null default 0,
    revoked_at bigint,
    revoked_reason text,
    constraint link_pk primary key (tenant_id, link_id),
    -- A token names no tenant: the row says which one it is.
    constraint link_id_once unique (link_id),
    -- One link for each notification, however often it is asked for.
    constraint link_purpose_once unique (tenant_id, instance_id, participant_id, purpose),
    constraint link_participant_exists foreign key (tenant_id, instance_id, participant_id)
        references participant (tenant_id, instance_id, participant_id),
    constraint link_permissions check (permissions between 1 and 15),
    constraint link_whole_second check (expires_at % 1000000 = 0),
    constraint link_writers check (writers between 0 and 10),
    constraint link_reason_when_revoked check ((revoked_at is null) = (revoked_reason is null)),
    constraint link_opened_by_a_writer check ((opened_at is null) = (writers = 0))
);

-- Lists, newest first: of an instance, and of one person.
create index link_by_instance on link (tenant_id, instance_id, created_at, link_id);
create index link_by_participant on link (tenant_id, instance_id, participant_id, created_at, link_id);

-- Fresh links that were asked for lately: what bounds them for each person.
create table fresh_link (
    tenant_id text not null,
    fresh_link_id text not null,
    instance_id text not null,
    participant_id text collate "C" not null,
    asked_at bigint not null,
    constraint fresh_link_pk primary key (tenant_id, fresh_link_id)
);

create index fresh_link_by_participant on fresh_link (tenant_id, instance_id, participant_id, asked_at);
-- What the sweep deletes.
create index fresh_link_by_time on fresh_link (asked_at);
