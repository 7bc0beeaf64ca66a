-- For those who watch the installation: how many leases are out, by queue, and how many instances are under way.
-- What the state says of an instance's health, and when the earliest deadline of a request of it is over.
alter table instance add column health text not null default 'ok';
alter table instance add column overdue_at integer;
alter table lease add column queue text not null default '';
create index instance_under_way on instance (process_id, status) where ended_at is null;
