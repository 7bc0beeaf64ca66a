//! Phases, gates, and the rounds of their reviews.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, GateId, PhaseId};

use super::super::copy_on_write::Shared;
use super::super::event::{Change, RoundCause};
use super::super::instance::{GateStatus, Instance, PhaseStatus};
use super::super::request::{Approval, ApprovalStatus, Subject};
use super::super::task::{Delivery, TaskStatus};
use super::task::{Requests, another_round};

/// Takes what happened at a boundary into the state.
pub(super) fn evolve(instance: &mut Instance, change: &Change, at: Timestamp) {
    if let Change::PhaseGated { phase } = change {
        move_phase(instance, phase, PhaseStatus::Gated, at);
    } else if let Change::PhaseEntered { phase, .. } = change {
        move_phase(instance, phase, PhaseStatus::Active, at);
        if let Some(phase) = instance.phases.get_mut(phase.as_str()) {
            phase.started_at = Some(at);
        }
    } else if let Change::PhaseAwaitingApproval { phase } = change {
        move_phase(instance, phase, PhaseStatus::AwaitingApproval, at);
    } else if let Change::PhaseActivated { phase } = change {
        move_phase(instance, phase, PhaseStatus::Active, at);
    } else if let Change::PhaseBlocked { phase, block } = change {
        move_phase(instance, phase, PhaseStatus::Blocked, at);
        if let Some(phase) = instance.phases.get_mut(phase.as_str()) {
            phase.block = Some(block.clone());
        }
    } else if let Change::PhaseCompleted { phase } = change {
        move_phase(instance, phase, PhaseStatus::Completed, at);
    } else if let Change::PhaseSkipped { phase, .. } = change {
        move_phase(instance, phase, PhaseStatus::Skipped, at);
        if let Some(phase) = instance.phases.get_mut(phase.as_str()) {
            renew(&mut instance.approvals, &mut phase.approval, &mut phase.round);
        }
    } else if let Change::PhaseReopened { phase, later, gates, reviewed, .. } = change {
        reopen(instance, phase, *reviewed, at);
        for phase in later {
            back_to_pending(instance, phase, at);
        }
        close(instance, gates, *reviewed);
    } else if let Change::GateOpened { gate, forced, .. } = change {
        if let Some(gate) = instance.gates.get_mut(gate.as_str()) {
            gate.status = GateStatus::Open;
            gate.opened_at = Some(at);
            gate.forced = *forced;
            if *forced {
                renew(&mut instance.approvals, &mut gate.approval, &mut gate.round);
            }
        }
    } else if let Change::GateRejected { gate, .. } = change {
        if let Some(gate) = instance.gates.get_mut(gate.as_str()) {
            gate.status = GateStatus::Rejected;
        }
    } else if let Change::ApprovalNeeded { approval, subject, round, approvers } = change {
        need(instance, approval, subject, *round, approvers, at);
    } else if let Change::RoundBegun { subject, round, replaced, cause } = change {
        if let Some(replaced) = replaced {
            Requests { current: &mut instance.approvals, replaced: &mut instance.replaced }.forget(replaced);
        }
        begin_round(instance, subject, *round, *cause);
    }
}

fn move_phase(instance: &mut Instance, phase: &PhaseId, status: PhaseStatus, at: Timestamp) {
    if let Some(phase) = instance.phases.get_mut(phase.as_str()) {
        phase.status = status;
        phase.since = Some(at);
        phase.block = None;
        if status.is_over() {
            phase.ended_at = Some(at);
        }
    }
}

/// Forgets the request that a subject rested on, and begins its next round if there was one.
fn renew(
    approvals: &mut Shared<BTreeMap<ApprovalId, Approval>>,
    slot: &mut Option<ApprovalId>,
    round: &mut u32,
) {
    if let Some(id) = slot.take() {
        approvals.remove(&id);
        *round += 1;
    }
}

/// Makes a phase the current one again.
fn reopen(instance: &mut Instance, phase: &PhaseId, reviewed: bool, at: Timestamp) {
    let Some(phase) = instance.phases.get_mut(phase.as_str()) else { return };
    phase.status = if phase.started_at.is_some() { PhaseStatus::Active } else { PhaseStatus::Gated };
    phase.since = Some(at);
    phase.block = None;
    phase.ended_at = None;
    renew(&mut instance.approvals, &mut phase.approval, &mut phase.round);
    if !reviewed {
        phase.changes = 0;
    }
}

/// Puts a phase back to where it was before it was reached; its tasks begin anew when it is reached again.
fn back_to_pending(instance: &mut Instance, id: &PhaseId, at: Timestamp) {
    let Some(phase) = instance.phases.get_mut(id.as_str()) else { return };
    if phase.status == PhaseStatus::Pending {
        return;
    }
    phase.status = PhaseStatus::Pending;
    phase.since = Some(at);
    phase.block = None;
    phase.started_at = None;
    phase.ended_at = None;
    phase.changes = 0;
    renew(&mut instance.approvals, &mut phase.approval, &mut phase.round);
    for task in instance.tasks.values_mut().filter(|task| task.phase == *id) {
        if task.status == TaskStatus::Pending {
            continue;
        }
        if let Some(approval) = task.approval.take() {
            instance.approvals.remove(&approval);
        }
        let begun = task.started_at.is_some();
        if begun {
            task.delivery = Delivery::Rework;
        }
        let round = task.round + u32::from(begun);
        another_round(task, round, RoundCause::Unlocked);
        task.since = Some(at);
    }
}

fn close(instance: &mut Instance, gates: &BTreeSet<GateId>, reviewed: bool) {
    for id in gates {
        let Some(gate) = instance.gates.get_mut(id.as_str()) else { continue };
        gate.status = GateStatus::Pending;
        gate.opened_at = None;
        gate.forced = false;
        renew(&mut instance.approvals, &mut gate.approval, &mut gate.round);
        if !reviewed {
            gate.changes = 0;
        }
    }
}

fn need(
    instance: &mut Instance,
    id: &ApprovalId,
    subject: &Subject,
    round: u32,
    approvers: &BTreeSet<phasegate_id::ParticipantId>,
    at: Timestamp,
) {
    let Some(slot) = slot(instance, subject) else { return };
    *slot = Some(id.clone());
    let task = if let Subject::Task(task) = subject { Some(task.clone()) } else { None };
    let needed = Approval {
        subject: subject.clone(),
        round,
        title: String::new(),
        task,
        key: String::new(),
        waiting_on: approvers.clone(),
        artifacts: BTreeMap::new(),
        status: ApprovalStatus::Needed,
        remarks: Vec::new(),
        requested_at: at,
        expires_at: None,
        overdue: false,
    };
    instance.approvals.entry(id.clone()).or_insert(needed);
}

/// Where a subject keeps the request of its round; nowhere for an ad-hoc one.
pub(super) fn slot<'a>(instance: &'a mut Instance, subject: &Subject) -> Option<&'a mut Option<ApprovalId>> {
    match subject {
        Subject::Task(id) => instance.tasks.get_mut(id.as_str()).map(|task| &mut task.approval),
        Subject::Phase(id) => instance.phases.get_mut(id.as_str()).map(|phase| &mut phase.approval),
        Subject::Gate(id) => instance.gates.get_mut(id.as_str()).map(|gate| &mut gate.approval),
        Subject::AdHoc(_) => None,
    }
}

fn begin_round(instance: &mut Instance, subject: &Subject, round: u32, cause: RoundCause) {
    match subject {
        Subject::Task(id) => {
            if let Some(task) = instance.tasks.get_mut(id.as_str()) {
                task.round = round;
                task.approval = None;
            }
        }
        Subject::Phase(id) => {
            if let Some(phase) = instance.phases.get_mut(id.as_str()) {
                phase.round = round;
                phase.approval = None;
                count(&mut phase.changes, cause);
            }
        }
        Subject::Gate(id) => {
            if let Some(gate) = instance.gates.get_mut(id.as_str()) {
                gate.round = round;
                gate.approval = None;
                gate.status = GateStatus::Pending;
                gate.opened_at = None;
                gate.forced = false;
                count(&mut gate.changes, cause);
            }
        }
        Subject::AdHoc(_) => {}
    }
}

/// Counts the rounds that reviewers sent back; whoever unlocks the subject gives it a fresh budget.
fn count(changes: &mut u32, cause: RoundCause) {
    match cause {
        RoundCause::ChangesRequested => *changes += 1,
        RoundCause::Unlocked => *changes = 0,
        RoundCause::LaterReview
        | RoundCause::EarlierRound
        | RoundCause::ContentChanged
        | RoundCause::Superseded => {}
    }
}
