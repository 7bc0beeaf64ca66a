//! The end of a phase: its review, the requests for what comes after it, and the way out or back.

use phasegate_id::{GateId, PhaseId};
use phasegate_process as process;
use phasegate_process::GateKind;

use super::advance::all_tasks;
use super::approval::{Standing, ask, refusal, standing};
use super::command::Actor;
use super::condition::{Verdict, look};
use super::event::{Change, RoundCause};
use super::instance::{Block, BlockCause, GateStatus, PhaseStatus};
use super::planted::{self, Bug};
use super::request::Subject;
use super::round::{begin, begin_gates, concerning, phase_after, remarks_at, return_task, reviewed_tasks};
use super::task::TaskStatus;
use super::work::{Work, gates_before};

/// The boundary: asks for what is not asked yet, and ends the phase once everything is met. Says what blocks it.
pub(super) fn review(work: &mut Work<'_>, phase: &process::Phase) -> Option<Block> {
    let early = phase.exit_conditions.iter().filter(|condition| !condition.reads_approvals());
    match look(&work.instance, Some(phase), early) {
        Verdict::Broken(expression, message) => return Some(broken(expression, message)),
        Verdict::Fails(_) => {}
        Verdict::Holds => ask_boundary(work, phase),
    }
    if !all_tasks(work, phase, TaskStatus::is_done) {
        return None;
    }
    let id = PhaseId::trusted(&phase.id);
    let state = work.instance.phases.get(&id)?;
    let approval = state.approval.clone();
    match standing(work, approval.as_ref()) {
        Standing::Unasked if !phase.required_approvals.is_empty() => None,
        Standing::Open => None,
        Standing::Unasked | Standing::Approved => leave(work, phase),
        Standing::OutOfDate => {
            begin(work, Subject::Phase(id.clone()), RoundCause::ContentChanged);
            begin_gates(work, &id, RoundCause::EarlierRound);
            None
        }
        Standing::Superseded => {
            begin(work, Subject::Phase(id.clone()), RoundCause::Superseded);
            begin_gates(work, &id, RoundCause::EarlierRound);
            None
        }
        Standing::ChangesRequested => rework_phase(work, phase),
        Standing::Refused(status) => Some(Block {
            cause: BlockCause::Rejected,
            subject: phase.id.clone(),
            message: refusal(&format!("phase {id}"), status),
        }),
    }
}

/// What a condition without an answer blocks with.
pub(super) fn broken(expression: String, message: String) -> Block {
    let message = format!("the condition `{expression}` cannot be evaluated: {message}");
    Block { cause: BlockCause::Condition, subject: expression, message }
}

/// Asks for the phase and for the approval gates after it, together.
fn ask_boundary(work: &mut Work<'_>, phase: &process::Phase) {
    let id = PhaseId::trusted(&phase.id);
    let Some(state) = work.instance.phases.get(&id) else { return };
    if state.approval.is_none() && !phase.required_approvals.is_empty() {
        let round = state.round;
        ask(work, Subject::Phase(id.clone()), round, &phase.required_approvals);
    }
    let Some(next) = phase_after(work, &id) else { return };
    for gate in gates_before(work.definition, next) {
        let GateKind::Approval(approvers) = &gate.kind else { continue };
        let Some(state) = work.instance.gates.get(gate.id.as_str()) else { continue };
        if state.approval.is_none() && state.status == GateStatus::Pending {
            let round = state.round;
            ask(work, Subject::Gate(GateId::trusted(&gate.id)), round, approvers);
        }
    }
}

/// Ends a phase whose approval is there, if its exit conditions hold.
fn leave(work: &mut Work<'_>, phase: &process::Phase) -> Option<Block> {
    match look(&work.instance, Some(phase), phase.exit_conditions.iter()) {
        Verdict::Broken(expression, message) => return Some(broken(expression, message)),
        Verdict::Fails(_) if !planted::is(Bug::ExitConditionSkipped) => return None,
        Verdict::Fails(_) | Verdict::Holds => {}
    }
    work.follow(Change::PhaseCompleted { phase: PhaseId::trusted(&phase.id) });
    None
}

/// Sends the reviewed tasks of a phase back, as long as that has not happened too often.
fn rework_phase(work: &mut Work<'_>, phase: &process::Phase) -> Option<Block> {
    let id = PhaseId::trusted(&phase.id);
    let state = work.instance.phases.get(&id)?;
    let approval = work.instance.approvals.get(state.approval.as_ref()?)?;
    let changes = state.changes;
    let tasks = reviewed_tasks(work, phase, approval);
    if changes + 1 >= phase.max_rounds || tasks.is_empty() {
        return Some(exhausted(&phase.id, &format!("phase {id}"), changes + 1, tasks.is_empty()));
    }
    let remarks = remarks_at(work, &id);
    begin(work, Subject::Phase(id.clone()), RoundCause::ChangesRequested);
    begin_gates(work, &id, RoundCause::EarlierRound);
    for task in &tasks {
        let own = concerning(work, phase, task, &tasks, &remarks);
        let _ = return_task(work, &Actor::engine(), task, RoundCause::LaterReview, own);
    }
    None
}

/// What a review that went back too often blocks with.
pub(super) fn exhausted(subject: &str, what: &str, rounds: u32, nothing_to_do: bool) -> Block {
    let message = if nothing_to_do {
        format!("reviewers asked for changes on {what}, and no task of it can be taken up again")
    } else {
        format!("reviewers asked for changes on {what} in {rounds} rounds")
    };
    Block { cause: BlockCause::Rounds, subject: subject.to_owned(), message }
}

/// Shows where a phase that is under way stands.
pub(super) fn show(work: &mut Work<'_>, phase: &process::Phase, block: Option<Block>) {
    let Some(state) = work.instance.phases.get(phase.id.as_str()) else { return };
    let id = PhaseId::trusted(&phase.id);
    if let Some(block) = block {
        if state.block.as_ref() != Some(&block) {
            work.follow(Change::PhaseBlocked { phase: id, block });
        }
        return;
    }
    let is_awaiting = |task: &process::Task| {
        let state = work.instance.tasks.get(task.id.as_str());
        state.is_some_and(|state| state.status == TaskStatus::AwaitingApproval)
    };
    let people_decide = all_tasks(work, phase, TaskStatus::is_handed_in)
        && (state.approval.is_some() || phase.tasks.iter().any(is_awaiting));
    if people_decide && state.status != PhaseStatus::AwaitingApproval {
        work.follow(Change::PhaseAwaitingApproval { phase: id });
    } else if !people_decide && state.status != PhaseStatus::Active {
        work.follow(Change::PhaseActivated { phase: id });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::play::{Play, check, define};
    use super::PhaseStatus;

    #[test]
    fn reviews_of_a_phase() {
        let definition = define(json!({"phases": [
            {"id": "p", "requiredApprovals": ["ann"], "maxRounds": 2, "parallelExecution": true,
             "tasks": [{"id": "a", "artifacts": ["doc"]}, {"id": "b"}]},
            {"id": "q", "requiredApprovals": ["ben"]},
        ]}));
        let given = "start; lease a; hand a doc@1; lease b; hand b";
        let approved = "settled p approved, facts_set {\"p_approved\":true}";
        let rows = [
            ("", "approve phase:p", format!("{approved}, phase_completed p, phase_entered q, needed phase:q#1(ben), phase_awaiting_approval q")),
            ("", "reject phase:p", "settled p rejected, phase_blocked p by rejected".to_owned()),
            ("", "lapse phase:p", "settled p expired, phase_blocked p by rejected".to_owned()),
            ("reject phase:p", "approve phase:p", "settled p approved".to_owned()),
            (
                "",
                "changes phase:p",
                "settled p changes_requested, round phase:p#2 changes_requested, task_returned a#2, task_returned b#2, \
                 task_ready a, task_ready b, phase_activated p"
                    .to_owned(),
            ),
            (
                "",
                "changes phase:p on:doc@1",
                "settled p changes_requested, round phase:p#2 changes_requested, task_returned a#2, task_ready a, \
                 phase_activated p"
                    .to_owned(),
            ),
            (
                "changes phase:p on:doc@1; lease a; hand a doc@2",
                "changes phase:p on:doc@2",
                "settled p changes_requested, phase_blocked p by rounds".to_owned(),
            ),
            (
                "",
                "approve phase:p on:doc@1 doc@2",
                "settled p approved, round phase:p#2 content_changed, needed phase:p#2(ann)".to_owned(),
            ),
            (
                "approve phase:p",
                "changes phase:q",
                "settled q changes_requested, phase_blocked q by rounds".to_owned(),
            ),
            (
                "reject phase:p",
                "reopen p a",
                "phase_reopened p, task_returned a#2, task_ready a".to_owned(),
            ),
            (
                "reject phase:p",
                "advance force",
                "phase_skipped p, phase_entered q, needed phase:q#1(ben), phase_awaiting_approval q".to_owned(),
            ),
        ];
        for (more, when, then) in rows {
            check(&definition, &format!("{given}; {more}"), when, &then);
        }
    }

    #[test]
    fn conditions() {
        let definition = define(json!({
            "phases": [
                {"id": "p", "entryConditions": ["begin"], "exitConditions": ["all_tasks_complete", "tested"],
                 "requiredApprovals": ["ann"], "tasks": [{"id": "a"}]},
                {"id": "q", "entryConditions": ["context.size > 3"], "exitConditions": ["p_approved", "q_approved"],
                 "requiredApprovals": ["ben"], "tasks": [{"id": "b"}]},
            ],
        }));
        let to_q = "start; fact begin=true tested=true; lease a; hand a; approve phase:p";
        let rows = [
            ("", "start", "instance_started, phase_gated p"),
            ("start", "fact begin=true", "facts_set {\"begin\":true}, phase_entered p, task_ready a"),
            ("start; fact begin=true; lease a", "hand a", "task_handed_in a, task_completed a"),
            (
                "start; fact begin=true; lease a; hand a",
                "fact tested=true",
                "facts_set {\"tested\":true}, needed phase:p#1(ann), phase_awaiting_approval p",
            ),
            (
                "start; fact begin=true tested=true; lease a; hand a; fact tested=false",
                "approve phase:p",
                "settled p approved, facts_set {\"p_approved\":true}",
            ),
            (
                "start; fact begin=true tested=true; lease a; hand a; fact tested=false; approve phase:p",
                "fact tested=true",
                "facts_set {\"tested\":true}, phase_completed p, phase_blocked q by condition",
            ),
            (to_q, r#"context {"size":2}"#, "context_changed, phase_gated q"),
            (to_q, r#"context {"size":4}"#, "context_changed, phase_entered q, task_ready b"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
        let given = format!("{to_q}; context {{\"size\":4}}; lease b");
        check(
            &definition,
            &given,
            "hand b",
            "task_handed_in b, task_completed b, needed phase:q#1(ben), phase_awaiting_approval q",
        );
        let given = format!("{given}; hand b");
        check(
            &definition,
            &given,
            "approve phase:q",
            "settled q approved, facts_set {\"q_approved\":true}, phase_completed q, instance_completed",
        );
    }

    #[test]
    fn what_was_approved_long_before_it_takes_effect_is_compared_then() {
        let definition = define(json!({"phases": [
            {"id": "p", "requiredApprovals": ["ann"], "parallelExecution": true,
             "tasks": [{"id": "a", "requiredApprovals": ["ben"]}]}]}));
        let mut play = Play::new(&definition);
        play.script("start; lease a; hand a; approve phase:p on:doc@1");
        assert_eq!(play.instance.facts.get("p_approved"), Some(&true));
        assert_eq!(
            play.act("approve task:a doc@2"),
            "settled a approved, facts_set {\"a_approved\":true}, task_completed a, facts_set {\"p_approved\":false}, \
             round phase:p#2 content_changed, needed phase:p#2(ann)"
        );
        assert_eq!(play.instance.phases["p"].status, PhaseStatus::AwaitingApproval);
    }
}
