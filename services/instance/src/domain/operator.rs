//! What operators do with the instance as a whole: hold it, let it go on, end it, move it on, take work up again.

use std::collections::BTreeSet;

use phasegate_id::{ApprovalId, GateId, PhaseId, TaskId};
use phasegate_process as process;
use phasegate_process::GateKind;

use super::approval::{Standing, standing};
use super::blocker::blockers;
use super::command::Actor;
use super::event::{Change, RoundCause};
use super::instance::{GateStatus, PhaseStatus, Status, TaskStatus};
use super::rejection::Rejection;
use super::round::{retract, return_task};
use super::work::{Work, current_phase, gates_before, refuse_blank};

/// Puts a running instance on hold.
pub(super) fn pause(work: &mut Work<'_>, actor: &Actor, reason: &str) -> Result<(), Rejection> {
    refuse_blank(reason)?;
    work.refuse_others(actor)?;
    work.refuse_terminal()?;
    if work.instance.status != Status::Paused {
        work.record(actor, Change::InstancePaused { reason: reason.to_owned() });
    }
    Ok(())
}

/// Takes a paused instance up again; what was held back follows.
pub(super) fn resume(work: &mut Work<'_>, actor: &Actor, reason: &str) -> Result<(), Rejection> {
    work.refuse_others(actor)?;
    work.refuse_terminal()?;
    if work.instance.status == Status::Paused {
        work.record(actor, Change::InstanceResumed { reason: reason.to_owned() });
    }
    Ok(())
}

/// Ends an instance.
pub(super) fn cancel(work: &mut Work<'_>, actor: &Actor, reason: &str) -> Result<(), Rejection> {
    refuse_blank(reason)?;
    work.refuse_others(actor)?;
    if work.instance.status == Status::Cancelled {
        return Ok(());
    }
    work.refuse_terminal()?;
    work.record(actor, Change::InstanceCancelled { reason: reason.to_owned() });
    Ok(())
}

/// Moves to the next phase: opens the manual gates that stand in the way, or says what else does; or skips what is left.
pub(super) fn advance(
    work: &mut Work<'_>,
    actor: &Actor,
    from_phase: Option<&PhaseId>,
    force: bool,
    reason: &str,
) -> Result<(), Rejection> {
    if force {
        refuse_blank(reason)?;
    }
    work.refuse_others(actor)?;
    work.refuse_terminal()?;
    let position = current_phase(work.definition, &work.instance);
    let phase = position.and_then(|position| work.definition.phases.get(position));
    let current = phase.map(|phase| PhaseId::trusted(&phase.id));
    if from_phase.is_some_and(|from| Some(from) != current.as_ref()) {
        return Err(Rejection::PhaseMoved { current });
    }
    if work.instance.status == Status::Paused {
        return Err(Rejection::Paused);
    }
    let (Some(phase), Some(position)) = (phase, position) else { return Ok(()) };
    let is_entered =
        work.instance.phases.get(phase.id.as_str()).is_some_and(|state| state.started_at.is_some());
    if force {
        if is_entered {
            skip_phase(work, actor, phase, reason);
            if let Some(next) = work.definition.phases.get(position + 1) {
                enter_by_force(work, actor, next, reason);
            }
        } else {
            enter_by_force(work, actor, phase, reason);
        }
        return Ok(());
    }
    if !is_entered && open_manual_gates(work, actor, phase, reason) {
        return Ok(());
    }
    let blockers = blockers(work.definition, &work.instance);
    if blockers.is_empty() { Ok(()) } else { Err(Rejection::PhaseBlocked(blockers)) }
}

fn open_manual_gates(work: &mut Work<'_>, actor: &Actor, phase: &process::Phase, reason: &str) -> bool {
    let mut opened = false;
    for gate in gates_before(work.definition, phase) {
        let is_closed = work
            .instance
            .gates
            .get(gate.id.as_str())
            .is_some_and(|state| state.status == GateStatus::Pending);
        if is_closed && matches!(gate.kind, GateKind::Manual) {
            work.record(actor, gate_opened(gate, false, reason));
            opened = true;
        }
    }
    opened
}

fn gate_opened(gate: &process::Gate, forced: bool, reason: &str) -> Change {
    Change::GateOpened {
        gate: GateId::trusted(&gate.id),
        approval: None,
        artifacts: Default::default(),
        forced,
        reason: reason.to_owned(),
    }
}

fn skip_phase(work: &mut Work<'_>, actor: &Actor, phase: &process::Phase, reason: &str) {
    for written in &phase.tasks {
        let Some(task) = work.instance.tasks.get(written.id.as_str()) else { continue };
        if task.status.is_done() {
            continue;
        }
        let replaced = task.approval.clone();
        retract(work, replaced.as_slice());
        let task = TaskId::trusted(&written.id);
        work.record(actor, Change::TaskSkipped { task, replaced, reason: reason.to_owned() });
    }
    let id = PhaseId::trusted(&phase.id);
    let approval = work.instance.phases.get(&id).and_then(|state| state.approval.clone());
    retract(work, approval.as_slice());
    work.record(actor, Change::PhaseSkipped { phase: id, reason: reason.to_owned() });
}

fn enter_by_force(work: &mut Work<'_>, actor: &Actor, phase: &process::Phase, reason: &str) {
    for gate in gates_before(work.definition, phase) {
        let Some(state) = work.instance.gates.get(gate.id.as_str()) else { continue };
        if state.status != GateStatus::Open {
            let approval = state.approval.clone();
            retract(work, approval.as_slice());
            work.record(actor, gate_opened(gate, true, reason));
        }
    }
    work.record(actor, Change::PhaseEntered { phase: PhaseId::trusted(&phase.id) });
}

/// Takes tasks of the current or an earlier phase up again, and unlocks what was rejected.
pub(super) fn reopen(
    work: &mut Work<'_>,
    actor: &Actor,
    phase: Option<&PhaseId>,
    tasks: &BTreeSet<TaskId>,
    reason: &str,
) -> Result<(), Rejection> {
    refuse_blank(reason)?;
    work.refuse_others(actor)?;
    work.refuse_terminal()?;
    let phases = &work.definition.phases;
    let current = current_phase(work.definition, &work.instance).unwrap_or(phases.len());
    let position = match phase {
        Some(id) => phases
            .iter()
            .position(|written| written.id == id.as_str())
            .ok_or_else(|| Rejection::PhaseNotFound(id.clone()))?,
        None => current,
    };
    let Some(written) = phases.get(position) else { return Ok(()) };
    if let Some(foreign) = tasks.iter().find(|id| !written.tasks.iter().any(|task| task.id == id.as_str())) {
        return Err(Rejection::TaskNotFound((*foreign).clone()));
    }
    let id = PhaseId::trusted(&written.id);
    if position > current {
        return Err(Rejection::PhaseNotReached(id));
    }
    let Some(state) = work.instance.phases.get(&id) else { return Ok(()) };
    let begun = begun_tasks(work, written, tasks);
    let is_behind = state.status.is_over();
    let is_locked = state.status == PhaseStatus::Blocked || state.approval.is_some();
    let has_closed_gate = state.started_at.is_none() && !refused_gates(work, written).is_empty();
    if begun.is_empty() && !is_behind && !is_locked && !has_closed_gate {
        return Ok(());
    }
    reopen_boundary(work, actor, written, reason.to_owned(), false);
    for task in &begun {
        return_task(work, actor, task, RoundCause::Unlocked, Vec::new())?;
    }
    hold_back_dependants(work, written);
    Ok(())
}

/// Which of `chosen` (all when empty) have anything to take up again.
fn begun_tasks(work: &Work<'_>, phase: &process::Phase, chosen: &BTreeSet<TaskId>) -> Vec<TaskId> {
    let is_begun = |id: &TaskId| {
        let state = work.instance.tasks.get(id);
        state.is_some_and(|state| !matches!(state.status, TaskStatus::Pending | TaskStatus::Ready))
    };
    let tasks = phase.tasks.iter().map(|task| TaskId::trusted(&task.id));
    tasks.filter(|id| chosen.is_empty() || chosen.contains(id)).filter(is_begun).collect()
}

/// Gates before a phase whose request has ended without opening them.
fn refused_gates(work: &Work<'_>, phase: &process::Phase) -> BTreeSet<GateId> {
    let is_refused = |gate: &&process::Gate| {
        let state = work.instance.gates.get(gate.id.as_str());
        state.is_some_and(|state| {
            matches!(
                standing(work, state.approval.as_ref()),
                Standing::Refused(_) | Standing::ChangesRequested
            )
        })
    };
    gates_before(work.definition, phase).filter(is_refused).map(|gate| GateId::trusted(&gate.id)).collect()
}

/// Makes a phase the current one again: what comes after it waits, and rounds that were used up begin anew.
pub(super) fn reopen_boundary(
    work: &mut Work<'_>,
    actor: &Actor,
    phase: &process::Phase,
    reason: String,
    reviewed: bool,
) {
    let phases = &work.definition.phases;
    let Some(position) = phases.iter().position(|written| written.id == phase.id) else { return };
    let reached = |written: &&process::Phase| {
        let state = work.instance.phases.get(written.id.as_str());
        state.is_some_and(|state| state.status != PhaseStatus::Pending)
    };
    let after = &phases[position + 1..];
    let later: BTreeSet<PhaseId> =
        after.iter().filter(reached).map(|written| PhaseId::trusted(&written.id)).collect();
    let is_used = |gate: &&process::Gate| {
        let state = work.instance.gates.get(gate.id.as_str());
        state.is_some_and(|state| state.status != GateStatus::Pending || state.approval.is_some())
    };
    let mut gates: BTreeSet<GateId> = after
        .iter()
        .flat_map(|written| gates_before(work.definition, written))
        .filter(is_used)
        .map(|gate| GateId::trusted(&gate.id))
        .collect();
    gates.extend(refused_gates(work, phase));
    let id = PhaseId::trusted(&phase.id);
    let dropped = requests_of(work, &id, &later, &gates);
    retract(work, &dropped);
    work.record(actor, Change::PhaseReopened { phase: id, later, gates, reason, reviewed });
}

/// The requests that end with a phase being taken up again.
fn requests_of(
    work: &Work<'_>,
    phase: &PhaseId,
    later: &BTreeSet<PhaseId>,
    gates: &BTreeSet<GateId>,
) -> Vec<ApprovalId> {
    let instance = &work.instance;
    let of_phases = later
        .iter()
        .chain(std::iter::once(phase))
        .filter_map(|id| instance.phases.get(id).and_then(|phase| phase.approval.clone()));
    let of_gates =
        gates.iter().filter_map(|id| instance.gates.get(id).and_then(|gate| gate.approval.clone()));
    let of_tasks = instance.tasks.values().filter(|task| later.contains(&task.phase));
    of_phases.chain(of_gates).chain(of_tasks.filter_map(|task| task.approval.clone())).collect()
}

/// Lets go of work that was begun on top of what is taken up again.
fn hold_back_dependants(work: &mut Work<'_>, phase: &process::Phase) {
    for written in &phase.tasks {
        let Some(task) = work.instance.tasks.get(written.id.as_str()) else { continue };
        if !matches!(task.status, TaskStatus::Ready | TaskStatus::Running) {
            continue;
        }
        let undone = written.dependencies.iter().find(|dependency| {
            work.instance.tasks.get(dependency.as_str()).is_some_and(|task| !task.status.is_done())
        });
        if let Some(dependency) = undone {
            work.follow(Change::TaskHeldBack {
                task: TaskId::trusted(&written.id),
                dependency: TaskId::trusted(dependency),
            });
        }
    }
}
