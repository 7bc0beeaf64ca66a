-- What callers write about different instances, in one statement: for each the row of the instance, its requests, and what
-- follows from them. Of one that does not fit nothing is written, and the answer says why. What two of these statements
-- write at the same time for the same key violates a unique constraint, and then each is written alone.
--
-- No two of those that touch their instance are of one instance. A time or a number of -1 is none, an empty text is none.
with input as materialized (
    select * from unnest(
        $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::bytea[],
        $17::bytea[])
    as input (
        n, tenant_id, instance_id, now, touches, at_revision, answers, pause,
        pause_version, ends, consumer, event_id, actor_id, method, request_id, fingerprint,
        answer)
), change as materialized (
    select input.tenant_id, input.instance_id, change.*
      from unnest($18::bigint[], $19::text[], $20::bigint[], $21::bigint[], $22::text[], $23::text[], $24::text[],
                  $25::bigint[], $26::bigint[], $27::text[], $28::bytea[], $29::bigint[])
           as change (n, approval_id, before, version, subject_kind, subject_id, status, requested_at, decided_at,
                      substance, state, due_at)
      join input using (n)
), moved_on as (
    -- Requests that are not as they were when the change was decided.
    select distinct change.n
      from change
      left join lateral (
           select approval.version from approval
            where approval.tenant_id = change.tenant_id and approval.approval_id = change.approval_id
            limit 1) as held on true
     where coalesce(held.version, 0) <> change.before
), judged as materialized (
    -- Each is looked up by its key: `exists` would be made into a table of all that there is.
    select input.*,
           known.revision as known_revision,
           seen.found is not null as is_seen,
           moved_on.n is not null
               or input.touches = 1 and input.at_revision >= 0
                  and input.at_revision <> coalesce(known.revision, 0) as is_stale,
           raced.found is not null as is_raced
      from input
      left join moved_on using (n)
      left join lateral (
           select instance.revision from instance
            where instance.tenant_id = input.tenant_id and instance.instance_id = input.instance_id
            limit 1) as known on input.touches = 1
      left join lateral (
           select true as found from inbox
            where inbox.tenant_id = input.tenant_id and inbox.consumer = input.consumer
              and inbox.event_id = input.event_id
            limit 1) as seen on input.event_id <> ''
      left join lateral (
           select true as found from idempotency
            where idempotency.tenant_id = input.tenant_id and idempotency.actor_id = input.actor_id
              and idempotency.method = input.method and idempotency.request_id = input.request_id
            limit 1) as raced on input.request_id <> ''
), fits as materialized (
    -- In one order, so that two copies of the service do not wait for each other's rows in a circle.
    select * from judged where not is_seen and not is_stale and not is_raced order by tenant_id, instance_id
), touched as (
    -- The guard between copies of the service: whoever was waited for here has changed the revision. An older pause may
    -- arrive after a newer resumption. A pause concerns timers, which are read as they were when the statement began:
    -- nobody may have set one meanwhile.
    update instance
       set revision = instance.revision + 1,
           response_sequence = instance.response_sequence + fits.answers,
           paused = case
                        when fits.pause > 0 and fits.pause_version > instance.paused_version then fits.pause = 1
                        else instance.paused
                    end,
           paused_version = case
                                when fits.pause > 0 then greatest(fits.pause_version, instance.paused_version)
                                else instance.paused_version
                            end,
           ended = instance.ended or fits.ends = 1
      from fits
     where fits.touches = 1 and fits.known_revision is not null
       and instance.tenant_id = fits.tenant_id and instance.instance_id = fits.instance_id
       and (fits.at_revision < 0 or instance.revision = fits.at_revision)
       and (fits.pause = 0 or instance.revision = fits.known_revision)
    returning fits.n, instance.paused, instance.response_sequence
), begun as (
    insert into instance (tenant_id, instance_id, revision, paused, paused_version, ended, response_sequence)
    select tenant_id, instance_id, 1, pause = 1 and pause_version > 0,
           case when pause > 0 then greatest(pause_version, 0) else 0 end, ends = 1, answers
      from fits
     where touches = 1 and known_revision is null
    returning tenant_id, instance_id, paused, response_sequence
), moved as materialized (
    select fits.*, touched.paused, touched.response_sequence from fits join touched using (n)
    union all
    select fits.*, begun.paused, begun.response_sequence
      from fits join begun using (tenant_id, instance_id)
     where fits.touches = 1 and fits.known_revision is null
    union all
    select fits.*, false, 0 from fits where fits.touches = 0
), recorded as (
    -- The key decides who was first where two copies of the service change one request.
    insert into approval_event (tenant_id, approval_id, version, occurred_at, payload)
    select moved.tenant_id, event.approval_id, event.version, event.occurred_at, event.payload
      from unnest($30::bigint[], $31::text[], $32::bigint[], $33::bigint[], $34::bytea[])
           as event (n, approval_id, version, occurred_at, payload)
      join moved using (n)
), asked as (
    insert into approval (tenant_id, approval_id, version, instance_id, subject_kind, subject_id, status, requested_at,
                          decided_at, substance, state)
    select change.tenant_id, change.approval_id, change.version, change.instance_id, change.subject_kind,
           change.subject_id, change.status, change.requested_at, nullif(change.decided_at, -1), change.substance,
           change.state
      from change join moved using (n)
     where change.before = 0
), changed as (
    update approval
       set version = change.version, status = change.status, decided_at = nullif(change.decided_at, -1),
           substance = change.substance, state = change.state
      from change join moved using (n)
     where change.before > 0
       and approval.tenant_id = change.tenant_id and approval.approval_id = change.approval_id
       and approval.version = change.before
), stood as (
    insert into approver (tenant_id, approval_id, participant_id, standing, instance_id, status, requested_at)
    select change.tenant_id, change.approval_id, one.participant_id, one.standing, change.instance_id, change.status,
           change.requested_at
      from unnest($35::bigint[], $36::text[], $37::text[], $38::text[])
           as one (n, approval_id, participant_id, standing)
      join change using (n, approval_id)
      join moved using (n)
      left join lateral (
           select approver.standing, approver.status from approver
            where approver.tenant_id = change.tenant_id and approver.approval_id = change.approval_id
              and approver.participant_id = one.participant_id
            limit 1) as held on change.before > 0
     where held.standing is distinct from one.standing or held.status is distinct from change.status
    on conflict (tenant_id, approval_id, participant_id) do update
       set standing = excluded.standing, status = excluded.status
), untimed as (
    delete from approval_timer
     using change join moved using (n)
     where change.before > 0 and change.due_at = -1
       and approval_timer.tenant_id = change.tenant_id and approval_timer.approval_id = change.approval_id
), timed as (
    insert into approval_timer (tenant_id, approval_id, instance_id, due_at, paused, claimed_until)
    select change.tenant_id, change.approval_id, change.instance_id, change.due_at, moved.paused, 0
      from change
      join moved using (n)
      left join lateral (
           select approval_timer.due_at from approval_timer
            where approval_timer.tenant_id = change.tenant_id and approval_timer.approval_id = change.approval_id
            limit 1) as held on change.before > 0
     where change.due_at <> -1
       and (held.due_at is distinct from change.due_at or moved.pause > 0)
    on conflict (tenant_id, approval_id) do update
       set due_at = excluded.due_at, paused = excluded.paused, claimed_until = 0
), held_up as (
    -- A row is written once in a statement: the timers of what changes are written above.
    update approval_timer
       set paused = moved.paused
      from moved
     where moved.pause > 0
       and approval_timer.tenant_id = moved.tenant_id and approval_timer.instance_id = moved.instance_id
       and approval_timer.paused <> moved.paused
       and not exists (select from change
                        where change.n = moved.n and change.approval_id = approval_timer.approval_id)
), named as (
    insert into person (tenant_id, instance_id, participant_id, name, email)
    select moved.tenant_id, moved.instance_id, one.participant_id, one.name, one.email
      from unnest($39::bigint[], $40::text[], $41::text[], $42::text[]) as one (n, participant_id, name, email)
      join moved using (n)
      left join lateral (
           select person.name, person.email from person
            where person.tenant_id = moved.tenant_id and person.instance_id = moved.instance_id
              and person.participant_id = one.participant_id
            limit 1) as held on true
     where held.name is distinct from one.name or held.email is distinct from one.email
    on conflict (tenant_id, instance_id, participant_id) do update
       set name = excluded.name, email = excluded.email
), answered as (
    insert into approval_response (tenant_id, instance_id, sequence, approval_id, participant_id, payload)
    select moved.tenant_id, moved.instance_id, moved.response_sequence - moved.answers + response.place,
           response.approval_id, response.participant_id, response.payload
      from unnest($43::bigint[], $44::bigint[], $45::text[], $46::text[], $47::bytea[])
           as response (n, place, approval_id, participant_id, payload)
      join moved using (n)
), called_off as (
    insert into approval_moot (tenant_id, approval_id, reason)
    select moved.tenant_id, moot.approval_id, moot.reason
      from unnest($48::bigint[], $49::text[], $50::text[]) as moot (n, approval_id, reason)
      join moved using (n)
    on conflict do nothing
), taken as (
    insert into inbox (tenant_id, consumer, event_id, received_at)
    select tenant_id, consumer, event_id, now from moved where event_id <> ''
), kept as (
    insert into idempotency (tenant_id, actor_id, method, request_id, fingerprint, answer, created_at)
    select tenant_id, actor_id, method, request_id, fingerprint, answer, now from moved where request_id <> ''
), told as (
    insert into outbox (tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at, due_at)
    select event.tenant_id, event.event_id, event.instance_id, event.payload, event.receivers_left, event.created_at,
           nullif(event.sent_at, -1), event.due_at
      from unnest($51::bigint[], $52::text[], $53::text[], $54::text[], $55::bytea[], $56::bigint[], $57::bigint[],
                  $58::bigint[], $59::bigint[])
           with ordinality as event (n, tenant_id, event_id, instance_id, payload, receivers_left, created_at, sent_at,
                                     due_at, place)
      join moved using (n)
     order by event.place
)
select judged.n, judged.is_seen, judged.is_stale, judged.is_raced, moved.n is not null as is_moved
  from judged left join moved using (n)
