-- What events say, in one statement: the receipt of each, its messages with the requests that they are about, the request
-- that has come to its end, and what messages call an instance that starts. Of an event that was taken before nothing is
-- written. Two that are taken at the same time violate a unique constraint, and then each is written alone.
--
-- No two of the events are of one instance. A time of -1 is none, an empty text is none.
with input as materialized (
    select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
               as input (n, tenant_id, instance_id, consumer, event_id, now)
), fits as materialized (
    -- Looked up by its key: `exists` would be made into a table of all that there is.
    select input.*
      from input
      left join lateral (
           select true as found from inbox
            where inbox.tenant_id = input.tenant_id and inbox.consumer = input.consumer
              and inbox.event_id = input.event_id
            limit 1) as seen on input.event_id <> ''
     where seen.found is null
), taken as (
    insert into inbox (tenant_id, consumer, event_id, received_at)
    select tenant_id, consumer, event_id, now from fits where event_id <> ''
), told as (
    insert into notification (
        tenant_id, notification_id, instance_id, participant_id, template, recipient, recipient_name, subject,
        body_text, body_html, placeholder, message_id, link_expires_at, link_id, status, attempts, last_error,
        created_at, sent_at, next_attempt_at, leased_until, lease_number, trace_parent)
    select fits.tenant_id, message.notification_id, fits.instance_id, message.participant_id, message.template,
           message.recipient, message.recipient_name, message.subject, message.body_text, message.body_html,
           message.placeholder, message.message_id, nullif(message.link_expires_at, -1),
           nullif(message.link_id, ''), message.status, message.attempts, message.last_error, message.created_at,
           nullif(message.sent_at, -1), nullif(message.next_attempt_at, -1), null, 0, message.trace_parent
      from unnest($7::bigint[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[],
                  $15::text[], $16::text[], $17::text[], $18::bigint[], $19::text[], $20::text[], $21::bigint[],
                  $22::text[], $23::bigint[], $24::bigint[], $25::bigint[], $26::text[])
           as message (n, notification_id, participant_id, template, recipient, recipient_name, subject, body_text,
                       body_html, placeholder, message_id, link_expires_at, link_id, status, attempts,
                       last_error, created_at, sent_at, next_attempt_at, trace_parent)
      join fits using (n)
), asked as (
    insert into notification_approval (tenant_id, notification_id, approval_id, position)
    select fits.tenant_id, request.notification_id, request.approval_id, request.position
      from unnest($27::bigint[], $28::text[], $29::text[], $30::bigint[])
           as request (n, notification_id, approval_id, position)
      join fits using (n)
    on conflict do nothing
), settled as (
    insert into settled_approval (tenant_id, approval_id, settled_at)
    select fits.tenant_id, ended.approval_id, fits.now
      from unnest($31::bigint[], $32::text[]) as ended (n, approval_id)
      join fits using (n)
    on conflict do nothing
), begun as (
    insert into instance (tenant_id, instance_id, name, process_name)
    select fits.tenant_id, fits.instance_id, started.name, started.process_name
      from unnest($33::bigint[], $34::text[], $35::text[]) as started (n, name, process_name)
      join fits using (n)
    on conflict do nothing
    returning tenant_id, instance_id
), joined as (
    insert into instance_person (tenant_id, instance_id, participant_id, informed)
    select fits.tenant_id, fits.instance_id, person.participant_id, person.informed = 1
      from unnest($36::bigint[], $37::text[], $38::bigint[]) as person (n, participant_id, informed)
      join fits using (n)
    on conflict do nothing
)
select fits.n, begun.instance_id is not null as is_new
  from fits left join begun using (tenant_id, instance_id)
