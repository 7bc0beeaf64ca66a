//! The engine's words as messages: instances, tasks, timelines.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_id::TaskId;
use phasegate_process as process;
use phasegate_process::{Definition, GateKind, Priority};
use phasegate_proto::definition::v1::{GateType, Priority as ProtoPriority};
use phasegate_proto::instance::v1 as proto;
use phasegate_proto::worker::v1 as worker;
use serde_json::Value;

use super::convert::{count, to_duration};
use crate::app::{
    Leased, Outcome, actor_to_proto, json_object, json_to_struct, phase_status_to_proto, status_to_proto,
};
use crate::domain::{
    self, Blocker, Delivery, Expected, Failure, GateStatus, Health, PendingApproval, PhaseLine, Remark,
    Subject, Task, TaskStatus,
};

/// A heartbeat is due three times before a lease ends.
const HEARTBEATS_PER_LEASE: u32 = 3;

fn at(time: Option<Timestamp>) -> Option<prost_types::Timestamp> {
    time.map(Timestamp::to_proto)
}

fn object(value: &Value) -> prost_types::Struct {
    json_to_struct(&json_object(value.clone()))
}

/// An instance with its status.
pub(super) fn instance(outcome: &Outcome) -> proto::ProcessInstance {
    let instance = &outcome.after;
    let overview = outcome.overview();
    let phase = overview.phase.map(|phase| phase.to_string()).unwrap_or_default();
    let expected = |pick: fn(&Expected) -> Timestamp| overview.completion.as_ref().map(pick);
    proto::ProcessInstance {
        id: instance.id.to_string(),
        process_id: instance.process_id.to_string(),
        process_version: instance.process_version.clone(),
        process_name: outcome.pinned.definition.name.clone(),
        definition_digest: instance.definition_digest.clone(),
        name: instance.name.clone(),
        status: status_to_proto(instance.status).into(),
        phase: phase.clone(),
        context: Some(object(&instance.context)),
        facts: instance.facts.iter().map(|(name, value)| (name.clone(), *value)).collect(),
        team_id: instance.team_id.clone(),
        labels: BTreeMap::clone(&instance.labels),
        current_phase: phase,
        completed_phases: overview.completed_phases.iter().map(ToString::to_string).collect(),
        pending_approvals: overview.pending_approvals.iter().map(pending_approval).collect(),
        blocked_tasks: overview.blocked.iter().map(blocked).collect(),
        progress_percent: count(overview.progress_percent),
        estimated_completion: at(expected(|expected| expected.p50)),
        estimated_completion_late: at(expected(|expected| expected.p90)),
        health: health(overview.health).into(),
        started_at: at(instance.started_at),
        completed_at: at(instance.ended_at),
        paused_at: at(instance.paused_at),
        status_reason: instance.status_reason.clone(),
        created_by: Some(actor_to_proto(&instance.created_by)),
        version: count(instance.version),
        as_of: instance.version.to_string(),
    }
}

fn health(health: Health) -> proto::InstanceHealth {
    match health {
        Health::Ok => proto::InstanceHealth::Ok,
        Health::WaitingOnHuman => proto::InstanceHealth::WaitingOnHuman,
        Health::Blocked => proto::InstanceHealth::Blocked,
        Health::NoWorker => proto::InstanceHealth::NoWorker,
        Health::Overdue => proto::InstanceHealth::Overdue,
    }
}

fn pending_approval(pending: &PendingApproval) -> proto::PendingApproval {
    let gate_id = if let Subject::Gate(gate) = &pending.subject { gate.to_string() } else { String::new() };
    proto::PendingApproval {
        approval_id: pending.approval.to_string(),
        title: pending.title.clone(),
        task_id: pending.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        phase_id: pending.phase.as_ref().map(ToString::to_string).unwrap_or_default(),
        gate_id,
        waiting_on: pending.waiting_on.iter().map(ToString::to_string).collect(),
        requested_at: at(Some(pending.requested_at)),
        expires_at: at(pending.expires_at),
    }
}

/// Something that does not move.
pub(super) fn blocked(blocker: &Blocker) -> proto::BlockedTask {
    proto::BlockedTask {
        task_id: blocker.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        phase_id: blocker.phase.to_string(),
        reason: blocker.kind.as_str().to_owned(),
        message: blocker.message.clone(),
        blocked_by: blocker.blocked_by.clone(),
        unblocked_by: blocker.unblocked_by.clone(),
        since: at(blocker.since),
    }
}

/// The tasks of a definition with their phases, in the order written.
pub(super) fn written_tasks(
    definition: &Definition,
) -> impl Iterator<Item = (&process::Phase, &process::Task)> {
    definition.phases.iter().flat_map(|phase| phase.tasks.iter().map(move |task| (phase, task)))
}

/// One task; nothing when the instance has no such task.
pub(super) fn task(outcome: &Outcome, id: &str) -> Option<proto::Task> {
    let (phase, written) = written_tasks(&outcome.pinned.definition).find(|(_, task)| task.id == id)?;
    let state = outcome.after.tasks.get(id)?;
    let lease = outcome.around.leases.get(id).filter(|_| state.lease.is_some());
    let queue = outcome.pinned.definition.agents.get(&state.assignee).map(|agent| agent.queue.clone());
    // A task is ready since some time; only a time to come is worth telling.
    let next_attempt_at = state.ready_at.filter(|ready_at| *ready_at > outcome.now);
    Some(proto::Task {
        instance_id: outcome.after.id.to_string(),
        id: written.id.clone(),
        phase_id: phase.id.clone(),
        name: written.name.clone(),
        description: written.description.clone(),
        status: task_status(state.status).into(),
        assignee: state.assignee.clone(),
        queue: queue.unwrap_or_default(),
        priority: priority(written.priority).into(),
        dependencies: written.dependencies.clone(),
        tools: written.tools.clone(),
        expected_artifacts: written.artifacts.clone(),
        attempt: count(state.attempt),
        max_attempts: count(domain::attempts_max(&written.error_handling)),
        round: count(state.round),
        worker_id: state.lease.as_ref().map(|lease| lease.worker.clone()).unwrap_or_default(),
        progress_percent: lease.map_or(0, |lease| lease.progress),
        progress_message: lease.map(|lease| lease.message.clone()).unwrap_or_default(),
        output: state.output.as_deref().map(object),
        last_failure: state.last_failure.as_ref().map(failure),
        approval_id: state.approval.as_ref().map(ToString::to_string).unwrap_or_default(),
        remarks: remarks(outcome, state),
        fencing_token: i64::try_from(state.fencing).unwrap_or(i64::MAX),
        lease_expires_at: at(lease.and_then(|lease| lease.ends_at)),
        next_attempt_at: at(next_attempt_at),
        started_at: at(state.started_at),
        completed_at: at(state.ended_at.filter(|_| state.status == TaskStatus::Completed)),
    })
}

fn remarks(outcome: &Outcome, task: &Task) -> Vec<proto::Remark> {
    task.remarks.iter().map(|made| remark(made, outcome.around.remark_text(made))).collect()
}

fn remark(remark: &Remark, text: String) -> proto::Remark {
    proto::Remark {
        round: count(remark.round),
        participant_id: remark.participant.to_string(),
        artifact_key: remark.artifact.as_ref().map(ToString::to_string).unwrap_or_default(),
        path: remark.path.clone(),
        text,
        made_at: at(Some(remark.made_at)),
    }
}

fn failure(failure: &Failure) -> proto::Failure {
    proto::Failure {
        r#type: failure.kind.clone(),
        message: failure.message.clone(),
        non_retryable: failure.non_retryable,
        occurred_at: at(Some(failure.occurred_at)),
    }
}

/// The life cycle of a task.
pub(super) fn task_status(status: TaskStatus) -> proto::TaskStatus {
    match status {
        TaskStatus::Pending => proto::TaskStatus::Pending,
        TaskStatus::Ready => proto::TaskStatus::Ready,
        TaskStatus::Running => proto::TaskStatus::Running,
        TaskStatus::AwaitingApproval => proto::TaskStatus::AwaitingApproval,
        TaskStatus::Completed => proto::TaskStatus::Completed,
        TaskStatus::Blocked => proto::TaskStatus::Blocked,
        TaskStatus::Escalated => proto::TaskStatus::Escalated,
        TaskStatus::Failed => proto::TaskStatus::Failed,
        TaskStatus::Skipped => proto::TaskStatus::Skipped,
        TaskStatus::Cancelled => proto::TaskStatus::Cancelled,
    }
}

fn priority(priority: Priority) -> ProtoPriority {
    match priority {
        Priority::Low => ProtoPriority::Low,
        Priority::Normal => ProtoPriority::Normal,
        Priority::High => ProtoPriority::High,
        Priority::Urgent => ProtoPriority::Urgent,
    }
}

/// A task as it is handed out; nothing when the definition has no such task.
pub(super) fn leased(leased: &Leased) -> Option<worker::LeasedTask> {
    let outcome = &leased.outcome;
    let (instance, id) = (&outcome.after, leased.lease.task.as_str());
    let (phase, written) = written_tasks(&outcome.pinned.definition).find(|(_, task)| task.id == id)?;
    let state = instance.tasks.get(id)?;
    let artifacts = instance.artifacts.iter().map(|(key, artifact)| worker::ArtifactRef {
        key: key.to_string(),
        version: count(artifact.version),
        r#type: artifact.kind.clone(),
        digest: artifact.digest.clone(),
    });
    let checkpoint = leased.row.as_ref().and_then(|row| row.checkpoint.as_deref());
    let checkpoint = checkpoint.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    Some(worker::LeasedTask {
        lease: Some(worker::Lease {
            task_token: leased.token.clone(),
            fencing_token: i64::try_from(leased.lease.fencing).unwrap_or(i64::MAX),
            expires_at: at(Some(outcome.now + leased.duration)),
            heartbeat_interval: Some(to_duration(leased.duration / HEARTBEATS_PER_LEASE)),
        }),
        instance_id: instance.id.to_string(),
        instance_name: instance.name.clone(),
        process_id: instance.process_id.to_string(),
        process_version: instance.process_version.clone(),
        phase_id: phase.id.clone(),
        task_id: written.id.clone(),
        name: written.name.clone(),
        description: written.description.clone(),
        agent_id: state.assignee.clone(),
        queue: leased.queue.clone(),
        priority: priority(written.priority).into(),
        attempt: count(state.attempt),
        max_attempts: count(domain::attempts_max(&written.error_handling)),
        round: count(state.round),
        input: written.input.as_ref().map(object),
        context: Some(object(&instance.context)),
        tools: written.tools.clone(),
        expected_artifacts: written.artifacts.clone(),
        artifacts: artifacts.collect(),
        reason: delivery(leased.outcome.before.tasks.get(id).map_or(Delivery::First, |task| task.delivery))
            .into(),
        remarks: remarks(outcome, state),
        checkpoint: checkpoint.as_ref().map(object),
        last_failure: state.last_failure.as_ref().map(failure),
        trace_parent: phasegate_telemetry::trace_parent().unwrap_or_default(),
    })
}

fn delivery(delivery: Delivery) -> worker::DeliveryReason {
    match delivery {
        Delivery::First => worker::DeliveryReason::First,
        Delivery::Retry => worker::DeliveryReason::Retry,
        Delivery::Rework => worker::DeliveryReason::Rework,
        Delivery::LeaseExpired => worker::DeliveryReason::LeaseExpired,
        Delivery::Released => worker::DeliveryReason::Released,
        Delivery::Escalation => worker::DeliveryReason::Escalation,
    }
}

/// The phases with their times.
pub(super) fn timeline(outcome: &Outcome) -> Vec<proto::PhaseTimeline> {
    let definition = &outcome.pinned.definition;
    let lines = domain::timeline(definition, &outcome.after, outcome.now);
    let written = definition.phases.iter();
    written
        .filter_map(|phase| {
            Some(line(outcome, phase, lines.iter().find(|line| line.phase.as_str() == phase.id)?))
        })
        .collect()
}

fn line(outcome: &Outcome, written: &process::Phase, line: &PhaseLine) -> proto::PhaseTimeline {
    proto::PhaseTimeline {
        id: written.id.clone(),
        name: written.name.clone(),
        status: phase_status_to_proto(line.status).into(),
        order: written.order,
        started_at: at(line.started_at),
        completed_at: at(line.ended_at),
        planned_start_at: at(line.planned_start_at),
        planned_end_at: at(line.planned_end_at),
        estimated_duration: written.estimated_duration.clone(),
        tasks: line.tasks.iter().filter_map(|task| task_line(outcome, written, task)).collect(),
        gates: line.gates.iter().filter_map(|gate| gate_line(outcome, gate.as_str())).collect(),
    }
}

fn task_line(outcome: &Outcome, phase: &process::Phase, id: &TaskId) -> Option<proto::TaskTimeline> {
    let written = phase.tasks.iter().find(|task| task.id == id.as_str())?;
    let state = outcome.after.tasks.get(id)?;
    Some(proto::TaskTimeline {
        id: written.id.clone(),
        name: written.name.clone(),
        status: task_status(state.status).into(),
        assignee: state.assignee.clone(),
        started_at: at(state.started_at),
        completed_at: at(state.ended_at.filter(|_| state.status == TaskStatus::Completed)),
        attempt: count(state.attempt),
        round: count(state.round),
        dependencies: written.dependencies.clone(),
    })
}

fn gate_line(outcome: &Outcome, id: &str) -> Option<proto::GateTimeline> {
    let written = outcome.pinned.definition.gates.iter().find(|gate| gate.id == id)?;
    let state = outcome.after.gates.get(id)?;
    let kind = match written.kind {
        GateKind::Approval(_) => GateType::Approval,
        GateKind::Condition(_) => GateType::Condition,
        GateKind::Manual => GateType::Manual,
    };
    let status = match state.status {
        GateStatus::Pending => proto::GateStatus::Pending,
        GateStatus::Open => proto::GateStatus::Open,
        GateStatus::Rejected => proto::GateStatus::Rejected,
    };
    Some(proto::GateTimeline {
        id: written.id.clone(),
        name: written.name.clone(),
        r#type: kind.into(),
        status: status.into(),
        opened_at: at(state.opened_at),
        approval_id: state.approval.as_ref().map(ToString::to_string).unwrap_or_default(),
    })
}
