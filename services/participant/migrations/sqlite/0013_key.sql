-- Customers of this installation, made by `phasegate admin tenant create`.
create table tenant (
    tenant_id text not null,
    created_at integer not null,
    constraint tenant_pk primary key (tenant_id)
) strict;

-- API keys. What opens anything is in api_key_secret.
create table api_key (
    tenant_id text not null,
    key_id text not null,
    name text not null,
    -- JSON lists.
    scopes blob not null,
    queues blob not null,
    -- Whom its holder decides for.
    participant_id text,
    -- What the record names as the caller.
    service text,
    created_by text not null,
    created_at integer not null,
    expires_at integer,
    revoked_at integer,
    -- To some minutes.
    last_used_at integer,
    constraint api_key_pk primary key (tenant_id, key_id)
) strict;

-- Lists, newest first.
create index api_key_by_time on api_key (tenant_id, created_at, key_id);

-- Secrets of keys: one, or two during a rotation. Only the SHA-256 is kept: a secret has 190 random bits, so that a slow
-- hash would add nothing.
create table api_key_secret (
    tenant_id text not null,
    prefix text not null,
    key_id text not null,
    digest blob not null,
    created_at integer not null,
    -- When the grace of the older one is over, or when it was revoked.
    ends_at integer,
    constraint api_key_secret_pk primary key (tenant_id, prefix),
    -- A secret names no tenant: the row says which one it is.
    constraint api_key_secret_prefix_once unique (prefix),
    constraint api_key_secret_key_exists foreign key (tenant_id, key_id) references api_key (tenant_id, key_id)
) strict;

create index api_key_secret_by_key on api_key_secret (tenant_id, key_id);
