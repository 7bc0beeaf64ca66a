//! Answers a command with the events that it leads to, consequences included. One match; each arm calls one function of
//! the concern.

use phasegate_clock::Timestamp;
use phasegate_process::Definition;

use super::advance::advance;
use super::command::{Action, Command};
use super::event::Event;
use super::failure::{self, Report};
use super::instance::Instance;
use super::rejection::Rejection;
use super::work::Work;
use super::{approval, hand_in, lease, operator, reopen, start, steer};

/// Answers `command` with the events that happen at `now`, or says why none may. No events mean that it is so already.
pub fn decide(
    definition: &Definition,
    instance: &Instance,
    command: &Command,
    now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let mut work = Work::new(definition, instance, &command.current, now);
    carry_out(&mut work, command)?;
    if !work.events.is_empty() {
        advance(&mut work);
    }
    debug_assert!(
        super::planted::any() || super::invariant::check(definition, &work.instance).is_ok(),
        "{:?} after {:?}",
        super::invariant::check(definition, &work.instance),
        command.action
    );
    Ok(work.events)
}

fn carry_out(work: &mut Work<'_>, command: &Command) -> Result<(), Rejection> {
    let actor = &command.actor;
    match &command.action {
        Action::Start(begin) => start::start(work, actor, begin),
        Action::Lease { task, worker, until } => lease::lease(work, actor, task, worker, *until),
        Action::HandIn { task, fencing, output, summary } => {
            hand_in::hand_in(work, actor, task, *fencing, output.as_ref(), summary)
        }
        Action::Fail { task, fencing, kind, message, non_retryable, retry_after, jitter } => {
            let report = Report {
                kind,
                message,
                non_retryable: *non_retryable,
                retry_after: *retry_after,
                jitter: *jitter,
            };
            failure::fail(work, actor, task, *fencing, &report)
        }
        Action::Release { task, fencing, reason } => lease::release(work, actor, task, *fencing, reason),
        Action::ExpireLease { task, fencing, jitter } => failure::expire(work, task, *fencing, *jitter),
        Action::Advance { from_phase, force, reason } => {
            operator::advance(work, actor, from_phase.as_ref(), *force, reason)
        }
        Action::Reopen { phase, tasks, reason } => reopen::reopen(work, actor, phase.as_ref(), tasks, reason),
        Action::Pause { reason } => operator::pause(work, actor, reason),
        Action::Resume { reason } => operator::resume(work, actor, reason),
        Action::Cancel { reason } => operator::cancel(work, actor, reason),
        Action::RetryTask { task, reason } => steer::retry(work, actor, task, reason),
        Action::SkipTask { task, reason } => steer::skip(work, actor, task, reason),
        Action::SetFacts { facts, lease, reason } => {
            steer::set_facts(work, actor, facts, lease.as_ref(), reason)
        }
        Action::ChangeContext { context, expected_version, lease, reason } => {
            steer::change_context(work, actor, context, *expected_version, lease.as_ref(), reason)
        }
        Action::Hear { fact, at } => {
            approval::hear(work, actor, fact, *at);
            Ok(())
        }
        Action::HearAgain { fact, at } => {
            approval::hear_again(work, actor, fact, *at);
            Ok(())
        }
    }
}
