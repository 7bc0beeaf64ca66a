//! What follows a failed attempt: another one after a wait, somebody above, or the end of the road.

use std::time::Duration;

use phasegate_id::TaskId;
use phasegate_process as process;
use phasegate_process::{Definition, ErrorHandling, TaskFailure};

use super::command::Actor;
use super::event::{Change, RoundCause};
use super::instance::Status;
use super::planted::{self, Bug};
use super::rejection::Rejection;
use super::round::{begin_later, retract};
use super::task::{Failure, RETRY_AFTER_MAX, Remark, Task};
use super::work::Work;

/// Stands for whoever runs the installation, where neither an agent nor a human is left.
pub(super) const OPERATOR: &str = "operator";

/// A failure as a worker reports it.
pub(super) struct Report<'a> {
    /// `UPPER_SNAKE_CASE`.
    pub(super) kind: &'a str,
    /// What happened.
    pub(super) message: &'a str,
    /// No retry can help.
    pub(super) non_retryable: bool,
    /// Wait before the retry, instead of the policy's.
    pub(super) retry_after: Option<Duration>,
    /// Chance, from 0 to 1.
    pub(super) jitter: f64,
}

/// Takes a failure in. Repeating it under the same lease changes nothing.
pub(super) fn fail(
    work: &mut Work<'_>,
    actor: &Actor,
    id: &TaskId,
    fencing: u64,
    report: &Report<'_>,
) -> Result<(), Rejection> {
    let (task, _) = work.task(id)?;
    let reported_before = |failure: &Failure| failure.fencing == fencing && failure.kind == report.kind;
    if task.lease.is_none() && task.last_failure.as_ref().is_some_and(reported_before) {
        return Ok(());
    }
    work.held(id, fencing)?;
    attempt_failed(work, actor, id, report)
}

/// Takes the end of a lease in: its attempt has failed. A race with its worker is not a mistake, and while the instance
/// is paused no timer fires.
pub(super) fn expire(work: &mut Work<'_>, id: &TaskId, fencing: u64, jitter: f64) -> Result<(), Rejection> {
    let (task, _) = work.task(id)?;
    if task.lease.is_none() || task.fencing != fencing || work.instance.status == Status::Paused {
        return Ok(());
    }
    let report = Report {
        kind: Failure::LEASE_EXPIRED,
        message: "the worker stopped sending heartbeats",
        non_retryable: false,
        retry_after: None,
        jitter,
    };
    attempt_failed(work, &Actor::engine(), id, &report)
}

fn attempt_failed(
    work: &mut Work<'_>,
    actor: &Actor,
    id: &TaskId,
    report: &Report<'_>,
) -> Result<(), Rejection> {
    let (task, written) = work.task(id)?;
    let handling = &written.error_handling;
    let attempt = task.attempt;
    let failed = Change::TaskAttemptFailed {
        task: id.clone(),
        attempt,
        fencing: task.fencing,
        kind: report.kind.to_owned(),
        message: report.message.to_owned(),
        non_retryable: report.non_retryable,
    };
    work.record(actor, failed);
    let slack = u32::from(planted::is(Bug::RetryBudget));
    let attempts_left = (attempts_max(handling) + slack).saturating_sub(attempt);
    if attempts_left > 0 && !report.non_retryable {
        let wait = report
            .retry_after
            .map_or_else(|| backoff(handling, attempt, report.jitter), |wait| wait.min(RETRY_AFTER_MAX));
        let ready_at = work.now + wait;
        work.follow(Change::TaskRetryScheduled { task: id.clone(), ready_at, attempts_left });
        return Ok(());
    }
    let message = format!("attempt {attempt} failed with {}: {}", report.kind, report.message);
    match handling.task_failure {
        TaskFailure::RetryWithEscalation | TaskFailure::Escalate => escalate(work, id, message, Vec::new())?,
        TaskFailure::Skip => {
            let replaced = work.instance.tasks.get(id).and_then(|task| task.approval.clone());
            retract(work, replaced.as_slice());
            work.follow(Change::TaskSkipped { task: id.clone(), replaced, reason: message });
        }
        // Where the whole instance fails with it, that follows once the instance may move.
        TaskFailure::Retry | TaskFailure::FailProcess => {
            work.follow(Change::TaskFailed { task: id.clone(), message });
        }
    }
    Ok(())
}

/// Attempts in one round before something else follows.
pub fn attempts_max(handling: &ErrorHandling) -> u32 {
    match handling.task_failure {
        TaskFailure::Retry | TaskFailure::RetryWithEscalation | TaskFailure::FailProcess => {
            handling.max_retries.saturating_add(1)
        }
        TaskFailure::Escalate | TaskFailure::Skip => 1,
    }
}

/// The wait before the attempt after `attempt`: doubled each time up to a limit, and shortened by up to a half by
/// chance, so that what failed together does not come back together.
fn backoff(handling: &ErrorHandling, attempt: u32, jitter: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let longest = handling.max_retry_delay.max(handling.retry_delay);
    let full = handling.retry_delay.saturating_mul(1_u32 << doublings).min(longest);
    let half = full / 2;
    half + half.mul_f64(jitter.clamp(0.0, 1.0))
}

/// Sends work up: to an agent, who works on it at once with a fresh budget, or to a human or operators, who have to
/// look.
pub(super) fn escalate(
    work: &mut Work<'_>,
    id: &TaskId,
    message: String,
    remarks: Vec<Remark>,
) -> Result<(), Rejection> {
    let (task, written) = work.task(id)?;
    let to = next_target(work.definition, written, task);
    let to_agent = work.definition.agents.contains_key(to);
    let replaced = task.approval.clone().filter(|_| to_agent);
    let escalated = Change::TaskEscalated {
        task: id.clone(),
        to: to.to_owned(),
        to_agent,
        round: task.round + u32::from(replaced.is_some()),
        replaced: replaced.clone(),
        remarks,
        message,
    };
    let phase = task.phase.clone();
    if let Some(replaced) = &replaced {
        retract(work, std::slice::from_ref(replaced));
    }
    work.follow(escalated);
    if replaced.is_some() {
        begin_later(work, &phase, RoundCause::EarlierRound);
    }
    Ok(())
}

/// Who comes next: the nearest `escalateTo`, then the escalation path, then operators; nobody twice.
fn next_target<'a>(definition: &'a Definition, written: &'a process::Task, task: &Task) -> &'a str {
    let nearest = written.error_handling.escalate_to.iter();
    nearest
        .chain(&definition.escalation_path)
        .find(|target| {
            **target != task.owner && **target != task.assignee && !task.escalated_to.contains(target)
        })
        .map_or(OPERATOR, String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::play::{Play, check, define};
    use super::*;

    fn with_handling(handling: Value) -> Definition {
        define(json!({
            "phases": [{"id": "p", "parallelExecution": true, "tasks": [{"id": "a", "errorHandling": handling}, {"id": "b"}]}],
            "escalationPath": ["chief", "dan"],
        }))
    }

    /// Uses up `attempts` attempts of the task.
    fn failing(attempts: usize) -> String {
        std::iter::repeat_n("wait 100; lease a; fail a", attempts).collect::<Vec<_>>().join(";")
    }

    #[test]
    fn what_follows_the_last_failure() {
        let rows = [
            ("retry", "task_attempt_failed a, task_failed a, phase_blocked p by failed"),
            ("retry_with_escalation", "task_attempt_failed a, task_escalated a to spare"),
            ("fail_process", "task_attempt_failed a, task_failed a, instance_failed"),
        ];
        for (kind, then) in rows {
            let handling = json!({"taskFailure": kind, "maxRetries": 2, "escalateTo": "spare"});
            let definition = with_handling(handling);
            let given = format!("start; {}; wait 100; lease a", failing(2));
            check(&definition, &given, "fail a", then);
            check(
                &definition,
                "start; lease a",
                "fail a",
                "task_attempt_failed a, task_retry_scheduled a in 1000ms, 2 left",
            );
            check(&definition, "start; lease a", "fail a final", then);
        }
        let at_once = [
            ("escalate", "task_attempt_failed a, task_escalated a to spare"),
            ("skip", "task_attempt_failed a, task_skipped a"),
        ];
        for (kind, then) in at_once {
            let handling = json!({"taskFailure": kind, "maxRetries": 2, "escalateTo": "spare"});
            check(&with_handling(handling), "start; lease a", "fail a", then);
        }
    }

    #[test]
    fn waits_double_up_to_the_limit() {
        let handling =
            json!({"taskFailure": "retry", "maxRetries": 9, "retryDelay": "2s", "maxRetryDelay": "10s"});
        let definition = with_handling(handling);
        for (used, wait) in [(0, 2_000), (1, 4_000), (2, 8_000), (3, 10_000), (8, 10_000)] {
            let given = format!("start; {}; wait 100; lease a", failing(used));
            let then =
                format!("task_attempt_failed a, task_retry_scheduled a in {wait}ms, {} left", 9 - used);
            check(&definition, &given, "fail a", &then);
            let then =
                format!("task_attempt_failed a, task_retry_scheduled a in {}ms, {} left", wait / 2, 9 - used);
            check(&definition, &given, "expire a", &then);
        }
        check(
            &definition,
            "start; lease a",
            "fail a after=7200",
            "task_attempt_failed a, task_retry_scheduled a in 7200000ms, 9 left",
        );
        check(
            &definition,
            "start; lease a",
            "fail a after=999999",
            "task_attempt_failed a, task_retry_scheduled a in 86400000ms, 9 left",
        );
    }

    #[test]
    fn a_failure_counts_once() {
        let definition = with_handling(json!({"taskFailure": "retry", "maxRetries": 2}));
        let rows = [
            ("start; lease a; fail a", "fail a", ""),
            ("start; lease a; expire a", "expire a", ""),
            ("start; lease a; expire a", "fail a", "refused LeaseLost"),
            ("start; lease a; fail a; wait 100; lease a", "fail a #1", "refused LeaseLost"),
            ("start; lease a; hand a", "expire a", ""),
            ("start; lease a; pause", "expire a", ""),
            ("start; lease a; cancel", "expire a #1", ""),
            ("start; lease a; cancel", "fail a #1", "refused LeaseLost"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn work_goes_up_step_by_step_and_nobody_gets_it_twice() {
        let handling = json!({"maxRetries": 0, "escalateTo": "spare", "notifyParticipants": ["ann"]});
        let definition = with_handling(handling);
        let mut play = Play::new(&definition);
        play.script("start; lease a; fail a; lease a; fail a");
        let task = &play.instance.tasks["a"];
        assert_eq!(task.escalated_to, ["spare", "chief"]);
        assert_eq!(task.assignee, "chief");
        assert_eq!((task.attempt, task.fencing), (0, 4));
        play.effects.clear();
        play.script("lease a; fail a");
        let task = &play.instance.tasks["a"];
        assert_eq!(task.status, super::super::TaskStatus::Escalated);
        assert_eq!(task.escalated_to, ["spare", "chief", "dan"]);
        let told = play.effects.iter().any(|effect| {
            matches!(effect, super::super::Effect::WorkEscalated { escalated_to, notify_participants, .. }
                if escalated_to == "dan" && notify_participants.len() == 2)
        });
        assert!(told, "{:?}", play.effects);
        play.script("retry a");
        let task = &play.instance.tasks["a"];
        assert_eq!((task.assignee.as_str(), task.attempt, task.escalated_to.len()), ("bot", 0, 0));
    }

    #[test]
    fn operators_are_the_last_resort() {
        let definition = define(json!({"phases": [{"id": "p", "tasks": [
            {"id": "a", "errorHandling": {"taskFailure": "escalate"}}]}]}));
        check(&definition, "start; lease a", "fail a", "task_attempt_failed a, task_escalated a to operator");
    }

    #[test]
    fn a_paused_instance_fails_when_it_is_resumed() {
        let definition = with_handling(json!({"taskFailure": "fail_process", "maxRetries": 0}));
        let rows = [
            ("start; lease a; pause", "fail a", "task_attempt_failed a, task_failed a"),
            ("start; lease a; pause; fail a", "resume", "instance_resumed, instance_failed"),
            ("start; lease a; pause; fail a; retry a", "resume", "instance_resumed, task_ready a"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }
}
