//! What operators and agents do with single tasks and with what the instance knows.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_id::TaskId;
use serde_json::{Map, Value};

use super::command::{Actor, ShownLease};
use super::event::{Change, RoundCause};
use super::rejection::Rejection;
use super::round::{begin_later, retract};
use super::task::TaskStatus;
use super::work::{Work, refuse_blank};

/// Takes a failed, escalated or blocked task up again with a fresh budget.
pub(super) fn retry(work: &mut Work<'_>, actor: &Actor, id: &TaskId, reason: &str) -> Result<(), Rejection> {
    refuse_blank(reason)?;
    work.refuse_others(actor)?;
    let (task, _) = work.task(id)?;
    work.refuse_terminal()?;
    match task.status {
        TaskStatus::Failed | TaskStatus::Escalated | TaskStatus::Blocked => {}
        status @ (TaskStatus::Pending
        | TaskStatus::Ready
        | TaskStatus::Running
        | TaskStatus::AwaitingApproval
        | TaskStatus::Completed
        | TaskStatus::Skipped
        | TaskStatus::Cancelled) => return Err(Rejection::TaskState { task: id.clone(), status }),
    }
    let replaced = task.approval.clone();
    let phase = task.phase.clone();
    let round = task.round + u32::from(replaced.is_some());
    retract(work, replaced.as_slice());
    let is_review = replaced.is_some();
    work.record(actor, Change::TaskRetried { task: id.clone(), round, replaced, reason: reason.to_owned() });
    if is_review {
        begin_later(work, &phase, RoundCause::EarlierRound);
    }
    Ok(())
}

/// Passes a task over that is not done.
pub(super) fn skip(work: &mut Work<'_>, actor: &Actor, id: &TaskId, reason: &str) -> Result<(), Rejection> {
    refuse_blank(reason)?;
    work.refuse_others(actor)?;
    let (task, _) = work.task(id)?;
    if task.status == TaskStatus::Skipped {
        return Ok(());
    }
    work.refuse_terminal()?;
    match task.status {
        TaskStatus::Pending
        | TaskStatus::Ready
        | TaskStatus::Running
        | TaskStatus::AwaitingApproval
        | TaskStatus::Blocked
        | TaskStatus::Escalated
        | TaskStatus::Failed => {}
        status @ (TaskStatus::Completed | TaskStatus::Skipped | TaskStatus::Cancelled) => {
            return Err(Rejection::TaskState { task: id.clone(), status });
        }
    }
    let replaced = task.approval.clone();
    retract(work, replaced.as_slice());
    work.record(actor, Change::TaskSkipped { task: id.clone(), replaced, reason: reason.to_owned() });
    Ok(())
}

/// Sets names that conditions may use bare. Those that have their value already change nothing.
pub(super) fn set_facts(
    work: &mut Work<'_>,
    actor: &Actor,
    facts: &BTreeMap<String, bool>,
    lease: Option<&ShownLease>,
    reason: &str,
) -> Result<(), Rejection> {
    refuse_unentitled(work, actor, lease, reason)?;
    work.refuse_terminal()?;
    let known = &work.instance.facts;
    let changed: BTreeMap<String, bool> = facts
        .iter()
        .filter(|(name, value)| known.get(*name).copied().unwrap_or_default() != **value)
        .map(|(name, value)| (name.clone(), *value))
        .collect();
    if !changed.is_empty() {
        work.record(actor, Change::FactsSet { facts: changed, reason: reason.to_owned() });
    }
    Ok(())
}

/// Makes the shared context what it shall be, and records the members that differ.
pub(super) fn change_context(
    work: &mut Work<'_>,
    actor: &Actor,
    context: &Value,
    expected_version: Option<u64>,
    lease: Option<&ShownLease>,
    reason: &str,
) -> Result<(), Rejection> {
    refuse_unentitled(work, actor, lease, reason)?;
    work.refuse_terminal()?;
    let current = work.instance.version;
    if expected_version.is_some_and(|expected| expected != current) {
        return Err(Rejection::VersionMismatch { current });
    }
    let (Some(before), Some(after)) = (work.instance.context.as_object(), context.as_object()) else {
        return Ok(());
    };
    let changed: Map<String, Value> = after
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let removed: BTreeSet<String> =
        before.keys().filter(|name| !after.contains_key(*name)).cloned().collect();
    if !changed.is_empty() || !removed.is_empty() {
        let reason = reason.to_owned();
        work.record(actor, Change::ContextChanged { changed, removed, reason });
    }
    Ok(())
}

/// Refuses who has neither a lease that is out nor the role and a reason.
fn refuse_unentitled(
    work: &Work<'_>,
    actor: &Actor,
    lease: Option<&ShownLease>,
    reason: &str,
) -> Result<(), Rejection> {
    if let Some(shown) = lease {
        return work.held(&shown.task, shown.fencing).map(|_| ());
    }
    refuse_blank(reason)?;
    work.refuse_others(actor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::play::{Play, check, define};

    fn two_tasks() -> phasegate_process::Definition {
        define(json!({"phases": [{"id": "p", "tasks": [
            {"id": "a", "requiredApprovals": ["ann"], "errorHandling": {"taskFailure": "retry", "maxRetries": 0}},
            {"id": "b"}]}]}))
    }

    #[test]
    fn retrying() {
        let definition = two_tasks();
        let rows = [
            ("start; lease a; fail a", "retry a", "task_retried a#1, task_ready a, phase_activated p"),
            (
                "start; lease a; hand a; reject task:a",
                "retry a",
                "task_retried a#2, task_ready a, phase_activated p",
            ),
            (
                "start; lease a; hand a; lapse task:a",
                "retry a",
                "task_retried a#2, task_ready a, phase_activated p",
            ),
            (
                "start; lease a; hand a; withdraw task:a",
                "retry a",
                "task_retried a#2, task_ready a, phase_activated p",
            ),
            ("start", "retry a", "refused TaskState"),
            ("start; lease a", "retry a", "refused TaskState"),
            ("start; lease a; fail a; pause", "retry a", "task_retried a#1"),
            ("start; lease a; fail a", "dan: retry a", "task_retried a#1, task_ready a, phase_activated p"),
            ("start; lease a; fail a", "ann: retry a", "refused RoleForbidden"),
            ("start; lease a; fail a", "bot: retry a", "refused RoleForbidden"),
            ("start; lease a; fail a; cancel", "retry a", "refused Terminal"),
            ("start", "retry c", "refused TaskNotFound"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn skipping() {
        let definition = two_tasks();
        let rows = [
            ("start", "skip a", "task_skipped a, task_ready b"),
            ("start; lease a", "skip a", "task_skipped a, task_ready b"),
            ("start; skip a", "skip a", ""),
            ("start; lease a; hand a", "skip a", "task_skipped a, task_ready b"),
            (
                "start; lease a; hand a; reject task:a",
                "skip a",
                "task_skipped a, task_ready b, phase_activated p",
            ),
            ("start; lease a; fail a", "skip a", "task_skipped a, task_ready b, phase_activated p"),
            ("start; lease a; hand a; approve task:a", "skip a", "refused TaskState"),
            ("start; skip a", "skip b", "task_skipped b, phase_completed p, instance_completed"),
            ("start; pause", "skip a", "task_skipped a"),
            ("start", "ann: skip a", "refused RoleForbidden"),
            ("start; cancel", "skip a", "refused Terminal"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn facts_and_context() {
        let definition = two_tasks();
        let rows = [
            ("start", "fact ready=true", "facts_set {\"ready\":true}"),
            ("start", "fact ready=false", ""),
            ("start; fact ready=true", "fact ready=true", ""),
            ("start; fact ready=true", "fact ready=true other=true", "facts_set {\"other\":true}"),
            ("start; lease a", "bot: fact by:a #1 ready=true", "facts_set {\"ready\":true}"),
            ("start; lease a; release a", "bot: fact by:a #1 ready=true", "refused LeaseLost"),
            ("start; lease a", "bot: fact by:a #2 ready=true", "refused LeaseLost"),
            ("start", "bot: fact ready=true", "refused RoleForbidden"),
            ("start", "ann: fact ready=true", "refused RoleForbidden"),
            ("start; cancel", "fact ready=true", "refused Terminal"),
            ("start", r#"context {"tier":"gold"}"#, ""),
            ("start", r#"context {"tier":"silver"}"#, "context_changed"),
            ("start", "context {}", "context_changed"),
            ("start; cancel", "context {}", "refused Terminal"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn the_record_holds_the_members_that_differ() {
        let definition = two_tasks();
        let mut play = Play::new(&definition);
        play.script(r#"start; context {"tier":"gold","size":5}; context {"size":6}"#);
        assert_eq!(*play.instance.context, json!({"size": 6}));
        let last = play.events.last().map(|event| serde_json::to_value(event).expect("JSON"));
        let last = last.expect("an event");
        assert_eq!(last["changed"], json!({"size": 6}));
        assert_eq!(last["removed"], json!(["tier"]));
    }
}
