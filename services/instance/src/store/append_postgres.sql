-- Transitions of different instances, in one statement: for each the row under a version check, its history, and what
-- follows from it. Of one that does not fit nothing is written, and the answer says why. What two of these statements write
-- at the same time for the same key violates a unique constraint, and then each transition is written alone.
--
-- No two of the transitions are of one instance. A time of -1 is none, an empty text is none.
with input as materialized (
    select * from unnest(
        $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::bytea[],
        $9::bytea[], $10::bigint[], $11::bigint[], $12::text[], $13::bigint[], $14::text[], $15::text[], $16::text[],
        $17::bigint[], $18::bytea[], $19::text[], $20::bigint[], $21::bigint[], $22::text[],
        $23::text[], $24::text[], $25::bytea[], $26::bytea[], $75::bigint[])
    as input (
        n, tenant_id, instance_id, moves, before, version, status, state,
        head_hash, ended_at, now, health, overdue_at, process_id, process_version, definition_digest,
        started_at, document, guard_task, guard_fencing, guard, actor_id,
        method, request_id, fingerprint, answer, state_lag)
), heard as materialized (
    select * from unnest($72::bigint[], $73::text[], $74::text[]) as heard (n, consumer, event_id)
), leased as (
    -- The leases that they depend on stay as they are until the end.
    select touched.n, lease.task_id, lease.fencing, lease.ends_at, lease.hold_until
      from unnest($27::bigint[], $28::text[]) as touched (n, task_id)
      join input using (n)
      join lease on lease.tenant_id = input.tenant_id and lease.instance_id = input.instance_id
                and lease.task_id = touched.task_id
       for update of lease
), given as (
    select * from unnest($29::bigint[], $30::text[], $31::bigint[], $32::text[], $33::bigint[], $34::bigint[], $35::text[])
               as given (n, task_id, fencing, worker, duration, ends_at, queue)
), judged as (
    -- Each is looked up by its key: `exists` would be made into a table of all that there is.
    select input.n,
           seen.found is not null as is_seen,
           -- guard: 0 none, 1 holds, 2 is over, 3 is there.
           input.guard <> 0
               and not exists (select from leased
                                where leased.n = input.n and leased.task_id = input.guard_task
                                  and leased.fencing = input.guard_fencing
                                  and case input.guard
                                          when 1 then leased.ends_at > input.now
                                          when 2 then leased.ends_at <= input.now
                                          else leased.ends_at is not null
                                      end)
               -- A promise not to hand a task out for a moment outlives the lease that it was given under.
               or exists (select from given join leased using (n, task_id)
                           where given.n = input.n and leased.hold_until > input.now) as is_lease_lost,
           raced.found is not null as is_raced
      from input
      left join lateral (
           select true as found
             from heard
            cross join lateral (
                  select from inbox
                   where inbox.tenant_id = input.tenant_id and inbox.consumer = heard.consumer
                     and inbox.event_id = heard.event_id
                   limit 1) as one
            where heard.n = input.n
            limit 1) as seen on true
      left join lateral (
           select true as found from idempotency
            where idempotency.tenant_id = input.tenant_id and idempotency.actor_id = input.actor_id
              and idempotency.method = input.method and idempotency.request_id = input.request_id
            limit 1) as raced on input.request_id <> ''
), fits as (
    select input.* from input join judged using (n)
     where not judged.is_seen and not judged.is_lease_lost and not judged.is_raced
), updated as (
    update instance
       set version = fits.version, status = fits.status, head_hash = fits.head_hash,
           -- Empty where it stays behind: then what is there is kept where it is, and not written again.
           state = case when fits.state_lag = 0 then fits.state else instance.state end,
           state_lag = fits.state_lag,
           ended_at = nullif(fits.ended_at, -1), updated_at = fits.now, health = fits.health,
           overdue_at = nullif(fits.overdue_at, -1)
      from fits
     where fits.moves = 1 and fits.before > 0
       and instance.tenant_id = fits.tenant_id and instance.instance_id = fits.instance_id
       and instance.version = fits.before
    returning fits.n
), begun as (
    insert into instance (tenant_id, instance_id, process_id, process_version, definition_digest, status, version,
                          head_hash, state, started_at, ended_at, updated_at, health, overdue_at)
    select tenant_id, instance_id, process_id, process_version, definition_digest, status, version,
           head_hash, state, started_at, nullif(ended_at, -1), now, health, nullif(overdue_at, -1)
      from fits
     where moves = 1 and before = 0
    on conflict do nothing
    returning tenant_id, instance_id
), moved as (
    select fits.* from fits join updated using (n)
    union all
    select fits.* from fits join begun using (tenant_id, instance_id) where fits.moves = 1 and fits.before = 0
    union all
    select fits.* from fits where fits.moves = 0
), defined as (
    insert into definition (tenant_id, digest, document)
    select tenant_id, definition_digest, document from moved where document <> ''
    on conflict do nothing
), written as (
    insert into history (tenant_id, instance_id, sequence, event_id, kind, audit_type, occurred_at, body,
                         previous_hash, hash)
    select moved.tenant_id, moved.instance_id, entry.sequence, entry.event_id, entry.kind, entry.audit_type,
           entry.occurred_at, entry.body, entry.previous_hash, entry.hash
      from unnest($36::bigint[], $37::bigint[], $38::text[], $39::text[], $40::text[], $41::bigint[], $42::bytea[],
                  $43::bytea[], $44::bytea[])
           as entry (n, sequence, event_id, kind, audit_type, occurred_at, body, previous_hash, hash)
      join moved using (n)
), kept as (
    insert into personal (tenant_id, instance_id, sequence, salt, body)
    select moved.tenant_id, moved.instance_id, row.sequence, row.salt, row.body
      from unnest($45::bigint[], $46::bigint[], $47::bytea[], $48::bytea[]) as row (n, sequence, salt, body)
      join moved using (n)
), ended as (
    -- checkpoint_change: 0 keeps it, 1 clears it, 2 sets it.
    update lease
       set ends_at = null,
           checkpoint = case change.checkpoint_change
                            when 0 then lease.checkpoint
                            when 1 then null
                            else change.checkpoint
                        end
      from unnest($49::bigint[], $50::text[], $51::bigint[], $52::bigint[], $53::bytea[])
           as change (n, task_id, fencing, checkpoint_change, checkpoint)
      join moved using (n)
     where lease.tenant_id = moved.tenant_id and lease.instance_id = moved.instance_id
       and lease.task_id = change.task_id and lease.fencing = change.fencing
       -- It runs. Said more plainly, a new database, which knows no better, reads all leases that run.
       and coalesce(lease.ends_at, 0) <> 0
    returning change.n, lease.task_id, lease.hold_until
), unqueued as (
    delete from work
     using unnest($54::bigint[], $55::text[]) as gone (n, task_id)
      join moved using (n)
     where work.tenant_id = moved.tenant_id and work.instance_id = moved.instance_id and work.task_id = gone.task_id
), queued as (
    insert into work (tenant_id, instance_id, task_id, queue, priority, ready_at, fencing, tools)
    select moved.tenant_id, moved.instance_id, added.task_id, added.queue, added.priority,
           greatest(added.ready_at, coalesce(ended.hold_until, lease.hold_until, 0)), added.fencing, added.tools
      from unnest($56::bigint[], $57::text[], $58::text[], $59::bigint[], $60::bigint[], $61::bigint[], $62::text[])
           as added (n, task_id, queue, priority, ready_at, fencing, tools)
      join moved using (n)
      left join ended using (n, task_id)
      left join lease on lease.tenant_id = moved.tenant_id and lease.instance_id = moved.instance_id
                     and lease.task_id = added.task_id
    on conflict (tenant_id, instance_id, task_id) do update
       set queue = excluded.queue, priority = excluded.priority, ready_at = excluded.ready_at,
           fencing = excluded.fencing, tools = excluded.tools
), granted as (
    insert into lease (tenant_id, instance_id, task_id, fencing, worker, duration, ends_at, queue)
    select moved.tenant_id, moved.instance_id, given.task_id, given.fencing, given.worker, given.duration,
           given.ends_at, given.queue
      from given join moved using (n)
    on conflict (tenant_id, instance_id, task_id) do update
       set fencing = excluded.fencing, worker = excluded.worker, duration = excluded.duration,
           ends_at = excluded.ends_at, queue = excluded.queue, progress = 0, message = ''
), taken as (
    insert into inbox (tenant_id, consumer, event_id, received_at)
    select moved.tenant_id, heard.consumer, heard.event_id, moved.now from heard join moved using (n)
), answered as (
    insert into idempotency (tenant_id, actor_id, method, request_id, fingerprint, answer, created_at)
    select tenant_id, actor_id, method, request_id, fingerprint, answer, now from moved where request_id <> ''
), told as (
    insert into outbox (tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at, due_at)
    select event.tenant_id, event.event_id, event.instance_id, event.payload, event.receivers_left, event.created_at,
           nullif(event.sent_at, -1), event.due_at
      from unnest($63::bigint[], $64::text[], $65::text[], $66::text[], $67::bytea[], $68::bigint[], $69::bigint[],
                  $70::bigint[], $71::bigint[])
           with ordinality as event (n, tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at,
                                     due_at, place)
      join moved using (n)
     order by event.place
)
select judged.n, judged.is_seen, judged.is_lease_lost, judged.is_raced, moved.n is not null as is_moved
  from judged left join moved using (n)
