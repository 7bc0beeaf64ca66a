-- What people and programs wrote about an instance and its parts. A row never changes.
create table comment (
    tenant_id text not null,
    instance_id text not null,
    comment_id text collate "C" not null,
    subject text not null,
    parent_id text collate "C",
    body text not null,
    author bytea not null,
    internal boolean not null,
    created_at bigint not null,
    constraint comment_pk primary key (tenant_id, instance_id, comment_id),
    constraint comment_parent_exists foreign key (tenant_id, instance_id, parent_id)
        references comment (tenant_id, instance_id, comment_id)
);

-- Lists, oldest first: of an instance, and of one subject.
create index comment_by_time on comment (tenant_id, instance_id, created_at, comment_id);
create index comment_by_subject on comment (tenant_id, instance_id, subject, created_at, comment_id);
