-- Portal sessions. Only the SHA-256 of the token is kept: the token has 256 random bits, so that a slow hash would
-- add nothing.
create table session (
    tenant_id text not null,
    session_hash bytea not null,
    link_id text collate "C" not null,
    opened_at bigint not null,
    last_used_at bigint not null,
    ends_at bigint not null,
    expires_at bigint not null,
    -- When it wrote for the first time, and was counted with its link.
    wrote_at bigint,
    constraint session_pk primary key (tenant_id, session_hash),
    -- A cookie names no tenant: the row says which one it is.
    constraint session_hash_once unique (session_hash),
    constraint session_link_exists foreign key (tenant_id, link_id) references link (tenant_id, link_id),
    constraint session_expires_before_it_ends check (expires_at <= ends_at)
);

-- What the sweep deletes.
create index session_by_end on session (expires_at);

-- Nonces of forms, each for one session and one subject, and good once.
create table nonce (
    tenant_id text not null,
    nonce_hash bytea not null,
    session_hash bytea not null,
    subject text not null,
    issued_at bigint not null,
    expires_at bigint not null,
    used_at bigint,
    constraint nonce_pk primary key (tenant_id, nonce_hash),
    -- A form names no tenant either.
    constraint nonce_hash_once unique (nonce_hash),
    constraint nonce_session_exists foreign key (tenant_id, session_hash)
        references session (tenant_id, session_hash) on delete cascade
);

-- A session goes with its nonces.
create index nonce_by_session on nonce (tenant_id, session_hash);
-- What the sweep deletes.
create index nonce_by_end on nonce (expires_at);
