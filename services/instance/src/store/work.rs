//! The queues. What stands in them may be handed out; taking it is a transition of its instance, so a row here is an
//! invitation and no promise.

use phasegate_clock::Timestamp;
use phasegate_database::{Row, args};
use phasegate_id::{InstanceId, TaskId};

use super::{Error, Store};

/// Work that may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) instance_id: InstanceId,
    pub(crate) task_id: TaskId,
    pub(crate) priority: i64,
    pub(crate) ready_at: Timestamp,
    pub(crate) tools: Vec<String>,
}

/// Whose work is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkFilter<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) queue: &'a str,
    /// Only of this instance, unless empty.
    pub(crate) instance: &'a str,
}

impl WorkFilter<'_> {
    /// The condition on the instance, which stands in `parameter`. As texts of their own, each is a range of an index: of
    /// the queue's, or of the instance's rows.
    fn only(&self, parameter: &str) -> String {
        if self.instance.is_empty() {
            format!("{parameter} = ''")
        } else {
            format!("instance_id = {parameter}")
        }
    }
}

/// Where to go on in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CandidatePosition {
    pub(crate) priority: i64,
    pub(crate) ready_at: Timestamp,
    pub(crate) instance_id: String,
    pub(crate) task_id: String,
}

impl From<&Candidate> for CandidatePosition {
    fn from(candidate: &Candidate) -> Self {
        Self {
            priority: candidate.priority,
            ready_at: candidate.ready_at,
            instance_id: candidate.instance_id.to_string(),
            task_id: candidate.task_id.to_string(),
        }
    }
}

/// The urgencies, highest first.
const PRIORITIES: [i64; 4] = [3, 2, 1, 0];

impl Store {
    /// Reads what is due in a queue: the most urgent first, then what has waited longest.
    ///
    /// One range of the index for each urgency: a task that waits for its next attempt does not stand in the way of
    /// those behind it.
    pub(crate) async fn work_list(
        &self,
        filter: WorkFilter<'_>,
        now: Timestamp,
        after: Option<&CandidatePosition>,
        limit: usize,
    ) -> Result<Vec<Candidate>, Error> {
        let only = filter.only("$3");
        let range = |priority: i64| {
            let is_begun = after.is_some_and(|after| after.priority == priority);
            let behind = if is_begun { "and (ready_at, instance_id, task_id) > ($6, $7, $8)" } else { "" };
            format!(
                "select * from (
                     select instance_id, task_id, priority, ready_at, tools from work
                      where tenant_id = $1 and queue = $2 and priority = {priority} and ready_at <= $4 and {only} {behind}
                      order by ready_at, instance_id, task_id limit $5) as priority_{priority}"
            )
        };
        let left = PRIORITIES.into_iter().filter(|one| after.is_none_or(|after| *one <= after.priority));
        let ranges: Vec<String> = left.map(range).collect();
        let sql = format!(
            "{} order by priority desc, ready_at, instance_id, task_id limit $5",
            ranges.join(" union all ")
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut values = args![filter.tenant, filter.queue, filter.instance, now, limit];
        if let Some(after) = after {
            values.extend(args![after.ready_at, &after.instance_id, &after.task_id]);
        }
        let rows = self.db.fetch_all(sql, values).await.map_err(Error::doing("look for work"))?;
        rows.iter().map(candidate).collect()
    }

    /// When something of a queue comes due next, after `now`.
    pub(crate) async fn work_next_due(
        &self,
        filter: WorkFilter<'_>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let only = filter.only("$3");
        let ranges = PRIORITIES.map(|priority| {
            format!(
                "select * from (
                     select ready_at from work
                      where tenant_id = $1 and queue = $2 and priority = {priority} and ready_at > $4 and {only}
                      order by ready_at limit 1) as priority_{priority}"
            )
        });
        let sql = format!("{} order by ready_at limit 1", ranges.join(" union all "));
        let row = self
            .db
            .fetch_optional(sql, args![filter.tenant, filter.queue, filter.instance, now])
            .await
            .map_err(Error::doing("look for work"))?;
        Ok(row.map(|row| row.get("ready_at")).transpose()?)
    }

    /// Notes that somebody asked for work of these queues.
    pub(crate) async fn queue_polled(
        &self,
        tenant: &str,
        queues: Vec<String>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let tenant = tenant.to_owned();
        self.db
            .transaction(move |tx| {
                Box::pin(async move {
                    for queue in queues {
                        tx.execute(
                            "insert into queue_poll (tenant_id, queue, polled_at) values ($1, $2, $3)
                             on conflict (tenant_id, queue) do update set polled_at = excluded.polled_at
                              where queue_poll.polled_at < excluded.polled_at",
                            args![&tenant, queue, now],
                        )
                        .await
                        .map_err(Error::doing("note a poll"))?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// When somebody asked for work of a queue last.
    pub(crate) async fn queue_last_polled(
        &self,
        tenant: &str,
        queue: &str,
    ) -> Result<Option<Timestamp>, Error> {
        let row = self
            .db
            .fetch_optional(
                "select polled_at from queue_poll where tenant_id = $1 and queue = $2",
                args![tenant, queue],
            )
            .await
            .map_err(Error::doing("look at the polls"))?;
        Ok(row.map(|row| row.get("polled_at")).transpose()?)
    }
}

fn candidate(row: &Row) -> Result<Candidate, Error> {
    let (instance_id, task_id): (String, String) = (row.get("instance_id")?, row.get("task_id")?);
    let inconsistent = |problem: String| Error::Inconsistent {
        table: "work",
        row: format!("{instance_id}/{task_id}"),
        problem,
    };
    Ok(Candidate {
        instance_id: InstanceId::parse(&instance_id).map_err(|error| inconsistent(error.to_string()))?,
        task_id: TaskId::parse(&task_id).map_err(|error| inconsistent(error.to_string()))?,
        priority: row.get("priority")?,
        ready_at: row.get("ready_at")?,
        tools: serde_json::from_str(&row.get::<String>("tools")?)
            .map_err(|error| inconsistent(error.to_string()))?,
    })
}
