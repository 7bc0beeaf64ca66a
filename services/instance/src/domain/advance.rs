//! What follows by itself. After every command the state is driven to where nothing follows any more: decisions take
//! effect, tasks become ready, requests are made, gates open, phases end and begin. Each step looks at the state alone,
//! so it does not matter what woke it, and a pause only puts it off.

use phasegate_id::{PhaseId, TaskId};
use phasegate_process as process;
use phasegate_process::TaskFailure;

use super::approach::approach;
use super::approval::{Standing, ask, refusal, standing};
use super::boundary::{review, show};
use super::command::Actor;
use super::event::{Change, RoundCause};
use super::instance::{Block, BlockCause, Status};
use super::planted::{self, Bug};
use super::request::{ApprovalStatus, Subject};
use super::round::{begin, begin_later, remarks_at, return_task};
use super::task::{Task, TaskStatus};
use super::work::{Work, current_phase, written_task};

/// Most steps after one command: far above what the largest definition can take, so that an endless loop would end.
const STEPS_MAX: usize = 20_000;

/// Drives the state to where nothing follows any more.
pub(super) fn advance(work: &mut Work<'_>) {
    for _ in 0..STEPS_MAX {
        if work.instance.status != Status::Running {
            return;
        }
        let before = work.events.len();
        step(work);
        if work.events.len() == before {
            return;
        }
    }
}

fn step(work: &mut Work<'_>) {
    if let Some((task, reason)) = fatal(work) {
        work.follow(Change::InstanceFailed { task, reason });
        return;
    }
    let Some(position) = current_phase(work.definition, &work.instance) else {
        work.follow(Change::InstanceCompleted {});
        return;
    };
    let Some(phase) = work.definition.phases.get(position) else { return };
    let is_entered =
        work.instance.phases.get(phase.id.as_str()).is_some_and(|state| state.started_at.is_some());
    if is_entered { run(work, phase) } else { approach(work, phase, position) }
}

/// The failure that ends the whole instance, where there is one.
fn fatal(work: &Work<'_>) -> Option<(TaskId, String)> {
    let failed = work.instance.tasks.iter().filter(|(_, task)| task.status == TaskStatus::Failed);
    for (id, task) in failed {
        let written = written_task(work.definition, id.as_str())?;
        if written.error_handling.task_failure == TaskFailure::FailProcess {
            let message = task.last_failure.as_ref().map_or("", |failure| failure.message.as_str());
            return Some((id.clone(), format!("task {id} failed for good: {message}")));
        }
    }
    None
}

fn run(work: &mut Work<'_>, phase: &process::Phase) {
    let before = work.events.len();
    for written in &phase.tasks {
        settle_task(work, phase, written);
    }
    if work.events.len() > before {
        return;
    }
    let mut block = stuck_task(work, phase);
    if block.is_none() && all_tasks(work, phase, TaskStatus::is_handed_in) {
        block = review(work, phase);
        if work.events.len() > before {
            return;
        }
    }
    show(work, phase, block);
}

/// Lets a task begin, and lets what people decided about it take effect.
fn settle_task(work: &mut Work<'_>, phase: &process::Phase, written: &process::Task) {
    let Some(task) = work.instance.tasks.get(written.id.as_str()) else { return };
    let id = TaskId::trusted(&written.id);
    if task.status == TaskStatus::Pending && dependencies_done(work, written) {
        work.follow(Change::TaskReady { task: id });
        return;
    }
    if task.status != TaskStatus::AwaitingApproval {
        return;
    }
    let round = task.round;
    let approval = task.approval.clone();
    let phase_id = PhaseId::trusted(&phase.id);
    match (standing(work, approval.as_ref()), approval) {
        (Standing::Unasked, _) | (_, None) => {
            ask(work, Subject::Task(id), round, &written.required_approvals);
        }
        (Standing::Open, _) => {}
        (Standing::Approved, approval) => work.follow(Change::TaskCompleted { task: id, approval }),
        (Standing::OutOfDate, _) => {
            begin(work, Subject::Task(id), RoundCause::ContentChanged);
            begin_later(work, &phase_id, RoundCause::EarlierRound);
        }
        (Standing::Superseded, _) => {
            begin(work, Subject::Task(id), RoundCause::Superseded);
            begin_later(work, &phase_id, RoundCause::EarlierRound);
        }
        (Standing::ChangesRequested, Some(approval)) => send_back(work, phase, written, &approval),
        (Standing::Refused(status), Some(approval)) => {
            let message = refusal(&format!("task {id}"), status);
            work.follow(Change::TaskBlocked { task: id, approval, message });
        }
    }
}

fn dependencies_done(work: &Work<'_>, written: &process::Task) -> bool {
    planted::is(Bug::DependencyIgnored)
        || written.dependencies.iter().all(|dependency| {
            work.instance.tasks.get(dependency.as_str()).is_some_and(|task| task.status.is_done())
        })
}

/// Sends a task back to whoever does it, or up, once it has gone back often enough.
fn send_back(
    work: &mut Work<'_>,
    phase: &process::Phase,
    written: &process::Task,
    approval: &phasegate_id::ApprovalId,
) {
    let id = TaskId::trusted(&written.id);
    let phase_id = PhaseId::trusted(&phase.id);
    let mut remarks =
        work.instance.approvals.get(approval).map(|approval| approval.remarks.clone()).unwrap_or_default();
    remarks.extend(remarks_at(work, &phase_id));
    let changes = work.instance.tasks.get(&id).map_or(0, |task| task.changes);
    // Neither can fail: the task was found a moment ago.
    let _ = if changes + 1 < written.max_rounds {
        return_task(work, &Actor::engine(), &id, RoundCause::ChangesRequested, remarks)
    } else {
        let message = format!("reviewers asked for changes in {} rounds", changes + 1);
        super::failure::escalate(work, &id, message, remarks)
    };
}

/// What is held by one of its tasks.
fn stuck_task(work: &Work<'_>, phase: &process::Phase) -> Option<Block> {
    phase.tasks.iter().find_map(|written| {
        let task = work.instance.tasks.get(written.id.as_str())?;
        let (cause, message) = match task.status {
            TaskStatus::Failed => (BlockCause::Failed, failure_message(written, task)),
            TaskStatus::Blocked => (BlockCause::Rejected, rejection_message(work, written, task)),
            TaskStatus::Pending
            | TaskStatus::Ready
            | TaskStatus::Running
            | TaskStatus::AwaitingApproval
            | TaskStatus::Completed
            | TaskStatus::Escalated
            | TaskStatus::Skipped
            | TaskStatus::Cancelled => return None,
        };
        Some(Block { cause, subject: written.id.clone(), message })
    })
}

fn failure_message(written: &process::Task, task: &Task) -> String {
    let kind = task.last_failure.as_ref().map_or("an unknown failure", |failure| failure.kind.as_str());
    format!("task {} failed for good with {kind}", written.id)
}

fn rejection_message(work: &Work<'_>, written: &process::Task, task: &Task) -> String {
    let approval = task.approval.as_ref().and_then(|id| work.instance.approvals.get(id));
    let status = approval.map_or(ApprovalStatus::Rejected, |approval| approval.status);
    refusal(&format!("task {}", written.id), status)
}

/// Whether all tasks of a phase are in such a state.
pub(super) fn all_tasks(work: &Work<'_>, phase: &process::Phase, is: fn(TaskStatus) -> bool) -> bool {
    phase
        .tasks
        .iter()
        .all(|task| work.instance.tasks.get(task.id.as_str()).is_some_and(|state| is(state.status)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::play::{Play, check, define};

    #[test]
    fn tasks_begin_as_their_dependencies_allow() {
        let definition = define(json!({"phases": [
            {"id": "p", "tasks": [{"id": "a"}, {"id": "b"}]},
            {"id": "q", "parallelExecution": true, "tasks": [
                {"id": "c"}, {"id": "d", "dependencies": ["c", "a"]}, {"id": "e", "dependencies": ["b"]}]},
        ]}));
        let rows = [
            ("", "start", "instance_started, phase_entered p, task_ready a"),
            ("start; lease a", "hand a", "task_handed_in a, task_completed a, task_ready b"),
            (
                "start; skip a; lease b",
                "hand b",
                "task_handed_in b, task_completed b, phase_completed p, phase_entered q, task_ready c, task_ready e",
            ),
            ("start; skip a; skip b; lease c", "hand c", "task_handed_in c, task_completed c, task_ready d"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn reviews_of_a_task() {
        let definition = define(json!({"phases": [{"id": "p", "tasks": [
            {"id": "a", "requiredApprovals": ["ann", "ben"], "maxRounds": 2}, {"id": "b"}]}],
            "escalationPath": ["dan"]}));
        let given = "start; lease a; hand a";
        let rows = [
            ("", "asked task:a", "requested a"),
            (
                "",
                "approve task:a",
                "settled a approved, facts_set {\"a_approved\":true}, task_completed a, task_ready b",
            ),
            ("", "changes task:a", "settled a changes_requested, task_returned a#2, task_ready a"),
            ("", "reject task:a", "settled a rejected, task_blocked a, phase_blocked p by rejected"),
            ("", "lapse task:a", "settled a expired, task_blocked a, phase_blocked p by rejected"),
            ("", "withdraw task:a", "settled a withdrawn, task_blocked a, phase_blocked p by rejected"),
            (
                "",
                "supersede task:a",
                "settled a superseded, round task:a#2 superseded, needed task:a#2(ann+ben)",
            ),
            ("", "approve task:a round:2", "settled a approved"),
            (
                "",
                "approve task:a on:doc@1 doc@2",
                "settled a approved, round task:a#2 content_changed, needed task:a#2(ann+ben)",
            ),
            (
                "stored doc@2",
                "approve task:a on:doc@1",
                "settled a approved, round task:a#2 content_changed, needed task:a#2(ann+ben)",
            ),
            ("changes task:a; lease a", "approve task:a round:1", "settled a approved"),
            (
                "changes task:a; lease a; hand a",
                "changes task:a",
                "settled a changes_requested, task_escalated a to dan",
            ),
            ("changes task:a; lease a; hand a; changes task:a", "retry a", "task_retried a#3, task_ready a"),
            ("reject task:a", "approve task:a", "settled a approved"),
        ];
        for (more, when, then) in rows {
            check(&definition, &format!("{given}; {more}"), when, then);
        }
    }

    #[test]
    fn while_paused_decisions_are_recorded_and_nothing_moves() {
        let definition = define(json!({"phases": [
            {"id": "p", "requiredApprovals": ["ann"], "tasks": [{"id": "a", "requiredApprovals": ["ben"]}]}]}));
        let rows = [
            ("lease a; pause", "hand a", "task_handed_in a"),
            (
                "lease a; pause; hand a",
                "resume",
                "instance_resumed, needed task:a#1(ben), needed phase:p#1(ann), phase_awaiting_approval p",
            ),
            (
                "lease a; hand a; pause",
                "approve task:a",
                "settled a approved, facts_set {\"a_approved\":true}",
            ),
            ("lease a; hand a; pause; approve task:a", "resume", "instance_resumed, task_completed a"),
            (
                "lease a; hand a; pause; changes task:a",
                "resume",
                "instance_resumed, task_returned a#2, round phase:p#2 earlier_round, task_ready a, phase_activated p",
            ),
        ];
        for (given, when, then) in rows {
            check(&definition, &format!("start; {given}"), when, then);
        }
    }

    #[test]
    fn what_a_later_review_asked_for_is_not_lost() {
        let definition = define(json!({"phases": [
            {"id": "p", "requiredApprovals": ["ann"], "tasks": [{"id": "a", "requiredApprovals": ["ben"]}]}]}));
        let mut play = Play::new(&definition);
        play.script("start; lease a; hand a; changes phase:p; changes task:a");
        assert_eq!(play.instance.tasks["a"].remarks.len(), 2);
        assert_eq!(play.instance.phases["p"].round, 2);
    }
}
