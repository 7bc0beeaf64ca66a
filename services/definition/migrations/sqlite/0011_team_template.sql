-- Descriptions of teams. A template never changes.
create table team_template (
    tenant_id text not null,
    team_template_id text not null,
    -- Canonical JSON of what the author wrote.
    content blob not null,
    -- JSON: what was worth a look when it was stored.
    warnings blob not null,
    created_by blob not null,
    created_at integer not null,
    constraint team_template_pk primary key (tenant_id, team_template_id)
) strict;

-- Teams made from them. A team keeps what its template said when it was made, as the message that readers get.
create table team (
    tenant_id text not null,
    team_id text not null,
    team_template_id text not null,
    message blob not null,
    created_at integer not null,
    constraint team_pk primary key (tenant_id, team_id),
    constraint team_template_exists foreign key (tenant_id, team_template_id)
        references team_template (tenant_id, team_template_id)
) strict;
