//! What is written with a transition: its entries, chained, and the rows that follow from the state.

use phasegate_id::{EventId, TaskId};

use super::Error;
use super::order::{Order, Outcome};
use crate::domain::{self, ReadyWork};
use crate::store::{Ended, Entry, Granted, PersonalRow, Snapshot, StoredEntry, chain};

/// Bytes of the salt of personal data.
const SALT: usize = 16;

/// The rows of the history, each chained to the one before, and what is personal about them.
pub(super) fn entries(
    outcome: &Outcome,
    snapshot: &Snapshot,
) -> Result<(Vec<Entry>, Vec<PersonalRow>), Error> {
    let mut entries = Vec::with_capacity(outcome.events.len());
    let mut personal = Vec::new();
    let mut previous = snapshot.head;
    let mut firsts = outcome.firsts.iter().peekable();
    for (position, event) in outcome.events.iter().enumerate() {
        let sequence = outcome.before.version + 1 + position as u64;
        let first = firsts.next_if(|first| first.position == position);
        let mut commitment = None;
        if let Some(first) = first.filter(|first| !first.personal.is_empty()) {
            let body = serde_json::to_vec(&first.personal)
                .map_err(|error| Error::Broken(format!("personal data has no JSON: {error}")))?;
            let salt = rand::random::<[u8; SALT]>().to_vec();
            commitment = Some(chain::commitment(&salt, &body));
            personal.push(PersonalRow { sequence, salt, body });
        }
        let own_id = || EventId::generate().into_string();
        let event_id = first.and_then(|first| first.event_id.clone()).unwrap_or_else(own_id);
        let instance = outcome.after.id.clone();
        let stored = StoredEntry::new(event_id.clone(), instance, sequence, event.clone(), commitment);
        let body = serde_json::to_vec(&stored)
            .map_err(|error| Error::Broken(format!("an event has no JSON: {error}")))?;
        let hash = chain::hash(&previous, &body);
        let record = domain::record(outcome.after.id.as_str(), event);
        entries.push(Entry {
            sequence,
            event_id,
            kind: record.watch_type.to_owned(),
            audit_type: record.audit_type.to_owned(),
            occurred_at: event.at,
            body,
            previous_hash: previous,
            hash,
        });
        previous = hash;
    }
    Ok((entries, personal))
}

/// Rows that follow from the state: the difference between before and after.
pub(super) struct Follows {
    pub(super) unqueued: Vec<TaskId>,
    pub(super) queued: Vec<ReadyWork>,
    pub(super) ended: Vec<Ended>,
    pub(super) granted: Vec<Granted>,
}

impl Follows {
    pub(super) fn of(outcome: &Outcome, order: &Order) -> Self {
        let definition = &outcome.pinned.definition;
        let before = domain::ready_work(definition, &outcome.before);
        let after = domain::ready_work(definition, &outcome.after);
        let unqueued = before.keys().filter(|task| !after.contains_key(*task)).cloned().collect();
        // What was held for a writer may be due now.
        let was_held = |task: &TaskId| order.written.as_ref().is_some_and(|written| written.task == *task);
        let is_due = |task: &TaskId, work: &ReadyWork| before.get(task) != Some(work) || was_held(task);
        let queued = after.into_iter().filter(|(task, work)| is_due(task, work)).map(|(_, work)| work);
        let queued = queued.collect();
        let held_before = domain::leases(&outcome.before);
        let held_after = domain::leases(&outcome.after);
        let is_same =
            |task: &TaskId, fencing: u64| held_after.get(task).is_some_and(|held| held.fencing == fencing);
        let ended = held_before
            .values()
            .filter(|held| !is_same(&held.task, held.fencing))
            .map(|held| Ended {
                task: held.task.clone(),
                fencing: held.fencing,
                checkpoint: order.checkpoint.clone(),
            })
            .collect();
        let granted = held_after
            .values()
            .filter(|held| held_before.get(&held.task).is_none_or(|before| before.fencing != held.fencing))
            .map(|held| Granted {
                task: held.task.clone(),
                fencing: held.fencing,
                worker: held.worker.clone(),
                queue: super::seen::queue(definition, &outcome.after, &held.task).to_owned(),
                duration: order.lease_duration,
                ends_at: outcome.now + order.lease_duration,
            })
            .collect();
        Self { unqueued, queued, ended, granted }
    }
}
