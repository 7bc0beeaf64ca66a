-- What is asked of it is answered by the index alone. Without the last column SQLite takes the primary key, in which it has to
-- read every message of the tenant.
drop index notification_approval_by_approval;
create index notification_approval_by_approval on notification_approval (tenant_id, approval_id, notification_id);
