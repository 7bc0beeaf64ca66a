-- Every version that was ever stored. A row never changes. Keys and ids sort by their bytes, so that a page token
-- means the same on every database.
create table artifact_version (
    tenant_id text not null,
    instance_id text not null,
    artifact_key text not null,
    version integer not null,
    kind text not null,
    form text not null,
    content_type text not null,
    size_bytes integer not null,
    digest text not null,
    metadata blob,
    phase_id text not null,
    task_id text not null,
    created_by blob not null,
    created_at integer not null,
    content blob not null,
    constraint artifact_version_pk primary key (tenant_id, instance_id, artifact_key, version),
    constraint artifact_version_from_one check (version >= 1),
    constraint artifact_version_form check (form in ('json', 'bytes')),
    constraint artifact_version_size check (size_bytes = length(content) and size_bytes <= 8388608)
) strict;

-- The newest version of every key: what lists read, and what writers of one key meet at. Names the version and what
-- lists filter by; the rest stands in artifact_version.
create table artifact (
    tenant_id text not null,
    instance_id text not null,
    artifact_key text not null,
    version integer not null,
    kind text not null,
    phase_id text not null,
    constraint artifact_pk primary key (tenant_id, instance_id, artifact_key),
    constraint artifact_version_exists foreign key (tenant_id, instance_id, artifact_key, version)
        references artifact_version (tenant_id, instance_id, artifact_key, version)
) strict;

-- Lists by phase, by kind, and by both.
create index artifact_by_phase on artifact (tenant_id, instance_id, phase_id, artifact_key);
create index artifact_by_kind on artifact (tenant_id, instance_id, kind, artifact_key);
create index artifact_by_phase_and_kind on artifact (tenant_id, instance_id, phase_id, kind, artifact_key);
