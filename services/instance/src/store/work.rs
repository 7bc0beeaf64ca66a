//! The queues. What stands in them may be handed out; taking it is a transition of its instance, so a row here is an
//! invitation and no promise.

use phasegate_clock::Timestamp;
use phasegate_database::{Row, args};
use phasegate_id::{InstanceId, TaskId};

use super::{Error, Store};

/// What is due of one urgency.
macro_rules! due_of {
    ($priority:literal) => {
        concat!(
            "select * from (select instance_id, task_id, priority, ready_at, tools from work
                where tenant_id = $1 and queue = $2 and priority = ",
            $priority,
            " and ready_at <= $3 and (priority < $4 or (priority = $4 and (ready_at, instance_id, task_id) > ($5, $6, $7)))
                order by ready_at, instance_id, task_id limit $8) as due_",
            $priority
        )
    };
}

/// When something of one urgency comes due next.
macro_rules! next_of {
    ($priority:literal) => {
        concat!(
            "select min(ready_at) as ready_at from work
              where tenant_id = $1 and queue = $2 and ready_at > $3 and priority = ",
            $priority
        )
    };
}

/// Work that may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) instance_id: InstanceId,
    pub(crate) task_id: TaskId,
    pub(crate) priority: i64,
    pub(crate) ready_at: Timestamp,
    pub(crate) tools: Vec<String>,
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

/// What is due, from a place in the order on: one range of the index for each urgency, in one question, because a worker
/// that finds nothing asks often.
const LIST: &str = concat!(
    "select instance_id, task_id, priority, ready_at, tools from (",
    due_of!(3),
    " union all ",
    due_of!(2),
    " union all ",
    due_of!(1),
    " union all ",
    due_of!(0),
    ") as due order by priority desc, ready_at, instance_id, task_id limit $8"
);

/// What comes due next, in the same way.
const NEXT_DUE: &str = concat!(
    "select min(ready_at) as ready_at from (",
    next_of!(3),
    " union all ",
    next_of!(2),
    " union all ",
    next_of!(1),
    " union all ",
    next_of!(0),
    ") as next"
);

impl Store {
    /// Reads what is due in a queue: the most urgent first, then what has waited longest.
    ///
    /// One range of the index for each urgency: a task that waits for its next attempt does not stand in the way of
    /// those behind it.
    pub(crate) async fn work_list(
        &self,
        tenant: &str,
        queue: &str,
        now: Timestamp,
        after: Option<&CandidatePosition>,
        limit: usize,
    ) -> Result<Vec<Candidate>, Error> {
        let after = after.map_or((i64::MAX, Timestamp::from_micros(i64::MIN), "", ""), |after| {
            (after.priority, after.ready_at, after.instance_id.as_str(), after.task_id.as_str())
        });
        let (priority, ready_at, instance_id, task_id) = after;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = args![tenant, queue, now, priority, ready_at, instance_id, task_id, limit];
        let rows = self.db.fetch_all(LIST, values).await.map_err(Error::doing("look for work"))?;
        rows.iter().map(candidate).collect()
    }

    /// When something of a queue comes due next, after `now`.
    pub(crate) async fn work_next_due(
        &self,
        tenant: &str,
        queue: &str,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let row = self
            .db
            .fetch_optional(NEXT_DUE, args![tenant, queue, now])
            .await
            .map_err(Error::doing("look for work"))?;
        Ok(row.map(|row| row.get::<Option<Timestamp>>("ready_at")).transpose()?.flatten())
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
