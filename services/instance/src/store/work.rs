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

/// What stands in a queue.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) due: Vec<Candidate>,
    /// When more comes due; not said on later pages, nor where there is more that is due than was asked for.
    pub(crate) next_due: Option<Timestamp>,
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

/// Stands for the urgency of what is not due yet.
const NOT_DUE: i64 = -1;
/// The urgencies, highest first.
const PRIORITIES: [i64; 4] = [3, 2, 1, 0];

impl Store {
    /// Reads what is due in a queue: the most urgent first, then what has waited longest. At most `limit`, and a few more.
    ///
    /// One range of the index for each urgency: a task that waits for its next attempt does not stand in the way of
    /// those behind it.
    pub(crate) async fn work_list(
        &self,
        filter: WorkFilter<'_>,
        now: Timestamp,
        after: Option<&CandidatePosition>,
        limit: usize,
    ) -> Result<Look, Error> {
        let only = filter.only("$3");
        let due = |priority: i64| {
            let is_begun = after.is_some_and(|after| after.priority == priority);
            let behind = if is_begun { "and (ready_at, instance_id, task_id) > ($6, $7, $8)" } else { "" };
            format!(
                "select * from (
                     select instance_id, task_id, priority, ready_at, tools from work
                      where tenant_id = $1 and queue = $2 and priority = {priority} and ready_at <= $4 and {only} {behind}
                      order by ready_at, instance_id, task_id limit $5) as due_{priority}"
            )
        };
        let next = |priority: i64| {
            format!(
                "select * from (
                     select '', '', {NOT_DUE}, ready_at, '' from work
                      where tenant_id = $1 and queue = $2 and priority = {priority} and ready_at > $4 and {only}
                      order by ready_at limit 1) as next_{priority}"
            )
        };
        let left = PRIORITIES.into_iter().filter(|one| after.is_none_or(|after| *one <= after.priority));
        let mut ranges: Vec<String> = left.map(due).collect();
        if after.is_none() {
            ranges.extend(PRIORITIES.map(next));
        }
        let sql = format!(
            "{} order by priority desc, ready_at, instance_id, task_id limit $5 + {}",
            ranges.join(" union all "),
            PRIORITIES.len()
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX - 4);
        let mut values = args![filter.tenant, filter.queue, filter.instance, now, limit];
        if let Some(after) = after {
            values.extend(args![after.ready_at, &after.instance_id, &after.task_id]);
        }
        let rows = self.db.fetch_all(sql, values).await.map_err(Error::doing("look for work"))?;
        let mut look = Look::default();
        for row in &rows {
            if row.get::<i64>("priority")? == NOT_DUE {
                let due: Timestamp = row.get("ready_at")?;
                look.next_due = look.next_due.map_or(Some(due), |next| Some(next.min(due)));
            } else {
                look.due.push(candidate(row)?);
            }
        }
        Ok(look)
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
