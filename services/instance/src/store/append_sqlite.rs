//! Writing a transition on SQLite: the same as the statement for PostgreSQL, step by step. Here a statement costs no round
//! trip, and nobody else writes meanwhile.

use phasegate_clock::Timestamp;
use phasegate_database::{Transaction, Value, args};
use phasegate_planted::{self as planted, Bug};

use super::append::{Guard, Inbox, Transition, checkpoint_change, micros, rank, state, tools};
use super::{Error, signed};

/// Writes a transition with its receipt and its events.
pub(super) async fn write_sqlite(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    for Inbox { consumer, event_id } in &transition.receipt.inbox {
        let (tenant, now) = (&transition.tenant, transition.now);
        if !phasegate_outbox::inbox_receive(tx, tenant, consumer, event_id, now).await? {
            return Err(Error::Seen);
        }
    }
    if let Some(guard) = &transition.guard {
        check(tx, transition, guard).await?;
    }
    if let Some(pinned) = &transition.pinned {
        tx.execute(
            "insert into definition (tenant_id, digest, document) values ($1, $2, $3) on conflict do nothing",
            args![&transition.tenant, &pinned.digest, &pinned.document],
        )
        .await
        .map_err(Error::doing("keep the definition"))?;
    }
    if !transition.entries.is_empty() {
        if transition.before == 0 {
            begin(tx, transition).await?;
        }
        move_on(tx, transition).await?;
    }
    phasegate_outbox::append_all(tx, &transition.outbox).await.map_err(Error::doing("write the events"))?;
    if let Some(answer) = &transition.receipt.answer {
        let message = answer.message.clone();
        let kept =
            phasegate_idempotency::store(tx, &answer.key, answer.fingerprint, message, transition.now).await;
        kept.map_err(|error| match error {
            phasegate_idempotency::Error::Raced | phasegate_idempotency::Error::Reused => Error::Raced,
            phasegate_idempotency::Error::Database(source) => {
                Error::Database { doing: "keep the answer", source }
            }
        })?;
    }
    Ok(())
}

/// Looks at the lease.
async fn check(tx: &mut Transaction, transition: &Transition, guard: &Guard) -> Result<(), Error> {
    let (Guard::Holds { task, fencing } | Guard::Over { task, fencing }) = guard;
    let row = tx
        .fetch_optional(
            "select ends_at from lease where tenant_id = $1 and instance_id = $2 and task_id = $3 and fencing = $4",
            args![&transition.tenant, transition.after.id.as_str(), task.as_str(), signed(*fencing)],
        )
        .await
        .map_err(Error::doing("look at the lease"))?;
    let ends_at = match row {
        Some(row) => row.get::<Option<Timestamp>>("ends_at")?,
        None => None,
    };
    let fits = match (guard, ends_at) {
        (Guard::Holds { .. }, Some(ends_at)) => ends_at > transition.now,
        (Guard::Over { .. }, Some(ends_at)) => ends_at <= transition.now || planted::is(Bug::EarlyTimer),
        (Guard::Holds { .. } | Guard::Over { .. }, None) => false,
    };
    if fits { Ok(()) } else { Err(Error::Lease) }
}

/// Takes the id. The row says what is true only after the statements that follow.
async fn begin(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    let instance = &transition.after;
    let taken = tx
        .execute(
            "insert into instance (tenant_id, instance_id, process_id, process_version, definition_digest, status,
                                   version, head_hash, state, started_at, updated_at)
             values ($1, $2, $3, $4, $5, 'running', 0, $6, $7, $8, $9) on conflict do nothing",
            args![
                &transition.tenant,
                instance.id.as_str(),
                instance.process_id.as_str(),
                &instance.process_version,
                &instance.definition_digest,
                super::NO_HASH,
                Vec::<u8>::new(),
                instance.started_at.unwrap_or(transition.now),
                transition.now
            ],
        )
        .await
        .map_err(Error::doing("begin the instance"))?;
    if taken == 1 { Ok(()) } else { Err(Error::Exists) }
}

/// What the row is set to, with the version that it must have.
fn row_values(transition: &Transition) -> Result<Vec<Value>, Error> {
    let instance = &transition.after;
    let head = transition.entries.last().map_or(super::NO_HASH, |entry| entry.hash);
    Ok(args![
        &transition.tenant,
        instance.id.as_str(),
        signed(transition.before),
        signed(instance.version),
        instance.status.as_str(),
        state(instance)?,
        head,
        instance.ended_at,
        transition.now
    ])
}

/// Losing the primary key of the history is being stale, too.
fn lost_or(doing: &'static str) -> impl FnOnce(phasegate_database::Error) -> Error {
    move |source| {
        if source.is_unique_violation() { Error::Stale } else { Error::Database { doing, source } }
    }
}

/// Writes the row under its version check, its history, and what follows from it.
async fn move_on(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    let (tenant, id) = (transition.tenant.as_str(), transition.after.id.as_str());
    let mut values = row_values(transition)?;
    values.extend(args![transition.health, transition.overdue_at]);
    let moved = tx
        .execute(
            "update instance
                set version = $4, status = $5, state = $6, head_hash = $7, ended_at = $8, updated_at = $9,
                    health = $10, overdue_at = $11
              where tenant_id = $1 and instance_id = $2 and version = $3",
            values,
        )
        .await
        .map_err(Error::doing("write the instance"))?;
    if moved != 1 {
        return Err(Error::Stale);
    }
    for entry in transition.entries.iter() {
        tx.execute(
            "insert into history (tenant_id, instance_id, sequence, event_id, kind, audit_type, occurred_at, body,
                                  previous_hash, hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            args![
                tenant,
                id,
                signed(entry.sequence),
                &entry.event_id,
                &entry.kind,
                &entry.audit_type,
                entry.occurred_at,
                &entry.body,
                entry.previous_hash,
                entry.hash
            ],
        )
        .await
        .map_err(lost_or("write the history"))?;
    }
    for row in &transition.personal {
        tx.execute(
            "insert into personal (tenant_id, instance_id, sequence, salt, body) values ($1, $2, $3, $4, $5)",
            args![tenant, id, signed(row.sequence), &row.salt, &row.body],
        )
        .await
        .map_err(Error::doing("keep personal data"))?;
    }
    write_sqlite_leases_ended(tx, transition).await?;
    write_sqlite_work(tx, transition).await?;
    write_sqlite_leases_granted(tx, transition).await
}

async fn write_sqlite_leases_ended(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    for lease in &transition.ended {
        let (change, checkpoint) = checkpoint_change(&lease.checkpoint);
        tx.execute(
            "update lease
                set ends_at = null,
                    checkpoint = case $5 when 0 then checkpoint when 1 then null else $6 end
              where tenant_id = $1 and instance_id = $2 and task_id = $3 and fencing = $4",
            args![
                &transition.tenant,
                transition.after.id.as_str(),
                lease.task.as_str(),
                signed(lease.fencing),
                change,
                checkpoint
            ],
        )
        .await
        .map_err(Error::doing("end the lease"))?;
    }
    Ok(())
}

async fn write_sqlite_work(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    let (tenant, id) = (transition.tenant.as_str(), transition.after.id.as_str());
    for task in &transition.unqueued {
        tx.execute(
            "delete from work where tenant_id = $1 and instance_id = $2 and task_id = $3",
            args![tenant, id, task.as_str()],
        )
        .await
        .map_err(Error::doing("take work back"))?;
    }
    for work in &transition.queued {
        // A promise not to hand the task out for a moment outlives the lease that it was given under.
        tx.execute(
            "insert into work (tenant_id, instance_id, task_id, queue, priority, ready_at, fencing, tools)
             values ($1, $2, $3, $4, $5,
                     max($6, coalesce((select hold_until from lease
                                        where tenant_id = $1 and instance_id = $2 and task_id = $3), 0)),
                     $7, $8)
             on conflict (tenant_id, instance_id, task_id) do update
                set queue = excluded.queue, priority = excluded.priority, ready_at = excluded.ready_at,
                    fencing = excluded.fencing, tools = excluded.tools",
            args![
                tenant,
                id,
                work.task.as_str(),
                &work.queue,
                rank(work.priority),
                work.ready_at,
                signed(work.fencing),
                tools(work)
            ],
        )
        .await
        .map_err(Error::doing("queue work"))?;
    }
    Ok(())
}

async fn write_sqlite_leases_granted(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    for lease in &transition.granted {
        let granted = tx
            .execute(
                "insert into lease (tenant_id, instance_id, task_id, fencing, worker, duration, ends_at, queue)
                 values ($1, $2, $3, $4, $5, $6, $7, $9)
                 on conflict (tenant_id, instance_id, task_id) do update
                    set fencing = excluded.fencing, worker = excluded.worker, duration = excluded.duration,
                        ends_at = excluded.ends_at, queue = excluded.queue, progress = 0, message = ''
                  where lease.hold_until <= $8",
                args![
                    &transition.tenant,
                    transition.after.id.as_str(),
                    lease.task.as_str(),
                    signed(lease.fencing),
                    &lease.worker,
                    micros(lease.duration),
                    lease.ends_at,
                    transition.now,
                    &lease.queue
                ],
            )
            .await
            .map_err(Error::doing("grant the lease"))?;
        if granted != 1 {
            return Err(Error::Lease);
        }
    }
    Ok(())
}
