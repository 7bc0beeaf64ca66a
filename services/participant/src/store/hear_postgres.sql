-- What events say of instances, in one statement: the receipt of each, that the people are there, who they are, and how
-- an instance ended whose links stay. Of an event that was taken before nothing is written. Two that are taken at the
-- same time violate a unique constraint, and then each is written alone.
--
-- No two of the events are of one instance. A time of -1 is none, an empty text is none, a truth is -1 where nothing is
-- said. Rows of instances are locked in one order by all.
with input as materialized (
    select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
                         $8::text[])
               as input (n, tenant_id, instance_id, consumer, event_id, now, people_at, end_state)
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
), noted as (
    insert into instance (tenant_id, instance_id, people_at, end_state, ended_at)
    select tenant_id, instance_id, nullif(people_at, -1), nullif(end_state, ''),
           case when end_state <> '' then now end
      from fits
     order by tenant_id, instance_id
    on conflict (tenant_id, instance_id) do update
       set people_at = coalesce(instance.people_at, excluded.people_at),
           end_state = coalesce(instance.end_state, excluded.end_state),
           ended_at = coalesce(instance.ended_at, excluded.ended_at)
), joined as (
    insert into participant (tenant_id, instance_id, participant_id, name, email, role, raid_role, external,
                             required_approvals, notify_email, notify_slack, notify_in_app, can_delegate, created_at)
    select fits.tenant_id, fits.instance_id, person.participant_id, person.name, person.email, person.role,
           person.raid_role, person.external = 1, person.required_approvals, nullif(person.notify_email, -1) = 1,
           nullif(person.notify_slack, -1) = 1, nullif(person.notify_in_app, -1) = 1, person.can_delegate = 1,
           person.created_at
      from unnest($9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[],
                  $16::bytea[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[])
           as person (n, participant_id, name, email, role, raid_role, external, required_approvals, notify_email,
                      notify_slack, notify_in_app, can_delegate, created_at)
      join fits using (n)
    on conflict do nothing
)
select n from fits
