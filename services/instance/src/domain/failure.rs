//! What follows a failed attempt: another one after a wait, somebody above, or the end of the road.

use std::time::Duration;

use phasegate_id::TaskId;
use phasegate_process as process;
use phasegate_process::{Definition, ErrorHandling, TaskFailure};

use super::command::Actor;
use super::event::Change;
use super::instance::{Failure, RETRY_AFTER_MAX, Remark, Status, Task};
use super::planted::{self, Bug};
use super::rejection::Rejection;
use super::work::Work;

/// Stands for whoever runs the installation, where neither an agent nor a human is left.
pub(super) const OPERATOR: &str = "operator";

/// A failure as a worker reports it.
pub(super) struct Report<'a> {
    /// UPPER_SNAKE_CASE.
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
            work.follow(Change::TaskSkipped { task: id.clone(), replaced: None, reason: message });
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
        super::round::retract(work, std::slice::from_ref(replaced));
    }
    work.follow(escalated);
    if replaced.is_some() {
        super::round::begin_later(work, &phase, super::event::RoundCause::EarlierRound);
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
