-- For those who watch the installation: how many leases are out, by queue, and how many instances are under way.
alter table lease add column queue text not null default '';
create index instance_under_way on instance (process_id, status) where ended_at is null;
