//! Who must hear of what happened.

use std::collections::BTreeSet;

use phasegate_id::{ApprovalId, BoundaryId, ParticipantId, PhaseId, TaskId};
use phasegate_process as process;
use phasegate_process::{Definition, RaidRole};

use super::event::{Change, Event};
use super::fact::Fact;
use super::failure::OPERATOR;
use super::instance::{Block, BlockCause, Instance, PhaseStatus, Status};
use super::need::{Need, needs};
use super::task::TaskStatus;

/// What should follow outside, at least once. Written to the outbox with the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell everybody that the instance began.
    InstanceStarted,
    /// Stop its timers.
    InstancePaused {
        /// Why.
        reason: String,
    },
    /// Let its timers go on.
    InstanceResumed,
    /// Withdraw its requests, revoke its links, tell its people.
    InstanceEnded {
        /// How.
        status: Status,
        /// Why; empty when it ended well.
        reason: String,
    },
    /// Tell those who are informed.
    PhaseChanged {
        /// Phase.
        phase: PhaseId,
        /// Its name.
        name: String,
        /// Its state.
        status: PhaseStatus,
        /// Position among the phases, from 1.
        position: usize,
        /// Number of phases.
        phases: usize,
    },
    /// Tell those whom work went up to, and those who can unlock what does not go on.
    WorkEscalated {
        /// Task; absent where a phase or a gate does not go on.
        task: Option<TaskId>,
        /// Its phase, or the phase that does not go on.
        phase: PhaseId,
        /// Name of the task, gate or phase.
        name: String,
        /// Agent, human or "operator".
        escalated_to: String,
        /// Humans who are told, the one it went up to included.
        notify_participants: BTreeSet<ParticipantId>,
        /// What happened.
        message: String,
    },
    /// Put requests to people: all of one decision, so that each person gets one mail.
    AskApprovals {
        /// Shared by the requests.
        boundary: BoundaryId,
        /// Requests, in order: task, phase, gate.
        needs: Vec<Need>,
    },
    /// Take back requests that nobody needs any more.
    WithdrawApprovals {
        /// Requests.
        approvals: BTreeSet<ApprovalId>,
        /// Why.
        reason: String,
    },
}

/// Says who must hear of `events`, which led from `before` to `after`.
pub fn react(definition: &Definition, before: &Instance, after: &Instance, events: &[Event]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for event in events {
        effects.extend(heard_of(definition, after, &event.change));
        effects.extend(stopped(definition, after, &event.change));
    }
    if !after.status.is_terminal() {
        effects.extend(moot(before, after, events));
        let needs = needs(definition, after, events);
        if !needs.is_empty() {
            let boundary = BoundaryId::trusted(format!("{}-{}", after.id, after.version));
            effects.push(Effect::AskApprovals { boundary, needs });
        }
    }
    effects
}

fn heard_of(definition: &Definition, after: &Instance, change: &Change) -> Option<Effect> {
    let moved = |phase: &PhaseId, status| phase_changed(definition, phase, status);
    match change {
        Change::InstanceStarted(_) => Some(Effect::InstanceStarted),
        Change::InstancePaused { reason } => Some(Effect::InstancePaused { reason: reason.clone() }),
        Change::InstanceResumed { .. } => Some(Effect::InstanceResumed),
        Change::InstanceCompleted {} => Some(ended(Status::Completed, "")),
        Change::InstanceCancelled { reason } => Some(ended(Status::Cancelled, reason)),
        Change::InstanceFailed { reason, .. } => Some(ended(Status::Failed, reason)),
        Change::PhaseGated { phase } => moved(phase, PhaseStatus::Gated),
        Change::PhaseEntered { phase, .. } | Change::PhaseActivated { phase } => {
            moved(phase, PhaseStatus::Active)
        }
        Change::PhaseAwaitingApproval { phase } => moved(phase, PhaseStatus::AwaitingApproval),
        Change::PhaseBlocked { phase, .. } => moved(phase, PhaseStatus::Blocked),
        Change::PhaseCompleted { phase } => moved(phase, PhaseStatus::Completed),
        Change::PhaseSkipped { phase, .. } => moved(phase, PhaseStatus::Skipped),
        Change::PhaseReopened { phase, .. } => {
            let has_begun = after.phases.get(phase).is_some_and(|state| state.started_at.is_some());
            moved(phase, if has_begun { PhaseStatus::Active } else { PhaseStatus::Gated })
        }
        Change::FactsSet { .. }
        | Change::ContextChanged { .. }
        | Change::GateOpened { .. }
        | Change::GateRejected { .. }
        | Change::ApprovalNeeded { .. }
        | Change::RoundBegun { .. }
        | Change::TaskReady { .. }
        | Change::TaskLeased { .. }
        | Change::TaskHandedIn { .. }
        | Change::TaskCompleted { .. }
        | Change::TaskAttemptFailed { .. }
        | Change::TaskRetryScheduled { .. }
        | Change::TaskReleased { .. }
        | Change::TaskEscalated { .. }
        | Change::TaskFailed { .. }
        | Change::TaskReturned { .. }
        | Change::TaskBlocked { .. }
        | Change::TaskRetried { .. }
        | Change::TaskSkipped { .. }
        | Change::TaskHeldBack { .. }
        | Change::Heard(_) => None,
    }
}

/// What does not go on until somebody does something about it.
fn stopped(definition: &Definition, after: &Instance, change: &Change) -> Option<Effect> {
    if let Change::TaskEscalated { task, to, message, .. } = change {
        let human = definition.humans.contains_key(to).then_some(to.as_str());
        gone_up(definition, task, to, human.into_iter().collect(), message)
    } else if let Change::TaskFailed { task, message } = change {
        // What ends the instance is told of as its end.
        if after.status.is_terminal() {
            return None;
        }
        gone_up(definition, task, OPERATOR, Vec::new(), message)
    } else if let Change::TaskBlocked { task, message, .. } = change {
        let people = unlocking(definition);
        gone_up(definition, task, people.first().copied().unwrap_or(OPERATOR), people, message)
    } else if let Change::PhaseBlocked { phase, block } = change {
        phase_stopped(definition, after, phase, block)
    } else {
        None
    }
}

/// A phase that is held by itself or by a gate. What one of its tasks holds was told of with the task.
fn phase_stopped(
    definition: &Definition,
    after: &Instance,
    phase: &PhaseId,
    block: &Block,
) -> Option<Effect> {
    let is_expression = block.cause == BlockCause::Condition;
    let by_task = after.tasks.get(block.subject.as_str()).is_some_and(|task| {
        task.phase == *phase && matches!(task.status, TaskStatus::Blocked | TaskStatus::Failed)
    });
    if by_task && !is_expression {
        return None;
    }
    let is_meant = |gate: &&process::Gate| gate.id == block.subject && !is_expression;
    let gate = definition.gates.iter().find(is_meant).map(|gate| &gate.name);
    let written = || definition.phases.iter().find(|written| written.id == phase.as_str());
    let name = gate.or_else(|| written().map(|written| &written.name))?.clone();
    let people = unlocking(definition);
    Some(Effect::WorkEscalated {
        task: None,
        phase: phase.clone(),
        name,
        escalated_to: people.first().copied().unwrap_or(OPERATOR).to_owned(),
        notify_participants: people.into_iter().map(ParticipantId::trusted).collect(),
        message: block.message.clone(),
    })
}

/// The people who are told of what was rejected: the humans of the escalation path, else the delegators.
fn unlocking(definition: &Definition) -> Vec<&str> {
    let is_human = |id: &&String| definition.humans.contains_key(id.as_str());
    let path: Vec<&str> = definition.escalation_path.iter().filter(is_human).map(String::as_str).collect();
    if path.is_empty() { delegators(definition).collect() } else { path }
}

pub(super) fn delegators(definition: &Definition) -> impl Iterator<Item = &str> {
    let humans = definition.humans.iter();
    humans.filter(|(_, human)| human.raid_role == RaidRole::Delegator).map(|(id, _)| id.as_str())
}

fn ended(status: Status, reason: &str) -> Effect {
    Effect::InstanceEnded { status, reason: reason.to_owned() }
}

fn phase_changed(definition: &Definition, id: &PhaseId, status: PhaseStatus) -> Option<Effect> {
    let position = definition.phases.iter().position(|phase| phase.id == id.as_str())?;
    let name = definition.phases.get(position)?.name.clone();
    let phases = definition.phases.len();
    Some(Effect::PhaseChanged { phase: id.clone(), name, status, position: position + 1, phases })
}

fn gone_up(
    definition: &Definition,
    id: &TaskId,
    to: &str,
    people: Vec<&str>,
    message: &str,
) -> Option<Effect> {
    let (phase, written) = definition.phases.iter().find_map(|phase| {
        let task = phase.tasks.iter().find(|task| task.id == id.as_str())?;
        Some((phase, task))
    })?;
    let told = written.error_handling.notify_participants.iter().map(String::as_str).chain(people);
    let notify_participants =
        told.filter(|human| definition.humans.contains_key(*human)).map(ParticipantId::trusted).collect();
    Some(Effect::WorkEscalated {
        task: Some(id.clone()),
        phase: PhaseId::trusted(&phase.id),
        name: written.name.clone(),
        escalated_to: to.to_owned(),
        notify_participants,
        message: message.to_owned(),
    })
}

/// The requests that nothing rests on any more, other than by an answer: that were open before, or that an agent made
/// for a round which was over when they were heard of.
fn moot(before: &Instance, after: &Instance, events: &[Event]) -> Option<Effect> {
    let settled: BTreeSet<&ApprovalId> =
        events.iter().filter_map(|event| settled_by(&event.change)).collect();
    let open = before.approvals.iter().filter(|(_, approval)| approval.status.is_open()).map(|(id, _)| id);
    let asked = events.iter().filter_map(|event| asked_by(&event.change));
    let asked = asked.filter(|id| !after.settled.contains(*id));
    let approvals: BTreeSet<ApprovalId> = open
        .chain(asked)
        .filter(|id| !after.approvals.contains_key(*id) && !settled.contains(id))
        .cloned()
        .collect();
    let passed_over = |event: &Event| {
        matches!(
            event.change,
            Change::TaskSkipped { .. }
                | Change::PhaseSkipped { .. }
                | Change::GateOpened { forced: true, .. }
        )
    };
    let reason = if events.iter().any(passed_over) {
        "what it was about was passed over"
    } else {
        "a later round of the work replaced it"
    };
    let reason = reason.to_owned();
    (!approvals.is_empty()).then_some(Effect::WithdrawApprovals { approvals, reason })
}

fn asked_by(change: &Change) -> Option<&ApprovalId> {
    if let Change::Heard(Fact::ApprovalRequested { approval, .. }) = change { Some(approval) } else { None }
}

fn settled_by(change: &Change) -> Option<&ApprovalId> {
    if let Change::Heard(Fact::ApprovalSettled { approval, .. }) = change { Some(approval) } else { None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use phasegate_id::{ArtifactKey, GateId};
    use serde_json::{Value, json};

    use super::super::tests::play::{Play, define};
    use super::*;

    /// The effects of the last command of a script, in words.
    fn effects(definition: &Definition, given: &str, when: &str) -> Vec<String> {
        let mut play = Play::new(definition);
        play.script(given);
        play.effects.clear();
        play.act(when);
        play.effects.iter().map(in_words).collect()
    }

    fn in_words(effect: &Effect) -> String {
        match effect {
            Effect::InstanceStarted => "started".to_owned(),
            Effect::InstancePaused { .. } => "paused".to_owned(),
            Effect::InstanceResumed => "resumed".to_owned(),
            Effect::InstanceEnded { status, .. } => format!("ended {}", status.as_str()),
            Effect::PhaseChanged { phase, status, position, phases, .. } => {
                format!("{phase} {} {position}/{phases}", status.as_str())
            }
            Effect::WorkEscalated { name, escalated_to, notify_participants, .. } => {
                let told: Vec<&str> = notify_participants.iter().map(ParticipantId::as_str).collect();
                format!("{name} up to {escalated_to}, {} told", told.join("+"))
            }
            Effect::AskApprovals { needs, .. } => {
                let subjects: Vec<&str> = needs.iter().map(|need| need.subject.id()).collect();
                format!("ask {}", subjects.join("+"))
            }
            Effect::WithdrawApprovals { approvals, reason } => {
                let why = reason.split(' ').next_back().unwrap_or_default();
                format!("withdraw {} {why}", approvals.len())
            }
        }
    }

    fn reviewed() -> Definition {
        define(json!({
            "phases": [
                {"id": "p", "requiredApprovals": ["ann"], "timeout": "4h", "tasks": [
                    {"id": "a", "requiredApprovals": ["ben"], "artifacts": ["doc"], "timeout": "2h",
                     "reminders": ["1h"], "escalateTo": "dan"}]},
                {"id": "q", "tasks": [{"id": "b"}]}],
            "gates": [{"id": "g", "beforePhase": "q", "type": "approval", "approvers": ["ann", "ben"]}],
            "escalationPath": ["chief", "ben"],
        }))
    }

    #[test]
    fn who_must_hear() {
        let definition = reviewed();
        let handed_in = "start; lease a; hand a doc@1";
        for (given, when, then) in [
            ("", "start", vec!["started", "p active 1/2"]),
            ("start", "pause", vec!["paused"]),
            ("start; pause", "resume", vec!["resumed"]),
            ("start", "cancel", vec!["ended cancelled"]),
            (handed_in, "cancel", vec!["ended cancelled"]),
            ("start; lease a", "hand a doc@1", vec!["p awaiting_approval 1/2", "ask a+p+g"]),
            (handed_in, "changes task:a", vec!["p active 1/2", "withdraw 2 it"]),
            (handed_in, "reject task:a", vec!["a up to ben, ben told", "p blocked 1/2"]),
            (
                "start; lease a; hand a doc@1; approve task:a",
                "reject phase:p",
                vec!["p blocked 1/2", "p up to ben, ben told"],
            ),
            (
                "start; lease a; hand a doc@1; approve task:a; approve phase:p",
                "reject gate:g",
                vec!["q blocked 2/2", "g up to ben, ben told"],
            ),
            (
                "start; lease a; hand a doc@1; approve task:a; approve phase:p; lapse gate:g",
                "reopen q",
                vec!["q gated 2/2", "ask g"],
            ),
            ("start; lease a; asked task:a", "asked task:a", vec![]),
            ("start; lease a", "asked task:a round:2", vec!["withdraw 1 it"]),
            ("start; asked legal; reject legal", "asked legal", vec![]),
            (handed_in, "skip a", vec!["withdraw 1 over"]),
            (handed_in, "approve task:a", vec![]),
            (handed_in, "advance force", vec!["p skipped 1/2", "q active 2/2", "withdraw 3 over"]),
        ] {
            assert_eq!(effects(&definition, given, when), then, "given {given:?}, when {when:?}");
        }
    }

    #[test]
    fn what_does_not_go_on_is_told_to_those_who_can_unlock_it() {
        let people = json!({
            "ann": {"role": "approver", "raidRole": "approver"},
            "dan": {"role": "support", "raidRole": "delegator"},
            "deb": {"role": "support", "raidRole": "delegator"},
            "eve": {"role": "sponsor", "raidRole": "informed"},
        });
        let path = |path: Value| {
            define(json!({
                "humans": people, "escalationPath": path,
                "phases": [
                    {"id": "p", "requiredApprovals": ["ann"], "maxRounds": 1, "tasks": [
                        {"id": "a", "errorHandling": {"taskFailure": "retry", "maxRetries": 0,
                                                      "notifyParticipants": ["ann"]}}]},
                    {"id": "q", "entryConditions": ["context.size > 3"], "tasks": [{"id": "b"}]}],
            }))
        };
        let handed_in = "start; lease a; hand a";
        for (humans, given, when, then) in [
            (json!(["chief", "eve", "dan"]), handed_in, "reject phase:p", "p up to eve, dan+eve told"),
            (json!(["chief"]), handed_in, "reject phase:p", "p up to dan, dan+deb told"),
            (json!([]), handed_in, "changes phase:p", "p up to dan, dan+deb told"),
            (json!([]), handed_in, "approve phase:p", "q up to dan, dan+deb told"),
            (json!(["dan"]), "start; lease a", "fail a", "a up to operator, ann told"),
        ] {
            let definition = path(humans);
            let told = effects(&definition, given, when);
            let told: Vec<_> = told.iter().filter(|effect| effect.contains(" up to ")).collect();
            assert_eq!(told, [then], "given {given:?}, when {when:?}");
        }
        // What the task was told of is not told of once more with its phase.
        let definition = path(json!(["dan"]));
        assert_eq!(effects(&definition, "start; lease a; fail a", "fact x=true"), Vec::<String>::new());
    }

    #[test]
    fn a_request_says_what_its_approvers_must_know() {
        let definition = reviewed();
        let mut play = Play::new(&definition);
        play.script("start; stored note@1 a; lease a; hand a doc@1");
        let needs = play.effects.iter().find_map(|effect| {
            if let Effect::AskApprovals { needs, .. } = effect { Some(needs.clone()) } else { None }
        });
        let needs = needs.expect("requests");
        let task = &needs[0];
        assert_eq!(task.title, "a");
        assert_eq!(task.description, "did it");
        assert_eq!(
            task.artifacts,
            BTreeSet::from([ArtifactKey::trusted("doc"), ArtifactKey::trusted("note")])
        );
        assert_eq!(task.produced_by, BTreeSet::from(["bot".to_owned()]));
        assert_eq!(task.timing.timeout, Some(Duration::from_hours(2)));
        assert_eq!(task.timing.reminders, [Duration::from_hours(1)]);
        assert_eq!(task.timing.escalate_to, [ParticipantId::trusted("dan"), ParticipantId::trusted("ben")]);
        assert_eq!(needs[1].timing.timeout, Some(Duration::from_hours(4)));
        assert_eq!(needs[2].phase, PhaseId::trusted("p"));
        assert_eq!(needs[2].gate, Some(GateId::trusted("g")));
    }
}
