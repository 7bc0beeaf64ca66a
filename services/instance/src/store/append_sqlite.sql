-- Transitions of different instances, all of which fit: for each the row, its history, and what follows from it. One text,
-- because each statement by itself is a way to the thread of the connection and back. A value is a list of rows in JSON, in
-- which bytes are hexadecimal; most of the lists are short or empty.
insert into definition (tenant_id, digest, document)
select one.value ->> 0, one.value ->> 1, unhex(one.value ->> 2) from json_each($1) as one where true
on conflict do nothing;

insert into instance (tenant_id, instance_id, process_id, process_version, definition_digest, started_at, status,
                      version, head_hash, state, ended_at, updated_at, health, overdue_at)
select one.value ->> 0, one.value ->> 1, one.value ->> 2, one.value ->> 3, one.value ->> 4, one.value ->> 5,
       one.value ->> 6, one.value ->> 7, unhex(one.value ->> 8), unhex(one.value ->> 9), one.value ->> 10,
       one.value ->> 11, one.value ->> 12, one.value ->> 13
  from json_each($2) as one;

update instance
   set status = one.value ->> 6, version = one.value ->> 7, head_hash = unhex(one.value ->> 8),
       state = unhex(one.value ->> 9), ended_at = one.value ->> 10, updated_at = one.value ->> 11,
       health = one.value ->> 12, overdue_at = one.value ->> 13
  from json_each($3) as one
 where instance.tenant_id = one.value ->> 0 and instance.instance_id = one.value ->> 1;

insert into history (tenant_id, instance_id, sequence, event_id, kind, audit_type, occurred_at, body, previous_hash, hash)
select one.value ->> 0, one.value ->> 1, one.value ->> 2, one.value ->> 3, one.value ->> 4, one.value ->> 5,
       one.value ->> 6, unhex(one.value ->> 7), unhex(one.value ->> 8), unhex(one.value ->> 9)
  from json_each($4) as one;

insert into personal (tenant_id, instance_id, sequence, salt, body)
select one.value ->> 0, one.value ->> 1, one.value ->> 2, unhex(one.value ->> 3), unhex(one.value ->> 4)
  from json_each($5) as one;

-- checkpoint_change: 0 keeps it, 1 clears it, 2 sets it.
update lease
   set ends_at = null,
       checkpoint = case one.value ->> 4 when 0 then checkpoint when 1 then null else unhex(one.value ->> 5) end
  from json_each($6) as one
 where lease.tenant_id = one.value ->> 0 and lease.instance_id = one.value ->> 1 and lease.task_id = one.value ->> 2
   and lease.fencing = one.value ->> 3 and lease.ends_at is not null;

delete from work
 where (tenant_id, instance_id, task_id) in (
       select one.value ->> 0, one.value ->> 1, one.value ->> 2 from json_each($7) as one);

-- A promise not to hand the task out for a moment outlives the lease that it was given under.
insert into work (tenant_id, instance_id, task_id, queue, priority, ready_at, fencing, tools)
select one.value ->> 0, one.value ->> 1, one.value ->> 2, one.value ->> 3, one.value ->> 4,
       max(one.value ->> 5,
           coalesce((select hold_until from lease
                      where tenant_id = one.value ->> 0 and instance_id = one.value ->> 1 and task_id = one.value ->> 2),
                    0)),
       one.value ->> 6, one.value ->> 7
  from json_each($8) as one where true
on conflict (tenant_id, instance_id, task_id) do update
   set queue = excluded.queue, priority = excluded.priority, ready_at = excluded.ready_at, fencing = excluded.fencing,
       tools = excluded.tools;

insert into lease (tenant_id, instance_id, task_id, fencing, worker, duration, ends_at, queue)
select one.value ->> 0, one.value ->> 1, one.value ->> 2, one.value ->> 3, one.value ->> 4, one.value ->> 5,
       one.value ->> 6, one.value ->> 7
  from json_each($9) as one where true
on conflict (tenant_id, instance_id, task_id) do update
   set fencing = excluded.fencing, worker = excluded.worker, duration = excluded.duration, ends_at = excluded.ends_at,
       queue = excluded.queue, progress = 0, message = '';

insert into inbox (tenant_id, consumer, event_id, received_at)
select one.value ->> 0, one.value ->> 1, one.value ->> 2, one.value ->> 3 from json_each($10) as one;

insert into idempotency (tenant_id, actor_id, method, request_id, fingerprint, answer, created_at)
select one.value ->> 0, one.value ->> 1, one.value ->> 2, one.value ->> 3, unhex(one.value ->> 4),
       unhex(one.value ->> 5), one.value ->> 6
  from json_each($11) as one;

insert into outbox (tenant_id, event_id, instance_id, position, payload, receivers_left, created_at, due_at)
select one.value ->> 0, one.value ->> 1, one.value ->> 2,
       (select coalesce(max(position), 0) + 1 from outbox) + one.key, unhex(one.value ->> 3), one.value ->> 4,
       one.value ->> 5, 0
  from json_each($12) as one;
