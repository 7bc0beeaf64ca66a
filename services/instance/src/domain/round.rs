//! Rounds of review. Whatever sends work back, or finds its content changed, begins a new round here; what was asked or
//! decided about it before, and later at the same boundary, no longer counts.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_id::{ApprovalId, GateId, PhaseId, TaskId};
use phasegate_process as process;
use phasegate_process::condition::approved_fact;

use super::command::Actor;
use super::event::{Change, RoundCause};
use super::planted::{self, Bug};
use super::rejection::Rejection;
use super::request::{Approval, ApprovalStatus, Subject};
use super::task::Remark;
use super::work::{Work, gates_before};

/// The facts that an approved request sets: one by what it is about, and one by its key.
pub(super) fn facts_of(subject: &Subject, key: &str) -> BTreeSet<String> {
    [subject.id(), key].into_iter().filter(|name| !name.is_empty()).map(approved_fact).collect()
}

/// Takes back the facts that these requests had set.
pub(super) fn retract(work: &mut Work<'_>, requests: &[ApprovalId]) {
    let approvals = &work.instance.approvals;
    let approved = |approval: &&Approval| approval.status == ApprovalStatus::Approved;
    let facts: BTreeMap<String, bool> = requests
        .iter()
        .filter_map(|id| approvals.get(id).filter(approved))
        .flat_map(|approval| facts_of(&approval.subject, &approval.key))
        .filter(|fact| work.instance.facts.get(fact) == Some(&true))
        .map(|fact| (fact, false))
        .collect();
    if !facts.is_empty() {
        work.follow(Change::FactsSet { facts, reason: String::new() });
    }
}

/// Begins the next round of a subject, if there was a request in this one.
pub(super) fn begin(work: &mut Work<'_>, subject: Subject, cause: RoundCause) {
    let (replaced, round) = match &subject {
        Subject::Task(id) => match work.instance.tasks.get(id) {
            Some(task) => (task.approval.clone(), task.round),
            None => return,
        },
        Subject::Phase(id) => match work.instance.phases.get(id) {
            Some(phase) => (phase.approval.clone(), phase.round),
            None => return,
        },
        Subject::Gate(id) => match work.instance.gates.get(id) {
            Some(gate) => (gate.approval.clone(), gate.round),
            None => return,
        },
        Subject::AdHoc(_) => return,
    };
    let Some(replaced) = replaced else { return };
    retract(work, std::slice::from_ref(&replaced));
    work.follow(Change::RoundBegun { subject, round: round + 1, replaced: Some(replaced), cause });
}

/// Begins the next round of everything at the boundary of `phase` that comes after its tasks.
pub(super) fn begin_later(work: &mut Work<'_>, phase: &PhaseId, cause: RoundCause) {
    if planted::is(Bug::LateApprovalKept) {
        return;
    }
    begin(work, Subject::Phase(phase.clone()), cause);
    begin_gates(work, phase, cause);
}

/// Begins the next round of the gates after `phase`.
pub(super) fn begin_gates(work: &mut Work<'_>, phase: &PhaseId, cause: RoundCause) {
    let Some(next) = phase_after(work, phase) else { return };
    for gate in gates_before(work.definition, next) {
        begin(work, Subject::Gate(GateId::trusted(&gate.id)), cause);
    }
}

/// The phase that follows.
pub(super) fn phase_after<'a>(work: &Work<'a>, phase: &PhaseId) -> Option<&'a process::Phase> {
    let phases = &work.definition.phases;
    let position = phases.iter().position(|written| written.id == phase.as_str())?;
    phases.get(position + 1)
}

/// Sends a task back for another round.
pub(super) fn return_task(
    work: &mut Work<'_>,
    actor: &Actor,
    id: &TaskId,
    cause: RoundCause,
    remarks: Vec<Remark>,
) -> Result<(), Rejection> {
    let (task, _) = work.task(id)?;
    let replaced = task.approval.clone();
    let phase = task.phase.clone();
    let round = task.round + 1;
    if let Some(replaced) = &replaced {
        retract(work, std::slice::from_ref(replaced));
    }
    work.record(actor, Change::TaskReturned { task: id.clone(), round, replaced, remarks, cause });
    begin_later(work, &phase, RoundCause::EarlierRound);
    Ok(())
}

/// What reviewers want changed at the boundary of `phase`: those of the phase and of the gates after it. A later review
/// may have ended before an earlier one sends the work back, and must not be lost.
pub(super) fn remarks_at(work: &Work<'_>, phase: &PhaseId) -> Vec<Remark> {
    let mut slots = Vec::new();
    slots.extend(work.instance.phases.get(phase).and_then(|phase| phase.approval.as_ref()));
    if let Some(next) = phase_after(work, phase) {
        let gates = gates_before(work.definition, next);
        slots.extend(gates.filter_map(|gate| work.instance.gates.get(gate.id.as_str())?.approval.as_ref()));
    }
    let settled = slots.into_iter().filter_map(|id| work.instance.approvals.get(id));
    settled
        .filter(|approval| approval.status == ApprovalStatus::ChangesRequested)
        .flat_map(|approval| approval.remarks.iter().cloned())
        .collect()
}

/// The tasks of a phase that a review sends back: those whose artifacts were reviewed, else all that are completed.
pub(super) fn reviewed_tasks(
    work: &Work<'_>,
    phase: &process::Phase,
    approval: &Approval,
) -> BTreeSet<TaskId> {
    let completed: BTreeSet<TaskId> = phase
        .tasks
        .iter()
        .filter(|task| {
            let state = work.instance.tasks.get(task.id.as_str());
            state.is_some_and(|state| state.status == super::task::TaskStatus::Completed)
        })
        .map(|task| TaskId::trusted(&task.id))
        .collect();
    let reviewed: BTreeSet<TaskId> = completed
        .iter()
        .filter(|task| approval.artifacts.keys().any(|key| produces(work, phase, task, key.as_str())))
        .cloned()
        .collect();
    if reviewed.is_empty() { completed } else { reviewed }
}

/// Whether `key` is the work of `task`: it was stored under its lease, or is expected of it.
fn produces(work: &Work<'_>, phase: &process::Phase, task: &TaskId, key: &str) -> bool {
    let stored_by = work.instance.artifacts.get(key).map(|artifact| artifact.task.as_str());
    let expected = || {
        let written = phase.tasks.iter().find(|written| written.id == task.as_str());
        written.is_some_and(|written| written.artifacts.iter().any(|expected| expected == key))
    };
    stored_by == Some(task.as_str()) || expected()
}

/// The remarks that concern one of the tasks that are sent back: those on its own artifacts, and those on nothing that
/// another of them produced.
pub(super) fn concerning(
    work: &Work<'_>,
    phase: &process::Phase,
    task: &TaskId,
    returned: &BTreeSet<TaskId>,
    remarks: &[Remark],
) -> Vec<Remark> {
    let concerns = |remark: &&Remark| match &remark.artifact {
        None => true,
        Some(key) => {
            produces(work, phase, task, key.as_str())
                || !returned.iter().any(|other| produces(work, phase, other, key.as_str()))
        }
    };
    remarks.iter().filter(concerns).cloned().collect()
}
