-- Links of notifications, in one statement: each is made and told of, unless there is one for its purpose, which the
-- answer then gives, or its instance is called off or unknown. What two of these statements make at the same time for the
-- same purpose is made by one of them, and the other one's answer gives nothing: whoever waits for it looks again.
--
-- No two of the links are for one purpose. Rows of instances are locked in one order by all.
with input as materialized (
    select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                         $8::bytea[], $9::bigint[], $10::bigint[])
               as input (n, tenant_id, instance_id, participant_id, link_id, purpose, permissions, created_by,
                         created_at, expires_at)
), place as materialized (
    -- They do not end before their links are made.
    select instance.tenant_id, instance.instance_id, instance.end_state
      from (select distinct tenant_id, instance_id from input) as named
      join instance on instance.tenant_id = named.tenant_id and instance.instance_id = named.instance_id
     order by instance.tenant_id, instance.instance_id
       for share of instance
), fits as materialized (
    select input.* from input join place using (tenant_id, instance_id)
     where place.end_state is null or place.end_state = 'completed'
), made as (
    insert into link (tenant_id, link_id, instance_id, participant_id, purpose, permissions, created_by, created_at,
                      expires_at)
    select tenant_id, link_id, instance_id, participant_id, purpose, permissions, created_by, created_at, expires_at
      from fits
    on conflict do nothing
    returning tenant_id, link_id
), told as (
    insert into outbox (tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at, due_at)
    select event.tenant_id, event.event_id, event.instance_id, event.payload, event.receivers_left, event.created_at,
           nullif(event.sent_at, -1), event.due_at
      from unnest($11::bigint[], $12::text[], $13::text[], $14::text[], $15::bytea[], $16::bigint[], $17::bigint[],
                  $18::bigint[], $19::bigint[])
           as event (n, tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at, due_at)
      join fits on fits.n = event.n
      join made on made.tenant_id = fits.tenant_id and made.link_id = fits.link_id
     order by event.n
)
select input.n, made.link_id is not null as is_made, known.*
  from input
  left join made on made.tenant_id = input.tenant_id and made.link_id = input.link_id
  left join lateral (
       select link.tenant_id, link.link_id, link.instance_id, link.participant_id, link.purpose, link.permissions,
              link.created_by, link.created_at, link.expires_at, link.last_used_at, link.writers, link.revoked_at,
              link.revoked_reason
         from link
        where link.tenant_id = input.tenant_id and link.instance_id = input.instance_id
          and link.participant_id = input.participant_id and link.purpose = input.purpose
        limit 1) as known on made.link_id is null
