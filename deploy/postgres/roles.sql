-- A role and a schema for each service that owns data, for psql. May be run again.
--
-- A service signs in as its role, which owns its own schema and sees no other, and is no superuser: row-level security holds
-- for it. Passwords are not given here: alter role phasegate_instance password '…';
\set ON_ERROR_STOP on

create temporary table wanted as
select unnest(array[
    'phasegate_definition', 'phasegate_instance', 'phasegate_approval',
    'phasegate_artifact', 'phasegate_participant', 'phasegate_notification'
]) as role;

select format('create role %I login nosuperuser nocreatedb nocreaterole nobypassrls', role)
from wanted where not exists (select from pg_roles where rolname = role) \gexec
select format('create schema if not exists %I authorization %I', role, role) from wanted \gexec

select format('revoke all on database %I from public', current_database()) \gexec
select format('grant connect on database %I to %I', current_database(), role) from wanted \gexec
revoke all on schema public from public;
drop table wanted;
