//! Work is handed in: its expected artifacts must be there, and people may have to approve it.

use std::collections::BTreeMap;

use phasegate_id::{ArtifactKey, TaskId};
use serde_json::Value;

use super::approval::{Standing, standing};
use super::command::{Actor, CurrentVersion};
use super::event::{Change, RoundCause};
use super::instance::{ApprovalStatus, Subject, TaskStatus};
use super::rejection::Rejection;
use super::round::begin;
use super::work::Work;

/// Takes work in. Repeating it under the same lease changes nothing.
pub(super) fn hand_in(
    work: &mut Work<'_>,
    actor: &Actor,
    id: &TaskId,
    fencing: u64,
    output: Option<&Value>,
    summary: &str,
) -> Result<(), Rejection> {
    let (task, _) = work.task(id)?;
    let is_handed_in = matches!(task.status, TaskStatus::AwaitingApproval | TaskStatus::Completed);
    if is_handed_in && task.fencing == fencing {
        return Ok(());
    }
    let (task, written) = work.held(id, fencing)?;
    let worker = task.lease.as_ref().map(|lease| lease.worker.clone()).unwrap_or_default();
    let (stored, missing): (BTreeMap<_, _>, Vec<_>) = sort_out(work, &written.artifacts);
    if !missing.is_empty() {
        return Err(Rejection::ArtifactsMissing(missing));
    }
    let handed_in = Change::TaskHandedIn {
        task: id.clone(),
        worker,
        fencing,
        output: output.cloned(),
        summary: summary.to_owned(),
        artifacts: stored,
    };
    work.record(actor, handed_in);
    if written.required_approvals.is_empty() {
        work.record(actor, Change::TaskCompleted { task: id.clone(), approval: None });
        return Ok(());
    }
    // What the agent asked for itself, and what was taken back before the work was there, decides nothing about it.
    let approval = work.instance.tasks.get(id).and_then(|task| task.approval.clone());
    let standing = standing(work, approval.as_ref());
    if matches!(standing, Standing::Refused(ApprovalStatus::Withdrawn) | Standing::Superseded) {
        begin(work, Subject::Task(id.clone()), RoundCause::Superseded);
    }
    Ok(())
}

/// Which of the expected artifacts are there, and which are missing.
fn sort_out(
    work: &Work<'_>,
    expected: &[String],
) -> (BTreeMap<ArtifactKey, CurrentVersion>, Vec<ArtifactKey>) {
    let mut stored = BTreeMap::new();
    let mut missing = Vec::new();
    for key in expected {
        match work.current.get_key_value(key.as_str()) {
            Some((key, version)) => {
                stored.insert(key.clone(), version.clone());
            }
            None => missing.push(ArtifactKey::trusted(key)),
        }
    }
    (stored, missing)
}
