-- Entries of the history that the state does not have yet, the newest ones: a state is several times as long as an entry,
-- and is written once for many of them.
alter table instance add column state_lag bigint not null default 0
    constraint instance_state_lag check (state_lag >= 0);
