-- Every version of every process. A published version never changes; a draft may be replaced.
create table definition (
    tenant_id text not null,
    process_id text not null,
    version text not null,
    -- Sorts by its bytes as semantic versions do by precedence, so that the newest is the end of an index.
    precedence text not null,
    status text not null,
    -- Canonical JSON of what the author wrote.
    content blob not null,
    digest text not null,
    -- JSON: what was worth a look when it was stored.
    warnings blob not null,
    created_by blob not null,
    created_at integer not null,
    published_at integer,
    constraint definition_pk primary key (tenant_id, process_id, version),
    constraint definition_status check (status in ('draft', 'published')),
    constraint definition_published_at_when_published check ((status = 'published') = (published_at is not null))
) strict;

-- Versions of one process, newest last; and the newest published one, which is what most callers ask for.
create index definition_by_precedence on definition (tenant_id, process_id, precedence, version);
create index definition_published on definition (tenant_id, process_id, precedence, version)
    where status = 'published';
