//! Who must hear of what happened.

use std::collections::BTreeSet;
use std::time::Duration;

use phasegate_id::{ApprovalId, ArtifactKey, BoundaryId, GateId, ParticipantId, PhaseId, TaskId};
use phasegate_process as process;
use phasegate_process::{Definition, OnTimeout, RaidRole, Timing};

use super::event::{Change, Event};
use super::fact::Fact;
use super::failure::OPERATOR;
use super::instance::{Block, BlockCause, Instance, PhaseStatus, Status};
use super::request::Subject;
use super::task::TaskStatus;
use super::work::written_task;

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

/// Says who must hear of `events`, which led from `before` to `after`.
pub fn react(definition: &Definition, before: &Instance, after: &Instance, events: &[Event]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for event in events {
        effects.extend(heard_of(definition, after, &event.change));
        effects.extend(stopped(definition, after, &event.change));
    }
    let needs: Vec<Need> = events
        .iter()
        .filter_map(|event| match_need(&event.change))
        .filter(|need| after.approvals.contains_key(need.approval))
        .filter_map(|need| lay_out(definition, after, &need))
        .collect();
    if !after.status.is_terminal() {
        effects.extend(moot(before, after, events));
        if !needs.is_empty() {
            let boundary = BoundaryId::trusted(format!("{}-{}", after.id, after.version));
            effects.push(Effect::AskApprovals { boundary, needs: in_order(needs) });
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

fn delegators(definition: &Definition) -> impl Iterator<Item = &str> {
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

fn in_order(mut needs: Vec<Need>) -> Vec<Need> {
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
