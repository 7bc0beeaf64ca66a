//! The only writer of [`Instance`]. It is total: the past cannot be refused, so an event that does not fit changes
//! nothing but the version. All checks are in `decide`.

mod boundary;
mod heard;
mod task;

use std::sync::Arc;

use phasegate_clock::Timestamp;
use serde_json::Value;

use super::copy_on_write::Shared;
use super::event::{Change, Event, Started};
use super::instance::{Gate, GateStatus, Instance, Phase, PhaseStatus, Status};
use super::task::{Delivery, Task, TaskStatus};

/// Takes one event into the state.
pub fn evolve(mut instance: Instance, event: &Event) -> Instance {
    instance.version += 1;
    let at = event.at;
    match &event.change {
        Change::InstanceStarted(started) => start(&mut instance, started, event),
        Change::InstancePaused { reason } => {
            instance.status = Status::Paused;
            instance.paused_at = Some(at);
            instance.status_reason.clone_from(reason);
        }
        Change::InstanceResumed { .. } => {
            instance.status = Status::Running;
            instance.paused_at = None;
            instance.status_reason.clear();
        }
        Change::InstanceCompleted {} => end(&mut instance, Status::Completed, "", at),
        Change::InstanceCancelled { reason } => end(&mut instance, Status::Cancelled, reason, at),
        Change::InstanceFailed { reason, .. } => end(&mut instance, Status::Failed, reason, at),
        Change::FactsSet { facts, .. } => {
            instance.facts.extend(facts.iter().map(|(name, value)| (name.clone(), *value)));
        }
        Change::ContextChanged { changed, removed, .. } => {
            if let Value::Object(members) = Arc::make_mut(&mut instance.context) {
                members.extend(changed.iter().map(|(name, value)| (name.clone(), value.clone())));
                members.retain(|name, _| !removed.contains(name));
            }
        }
        Change::PhaseGated { .. }
        | Change::PhaseEntered { .. }
        | Change::PhaseAwaitingApproval { .. }
        | Change::PhaseActivated { .. }
        | Change::PhaseBlocked { .. }
        | Change::PhaseCompleted { .. }
        | Change::PhaseSkipped { .. }
        | Change::PhaseReopened { .. }
        | Change::GateOpened { .. }
        | Change::GateRejected { .. }
        | Change::ApprovalNeeded { .. }
        | Change::RoundBegun { .. } => boundary::evolve(&mut instance, &event.change, at),
        Change::TaskReady { task }
        | Change::TaskLeased { task, .. }
        | Change::TaskHandedIn { task, .. }
        | Change::TaskCompleted { task, .. }
        | Change::TaskAttemptFailed { task, .. }
        | Change::TaskRetryScheduled { task, .. }
        | Change::TaskReleased { task, .. }
        | Change::TaskEscalated { task, .. }
        | Change::TaskFailed { task, .. }
        | Change::TaskReturned { task, .. }
        | Change::TaskBlocked { task, .. }
        | Change::TaskRetried { task, .. }
        | Change::TaskSkipped { task, .. }
        | Change::TaskHeldBack { task, .. } => task::evolve(&mut instance, task, &event.change, at),
        Change::Heard(fact) => heard::evolve(&mut instance, fact),
    }
    instance
}

fn start(instance: &mut Instance, started: &Started, event: &Event) {
    let begun = Instance {
        id: started.id.clone(),
        process_id: started.process_id.clone(),
        process_version: started.process_version.clone(),
        definition_digest: started.definition_digest.clone(),
        name: started.name.clone(),
        team_id: started.team_id.clone(),
        labels: started.labels.clone().into(),
        status: Status::Running,
        status_reason: String::new(),
        context: Arc::new(started.context.clone()),
        facts: Shared::default(),
        phases: started.phases.iter().map(|id| (id.clone(), pending_phase())).collect(),
        tasks: started
            .tasks
            .iter()
            .map(|task| (task.id.clone(), pending_task(task.phase.clone(), &task.assignee).into()))
            .collect(),
        gates: started.gates.iter().map(|id| (id.clone(), closed_gate())).collect(),
        approvals: Shared::default(),
        answers: Shared::default(),
        settled: Shared::default(),
        replaced: Shared::default(),
        artifacts: Shared::default(),
        participants: started.participants.clone().into(),
        created_by: event.actor.clone(),
        started_at: Some(event.at),
        ended_at: None,
        paused_at: None,
        version: instance.version,
    };
    *instance = begun;
}

fn pending_phase() -> Phase {
    Phase {
        status: PhaseStatus::Pending,
        round: 1,
        changes: 0,
        approval: None,
        block: None,
        started_at: None,
        ended_at: None,
        since: None,
    }
}

fn pending_task(phase: phasegate_id::PhaseId, owner: &str) -> Task {
    Task {
        phase,
        status: TaskStatus::Pending,
        attempt: 0,
        round: 1,
        changes: 0,
        fencing: 0,
        lease: None,
        ready_at: None,
        delivery: Delivery::First,
        owner: owner.to_owned(),
        assignee: owner.to_owned(),
        escalated_to: Vec::new(),
        output: None,
        summary: String::new(),
        remarks: Vec::new(),
        last_failure: None,
        approval: None,
        started_at: None,
        ended_at: None,
        since: None,
    }
}

fn closed_gate() -> Gate {
    Gate { status: GateStatus::Pending, round: 1, changes: 0, approval: None, forced: false, opened_at: None }
}

/// Ends the instance: what has not ended by itself is cancelled, and every lease is taken away.
fn end(instance: &mut Instance, status: Status, reason: &str, at: Timestamp) {
    instance.status = status;
    reason.clone_into(&mut instance.status_reason);
    instance.ended_at = Some(at);
    instance.paused_at = None;
    for task in instance.tasks.values_mut() {
        task.take_lease_away();
        task.ready_at = None;
        if !matches!(task.status, TaskStatus::Completed | TaskStatus::Skipped | TaskStatus::Failed) {
            task.status = TaskStatus::Cancelled;
            task.ended_at = Some(at);
            task.since = Some(at);
        }
    }
    instance.approvals.retain(|_, approval| !approval.status.is_open());
}

impl Task {
    /// Ends the lease, if there is one, in a way that its holder's token shows.
    pub(super) fn take_lease_away(&mut self) {
        if self.lease.take().is_some() {
            self.fencing += 1;
        }
    }
}
