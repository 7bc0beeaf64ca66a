//! The way into a phase: its gates, then its entry conditions. They are looked at once the phase before is behind.

use std::collections::BTreeMap;

use phasegate_id::{ApprovalId, ArtifactKey, GateId, PhaseId};
use phasegate_process as process;
use phasegate_process::GateKind;

use super::approval::{Standing, ask, refusal, standing};
use super::boundary::{broken, exhausted};
use super::command::Actor;
use super::condition::{Verdict, look, phase_before};
use super::event::{Change, RoundCause};
use super::instance::{Block, BlockCause, Gate, GateStatus, PhaseStatus};
use super::planted::{self, Bug};
use super::reopen::reopen_boundary;
use super::request::Subject;
use super::round::{begin, begin_later, concerning, remarks_at, return_task, reviewed_tasks};
use super::work::{Work, current_phase, gates_before};

/// Opens what may open, and begins the phase once everything before it is.
pub(super) fn approach(work: &mut Work<'_>, phase: &process::Phase, position: usize) {
    let before = work.events.len();
    let mut block = None;
    for gate in gates_before(work.definition, phase) {
        let obstacle = try_gate(work, gate, position);
        block = block.or(obstacle);
        // Its reviewers may have sent the phase before back: then this one is not next any more.
        if current_phase(work.definition, &work.instance) != Some(position) {
            return;
        }
    }
    if work.events.len() > before {
        return;
    }
    let is_open = |gate: &process::Gate| {
        work.instance.gates.get(gate.id.as_str()).is_some_and(|state| state.status == GateStatus::Open)
    };
    if gates_before(work.definition, phase).all(is_open) {
        let looking_back = phase_before(work.definition, position);
        match look(&work.instance, looking_back, phase.entry_conditions.iter()) {
            Verdict::Holds => {
                work.follow(Change::PhaseEntered {
                    phase: PhaseId::trusted(&phase.id),
                    reason: String::new(),
                });
                return;
            }
            Verdict::Fails(_) => {}
            Verdict::Broken(expression, message) => block = Some(broken(expression, message)),
        }
    }
    show_next(work, phase, block);
}

/// Opens a gate if it may open, and says what blocks it for good.
fn try_gate(work: &mut Work<'_>, gate: &process::Gate, position: usize) -> Option<Block> {
    let state = work.instance.gates.get(gate.id.as_str())?.clone();
    if state.status == GateStatus::Open {
        return None;
    }
    match &gate.kind {
        GateKind::Manual => None,
        GateKind::Condition(condition) => {
            let looking_back = phase_before(work.definition, position);
            match look(&work.instance, looking_back, std::iter::once(condition)) {
                Verdict::Broken(expression, message) => return Some(broken(expression, message)),
                Verdict::Fails(_) if !planted::is(Bug::FalseConditionOpens) => return None,
                Verdict::Fails(_) | Verdict::Holds => {}
            }
            work.follow(opened(&gate.id, None, BTreeMap::new()));
            None
        }
        GateKind::Approval(approvers) => try_approval_gate(work, gate, &state, approvers, position),
    }
}

fn opened(gate: &str, approval: Option<ApprovalId>, artifacts: BTreeMap<ArtifactKey, u32>) -> Change {
    Change::GateOpened {
        gate: GateId::trusted(gate),
        approval,
        artifacts,
        forced: false,
        reason: String::new(),
    }
}

fn try_approval_gate(
    work: &mut Work<'_>,
    gate: &process::Gate,
    state: &Gate,
    approvers: &[String],
    position: usize,
) -> Option<Block> {
    let id = GateId::trusted(&gate.id);
    match (standing(work, state.approval.as_ref()), state.approval.clone()) {
        (Standing::Unasked, _) | (_, None) => ask(work, Subject::Gate(id), state.round, approvers),
        (Standing::Open, _) => {}
        (Standing::Approved, Some(approval)) => {
            let artifacts = work
                .instance
                .approvals
                .get(&approval)
                .map(|known| known.artifacts.clone())
                .unwrap_or_default();
            work.follow(opened(&gate.id, Some(approval), artifacts));
        }
        (Standing::OutOfDate, _) => begin(work, Subject::Gate(id), RoundCause::ContentChanged),
        (Standing::Superseded, _) => begin(work, Subject::Gate(id), RoundCause::Superseded),
        (Standing::ChangesRequested, Some(approval)) => {
            return rework_before(work, gate, state, &approval, position);
        }
        (Standing::Refused(status), Some(approval)) => {
            if state.status != GateStatus::Rejected {
                work.follow(Change::GateRejected { gate: id.clone(), approval });
            }
            let message = refusal(&format!("gate {id}"), status);
            return Some(Block { cause: BlockCause::Rejected, subject: gate.id.clone(), message });
        }
    }
    None
}

/// Sends the reviewed tasks of the phase before a gate back: that phase is taken up again.
fn rework_before(
    work: &mut Work<'_>,
    gate: &process::Gate,
    state: &Gate,
    approval: &ApprovalId,
    position: usize,
) -> Option<Block> {
    let phase = phase_before(work.definition, position)?;
    let id = PhaseId::trusted(&phase.id);
    let tasks = reviewed_tasks(work, phase, work.instance.approvals.get(approval)?);
    if state.changes + 1 >= phase.max_rounds || tasks.is_empty() {
        return Some(exhausted(&gate.id, &format!("gate {}", gate.id), state.changes + 1, tasks.is_empty()));
    }
    let remarks = remarks_at(work, &id);
    begin(work, Subject::Gate(GateId::trusted(&gate.id)), RoundCause::ChangesRequested);
    begin_later(work, &id, RoundCause::LaterReview);
    let reason = format!("reviewers asked for changes on gate {}", gate.id);
    reopen_boundary(work, &Actor::engine(), phase, reason, true);
    for task in &tasks {
        let own = concerning(work, phase, task, &tasks, &remarks);
        let _ = return_task(work, &Actor::engine(), task, RoundCause::LaterReview, own);
    }
    None
}

/// Shows where a phase that is next stands.
fn show_next(work: &mut Work<'_>, phase: &process::Phase, block: Option<Block>) {
    let Some(state) = work.instance.phases.get(phase.id.as_str()) else { return };
    let id = PhaseId::trusted(&phase.id);
    match block {
        Some(block) if state.block.as_ref() == Some(&block) => {}
        Some(block) => work.follow(Change::PhaseBlocked { phase: id, block }),
        None if state.status == PhaseStatus::Gated => {}
        None => work.follow(Change::PhaseGated { phase: id }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::play::{Play, check, define};
    use super::{GateStatus, PhaseStatus};

    #[test]
    fn gates() {
        let definition = define(json!({
            "phases": [{"id": "p", "tasks": [{"id": "a"}]}, {"id": "q", "tasks": [{"id": "b"}]}],
            "gates": [
                {"id": "g", "beforePhase": "q", "type": "approval", "approvers": ["ann", "ben"]},
                {"id": "c", "beforePhase": "q", "type": "condition", "condition": "ready"},
                {"id": "m", "beforePhase": "q", "type": "manual"},
            ],
        }));
        let given = "start; lease a; hand a";
        let rows = [
            ("approve gate:g", "fact ready=true", "facts_set {\"ready\":true}, gate_opened c"),
            ("approve gate:g; fact ready=true", "advance", "gate_opened m, phase_entered q, task_ready b"),
            ("", "advance", "gate_opened m"),
            ("advance", "advance", "refused PhaseBlocked"),
            (
                "advance; fact ready=true",
                "approve gate:g",
                "settled g approved, facts_set {\"g_approved\":true}, gate_opened g, phase_entered q, task_ready b",
            ),
            ("fact ready=true", "fact ready=false", "facts_set {\"ready\":false}"),
            ("", "reject gate:g", "settled g rejected, gate_rejected g, phase_blocked q by rejected"),
            ("reject gate:g", "reopen q", "phase_reopened q, needed gate:g#2(ann+ben)"),
            (
                "reject gate:g; reopen q",
                "approve gate:g",
                "settled g approved, facts_set {\"g_approved\":true}, gate_opened g",
            ),
            (
                "",
                "changes gate:g",
                "settled g changes_requested, round gate:g#2 changes_requested, phase_reopened p, task_returned a#2, task_ready a",
            ),
            (
                "changes gate:g; lease a",
                "hand a",
                "task_handed_in a, task_completed a, needed gate:g#2(ann+ben), phase_completed p, phase_gated q",
            ),
            (
                "",
                "approve gate:g on:doc@1 doc@2",
                "settled g approved, round gate:g#2 content_changed, needed gate:g#2(ann+ben)",
            ),
            (
                "",
                "advance force",
                "gate_opened g, gate_opened c, gate_opened m, phase_entered q, task_ready b",
            ),
            ("", "ann: advance", "refused RoleForbidden"),
            ("", "dan: advance", "gate_opened m"),
            ("pause", "advance", "refused Paused"),
            ("pause; approve gate:g", "resume", "instance_resumed, gate_opened g"),
        ];
        for (more, when, then) in rows {
            check(&definition, &format!("{given}; {more}"), when, then);
        }
        check(
            &definition,
            "start; lease a",
            "hand a",
            "task_handed_in a, task_completed a, needed gate:g#1(ann+ben), phase_completed p, phase_gated q",
        );
    }

    #[test]
    fn an_ad_hoc_approval_brings_its_fact() {
        let definition = define(json!({
            "phases": [{"id": "p", "tasks": [{"id": "a"}]}, {"id": "q", "tasks": [{"id": "b"}]}],
            "gates": [{"id": "c", "beforePhase": "q", "type": "condition", "condition": "requirements_approved"}],
        }));
        let given = "start; lease a; hand a; asked requirements";
        check(
            &definition,
            given,
            "approve requirements",
            "settled requirements approved, facts_set {\"requirements_approved\":true}, gate_opened c, phase_entered q, task_ready b",
        );
        check(&definition, given, "reject requirements", "settled requirements rejected");
    }

    #[test]
    fn an_approved_request_with_a_key_brings_the_facts_of_both_its_names() {
        let definition = define(json!({
            "phases": [{"id": "p", "tasks": [{"id": "a", "requiredApprovals": ["ann"]}]},
                       {"id": "q", "entryConditions": ["a_approved", "legal_approved"], "tasks": [{"id": "b"}]}],
        }));
        let rows = [
            (
                "start; lease a; hand a",
                "approve task:a key:legal",
                "settled a approved, facts_set {\"a_approved\":true,\"legal_approved\":true}, task_completed a, \
                 phase_completed p, phase_entered q, task_ready b",
            ),
            (
                "start; lease a; hand a; approve task:a key:legal",
                "reopen p a",
                "facts_set {\"a_approved\":false,\"legal_approved\":false}, task_returned a#2, task_ready a",
            ),
        ];
        for (given, when, then) in rows {
            let mut play = Play::new(&definition);
            play.script(given);
            assert_eq!(
                play.act(when).replace("phase_reopened p, ", ""),
                then,
                "given {given:?}, when {when:?}"
            );
        }
    }

    #[test]
    fn a_rejected_gate_is_unlocked_by_reopening_the_phase_before() {
        let definition = define(json!({
            "phases": [{"id": "p", "tasks": [{"id": "a"}]}, {"id": "q", "tasks": [{"id": "b"}]}],
            "gates": [{"id": "g", "beforePhase": "q", "type": "approval", "approvers": ["ann"]}],
        }));
        let mut play = Play::new(&definition);
        play.script("start; lease a; hand a; reject gate:g");
        assert_eq!(play.act("reopen p"), "phase_reopened p, task_returned a#2, task_ready a");
        assert_eq!(play.instance.gates["g"].status, GateStatus::Pending);
        assert_eq!(play.instance.phases["q"].status, PhaseStatus::Pending);
    }
}
