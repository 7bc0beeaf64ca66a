//! A small language for the tests of the engine, so that a case reads as what was there, what somebody wanted, and
//! what happened: `check(&definition, "start; lease a", "hand a", "task_handed_in a, task_completed a")`.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test names the events that it is about")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{
    ApprovalId, ArtifactKey, CommentId, InstanceId, LinkId, NotificationId, ParticipantId, PhaseId, TaskId,
};
use phasegate_process::{Definition, Draft, validate};
use serde_json::{Value, json};

use super::super::*;

/// Reads a definition of which only the interesting parts are written. The agents are `bot`, `chief` and `spare`, the
/// approvers `ann` and `ben`, the delegator `dan`; a task without an assignee is the bot's.
pub(in crate::domain) fn define(mut written: Value) -> Definition {
    let object = written.as_object_mut().expect("an object");
    for (name, value) in [("id", json!("proc")), ("name", json!("Process")), ("version", json!("1.0.0"))] {
        object.entry(name).or_insert(value);
    }
    let agents = json!({
        "bot": {"templateId": "bots", "role": "worker"},
        "chief": {"templateId": "chiefs", "role": "lead"},
        "spare": {"templateId": "spares", "role": "worker"},
    });
    let humans = json!({
        "ann": {"role": "approver", "raidRole": "approver"},
        "ben": {"role": "approver", "raidRole": "approver"},
        "dan": {"role": "support", "raidRole": "delegator"},
    });
    object.entry("agents").or_insert(agents);
    object.entry("humans").or_insert(humans);
    let phases = object.get_mut("phases").and_then(Value::as_array_mut).expect("phases");
    for (position, phase) in phases.iter_mut().enumerate() {
        let phase = phase.as_object_mut().expect("a phase");
        let id = phase["id"].clone();
        phase.entry("name").or_insert(id);
        phase.entry("order").or_insert(json!(position + 1));
        for task in phase.get_mut("tasks").and_then(Value::as_array_mut).into_iter().flatten() {
            let task = task.as_object_mut().expect("a task");
            let id = task["id"].clone();
            task.entry("name").or_insert(id);
            task.entry("assignee").or_insert(json!("bot"));
        }
    }
    for gate in object.get_mut("gates").and_then(Value::as_array_mut).into_iter().flatten() {
        let gate = gate.as_object_mut().expect("a gate");
        let id = gate["id"].clone();
        gate.entry("name").or_insert(id);
    }
    let draft = Draft::from_json(written).expect("a readable draft");
    let checked = validate(&draft);
    let faults: Vec<_> = checked.faults().collect();
    assert!(faults.is_empty(), "{faults:?}");
    checked.definition.expect("a definition")
}

/// Checks one row of a decision table.
#[track_caller]
pub(in crate::domain) fn check(definition: &Definition, given: &str, when: &str, then: &str) {
    let mut play = Play::new(definition);
    for line in lines(given) {
        let happened = play.act(line);
        assert!(!happened.starts_with("refused"), "given {given:?}: {line:?} was {happened}");
    }
    assert_eq!(play.act(when), then, "given {given:?}, when {when:?}");
}

/// The commands of a script.
pub(in crate::domain) fn lines(script: &str) -> impl Iterator<Item = &str> {
    script.split(';').map(str::trim).filter(|line| !line.is_empty())
}

/// One instance being played, with everything that has happened.
pub(in crate::domain) struct Play<'a> {
    pub(in crate::domain) definition: &'a Definition,
    pub(in crate::domain) instance: Instance,
    pub(in crate::domain) events: Vec<Event>,
    pub(in crate::domain) effects: Vec<Effect>,
    pub(in crate::domain) now: Timestamp,
}

impl<'a> Play<'a> {
    pub(in crate::domain) fn new(definition: &'a Definition) -> Self {
        Self {
            definition,
            instance: Instance::unstarted(),
            events: Vec::new(),
            effects: Vec::new(),
            now: Timestamp::from_micros(1_700_000_000_000_000),
        }
    }

    /// Plays a script; nothing in it may be refused.
    #[track_caller]
    pub(in crate::domain) fn script(&mut self, script: &str) -> &mut Self {
        for line in lines(script) {
            let happened = self.act(line);
            assert!(!happened.starts_with("refused"), "{line:?} was {happened}");
        }
        self
    }

    /// Does one thing, and says what happened in words.
    #[track_caller]
    pub(in crate::domain) fn act(&mut self, line: &str) -> String {
        let (actor, line) = match line.split_once(": ") {
            Some((who, rest)) => (actor(who), rest),
            None => (actor("operator"), line),
        };
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        if verb == "wait" {
            self.now = self.now + Duration::from_secs(words[0].parse().expect("seconds"));
            return String::new();
        }
        let command = Command { actor, action: self.action(verb, &words), current: versions(&words) };
        match self.decide(&command) {
            Ok(events) => events.iter().map(in_words).collect::<Vec<_>>().join(", "),
            Err(rejection) => format!("refused {}", variant(&format!("{rejection:?}"))),
        }
    }

    /// Decides, and checks what must be so after every decision.
    #[track_caller]
    pub(in crate::domain) fn decide(&mut self, command: &Command) -> Result<Vec<Event>, Rejection> {
        let events = decide(self.definition, &self.instance, command, self.now)?;
        self.take_in(&events);
        Ok(events)
    }

    /// Takes events into the state by way of what is stored of them.
    #[track_caller]
    fn take_in(&mut self, events: &[Event]) {
        let before = self.instance.clone();
        for event in events {
            let stored = serde_json::to_string(event).expect("an event is JSON");
            let read: Event = serde_json::from_str(&stored).expect("a stored event can be read");
            assert_eq!(&read, event, "{stored}");
            self.instance = evolve(std::mem::replace(&mut self.instance, Instance::unstarted()), &read);
        }
        check_state(self.definition, &before, &self.instance);
        self.effects.extend(react(self.definition, &before, &self.instance, events));
        self.events.extend(events.iter().cloned());
    }

    fn action(&self, verb: &str, words: &[&str]) -> Action {
        let named = |position: usize| TaskId::trusted(words.get(position).copied().unwrap_or("none"));
        let fencing = words
            .iter()
            .find_map(|word| word.strip_prefix('#'))
            .map(|number| number.parse().expect("a fencing token"))
            .or_else(|| self.instance.tasks.get(named(0).as_str()).map(|task| task.fencing))
            .unwrap_or_default();
        let reason = "because".to_owned();
        let facts = || words.iter().filter_map(|word| word.split_once('='));
        match verb {
            "start" => Action::Start(self.start()),
            "lease" => {
                let until = self.now + Duration::from_mins(1);
                Action::Lease { task: named(0), worker: "w1".to_owned(), until }
            }
            "hand" => {
                let output = Some(json!({"done": true}));
                Action::HandIn { task: named(0), fencing, output, summary: "did it".to_owned() }
            }
            "fail" => Action::Fail {
                task: named(0),
                fencing,
                kind: "TOOL_ERROR".to_owned(),
                message: "it broke".to_owned(),
                non_retryable: words.contains(&"final"),
                retry_after: facts()
                    .find(|(name, _)| *name == "after")
                    .map(|(_, seconds)| Duration::from_secs(seconds.parse().expect("seconds"))),
                jitter: 1.0,
            },
            "release" => Action::Release { task: named(0), fencing, reason },
            "expire" => Action::ExpireLease { task: named(0), fencing, jitter: 0.0 },
            "advance" => Action::Advance {
                from_phase: facts().find(|(name, _)| *name == "from").map(|(_, id)| PhaseId::trusted(id)),
                force: words.contains(&"force"),
                reason,
            },
            "reopen" => Action::Reopen {
                phase: words.first().map(|id| PhaseId::trusted(*id)),
                tasks: words.iter().skip(1).map(|id| TaskId::trusted(*id)).collect(),
                reason,
            },
            "pause" => Action::Pause { reason },
            "resume" => Action::Resume { reason },
            "cancel" => Action::Cancel { reason },
            "retry" => Action::RetryTask { task: named(0), reason },
            "skip" => Action::SkipTask { task: named(0), reason },
            "fact" => Action::SetFacts {
                facts: facts().map(|(name, value)| (name.to_owned(), value == "true")).collect(),
                lease: words
                    .iter()
                    .find_map(|word| word.strip_prefix("by:"))
                    .map(|task| ShownLease { task: TaskId::trusted(task), fencing }),
                reason,
            },
            "context" => Action::ChangeContext {
                context: serde_json::from_str(&words.join(" ")).expect("JSON"),
                expected_version: None,
                lease: None,
                reason,
            },
            "again" => Action::HearAgain { fact: self.fact(words[0], &words[1..]), at: self.now },
            _ => Action::Hear { fact: self.fact(verb, words), at: self.now },
        }
    }

    fn start(&self) -> Start {
        Start {
            id: InstanceId::trusted("run-1"),
            definition_digest: "sha256:00".to_owned(),
            name: String::new(),
            context: json!({"tier": "gold"}),
            participants: self
                .definition
                .humans
                .keys()
                .map(|id| (ParticipantId::trusted(id), Raid::Approver))
                .collect(),
            team_id: String::new(),
            labels: BTreeMap::new(),
        }
    }

    fn fact(&self, verb: &str, words: &[&str]) -> Fact {
        if verb == "stored" {
            let task = words.get(1).copied().unwrap_or_default();
            let (key, artifact) = versions(words).pop_first().expect("an artifact");
            let artifact = CurrentVersion { task: task.to_owned(), ..artifact };
            return Fact::ArtifactStored { key, artifact, size_bytes: 1 };
        }
        if let Some(fact) = self.beside(verb) {
            return fact;
        }
        let subject = subject(words.first().copied().unwrap_or_default());
        let round = words
            .iter()
            .find_map(|word| word.strip_prefix("round:"))
            .map_or_else(|| self.round(&subject), |round| round.parse().expect("a round"));
        let approval = ApprovalId::derive(&self.instance.id, subject.kind(), subject.id(), round);
        let request = self.request(&subject, round, words);
        let settled = |status| Fact::ApprovalSettled {
            approval: approval.clone(),
            status,
            request: RequestView { waiting_on: BTreeSet::new(), ..request.clone() },
            remarks: if status == ApprovalStatus::ChangesRequested {
                vec![self.remark()]
            } else {
                Vec::new()
            },
            reason: String::new(),
        };
        match verb {
            "asked" => Fact::ApprovalRequested { approval, request },
            "approve" => settled(ApprovalStatus::Approved),
            "reject" => settled(ApprovalStatus::Rejected),
            "changes" => settled(ApprovalStatus::ChangesRequested),
            "lapse" => settled(ApprovalStatus::Expired),
            "withdraw" => settled(ApprovalStatus::Withdrawn),
            "supersede" => settled(ApprovalStatus::Superseded),
            "answered" => Fact::ApprovalResponded {
                approval,
                response: "response-1".to_owned(),
                task: None,
                participant: ParticipantId::trusted("ann"),
                decision: Decision::Approve,
                assurance: Assurance::Link,
                content_digest: "sha256:01".to_owned(),
                waiting_on: BTreeSet::new(),
                status: ApprovalStatus::Pending,
                remarks: Vec::new(),
            },
            "reminded" => Fact::ApprovalReminded { approval, participants: request.waiting_on },
            "overdue" => Fact::ApprovalEscalated {
                approval,
                added: BTreeSet::new(),
                waiting_on: request.waiting_on,
                overdue: true,
            },
            other => panic!("there is no verb {other:?}"),
        }
    }

    /// What is only recorded.
    fn beside(&self, verb: &str) -> Option<Fact> {
        let (link, participant) = (LinkId::trusted("lnk-1"), ParticipantId::trusted("ann"));
        let fact = match verb {
            "commented" => Fact::CommentCreated {
                comment: CommentId::trusted("cmt-1"),
                subject: "task:a".to_owned(),
                internal: true,
            },
            "linked" => Fact::LinkCreated {
                link,
                participant,
                expires_at: self.now + Duration::from_hours(48),
                permissions: BTreeSet::from(["view".to_owned(), "approve".to_owned()]),
            },
            "unlinked" => Fact::LinkRevoked { link, participant, reason: "because".to_owned() },
            "opened" => Fact::LinkOpened { link, participant },
            "relinked" => Fact::LinkAsked { link, participant },
            "notified" => Fact::NotificationSettled {
                notification: NotificationId::trusted("ntf-1"),
                participant,
                template: "approval_requested".to_owned(),
                sent: true,
                approvals: BTreeSet::from([ApprovalId::trusted("apr-1")]),
            },
            _ => return None,
        };
        Some(fact)
    }

    fn remark(&self) -> RemarkMade {
        RemarkMade {
            participant: ParticipantId::trusted("ann"),
            artifact: None,
            path: String::new(),
            made_at: self.now,
        }
    }

    fn request(&self, subject: &Subject, round: u32, words: &[&str]) -> RequestView {
        RequestView {
            subject: subject.clone(),
            round,
            title: "Please look".to_owned(),
            task: None,
            key: match subject {
                Subject::AdHoc(key) => key.clone(),
                Subject::Task(_) | Subject::Phase(_) | Subject::Gate(_) => {
                    words.iter().find_map(|word| word.strip_prefix("key:")).unwrap_or_default().to_owned()
                }
            },
            approvers: BTreeSet::from([ParticipantId::trusted("ann")]),
            waiting_on: BTreeSet::from([ParticipantId::trusted("ann")]),
            artifacts: words
                .iter()
                .filter_map(|word| word.strip_prefix("on:")?.split_once('@'))
                .map(|(key, version)| (ArtifactKey::trusted(key), version.parse().expect("a version")))
                .collect(),
            content_digest: "sha256:01".to_owned(),
            requested_at: self.now,
            expires_at: None,
        }
    }

    /// The running round of a subject.
    pub(in crate::domain) fn round(&self, subject: &Subject) -> u32 {
        match subject {
            Subject::Task(id) => self.instance.tasks.get(id).map_or(1, |task| task.round),
            Subject::Phase(id) => self.instance.phases.get(id).map_or(1, |phase| phase.round),
            Subject::Gate(id) => self.instance.gates.get(id).map_or(1, |gate| gate.round),
            Subject::AdHoc(_) => 1,
        }
    }
}

/// What must be so whatever was decided.
#[track_caller]
fn check_state(definition: &Definition, before: &Instance, after: &Instance) {
    assert_eq!(super::super::check(definition, after), Ok(()));
    for (id, task) in &after.tasks {
        let fencing = before.tasks.get(id).map_or(0, |task| task.fencing);
        assert!(task.fencing >= fencing, "the fencing token of {id} has fallen");
    }
    let stored = serde_json::to_string(after).expect("the state is JSON");
    let read: Instance = serde_json::from_str(&stored).expect("a stored state can be read");
    assert_eq!(&read, after);
}

fn actor(who: &str) -> Actor {
    let (kind, channel) = match who {
        "operator" => (ActorKind::Operator, Channel::Api),
        "engine" => (ActorKind::System, Channel::Engine),
        "bot" | "chief" => (ActorKind::Agent, Channel::Api),
        _ => (ActorKind::Participant, Channel::Portal),
    };
    Actor { kind, id: who.to_owned(), on_behalf_of: None, channel }
}

/// `key@3` among the words: what artifact says when asked.
fn versions(words: &[&str]) -> BTreeMap<ArtifactKey, CurrentVersion> {
    let version = |version: &str| CurrentVersion {
        version: version.parse().expect("a version"),
        kind: "document".to_owned(),
        digest: format!("sha256:{version}"),
        phase: String::new(),
        task: String::new(),
    };
    words
        .iter()
        .filter(|word| !word.starts_with("on:"))
        .filter_map(|word| word.split_once('@'))
        .map(|(key, number)| (ArtifactKey::trusted(key), version(number)))
        .collect()
}

/// `task:a`, `phase:p`, `gate:g`, or an approval key.
pub(in crate::domain) fn subject(word: &str) -> Subject {
    match word.split_once(':') {
        Some(("task", id)) => Subject::Task(TaskId::trusted(id)),
        Some(("phase", id)) => Subject::Phase(PhaseId::trusted(id)),
        Some(("gate", id)) => Subject::Gate(phasegate_id::GateId::trusted(id)),
        _ => Subject::AdHoc(word.to_owned()),
    }
}

/// One event in a few words: its name and what it is about.
pub(in crate::domain) fn in_words(event: &Event) -> String {
    let value = serde_json::to_value(event).expect("an event is JSON");
    let name = value["event"].as_str().unwrap_or_default().to_owned();
    let about = |subject: &Subject, round: &u32| format!("{}:{}#{round}", subject.kind(), subject.id());
    match &event.change {
        Change::ApprovalNeeded { subject, round, approvers, .. } => {
            let approvers: Vec<&str> = approvers.iter().map(ParticipantId::as_str).collect();
            format!("needed {}({})", about(subject, round), approvers.join("+"))
        }
        Change::RoundBegun { subject, round, cause, .. } => {
            format!("round {} {}", about(subject, round), json!(cause).as_str().unwrap_or_default())
        }
        Change::Heard(Fact::ApprovalRequested { request, .. }) => {
            format!("requested {}", request.subject.id())
        }
        Change::Heard(Fact::ApprovalSettled { request, status, .. }) => {
            format!("settled {} {}", request.subject.id(), status.as_str())
        }
        Change::FactsSet { facts, .. } => format!("{name} {}", json!(facts)),
        Change::TaskEscalated { task, to, .. } => format!("{name} {task} to {to}"),
        Change::TaskReturned { task, round, .. } => format!("{name} {task}#{round}"),
        Change::TaskRetried { task, round, .. } => format!("{name} {task}#{round}"),
        Change::TaskRetryScheduled { task, ready_at, attempts_left } => {
            let wait = ready_at.duration_since(event.at).as_millis();
            format!("{name} {task} in {wait}ms, {attempts_left} left")
        }
        Change::PhaseBlocked { phase, block } => {
            format!("{name} {phase} by {}", json!(block.cause).as_str().unwrap_or_default())
        }
        _ => {
            let record = record("run-1", event);
            if record.subject == "run-1" { name } else { format!("{name} {}", record.subject) }
        }
    }
}

/// The name of a variant in its debug text.
fn variant(text: &str) -> &str {
    text.split(['(', ' ', '{']).next().unwrap_or_default()
}
