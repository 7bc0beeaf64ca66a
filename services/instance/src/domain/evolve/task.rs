//! Tasks: from the first lease to done, and back for another round.

use std::collections::BTreeMap;
use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, TaskId};

use super::super::command::CurrentVersion;
use super::super::copy_on_write::Shared;
use super::super::event::{Change, RoundCause};
use super::super::instance::{Artifact, Instance};
use super::super::request::{Approval, ApprovalStatus};
use super::super::task::{Delivery, Failure, Lease, Task, TaskStatus};

/// The requests of an instance.
pub(super) struct Requests<'a> {
    /// That subjects rest on.
    pub(super) current: &'a mut Shared<BTreeMap<ApprovalId, Approval>>,
    /// How others ended.
    pub(super) replaced: &'a mut Shared<BTreeMap<ApprovalId, ApprovalStatus>>,
}

/// Takes what happened to `task` into the state.
pub(super) fn evolve(instance: &mut Instance, task: &TaskId, change: &Change, at: Timestamp) {
    if let Change::TaskHandedIn { artifacts, .. } = change {
        learn(&mut instance.artifacts, artifacts);
    }
    let mut requests = Requests { current: &mut instance.approvals, replaced: &mut instance.replaced };
    let Some(task) = instance.tasks.get_mut(task.as_str()) else { return };
    task.since = Some(at);
    if work(task, change, at) {
        return;
    }
    if let Change::TaskEscalated { to, to_agent, round, replaced, remarks, .. } = change {
        task.take_lease_away();
        task.escalated_to.push(to.clone());
        task.remarks.extend(remarks.iter().cloned());
        task.attempt = 0;
        task.status = TaskStatus::Escalated;
        task.ready_at = None;
        if *to_agent {
            requests.let_go(&mut task.approval, replaced.as_ref());
            task.round = *round;
            task.assignee.clone_from(to);
            task.delivery = Delivery::Escalation;
            task.status = TaskStatus::Ready;
            task.ready_at = Some(at);
        }
        task.fencing += 1;
    }
    if let Change::TaskReturned { round, replaced, remarks, cause, .. } = change {
        requests.let_go(&mut task.approval, replaced.as_ref());
        task.remarks.extend(remarks.iter().cloned());
        task.delivery = Delivery::Rework;
        another_round(task, *round, *cause);
    }
    if let Change::TaskRetried { round, replaced, .. } = change {
        requests.let_go(&mut task.approval, replaced.as_ref());
        task.fencing += 1;
        task.delivery = Delivery::Retry;
        another_round(task, *round, RoundCause::Unlocked);
    }
    if let Change::TaskSkipped { replaced, .. } = change {
        requests.let_go(&mut task.approval, replaced.as_ref());
        task.lease = None;
        task.fencing += 1;
        task.ready_at = None;
        task.status = TaskStatus::Skipped;
        task.ended_at = Some(at);
    }
}

/// Takes what happens between a lease and its end into `task`; false if `change` is none of that.
fn work(task: &mut Task, change: &Change, at: Timestamp) -> bool {
    if let Change::TaskReady { .. } = change {
        task.status = TaskStatus::Ready;
        task.ready_at = Some(at);
    } else if let Change::TaskLeased { worker, fencing, attempt, .. } = change {
        task.status = TaskStatus::Running;
        task.lease = Some(Lease { worker: worker.clone(), granted_at: at });
        task.fencing = *fencing;
        task.attempt = *attempt;
        task.ready_at = None;
        task.started_at.get_or_insert(at);
    } else if let Change::TaskHandedIn { output, summary, .. } = change {
        task.status = TaskStatus::AwaitingApproval;
        task.lease = None;
        task.output = output.clone().map(Arc::new);
        task.summary.clone_from(summary);
    } else if let Change::TaskCompleted { .. } = change {
        task.status = TaskStatus::Completed;
        task.ended_at = Some(at);
    } else if let Change::TaskAttemptFailed { fencing, kind, message, non_retryable, .. } = change {
        task.status = TaskStatus::Failed;
        task.lease = None;
        let expired = kind == Failure::LEASE_EXPIRED;
        task.delivery = if expired { Delivery::LeaseExpired } else { Delivery::Retry };
        task.last_failure = Some(Failure {
            kind: kind.clone(),
            message: message.clone(),
            non_retryable: *non_retryable,
            fencing: *fencing,
            occurred_at: at,
        });
    } else if let Change::TaskRetryScheduled { ready_at, .. } = change {
        task.status = TaskStatus::Ready;
        task.ready_at = Some(*ready_at);
    } else if let Change::TaskReleased { .. } = change {
        task.status = TaskStatus::Ready;
        task.lease = None;
        task.attempt = task.attempt.saturating_sub(1);
        task.ready_at = Some(at);
        task.delivery = Delivery::Released;
    } else if let Change::TaskFailed { .. } = change {
        task.status = TaskStatus::Failed;
    } else if let Change::TaskBlocked { .. } = change {
        task.status = TaskStatus::Blocked;
    } else if let Change::TaskHeldBack { .. } = change {
        if task.lease.is_some() {
            task.attempt = task.attempt.saturating_sub(1);
        }
        task.take_lease_away();
        task.status = TaskStatus::Pending;
        task.ready_at = None;
    } else {
        return false;
    }
    true
}

/// Puts a task before its next round; it becomes ready once its dependencies are done.
pub(super) fn another_round(task: &mut Task, round: u32, cause: RoundCause) {
    task.take_lease_away();
    task.status = TaskStatus::Pending;
    task.round = round;
    task.attempt = 0;
    task.ready_at = None;
    task.ended_at = None;
    match cause {
        RoundCause::ChangesRequested => task.changes += 1,
        RoundCause::Unlocked => {
            task.changes = 0;
            task.escalated_to.clear();
            task.assignee.clone_from(&task.owner);
        }
        RoundCause::LaterReview
        | RoundCause::EarlierRound
        | RoundCause::ContentChanged
        | RoundCause::Superseded => {}
    }
}

impl Requests<'_> {
    /// Forgets the request that a subject rested on.
    fn let_go(&mut self, slot: &mut Option<ApprovalId>, replaced: Option<&ApprovalId>) {
        if let Some(replaced) = replaced {
            self.forget(replaced);
            *slot = None;
        }
    }

    /// Forgets a request, but for how it ended.
    pub(super) fn forget(&mut self, id: &ApprovalId) {
        if let Some(gone) = self.current.remove(id)
            && !gone.status.is_open()
        {
            self.replaced.insert(id.clone(), gone.status);
        }
    }
}

/// Takes versions in that are newer than those known.
pub(super) fn learn(
    known: &mut BTreeMap<ArtifactKey, Artifact>,
    artifacts: &BTreeMap<ArtifactKey, CurrentVersion>,
) {
    for (key, artifact) in artifacts {
        if known.get(key).is_none_or(|known| known.version < artifact.version) {
            known.insert(
                key.clone(),
                Artifact {
                    version: artifact.version,
                    kind: artifact.kind.clone(),
                    phase: artifact.phase.clone(),
                    task: artifact.task.clone(),
                    digest: artifact.digest.clone(),
                },
            );
        }
    }
}
