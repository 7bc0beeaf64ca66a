//! Lays out what an instance knows for the conditions that read it. A condition never sees anything but the state, so
//! looking at it again after every change is looking at it whenever anything that it can read has changed.

use std::collections::BTreeMap;

use phasegate_process as process;
use phasegate_process::Definition;
use phasegate_process::condition::{ApprovalInput, ArtifactInput, Condition, Inputs, PhaseInput, TaskInput};

use super::instance::Instance;
use super::request::{Approval, ApprovalStatus, Subject};

/// What a group of conditions says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All hold.
    Holds,
    /// The first that does not.
    Fails(String),
    /// The first that has no answer, and why.
    Broken(String, String),
}

/// Looks at conditions that all must hold. `of_phase` is the phase whose tasks `all_tasks_complete` is about.
pub(super) fn look<'c>(
    instance: &Instance,
    of_phase: Option<&process::Phase>,
    conditions: impl Iterator<Item = &'c Condition>,
) -> Verdict {
    let mut conditions = conditions.peekable();
    if conditions.peek().is_none() {
        return Verdict::Holds;
    }
    let inputs = inputs(instance, of_phase);
    let mut verdict = Verdict::Holds;
    for condition in conditions {
        match condition.evaluate(&inputs) {
            Ok(true) => {}
            Ok(false) if verdict == Verdict::Holds => {
                verdict = Verdict::Fails(condition.source().to_owned());
            }
            Ok(false) => {}
            Err(failed) => return Verdict::Broken(condition.source().to_owned(), failed.to_string()),
        }
    }
    verdict
}

/// The phase before another one: what the entry conditions and gates of that one look back on.
pub(super) fn phase_before(definition: &Definition, position: usize) -> Option<&process::Phase> {
    position.checked_sub(1).and_then(|before| definition.phases.get(before))
}

fn inputs<'a>(instance: &'a Instance, of_phase: Option<&process::Phase>) -> Inputs<'a> {
    let phases = instance
        .phases
        .iter()
        .map(|(id, phase)| (id.as_str(), PhaseInput { status: phase.status.as_str(), round: phase.round }));
    let tasks = instance.tasks.iter().map(|(id, task)| {
        let input = TaskInput {
            status: task.status.as_str(),
            round: task.round,
            attempt: task.attempt,
            output: task.output.as_deref(),
        };
        (id.as_str(), input)
    });
    let artifacts = instance.artifacts.iter().map(|(key, artifact)| {
        let input = ArtifactInput {
            version: artifact.version,
            kind: &artifact.kind,
            phase: &artifact.phase,
            digest: &artifact.digest,
        };
        (key.as_str(), input)
    });
    let is_handed_in = |task: &process::Task| {
        instance.tasks.get(task.id.as_str()).is_some_and(|task| task.status.is_handed_in())
    };
    Inputs {
        context: Some(&instance.context),
        facts: Some(&instance.facts),
        phases: phases.collect(),
        tasks: tasks.collect(),
        artifacts: artifacts.collect(),
        approvals: approvals(instance),
        all_tasks_complete: of_phase.is_none_or(|phase| phase.tasks.iter().all(is_handed_in)),
    }
}

/// The requests of the running rounds by subject, and those with a key by key. A subject that was never asked about is
/// not there; one whose request is on its way reads as pending.
fn approvals(instance: &Instance) -> BTreeMap<&str, ApprovalInput<'_>> {
    let mut inputs = BTreeMap::new();
    for (key, status) in &instance.answers {
        inputs.insert(key.as_str(), ApprovalInput { status: status.as_str(), round: 1 });
    }
    for approval in instance.approvals.values() {
        let input = ApprovalInput { status: word(approval), round: approval.round };
        if !approval.key.is_empty() {
            inputs.insert(approval.key.as_str(), input);
        }
        if !matches!(approval.subject, Subject::AdHoc(_)) {
            inputs.insert(approval.subject.id(), input);
        }
    }
    inputs
}

fn word(approval: &Approval) -> &'static str {
    match approval.status {
        ApprovalStatus::Needed => ApprovalStatus::Pending.as_str(),
        status @ (ApprovalStatus::Pending
        | ApprovalStatus::Approved
        | ApprovalStatus::Rejected
        | ApprovalStatus::ChangesRequested
        | ApprovalStatus::Expired
        | ApprovalStatus::Withdrawn
        | ApprovalStatus::Superseded) => status.as_str(),
    }
}
