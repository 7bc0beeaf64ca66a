//! Work is taken up again: tasks come back for another round, what was rejected is unlocked, and whatever comes later
//! waits, because it rests on work that is about to change.

use std::collections::BTreeSet;

use phasegate_id::{ApprovalId, GateId, PhaseId, TaskId};
use phasegate_process as process;

use super::approval::{Standing, standing};
use super::command::Actor;
use super::event::{Change, RoundCause};
use super::instance::{GateStatus, PhaseStatus};
use super::rejection::Rejection;
use super::round::{retract, return_task};
use super::task::TaskStatus;
use super::work::{Work, current_phase, gates_before, refuse_blank};

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
        state.is_some_and(|state| {
            state.status != GateStatus::Pending
                || state.approval.is_some()
                || (!reviewed && state.changes > 0)
        })
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::play::{Play, check, define};
    use super::{PhaseStatus, TaskStatus};

    fn three_phases() -> phasegate_process::Definition {
        define(json!({
            "phases": [
                {"id": "p", "tasks": [{"id": "a"}]},
                {"id": "q", "parallelExecution": true, "requiredApprovals": ["ann"],
                 "tasks": [{"id": "b"}, {"id": "c", "dependencies": ["b"], "requiredApprovals": ["ben"]}]},
                {"id": "r", "tasks": [{"id": "d"}]},
            ],
            "gates": [
                {"id": "g", "beforePhase": "q", "type": "manual"},
                {"id": "h", "beforePhase": "r", "type": "approval", "approvers": ["ann"]},
            ],
        }))
    }

    #[test]
    fn taking_work_up_again() {
        let definition = three_phases();
        let to_q = "start; lease a; hand a; advance; lease b; hand b";
        let to_r = format!("{to_q}; lease c; hand c; approve task:c; approve phase:q; approve gate:h");
        let rows = [
            ("start", "reopen q", "refused PhaseNotReached"),
            ("start", "reopen x", "refused PhaseNotFound"),
            ("start", "reopen p b", "refused TaskNotFound"),
            ("start", "reopen p", ""),
            ("start; lease a", "reopen p", "phase_reopened p, task_returned a#2, task_ready a"),
            ("start", "ann: reopen p", "refused RoleForbidden"),
            (to_q, "reopen q b", "phase_reopened q, task_returned b#2, task_held_back c, task_ready b"),
            (to_q, "reopen", "phase_reopened q, task_returned b#2, task_held_back c, task_ready b"),
            (to_q, "reopen p", "phase_reopened p, task_returned a#2, task_ready a"),
            (
                &to_r,
                "reopen q c",
                "facts_set {\"h_approved\":false,\"q_approved\":false}, phase_reopened q, \
                 facts_set {\"c_approved\":false}, task_returned c#2, task_ready c",
            ),
        ];
        for (given, when, then) in rows {
            let when = if when == "reopen" { "reopen q" } else { when };
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn later_phases_wait_and_begin_anew() {
        let definition = three_phases();
        let mut play = Play::new(&definition);
        play.script("start; lease a; hand a; advance; lease b; hand b; lease c; hand c; approve task:c");
        play.script("approve phase:q; approve gate:h; lease d; reopen p");
        let phases: Vec<PhaseStatus> = ["p", "q", "r"].map(|id| play.instance.phases[id].status).into();
        assert_eq!(phases, [PhaseStatus::Active, PhaseStatus::Pending, PhaseStatus::Pending]);
        let tasks: Vec<(TaskStatus, u32)> = ["a", "b", "c", "d"]
            .map(|id| (play.instance.tasks[id].status, play.instance.tasks[id].round))
            .into();
        let pending = (TaskStatus::Pending, 2);
        assert_eq!(tasks, [(TaskStatus::Ready, 2), pending, pending, pending]);
        assert_eq!(play.act("hand d #1"), "refused LeaseLost");
        play.script("lease a; hand a");
        assert_eq!(play.act("advance"), "gate_opened g, phase_entered q, task_ready b");
        play.script("lease b; hand b; lease c");
        assert_eq!(
            play.act("hand c"),
            "task_handed_in c, needed task:c#2(ben), needed phase:q#2(ann), needed gate:h#2(ann), phase_awaiting_approval q"
        );
    }
}
