//! What must hold after every decision, in code. The same predicates serve the property tests and every debug build.

use phasegate_process as process;
use phasegate_process::{Definition, GateKind};

use super::copy_on_write::Shared;
use super::failure::attempts_max;
use super::instance::{Gate, GateStatus, Instance, Phase, PhaseStatus, Status};
use super::request::ApprovalStatus;
use super::task::{Task, TaskStatus};
use super::work::{current_phase, gates_before};

/// An invariant that does not hold: its number in the module's list, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {invariant} is broken: {what}")]
pub struct Broken {
    /// Number in the list at the top of the domain.
    pub invariant: u8,
    /// What does not fit.
    pub what: String,
}

/// Looks whether everything that must hold does.
pub fn check(definition: &Definition, instance: &Instance) -> Result<(), Broken> {
    if instance.status == Status::Unstarted {
        return Ok(());
    }
    let current = current_phase(definition, instance).unwrap_or(definition.phases.len());
    for (position, phase) in definition.phases.iter().enumerate() {
        let Some(state) = instance.phases.get(phase.id.as_str()) else {
            return broken(1, format!("phase {} is not there", phase.id));
        };
        check_phase(instance, phase, state, position.cmp(&current))?;
        check_gates(definition, instance, phase, state)?;
        for written in &phase.tasks {
            let Some(task) = instance.tasks.get(written.id.as_str()) else {
                return broken(1, format!("task {} is not there", written.id));
            };
            check_task(definition, instance, written, task)?;
        }
    }
    check_end(definition, instance, current)
}

fn broken<T>(invariant: u8, what: String) -> Result<T, Broken> {
    Err(Broken { invariant, what })
}

fn check_phase(
    instance: &Instance,
    phase: &process::Phase,
    state: &Phase,
    place: std::cmp::Ordering,
) -> Result<(), Broken> {
    let id = &phase.id;
    let fits = match place {
        std::cmp::Ordering::Less => state.status.is_over(),
        std::cmp::Ordering::Equal => !state.status.is_over(),
        std::cmp::Ordering::Greater => state.status == PhaseStatus::Pending,
    };
    if !fits {
        return broken(1, format!("phase {id} is {} out of turn", state.status.as_str()));
    }
    if state.block.is_some() != (state.status == PhaseStatus::Blocked) {
        return broken(1, format!("phase {id} is {} with block {:?}", state.status.as_str(), state.block));
    }
    let mut tasks = phase.tasks.iter().filter_map(|task| instance.tasks.get(task.id.as_str()));
    if state.status.is_over() && !tasks.clone().all(|task| task.status.is_done()) {
        return broken(2, format!("phase {id} is over, and a task of it is not"));
    }
    let untouched = |task: &Shared<Task>| {
        matches!(task.status, TaskStatus::Pending | TaskStatus::Skipped | TaskStatus::Cancelled)
    };
    if state.started_at.is_none() && !tasks.all(untouched) {
        return broken(2, format!("phase {id} has not begun, and a task of it has"));
    }
    let is_approved = is_approved(instance, state.approval.as_ref(), state.round);
    if state.status == PhaseStatus::Completed && !phase.required_approvals.is_empty() && !is_approved {
        return broken(2, format!("phase {id} is completed without its approval"));
    }
    Ok(())
}

fn is_approved(instance: &Instance, slot: Option<&phasegate_id::ApprovalId>, round: u32) -> bool {
    slot.and_then(|id| instance.approvals.get(id))
        .is_some_and(|approval| approval.status == ApprovalStatus::Approved && approval.round == round)
}

fn check_gates(
    definition: &Definition,
    instance: &Instance,
    phase: &process::Phase,
    state: &Phase,
) -> Result<(), Broken> {
    for gate in gates_before(definition, phase) {
        let Some(gate_state) = instance.gates.get(gate.id.as_str()) else {
            return broken(3, format!("gate {} is not there", gate.id));
        };
        if state.started_at.is_some() && gate_state.status != GateStatus::Open {
            return broken(3, format!("phase {} has begun before a closed gate {}", phase.id, gate.id));
        }
        check_gate(instance, gate, gate_state)?;
    }
    Ok(())
}

fn check_gate(instance: &Instance, gate: &process::Gate, state: &Gate) -> Result<(), Broken> {
    let is_open = state.status == GateStatus::Open;
    if is_open != state.opened_at.is_some() {
        return broken(3, format!("gate {} has a time of opening that does not fit", gate.id));
    }
    let needs_approval = matches!(gate.kind, GateKind::Approval(_)) && !state.forced;
    if is_open && needs_approval && !is_approved(instance, state.approval.as_ref(), state.round) {
        return broken(3, format!("gate {} is open without its approval", gate.id));
    }
    Ok(())
}

fn check_task(
    definition: &Definition,
    instance: &Instance,
    written: &process::Task,
    task: &Task,
) -> Result<(), Broken> {
    let id = &written.id;
    if (task.status == TaskStatus::Running) != task.lease.is_some() {
        return broken(4, format!("task {id} is {} and its lease does not fit", task.status.as_str()));
    }
    if (task.status == TaskStatus::Ready) != task.ready_at.is_some() {
        return broken(4, format!("task {id} is {} and its time does not fit", task.status.as_str()));
    }
    let is_out = matches!(task.status, TaskStatus::Ready | TaskStatus::Running);
    let is_done = |dependency: &String| {
        instance.tasks.get(dependency.as_str()).is_some_and(|task| task.status.is_done())
    };
    if is_out && !written.dependencies.iter().all(is_done) {
        return broken(5, format!("task {id} is {} before its dependencies", task.status.as_str()));
    }
    let budget = attempts_max(&written.error_handling);
    if task.attempt > budget || (task.status == TaskStatus::Ready && task.attempt == budget) {
        return broken(5, format!("task {id} has used {} of {budget} attempts", task.attempt));
    }
    let is_reviewed = !written.required_approvals.is_empty();
    if task.status == TaskStatus::Completed
        && is_reviewed
        && !is_approved(instance, task.approval.as_ref(), task.round)
    {
        return broken(6, format!("task {id} is completed without its approval"));
    }
    if is_out && !definition.agents.contains_key(&task.assignee) && task.lease.is_some() {
        return broken(5, format!("task {id} is leased, and nobody's but a human's"));
    }
    Ok(())
}

fn check_end(definition: &Definition, instance: &Instance, current: usize) -> Result<(), Broken> {
    let is_over = instance.status.is_terminal();
    if is_over != instance.ended_at.is_some() {
        return broken(7, "the time of the end does not fit".to_owned());
    }
    if instance.status == Status::Completed && current < definition.phases.len() {
        return broken(7, "the instance is completed before its phases".to_owned());
    }
    let is_live = |task: &Shared<Task>| {
        !matches!(
            task.status,
            TaskStatus::Completed | TaskStatus::Skipped | TaskStatus::Failed | TaskStatus::Cancelled
        )
    };
    if is_over && instance.tasks.values().any(is_live) {
        return broken(7, "the instance has ended before its tasks".to_owned());
    }
    if is_over && instance.approvals.values().any(|approval| approval.status.is_open()) {
        return broken(7, "the instance has ended with an open request".to_owned());
    }
    Ok(())
}
