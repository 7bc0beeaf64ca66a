-- What became of messages, in one statement: the outcome of each, where its claim is the newest one, and what the others
-- hear of it. The answer names those that were written.
--
-- No two of the outcomes are of one message. A time of -1 is none, an empty text is none.
with input as materialized (
    select * from unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[],
                         $8::bigint[], $9::text[], $10::text[])
               as input (n, tenant_id, notification_id, lease_number, status, sent_at, next_attempt_at, tried,
                         last_error, link_id)
), settled as (
    update notification
       set status = input.status, sent_at = nullif(input.sent_at, -1),
           next_attempt_at = nullif(input.next_attempt_at, -1), attempts = notification.attempts + input.tried,
           last_error = input.last_error, leased_until = null,
           link_id = coalesce(notification.link_id, nullif(input.link_id, ''))
      from input
     where notification.tenant_id = input.tenant_id and notification.notification_id = input.notification_id
       and notification.lease_number = input.lease_number
       -- What is queued has a next try. Asked for the status, a new database, which knows no better, reads all that is due.
       and notification.next_attempt_at is not null
    returning input.n, input.tenant_id
), told as (
    insert into outbox (tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at, due_at)
    select event.tenant_id, event.event_id, event.instance_id, event.payload, event.receivers_left, event.created_at,
           nullif(event.sent_at, -1), event.due_at
      from unnest($11::bigint[], $12::text[], $13::text[], $14::text[], $15::bytea[], $16::bigint[], $17::bigint[],
                  $18::bigint[], $19::bigint[])
           as event (n, tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at, due_at)
      join settled using (n)
     order by event.n
)
select n from settled
