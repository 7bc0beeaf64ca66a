//! Work is handed in: its expected artifacts must be there, and people may have to approve it.

use std::collections::BTreeMap;

use phasegate_id::{ArtifactKey, TaskId};
use serde_json::Value;

use super::approval::{Standing, standing};
use super::command::{Actor, CurrentVersion};
use super::event::{Change, RoundCause};
use super::rejection::Rejection;
use super::request::{ApprovalStatus, Subject};
use super::round::begin;
use super::task::TaskStatus;
use super::work::Work;

/// Takes work in. Repeating it under the same lease changes nothing.
pub(super) fn hand_in(
    work: &mut Work<'_>,
    actor: &Actor,
    id: &TaskId,
    fencing: u64,
    output: Option<&Value>,
    summary: &str,
) -> Result<(), Rejection> {
    let (task, _) = work.task(id)?;
    let is_handed_in = matches!(task.status, TaskStatus::AwaitingApproval | TaskStatus::Completed);
    if is_handed_in && task.fencing == fencing {
        return Ok(());
    }
    let (task, written) = work.held(id, fencing)?;
    let worker = task.lease.as_ref().map(|lease| lease.worker.clone()).unwrap_or_default();
    let (stored, missing): (BTreeMap<_, _>, Vec<_>) = sort_out(work, &written.artifacts);
    if !missing.is_empty() {
        return Err(Rejection::ArtifactsMissing { task: id.clone(), missing });
    }
    let handed_in = Change::TaskHandedIn {
        task: id.clone(),
        worker,
        fencing,
        output: output.cloned(),
        summary: summary.to_owned(),
        artifacts: stored,
    };
    work.record(actor, handed_in);
    if written.required_approvals.is_empty() {
        work.record(actor, Change::TaskCompleted { task: id.clone(), approval: None });
        return Ok(());
    }
    // What the agent asked for itself, and what was taken back before the work was there, decides nothing about it.
    let approval = work.instance.tasks.get(id).and_then(|task| task.approval.clone());
    let standing = standing(work, approval.as_ref());
    if matches!(standing, Standing::Refused(ApprovalStatus::Withdrawn) | Standing::Superseded) {
        begin(work, Subject::Task(id.clone()), RoundCause::Superseded);
    }
    Ok(())
}

/// Which of the expected artifacts are there, and which are missing.
fn sort_out(
    work: &Work<'_>,
    expected: &[String],
) -> (BTreeMap<ArtifactKey, CurrentVersion>, Vec<ArtifactKey>) {
    let mut stored = BTreeMap::new();
    let mut missing = Vec::new();
    for key in expected {
        match work.current.get_key_value(key.as_str()) {
            Some((key, version)) => {
                stored.insert(key.clone(), version.clone());
            }
            None => missing.push(ArtifactKey::trusted(key)),
        }
    }
    (stored, missing)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::play::{Play, check, define};
    use super::super::{Rejection, TaskStatus};

    #[test]
    fn work_is_handed_in_once() {
        let definition = define(json!({"phases": [{"id": "p", "tasks": [{"id": "a"}, {"id": "b"}]}]}));
        let rows = [
            ("start; lease a", "hand a", "task_handed_in a, task_completed a, task_ready b"),
            ("start; lease a; hand a", "hand a", ""),
            ("start", "hand a", "refused LeaseLost"),
            ("start; lease a; fail a; wait 1; lease a", "hand a #1", "refused LeaseLost"),
            ("start; lease a; expire a", "hand a", "refused LeaseLost"),
            ("start; lease a; release a", "hand a", "refused LeaseLost"),
            ("start; lease a; skip a", "hand a #1", "refused LeaseLost"),
            ("start; lease a; reopen p a", "hand a #1", "refused LeaseLost"),
            ("start; lease a; cancel", "hand a #1", "refused LeaseLost"),
            ("start; lease a; pause", "hand a", "task_handed_in a, task_completed a"),
            ("start; lease a; pause; hand a", "resume", "instance_resumed, task_ready b"),
        ];
        for (given, when, then) in rows {
            check(&definition, given, when, then);
        }
    }

    #[test]
    fn what_is_expected_must_be_there() {
        let task = json!({"id": "a", "artifacts": ["plan", "report"]});
        let definition = define(json!({"phases": [{"id": "p", "tasks": [task]}]}));
        let mut play = Play::new(&definition);
        play.script("start; lease a");
        assert_eq!(play.act("hand a plan@1"), "refused ArtifactsMissing");
        let missing = super::super::decide(
            &definition,
            &play.instance,
            &super::super::Command::new(
                super::super::Actor::engine(),
                super::super::Action::HandIn {
                    task: phasegate_id::TaskId::trusted("a"),
                    fencing: 1,
                    output: None,
                    summary: String::new(),
                },
            ),
            play.now,
        );
        let keys =
            vec![phasegate_id::ArtifactKey::trusted("plan"), phasegate_id::ArtifactKey::trusted("report")];
        let task = phasegate_id::TaskId::trusted("a");
        assert_eq!(missing, Err(Rejection::ArtifactsMissing { task, missing: keys }));
        play.script("hand a plan@1 report@4");
        assert_eq!(play.instance.artifacts["report"].version, 4);
        assert_eq!(play.instance.tasks["a"].status, TaskStatus::Completed);
    }

    #[test]
    fn an_agent_may_have_asked_before_handing_in() {
        let task = json!({"id": "a", "requiredApprovals": ["ann"], "maxRounds": 3});
        let definition = define(json!({"phases": [{"id": "p", "tasks": [task]}]}));
        let done = "task_completed a, phase_completed p, instance_completed";
        let rows = [
            ("asked task:a", "hand a", "task_handed_in a, phase_awaiting_approval p".to_owned()),
            ("asked task:a; approve task:a", "hand a", format!("task_handed_in a, {done}")),
            ("approve task:a", "hand a", format!("task_handed_in a, {done}")),
            ("asked task:a; approve task:a", "again approve task:a", String::new()),
            ("asked task:a; approve task:a; hand a", "again approve task:a", String::new()),
            ("hand a; changes task:a", "again changes task:a round:1", String::new()),
            ("hand a; again approve task:a", "approve task:a", String::new()),
            ("hand a; again reject task:a", "reject task:a", String::new()),
            // It is on record after the round has ended by it, or by something newer, too.
            ("hand a; again changes task:a", "changes task:a round:1", String::new()),
            (
                "stored doc@2; hand a; again approve task:a on:doc@1",
                "approve task:a round:1 on:doc@1",
                String::new(),
            ),
            (
                "hand a",
                "again approve task:a",
                format!("settled a approved, facts_set {{\"a_approved\":true}}, {done}"),
            ),
            (
                "asked task:a; changes task:a",
                "hand a",
                "task_handed_in a, task_returned a#2, task_ready a".to_owned(),
            ),
            (
                "asked task:a; reject task:a",
                "hand a",
                "task_handed_in a, task_blocked a, phase_blocked p by rejected".to_owned(),
            ),
            (
                "asked task:a; withdraw task:a",
                "hand a",
                "task_handed_in a, round task:a#2 superseded, needed task:a#2(ann), phase_awaiting_approval p"
                    .to_owned(),
            ),
            (
                "asked task:a on:doc@1; approve task:a on:doc@1",
                "hand a doc@2",
                "task_handed_in a, facts_set {\"a_approved\":false}, round task:a#2 content_changed, \
                 needed task:a#2(ann), phase_awaiting_approval p"
                    .to_owned(),
            ),
        ];
        for (given, when, then) in rows {
            check(&definition, &format!("start; lease a; {given}"), when, &then);
        }
    }
}
