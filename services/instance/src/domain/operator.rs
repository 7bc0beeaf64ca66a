//! What operators do with the instance as a whole: hold it, let it go on, end it, move it on.

use std::collections::BTreeMap;

use phasegate_id::{GateId, PhaseId, TaskId};
use phasegate_process as process;
use phasegate_process::GateKind;

use super::blocker::blockers;
use super::command::Actor;
use super::event::Change;
use super::instance::{GateStatus, Status};
use super::rejection::Rejection;
use super::round::retract;
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
    refuse_blank(reason)?;
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
        artifacts: BTreeMap::new(),
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
    work.record(
        actor,
        Change::PhaseEntered { phase: PhaseId::trusted(&phase.id), reason: reason.to_owned() },
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::super::command::{Action, ActorKind, Command};
    use super::super::tests::play::{Play, check, define};
    use super::{Actor, BTreeMap, Rejection, TaskId};

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
    fn holding_and_ending() {
        let definition = three_phases();
        let rows = [
            ("start", "pause", "instance_paused"),
            ("start; pause", "pause", ""),
            ("start; pause", "resume", "instance_resumed"),
            ("start", "resume", ""),
            ("start", "cancel", "instance_cancelled"),
            ("start; pause", "cancel", "instance_cancelled"),
            ("start; cancel", "cancel", ""),
            ("start; cancel", "pause", "refused Terminal"),
            ("start; cancel", "resume", "refused Terminal"),
            ("start; cancel", "advance", "refused Terminal"),
            ("start; cancel", "reopen p", "refused Terminal"),
            ("start", "ann: pause", "refused RoleForbidden"),
            ("start", "bot: cancel", "refused RoleForbidden"),
            ("start", "dan: pause", "instance_paused"),
            ("start", "start", "refused AlreadyStarted"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn what_operators_do_takes_a_reason() {
        let definition = three_phases();
        let blank = || " \n".to_owned();
        let task = TaskId::trusted("a");
        let actions = [
            Action::Pause { reason: blank() },
            Action::Resume { reason: blank() },
            Action::Cancel { reason: blank() },
            Action::Advance { from_phase: None, force: true, reason: blank() },
            Action::Reopen { phase: None, tasks: BTreeSet::new(), reason: blank() },
            Action::RetryTask { task: task.clone(), reason: blank() },
            Action::SkipTask { task, reason: blank() },
            Action::SetFacts { facts: BTreeMap::new(), lease: None, reason: blank() },
            Action::ChangeContext {
                context: json!({}),
                expected_version: None,
                lease: None,
                reason: blank(),
            },
        ];
        for script in ["start", "start; pause"] {
            let mut play = Play::new(&definition);
            play.script(script);
            for action in actions.clone() {
                let actor = Actor { kind: ActorKind::Operator, ..Actor::engine() };
                let decided = play.decide(&Command::new(actor, action.clone()));
                assert_eq!(decided, Err(Rejection::ReasonRequired), "{action:?} after {script:?}");
            }
        }
    }

    #[test]
    fn moving_on() {
        let definition = three_phases();
        let rows = [
            ("start", "advance", "refused PhaseBlocked"),
            ("start", "advance from=q", "refused PhaseMoved"),
            (
                "start; lease a",
                "advance force",
                "task_skipped a, phase_skipped p, gate_opened g, phase_entered q, task_ready b",
            ),
            ("start; lease a; hand a", "advance from=q", "gate_opened g, phase_entered q, task_ready b"),
            (
                "start; advance force; lease b; hand b; lease c; hand c",
                "advance force",
                "task_skipped c, phase_skipped q, gate_opened h, phase_entered r, task_ready d",
            ),
            (
                "start; advance force; advance force",
                "advance force",
                "task_skipped d, phase_skipped r, instance_completed",
            ),
            ("start; pause", "advance force", "refused Paused"),
            ("start", "ann: advance force", "refused RoleForbidden"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn every_blocker_is_listed_with_who_can_move_it() {
        let definition = three_phases();
        let mut play = Play::new(&definition);
        play.script("start; advance force; lease b");
        let found: Vec<String> = super::blockers(&definition, &play.instance)
            .into_iter()
            .map(|blocker| {
                format!("{} {} by {}", blocker.kind.as_str(), blocker.subject, blocker.unblocked_by.join("+"))
            })
            .collect();
        assert_eq!(
            found,
            ["TASK b by bot", "DEPENDENCY c by bot", "APPROVAL q by ann", "APPROVAL h by ann",]
        );
    }
}
