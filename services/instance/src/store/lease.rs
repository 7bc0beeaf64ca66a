//! The rows of leases. Granting and ending one is a transition; heartbeats, and the promise to an artifact's writer,
//! touch only the row.

use std::collections::BTreeMap;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::{Row, Transaction, args};
use phasegate_id::{InstanceId, TaskId};

use super::{Error, Store, signed, unsigned};

/// A lease that is out, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) task: TaskId,
    pub(crate) fencing: u64,
    pub(crate) worker: String,
    /// Absent when it has ended.
    pub(crate) ends_at: Option<Timestamp>,
    pub(crate) progress: i32,
    pub(crate) message: String,
    pub(crate) checkpoint: Option<Vec<u8>>,
}

/// Which lease is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Out {
    pub(crate) tenant: String,
    pub(crate) instance_id: InstanceId,
    pub(crate) task: TaskId,
    pub(crate) fencing: u64,
}

/// A sign of life.
#[derive(Debug, Clone)]
pub(crate) struct Beat {
    pub(crate) lease: Out,
    pub(crate) progress: i32,
    pub(crate) message: String,
    /// Absent: the one before stays.
    pub(crate) checkpoint: Option<Vec<u8>>,
    /// Absent: the length that the lease had.
    pub(crate) extend_by: Option<Duration>,
}

/// What a writer was promised, and has kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) task: TaskId,
    /// What the promise is known by.
    pub(crate) hold: String,
}

/// Characters of the list of writers that are remembered.
const HOLDS_LENGTH_MAX: i64 = 2_000;

/// A writer as an entry of the list.
fn listed(hold: &str) -> String {
    format!("{hold},")
}

/// Strikes a writer that has written off the list. Once nobody is left on it, the task may be leased again.
pub(super) async fn release(
    tx: &mut Transaction,
    tenant: &str,
    instance_id: &InstanceId,
    written: &Written,
) -> Result<(), Error> {
    tx.execute(
        "update lease
            set holds = replace(holds, $4, ''),
                hold_until = case when replace(holds, $4, '') = '' then 0 else hold_until end
          where tenant_id = $1 and instance_id = $2 and task_id = $3 and replace(holds, $4, '') <> holds",
        args![tenant, instance_id.as_str(), written.task.as_str(), listed(&written.hold)],
    )
    .await
    .map_err(Error::doing("release the lease"))?;
    Ok(())
}

impl Store {
    /// Extends leases, all in one transaction. For each its new end, or nothing when it does not hold.
    pub(crate) async fn lease_beat(
        &self,
        beats: Vec<Beat>,
        now: Timestamp,
    ) -> Result<Vec<Option<Timestamp>>, Error> {
        self.db
            .transaction(move |tx| {
                Box::pin(async move {
                    let mut ends = Vec::with_capacity(beats.len());
                    for beat in &beats {
                        let extend_by =
                            beat.extend_by.map(|by| i64::try_from(by.as_micros()).unwrap_or(i64::MAX));
                        let row = tx
                            .fetch_optional(
                                "update lease
                                    set ends_at = $5 + coalesce($6, duration), duration = coalesce($6, duration),
                                        progress = $7, message = $8, checkpoint = coalesce($9, checkpoint)
                                  where tenant_id = $1 and instance_id = $2 and task_id = $3 and fencing = $4
                                    and ends_at > $5
                                  returning ends_at",
                                args![
                                    &beat.lease.tenant,
                                    beat.lease.instance_id.as_str(),
                                    beat.lease.task.as_str(),
                                    signed(beat.lease.fencing),
                                    now,
                                    extend_by,
                                    beat.progress,
                                    &beat.message,
                                    beat.checkpoint.clone()
                                ],
                            )
                            .await
                            .map_err(Error::doing("extend the lease"))?;
                        ends.push(row.map(|row| row.get("ends_at")).transpose()?);
                    }
                    Ok(ends)
                })
            })
            .await
    }

    /// Whether a lease is out, and its time is not over.
    pub(crate) async fn lease_holds(
        &self,
        tenant: &str,
        instance_id: &InstanceId,
        task: &TaskId,
        fencing: u64,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let row = self
            .db
            .fetch_optional(
                "select task_id from lease
                  where tenant_id = $1 and instance_id = $2 and task_id = $3 and fencing = $4 and ends_at > $5",
                args![tenant, instance_id.as_str(), task.as_str(), signed(fencing), now],
            )
            .await
            .map_err(Error::doing("look at the lease"))?;
        Ok(row.is_some())
    }

    /// Promises, to the writer that is known by `hold`, that no new lease of the task is granted before `hold_until`. False
    /// when the lease does not hold.
    pub(crate) async fn lease_hold(
        &self,
        lease: Out,
        hold: String,
        now: Timestamp,
        hold_until: Timestamp,
    ) -> Result<bool, Error> {
        let rows = self
            .db
            .transaction(move |tx| {
                Box::pin(async move {
                    // Where there are too many writers to remember, the promise ends with its time only.
                    tx.execute(
                        "update lease
                            set holds = case when hold_until <= $5 then ''
                                             when length(holds) > $8 then '+,'
                                             else holds
                                        end || $7,
                                hold_until = case when hold_until > $6 then hold_until else $6 end
                          where tenant_id = $1 and instance_id = $2 and task_id = $3 and fencing = $4
                            and ends_at > $5",
                        args![
                            &lease.tenant,
                            lease.instance_id.as_str(),
                            lease.task.as_str(),
                            signed(lease.fencing),
                            now,
                            hold_until,
                            listed(&hold),
                            HOLDS_LENGTH_MAX
                        ],
                    )
                    .await
                })
            })
            .await
            .map_err(Error::doing("hold the lease"))?;
        Ok(rows == 1)
    }

    /// Leases whose time is over, those first that have been so longest. While an instance is paused no timer fires.
    pub(crate) async fn lease_list_due(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Out, Timestamp)>, Error> {
        let rows = self
            .db
            .across_tenants()
            .fetch_all(
                "select lease.tenant_id, lease.instance_id, lease.task_id, lease.fencing, lease.ends_at
                   from lease
                  where lease.ends_at is not null and lease.ends_at <= $1
                    -- Looked up for each: a join could begin with all instances.
                    and (select instance.status from instance
                          where instance.tenant_id = lease.tenant_id
                            and instance.instance_id = lease.instance_id) <> 'paused'
                  order by lease.ends_at limit $2",
                args![now, limit],
            )
            .await
            .map_err(Error::doing("look for leases that have run out"))?;
        rows.iter()
            .map(|row| {
                let (instance_id, task_id) = ids(row)?;
                let lease = Out {
                    tenant: row.get("tenant_id")?,
                    instance_id,
                    fencing: unsigned("lease", task_id.as_str(), row.get("fencing")?)?,
                    task: task_id,
                };
                Ok((lease, row.get("ends_at")?))
            })
            .collect()
    }

    /// The leases of an instance, by task: those that are out and the last ones of other tasks.
    pub(crate) async fn lease_list(
        &self,
        tenant: &str,
        instance_id: &str,
    ) -> Result<BTreeMap<TaskId, LeaseRow>, Error> {
        let rows = self
            .db
            .fetch_all(
                "select instance_id, task_id, fencing, worker, ends_at, progress, message, checkpoint from lease
                  where tenant_id = $1 and instance_id = $2",
                args![tenant, instance_id],
            )
            .await
            .map_err(Error::doing("read the leases"))?;
        rows.iter()
            .map(|row| {
                let (_, task) = ids(row)?;
                let lease = LeaseRow {
                    fencing: unsigned("lease", task.as_str(), row.get("fencing")?)?,
                    worker: row.get("worker")?,
                    ends_at: row.get("ends_at")?,
                    progress: row.get("progress")?,
                    message: row.get("message")?,
                    checkpoint: row.get("checkpoint")?,
                    task: task.clone(),
                };
                Ok((task, lease))
            })
            .collect()
    }
}

fn ids(row: &Row) -> Result<(InstanceId, TaskId), Error> {
    let (instance_id, task_id): (String, String) = (row.get("instance_id")?, row.get("task_id")?);
    let inconsistent = || Error::Inconsistent {
        table: "lease",
        row: format!("{instance_id}/{task_id}"),
        problem: "an id cannot be read".to_owned(),
    };
    Ok((
        InstanceId::parse(&instance_id).map_err(|_| inconsistent())?,
        TaskId::parse(&task_id).map_err(|_| inconsistent())?,
    ))
}
