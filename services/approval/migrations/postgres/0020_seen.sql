-- For those who watch the installation: how much waits, and for how long.
create index approval_waiting on approval (requested_at) where status = 'pending';
