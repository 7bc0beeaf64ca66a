//! Writing a transition on SQLite: the same as the statement for PostgreSQL, step by step. Here a statement costs no round
//! trip, and nobody else writes meanwhile.

use phasegate_database::{Transaction, args};

use super::append::{Transition, checkpoint_change, lost_or, micros, rank, row_values, tools};
use super::{Error, signed};

/// Writes the row under its version check, its history, and what follows from it.
pub(super) async fn write_sqlite(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
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
    for entry in &transition.entries {
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
