-- One transition, in one statement: the row under a version check, its history, and what follows from it. Nothing is
-- written unless the row was at the version that the writer has seen.
with moved as (
    update instance
       set version = $4, status = $5, state = $6, head_hash = $7, ended_at = $8, updated_at = $9,
           health = $38, overdue_at = $39
     where tenant_id = $1 and instance_id = $2 and version = $3
    returning instance_id
), written as (
    insert into history (tenant_id, instance_id, sequence, event_id, kind, audit_type, occurred_at, body,
                         previous_hash, hash)
    select $1, $2, entry.sequence, entry.event_id, entry.kind, entry.audit_type, entry.occurred_at, entry.body,
           entry.previous_hash, entry.hash
      from unnest($10::bigint[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::bytea[], $16::bytea[],
                  $17::bytea[])
           as entry (sequence, event_id, kind, audit_type, occurred_at, body, previous_hash, hash)
     where exists (select from moved)
), kept as (
    insert into personal (tenant_id, instance_id, sequence, salt, body)
    select $1, $2, row.sequence, row.salt, row.body
      from unnest($18::bigint[], $19::bytea[], $20::bytea[]) as row (sequence, salt, body)
     where exists (select from moved)
), ended as (
    -- checkpoint_change: 0 keeps it, 1 clears it, 2 sets it.
    update lease
       set ends_at = null,
           checkpoint = case change.checkpoint_change
                            when 0 then lease.checkpoint
                            when 1 then null
                            else change.checkpoint
                        end
      from unnest($21::text[], $22::bigint[], $23::bigint[], $24::bytea[])
           as change (task_id, fencing, checkpoint_change, checkpoint)
     where lease.tenant_id = $1 and lease.instance_id = $2 and lease.task_id = change.task_id
       and lease.fencing = change.fencing and lease.ends_at is not null
       and exists (select from moved)
    returning lease.task_id, lease.hold_until
), unqueued as (
    delete from work
     where tenant_id = $1 and instance_id = $2 and task_id = any ($25::text[]) and exists (select from moved)
), queued as (
    -- A promise not to hand the task out for a moment outlives the lease that it was given under.
    insert into work (tenant_id, instance_id, task_id, queue, priority, ready_at, fencing, tools)
    select $1, $2, added.task_id, added.queue, added.priority,
           greatest(added.ready_at, coalesce(ended.hold_until, lease.hold_until, 0)), added.fencing, added.tools
      from unnest($26::text[], $27::text[], $28::bigint[], $29::bigint[], $30::bigint[], $31::text[])
           as added (task_id, queue, priority, ready_at, fencing, tools)
      left join ended on ended.task_id = added.task_id
      left join lease on lease.tenant_id = $1 and lease.instance_id = $2 and lease.task_id = added.task_id
     where exists (select from moved)
    on conflict (tenant_id, instance_id, task_id) do update
       set queue = excluded.queue, priority = excluded.priority, ready_at = excluded.ready_at,
           fencing = excluded.fencing, tools = excluded.tools
), granted as (
    insert into lease (tenant_id, instance_id, task_id, fencing, worker, duration, ends_at, queue)
    select $1, $2, added.task_id, added.fencing, added.worker, added.duration, added.ends_at, added.queue
      from unnest($32::text[], $33::bigint[], $34::text[], $35::bigint[], $36::bigint[], $37::text[])
           as added (task_id, fencing, worker, duration, ends_at, queue)
     where exists (select from moved)
    on conflict (tenant_id, instance_id, task_id) do update
       set fencing = excluded.fencing, worker = excluded.worker, duration = excluded.duration,
           ends_at = excluded.ends_at, queue = excluded.queue, progress = 0, message = ''
     where lease.hold_until <= $9
    returning task_id
)
select (select count(*) from moved) as moved, (select count(*) from granted) as granted
