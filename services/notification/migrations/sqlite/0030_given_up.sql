-- What was given up, for the list of operators: few rows, however long the table is.
create index notification_given_up on notification (created_at, tenant_id, notification_id) where status = 'failed';
