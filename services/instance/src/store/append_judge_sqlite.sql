-- What is in the way of each of several transitions; as nobody else writes meanwhile, it holds until they are written.
with input as materialized (
    select key as n, value ->> 0 as tenant_id, value ->> 1 as instance_id, value ->> 2 as before, value ->> 3 as now,
           value ->> 4 as guard, value ->> 5 as guard_task, value ->> 6 as guard_fencing, value ->> 7 as actor_id,
           value ->> 8 as method, value ->> 9 as request_id, value -> 10 as heard, value -> 11 as granted
      from json_each($1)
)
select input.n,
       exists (select 1
                 from json_each(input.heard) as heard
                cross join inbox on inbox.tenant_id = input.tenant_id and inbox.consumer = heard.value ->> 0
                                and inbox.event_id = heard.value ->> 1) as is_seen,
       -- guard: null none, 1 holds, 2 is over, 3 is there.
       input.guard is not null
           and not exists (select 1 from lease
                            where lease.tenant_id = input.tenant_id and lease.instance_id = input.instance_id
                              and lease.task_id = input.guard_task and lease.fencing = input.guard_fencing
                              and case input.guard
                                      when 1 then lease.ends_at > input.now
                                      when 2 then lease.ends_at <= input.now
                                      else lease.ends_at is not null
                                  end)
           -- A promise not to hand a task out for a moment outlives the lease that it was given under.
           or exists (select 1
                        from json_each(input.granted) as task
                       cross join lease on lease.tenant_id = input.tenant_id
                                       and lease.instance_id = input.instance_id and lease.task_id = task.value
                                       and lease.hold_until > input.now) as is_lease_lost,
       exists (select 1 from idempotency
                where idempotency.tenant_id = input.tenant_id and idempotency.actor_id = input.actor_id
                  and idempotency.method = input.method and idempotency.request_id = input.request_id) as is_raced,
       -- Nothing moves, or the row is as it was when that was decided.
       input.before is null
           or input.before = coalesce((select version from instance
                                        where instance.tenant_id = input.tenant_id
                                          and instance.instance_id = input.instance_id), 0) as is_moved
  from input
