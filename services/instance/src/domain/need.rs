//! What people must know who decide: the requests of the engine, laid out from the definition and the state.

use std::collections::BTreeSet;
use std::time::Duration;

use phasegate_id::{ApprovalId, ArtifactKey, GateId, ParticipantId, PhaseId, TaskId};
use phasegate_process as process;
use phasegate_process::{Definition, OnTimeout, RaidRole, Timing};

use super::event::{Change, Event};
use super::instance::Instance;
use super::react::delegators;
use super::request::Subject;
use super::work::written_task;

/// One request to put to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its id.
    pub approval: ApprovalId,
    /// What it is about: a task, a phase or a gate.
    pub subject: Subject,
    /// Task, where there is one.
    pub task: Option<TaskId>,
    /// Phase whose boundary it is.
    pub phase: PhaseId,
    /// Gate, where there is one.
    pub gate: Option<GateId>,
    /// Round of the subject.
    pub round: u32,
    /// Who answers.
    pub approvers: Vec<ParticipantId>,
    /// Title, one line.
    pub title: String,
    /// What the approvers should know.
    pub description: String,
    /// Artifacts under review; those that do not exist are left out by who asks.
    pub artifacts: BTreeSet<ArtifactKey>,
    /// Time that it may take.
    pub timing: NeedTiming,
    /// Agents and humans whose work is reviewed: they do not decide it.
    pub produced_by: BTreeSet<String>,
}

/// How long a request may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeedTiming {
    /// Deadline after the request.
    pub timeout: Option<Duration>,
    /// When somebody further is asked.
    pub escalate_after: Option<Duration>,
    /// Whom, nearest first; humans only.
    pub escalate_to: Vec<ParticipantId>,
    /// When to remind.
    pub reminders: Vec<Duration>,
    /// What happens at the deadline.
    pub on_timeout: OnTimeout,
}

struct Needed<'a> {
    approval: &'a ApprovalId,
    subject: &'a Subject,
    round: u32,
    approvers: &'a BTreeSet<ParticipantId>,
}

fn match_need(change: &Change) -> Option<Needed<'_>> {
    if let Change::ApprovalNeeded { approval, subject, round, approvers } = change {
        Some(Needed { approval, subject, round: *round, approvers })
    } else {
        None
    }
}

/// The requests that `events` call for and that are still open after them: tasks first, then phases, then gates.
pub(super) fn needs(definition: &Definition, after: &Instance, events: &[Event]) -> Vec<Need> {
    let mut needs: Vec<Need> = events
        .iter()
        .filter_map(|event| match_need(&event.change))
        .filter(|need| after.approvals.contains_key(need.approval))
        .filter_map(|need| lay_out(definition, after, &need))
        .collect();
    let rank = |need: &Need| match need.subject {
        Subject::Task(_) => 0,
        Subject::Phase(_) => 1,
        Subject::Gate(_) => 2,
        Subject::AdHoc(_) => 3,
    };
    needs.sort_by_key(rank);
    needs
}

/// Lays a request out for the people who decide it.
fn lay_out(definition: &Definition, instance: &Instance, needed: &Needed<'_>) -> Option<Need> {
    let (phase, tasks, timing) = reviewed(definition, needed.subject)?;
    let states = || tasks.iter().filter_map(|task| instance.tasks.get(task.id.as_str()));
    let listed = |artifact: &super::instance::Artifact| {
        tasks.iter().any(|task| task.id == artifact.task)
            || (artifact.phase == phase.id && !matches!(needed.subject, Subject::Task(_)))
    };
    let stored =
        instance.artifacts.iter().filter(|(_, artifact)| listed(artifact)).map(|(key, _)| key.clone());
    let expected = tasks.iter().flat_map(|task| task.artifacts.iter().map(ArtifactKey::trusted));
    let (task, gate) = match needed.subject {
        Subject::Task(id) => (Some(id.clone()), None),
        Subject::Gate(id) => (None, Some(id.clone())),
        Subject::Phase(_) | Subject::AdHoc(_) => (None, None),
    };
    let (title, description) = words(definition, instance, needed.subject);
    Some(Need {
        approval: needed.approval.clone(),
        subject: needed.subject.clone(),
        task,
        phase: PhaseId::trusted(&phase.id),
        gate,
        round: needed.round,
        approvers: needed.approvers.iter().cloned().collect(),
        title,
        description,
        artifacts: stored.chain(expected).collect(),
        timing: need_timing(definition, timing),
        produced_by: states().map(|state| state.assignee.clone()).collect(),
    })
}

/// The phase at whose boundary a subject is reviewed, the tasks under review, and the time that it may take.
fn reviewed<'a>(
    definition: &'a Definition,
    subject: &Subject,
) -> Option<(&'a process::Phase, Vec<&'a process::Task>, &'a Timing)> {
    let phases = &definition.phases;
    match subject {
        Subject::Task(id) => phases.iter().find_map(|phase| {
            let task = phase.tasks.iter().find(|task| task.id == id.as_str())?;
            Some((phase, vec![task], &task.timing))
        }),
        Subject::Phase(id) => {
            let phase = phases.iter().find(|phase| phase.id == id.as_str())?;
            Some((phase, phase.tasks.iter().collect(), &phase.timing))
        }
        Subject::Gate(id) => {
            let gate = definition.gates.iter().find(|gate| gate.id == id.as_str())?;
            let guarded = phases.iter().position(|phase| phase.id == gate.before_phase)?;
            let phase = phases.get(guarded.saturating_sub(1))?;
            Some((phase, phase.tasks.iter().collect(), &gate.timing))
        }
        Subject::AdHoc(_) => None,
    }
}

/// Title and description of a request that the engine makes.
pub(super) fn words(definition: &Definition, instance: &Instance, subject: &Subject) -> (String, String) {
    let (title, parts) = match subject {
        Subject::Task(id) => {
            let written = written_task(definition, id.as_str());
            let summary = instance.tasks.get(id).map_or("", |task| task.summary.as_str());
            let described = written.map_or("", |task| task.description.as_str());
            (written.map_or(id.as_str(), |task| task.name.as_str()), vec![described, summary])
        }
        Subject::Phase(id) => {
            let written = definition.phases.iter().find(|phase| phase.id == id.as_str());
            let described = written.map_or("", |phase| phase.description.as_str());
            (written.map_or(id.as_str(), |phase| phase.name.as_str()), vec![described])
        }
        Subject::Gate(id) => {
            let written = definition.gates.iter().find(|gate| gate.id == id.as_str());
            (written.map_or(id.as_str(), |gate| gate.name.as_str()), Vec::new())
        }
        Subject::AdHoc(key) => (key.as_str(), Vec::new()),
    };
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    (title.to_owned(), parts.join("\n\n"))
}

/// How long a request may take, with everybody whom it can go up to: the nearest target, the humans of the escalation
/// path, then the delegators. Nobody is among them whose role decides nothing.
pub fn need_timing(definition: &Definition, timing: &Timing) -> NeedTiming {
    let decides = |id: &&str| {
        let human = definition.humans.get(*id);
        human.is_some_and(|human| matches!(human.raid_role, RaidRole::Approver | RaidRole::Delegator))
    };
    let named = timing.escalate_to.iter().chain(&definition.escalation_path).map(String::as_str);
    let mut escalate_to: Vec<ParticipantId> = Vec::new();
    for id in named.chain(delegators(definition)).filter(decides) {
        let id = ParticipantId::trusted(id);
        if !escalate_to.contains(&id) {
            escalate_to.push(id);
        }
    }
    NeedTiming {
        timeout: timing.timeout,
        escalate_after: timing.escalate_after,
        escalate_to,
        reminders: timing.reminders.clone(),
        on_timeout: timing.on_timeout,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::play::define;
    use super::*;

    #[test]
    fn nobody_decides_in_the_end_whose_role_decides_nothing() {
        let definition = define(json!({
            "humans": {
                "ann": {"role": "approver", "raidRole": "approver"},
                "bob": {"role": "builder", "raidRole": "responsible"},
                "dan": {"role": "support", "raidRole": "delegator"},
                "eve": {"role": "sponsor", "raidRole": "informed"},
            },
            "escalationPath": ["eve", "chief", "bob", "ann"],
            "phases": [{"id": "p", "requiredApprovals": ["ann"], "tasks": [{"id": "a"}]}],
        }));
        let timing = need_timing(&definition, &definition.phases[0].timing);
        assert_eq!(timing.escalate_to, [ParticipantId::trusted("ann"), ParticipantId::trusted("dan")]);
    }
}
