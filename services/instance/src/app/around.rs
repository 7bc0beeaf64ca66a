//! What stands around the state of an instance and is shown with it: leases, polls of its queues, words of people.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::TaskId;
use phasegate_process::Definition;

use super::{App, Error};
use crate::domain::{self, Instance, Personal, Remark};
use crate::store::LeaseRow;

/// A queue that nobody asked for work of within this time has no worker.
pub(crate) const WORKER_MISSING_AFTER: Duration = Duration::from_mins(1);
/// The database is told of polls at most this often, a queue.
const POLL_NOTED: Duration = Duration::from_secs(10);

/// What is shown with an instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Around {
    /// Leases by task: those that are out and the last ones of other tasks.
    pub(crate) leases: BTreeMap<TaskId, LeaseRow>,
    /// When somebody asked for work of the queues that have some; absent for never.
    pub(crate) polls: BTreeMap<String, Timestamp>,
    /// Words beside the entries that remarks point at.
    pub(crate) personal: BTreeMap<u64, Personal>,
}

/// When each queue was asked for work last, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Polls(Mutex<HashMap<(String, String), Known>>);

#[derive(Debug, Clone, Copy)]
struct Known {
    polled: Timestamp,
    noted: Option<Timestamp>,
}

impl Around {
    /// The text of a remark; empty where it was erased.
    pub(crate) fn remark_text(&self, remark: &Remark) -> String {
        let texts = self.personal.get(&remark.sequence).map(|personal| personal.remarks.as_slice());
        texts.and_then(|texts| texts.get(remark.position)).cloned().unwrap_or_default()
    }

    /// Whether somebody has asked for work of a queue lately.
    pub(crate) fn has_worker(&self, queue: &str, now: Timestamp) -> bool {
        self.polls.get(queue).is_some_and(|polled| now.duration_since(*polled) < WORKER_MISSING_AFTER)
    }
}

impl Polls {
    fn get(&self, tenant: &str, queue: &str) -> Option<Timestamp> {
        let polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        polls.get(&(tenant.to_owned(), queue.to_owned())).map(|known| known.polled)
    }

    /// Notes a poll, and says which queues the database should hear of.
    fn note(&self, tenant: &str, queues: &[String], now: Timestamp) -> Vec<String> {
        let mut polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        for queue in queues {
            let known =
                polls.entry((tenant.to_owned(), queue.clone())).or_insert(Known { polled: now, noted: None });
            known.polled = known.polled.max(now);
            if known.noted.is_none_or(|noted| now.duration_since(noted) >= POLL_NOTED) {
                known.noted = Some(now);
                due.push(queue.clone());
            }
        }
        due
    }
}

impl App {
    /// Reads what is shown with an instance.
    pub(super) async fn around(
        &self,
        tenant: &str,
        instance: &Instance,
        definition: &Definition,
    ) -> Result<Around, Error> {
        let remarks = instance.tasks.values().flat_map(|task| &task.remarks);
        let sequences: BTreeSet<u64> = remarks.map(|remark| remark.sequence).collect();
        Ok(Around {
            leases: self.store().lease_list(tenant, instance.id.as_str()).await?,
            polls: self.polls(tenant, instance, definition).await?,
            personal: self.store().personal_load(tenant, instance.id.as_str(), &sequences).await?,
        })
    }

    /// Reads what is shown with a task that is handed out.
    pub(super) async fn around_task(
        &self,
        tenant: &str,
        instance: &Instance,
        task: &TaskId,
    ) -> Result<Around, Error> {
        let mut around = Around::default();
        let Some(state) = instance.tasks.get(task) else { return Ok(around) };
        // Under the first lease there is nothing that an earlier one left.
        if state.fencing > 1 {
            around.leases = self.store().lease_list(tenant, instance.id.as_str()).await?;
        }
        let sequences: BTreeSet<u64> = state.remarks.iter().map(|remark| remark.sequence).collect();
        around.personal = self.store().personal_load(tenant, instance.id.as_str(), &sequences).await?;
        Ok(around)
    }

    /// When somebody asked for work of the queues in which this instance has some.
    pub(super) async fn polls(
        &self,
        tenant: &str,
        instance: &Instance,
        definition: &Definition,
    ) -> Result<BTreeMap<String, Timestamp>, Error> {
        let now = self.now();
        let queues: BTreeSet<String> =
            domain::ready_work(definition, instance).into_values().map(|work| work.queue).collect();
        let mut polls = BTreeMap::new();
        for queue in queues {
            let known = self.0.polls.get(tenant, &queue);
            let is_recent = known.is_some_and(|polled| now.duration_since(polled) < WORKER_MISSING_AFTER);
            // Its worker may poll another process.
            let polled = if is_recent {
                known
            } else {
                self.store().queue_last_polled(tenant, &queue).await?.max(known)
            };
            if let Some(polled) = polled {
                polls.insert(queue, polled);
            }
        }
        Ok(polls)
    }

    /// Notes that somebody asks for work.
    pub(super) async fn note_poll(&self, tenant: &str, queues: &[String]) -> Result<(), Error> {
        let now = self.now();
        let due = self.0.polls.note(tenant, queues, now);
        if !due.is_empty() {
            self.store().queue_polled(tenant, due, now).await?;
        }
        Ok(())
    }
}
