//! Those who call: workers, people who decide, operators. They see what is committed now, or saw it a while ago; they ask
//! again under the same request id until they have an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_approval::domain::{
    Actor as Voter, ActorKind as VoterKind, Channel as Door, ContentDigest, Decision as Choice, Standing,
};
use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, InstanceId, ParticipantId, PhaseId, TaskId};
use phasegate_instance::domain::{
    Action, Actor, ActorKind, Channel, ShownLease, Start, Status, TaskStatus, ready_work,
};
use phasegate_instance::unwired::Script;
use phasegate_process::{OnTimeout, Timing};
use phasegate_properties::chance::Chance;
use phasegate_properties::generate::{DELEGATOR, FACTS, definition};
use serde_json::{Value, json};

use crate::ask::{Ask, Decision};
use crate::engine::{By, Guard, Order};
use crate::kept::{Answer, Once};
use crate::people::Doing;
use crate::plan::Plan;
use crate::shelf::Put;
use crate::world::{Service, World};

/// Length of a lease.
const LEASE: Duration = Duration::from_secs(20);

/// What somebody calls for.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Engine(Order),
    Beat { instance: InstanceId, task: TaskId, fencing: u64 },
    Store(Put),
    Link(Doing),
    Ask(Ask),
    Decide(Decision),
    Withdraw(ApprovalId),
}

/// A call, until it is answered and after.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) body: Body,
    pub(crate) once: Once,
    /// It has a request id, and so can be asked again.
    pub(crate) is_repeatable: bool,
    /// The first answer that was given, whether or not it arrived.
    pub(crate) first: Option<Answer>,
    /// The answer that arrived.
    pub(crate) answer: Option<Answer>,
    not_before: Timestamp,
}

/// What the callers know.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// Commands that were given.
    pub(crate) given: usize,
    /// Leases that were granted to somebody who heard of it.
    tokens: Vec<(InstanceId, TaskId, u64)>,
    /// What people were shown, oldest first.
    seen: BTreeMap<ApprovalId, Vec<String>>,
    instances: u64,
    /// Nobody makes trouble any more.
    pub(crate) cooperative: bool,
}

/// Makes a definition, with times in which people have to answer where the plan is in a hurry.
pub(crate) fn script(chance: &mut Chance, plan: &Plan, number: usize) -> Script {
    let mut written = definition(chance);
    written.id = format!("proc-{number}");
    if plan.hurried {
        let mut draw = || timing(chance);
        for phase in &mut written.phases {
            phase.timing = draw();
            for task in &mut phase.tasks {
                task.timing = draw();
            }
        }
        for gate in &mut written.gates {
            gate.timing = draw();
        }
    }
    Script::new(&format!("sha256:{number}"), written)
}

fn timing(chance: &mut Chance) -> Timing {
    let mut after = |percent: usize, low: usize, high: usize| {
        let seconds = u64::try_from(chance.between(low, high)).unwrap_or_default();
        chance.percent(percent).then(|| Duration::from_secs(seconds))
    };
    let (timeout, escalate_after, remind) = (after(60, 40, 120), after(40, 10, 40), after(40, 5, 30));
    let on_timeout = [OnTimeout::Escalate, OnTimeout::Reject, OnTimeout::Block][chance.below(3)];
    let escalate_to = chance.percent(60).then(|| ["h1", "h3"][chance.below(2)].to_owned());
    Timing { timeout, escalate_after, escalate_to, reminders: remind.into_iter().collect(), on_timeout }
}

impl Body {
    /// The service that it is for.
    pub(crate) fn service(&self) -> Service {
        match self {
            Self::Engine(_) | Self::Beat { .. } => Service::Instance,
            Self::Store(_) => Service::Artifact,
            Self::Link(_) => Service::Participant,
            Self::Ask(_) | Self::Decide(_) | Self::Withdraw(_) => Service::Approval,
        }
    }
}

/// The number in a request id.
pub(crate) fn number_of(once: &str) -> Option<u64> {
    once.strip_prefix('r')?.parse().ok()
}

impl World {
    /// Somebody calls, or calls again.
    pub(crate) fn client_acts(&mut self) {
        let waiting = self.open_calls();
        let due: Vec<u64> =
            waiting.iter().copied().filter(|id| self.calls[id].not_before <= self.now).collect();
        if !due.is_empty() && self.chance.percent(35) {
            let id = due[self.chance.below(due.len())];
            self.send(id);
            return;
        }
        if self.chance.percent(2) && self.reuses_an_id() {
            return;
        }
        if let Some((name, body)) = self.wish() {
            self.call(name, body);
        }
    }

    /// Somebody uses a request id for something else.
    fn reuses_an_id(&mut self) -> bool {
        let done = self.calls.values().filter(|call| {
            call.is_repeatable && matches!(call.answer, Some(Answer::Done(_))) && call.name == "pause"
        });
        let Some(call) = done.last().cloned() else { return false };
        let Body::Engine(order) = &call.body else { return false };
        let mut order = order.clone();
        order.actions = vec![Action::Cancel { reason: "another one".to_owned() }];
        order.once = Some(Once { id: call.once.id.clone(), fingerprint: "another".to_owned() });
        let answer = self.engine_prepare(0, &order);
        self.cover.note("request id: used for something else");
        if !matches!(&answer, crate::engine::Prepared::Answered(Answer::Refused(why)) if why == "RequestIdReused")
            && self.bug.is_none()
        {
            self.witness.accuse(format!("{} was used for something else: {answer:?}", call.once.id));
        }
        true
    }

    /// Gives a new command.
    pub(crate) fn call(&mut self, name: &'static str, body: Body) {
        let id = self.next_call();
        let body = marked(body, &format!("r{id}"));
        let fingerprint = format!("{name} {id}");
        let is_repeatable = !matches!(name, "lease" | "heartbeat");
        self.client.given += 1;
        if self.traces() {
            self.say(&format!("r{id} {name} {}", said(&body)));
        }
        let once = Once { id: format!("r{id}"), fingerprint };
        let not_before = self.now;
        let call = Call { name, body, once, is_repeatable, first: None, answer: None, not_before };
        self.calls.insert(id, call);
        self.send(id);
    }

    fn next_call(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// A call sets out, and may not arrive.
    pub(crate) fn send(&mut self, id: u64) {
        if !self.calm && self.chance.below(1_000) < self.plan.drop_call {
            self.cover.fault("a call is lost");
            self.unanswered(id);
            return;
        }
        let number = self.chance.below(2);
        self.handle(id, number);
    }

    /// Nobody answered: it is asked again after a moment, if it can be.
    pub(crate) fn unanswered(&mut self, id: u64) {
        let now = self.now;
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.is_repeatable {
            call.not_before = now + Duration::from_millis(300);
        } else {
            call.answer = Some(Answer::Refused("nobody answered".to_owned()));
        }
    }

    /// A service answers, and the answer may not arrive.
    pub(crate) fn reply(&mut self, id: u64, answer: Answer) {
        let Some(call) = self.calls.get(&id) else { return };
        let (once, service, repeats) = (call.once.clone(), call.body.service(), call.is_repeatable);
        let (name, first) = (call.name, call.first.clone());
        // What is in the way may be the effect of the first one, which was done meanwhile.
        let kept = if repeats { self.kept(service).answer(&once) } else { Ok(None) };
        let answer = match (answer, kept) {
            (Answer::Refused(_), Ok(Some(first))) => first,
            (answer, _) => answer,
        };
        if let Some(first) = first
            && first != answer
        {
            self.witness.accuse(format!("{} was answered {first:?}, and then {answer:?}", once.id));
        }
        if repeats && matches!(answer, Answer::Done(_)) {
            if let Some(call) = self.calls.get_mut(&id) {
                let is_repeated = call.first.is_some();
                call.first = Some(answer.clone());
                if is_repeated {
                    self.cover.note(format!("{name}: repeated"));
                }
            }
            if !self.calm && self.chance.below(1_000) < self.plan.swallow {
                self.cover.fault("a reply is lost");
                self.unanswered(id);
                return;
            }
        }
        match &answer {
            Answer::Done(_) => self.cover.note(format!("{name}: done")),
            Answer::Refused(why) => {
                self.cover.note(format!("{name}: refused"));
                self.cover.note(format!("refused: {why}"));
            }
        }
        if self.traces() {
            self.say(&format!("{} is answered {answer:?}", once.id));
        }
        self.learn(id, &answer);
        if let Some(call) = self.calls.get_mut(&id) {
            call.answer = Some(answer);
        }
    }

    /// What a caller takes from an answer.
    fn learn(&mut self, id: u64, answer: &Answer) {
        let Some(call) = self.calls.get(&id) else { return };
        if let Body::Engine(order) = &call.body
            && let Some(Action::Lease { task, .. }) = order.actions.first()
            && let Answer::Done(token) = answer
            && let Some(fencing) = token.strip_prefix('#').and_then(|token| token.parse().ok())
        {
            self.client.tokens.push((order.instance.clone(), task.clone(), fencing));
        }
    }

    /// What somebody wants next.
    fn wish(&mut self) -> Option<(&'static str, Body)> {
        let going_on = self.going_on();
        if going_on.len() < self.plan.instances && (going_on.is_empty() || self.chance.percent(20)) {
            return Some(self.start());
        }
        let any: Vec<InstanceId> = self.engine.rows.keys().cloned().collect();
        let some = if self.chance.percent(94) { &going_on } else { &any };
        let instance = self.chance.one(some)?.clone();
        match self.chance.below(100) {
            0..21 => self.lease(&instance),
            21..52 => self.work(),
            52..79 => self.decide(&instance),
            79..81 => self.ask(&instance),
            81..84 => self.store(&instance),
            84..91 => Some(self.tell(&instance)),
            91..94 => self.link(&instance),
            _ => self.steer(&instance),
        }
    }

    pub(crate) fn start(&mut self) -> (&'static str, Body) {
        let again = self.client.instances > 0 && self.chance.percent(5);
        self.client.instances += u64::from(!again);
        let id = InstanceId::trusted(format!("run-{}", self.client.instances));
        let script = self.scripts[self.chance.below(self.scripts.len())].clone();
        let start = Start {
            id: id.clone(),
            definition_digest: script.definition().id.clone(),
            name: String::new(),
            context: json!({}),
            participants: BTreeMap::new(),
            team_id: String::new(),
            labels: BTreeMap::new(),
        };
        let mut order = Order::new(&id, By::Somebody(operator()), Action::Start(start));
        order.script = Some(script);
        ("start", Body::Engine(order))
    }

    pub(crate) fn lease(&mut self, instance: &InstanceId) -> Option<(&'static str, Body)> {
        let row = self.engine.rows.get(instance)?;
        let now = self.now;
        let ready = ready_work(row.script.definition(), &row.state);
        let due = ready.into_values().filter(|work| work.ready_at <= now).map(|work| work.task);
        let due: Vec<TaskId> = due.collect();
        let any =
            if !self.client.cooperative && self.chance.percent(5) { self.any_task(instance) } else { None };
        let task = any.or_else(|| self.chance.one(&due).cloned())?;
        let action = Action::Lease { task: task.clone(), worker: "w".to_owned(), until: now + LEASE };
        let mut order = Order::new(instance, By::AgentOf(task), action);
        order.lease = LEASE;
        Some(("lease", Body::Engine(order)))
    }

    fn any_task(&mut self, instance: &InstanceId) -> Option<TaskId> {
        let tasks: Vec<TaskId> = self.engine.rows.get(instance)?.state.tasks.keys().cloned().collect();
        self.chance.one(&tasks).cloned()
    }

    /// A worker does something with a lease: mostly one of the newest.
    pub(crate) fn work(&mut self) -> Option<(&'static str, Body)> {
        let out: Vec<usize> = (0..self.client.tokens.len()).rev().take(4).collect();
        let newest = self.chance.one(&out).copied();
        let any = (0..self.client.tokens.len()).collect::<Vec<_>>();
        let place = if self.chance.percent(88) { newest } else { self.chance.one(&any).copied() };
        let (instance, task, fencing) = self.client.tokens.get(place?)?.clone();
        let (first, later) = (self.chance.below(100), self.chance.below(100));
        if let Some(key) = self.missing(&instance, &task)
            && first < 80
        {
            let lease = Some((task, fencing));
            return Some(("store", Body::Store(self.put(&instance, key, lease))));
        }
        let action = match later {
            0..55 => ("hand in", hand_in(&task, fencing)),
            55..72 => {
                let non_retryable = self.chance.percent(12);
                let jitter = if self.chance.percent(50) { 1.0 } else { 0.0 };
                let action = Action::Fail {
                    task: task.clone(),
                    fencing,
                    kind: "TOOL_ERROR".to_owned(),
                    message: String::new(),
                    non_retryable,
                    retry_after: None,
                    jitter,
                };
                ("fail", action)
            }
            72..80 => ("release", Action::Release { task: task.clone(), fencing, reason: String::new() }),
            80..92 => return Some(("heartbeat", Body::Beat { instance, task, fencing })),
            92..96 => return self.ask_for(&instance, &task, fencing),
            _ => {
                let lease = Some(ShownLease { task: task.clone(), fencing });
                let facts = BTreeMap::from([(FACTS[self.chance.below(4)].to_owned(), true)]);
                ("set facts", Action::SetFacts { facts, lease, reason: String::new() })
            }
        };
        Some(self.under_lease(&instance, &task, fencing, action))
    }

    pub(crate) fn under_lease(
        &self,
        instance: &InstanceId,
        task: &TaskId,
        fencing: u64,
        (name, action): (&'static str, Action),
    ) -> (&'static str, Body) {
        let mut order = Order::new(instance, By::AgentOf(task.clone()), action);
        order.guard = Some(Guard::Holds(task.clone(), fencing));
        (name, Body::Engine(order))
    }

    /// An artifact that a task is to store and has not.
    pub(crate) fn missing(&self, instance: &InstanceId, task: &TaskId) -> Option<ArtifactKey> {
        let row = self.engine.rows.get(instance)?;
        let mut tasks = row.script.definition().phases.iter().flat_map(|phase| &phase.tasks);
        let written = tasks.find(|written| written.id == task.as_str())?;
        let keys = written.artifacts.iter().map(ArtifactKey::trusted);
        keys.into_iter().find(|key| self.shelf.current(instance, key).is_none())
    }

    pub(crate) fn put(
        &mut self,
        instance: &InstanceId,
        key: ArtifactKey,
        lease: Option<(TaskId, u64)>,
    ) -> Put {
        let if_version = if self.chance.percent(5) { Some(0) } else { None };
        let content = if self.chance.percent(10) { "same".to_owned() } else { String::new() };
        Put { instance: instance.clone(), key, content, if_version, lease }
    }

    /// Somebody changes what lies before people, or a worker stores again.
    fn store(&mut self, instance: &InstanceId) -> Option<(&'static str, Body)> {
        let row = self.engine.rows.get(instance)?;
        let tasks = row.script.definition().phases.iter().flat_map(|phase| &phase.tasks);
        let keys: Vec<ArtifactKey> =
            tasks.flat_map(|task| &task.artifacts).map(ArtifactKey::trusted).collect();
        let key = self.chance.one(&keys)?.clone();
        Some(("store", Body::Store(self.put(instance, key, None))))
    }

    fn ask_for(
        &mut self,
        instance: &InstanceId,
        task: &TaskId,
        fencing: u64,
    ) -> Option<(&'static str, Body)> {
        let row = self.engine.rows.get(instance)?;
        let mut tasks = row.script.definition().phases.iter().flat_map(|phase| &phase.tasks);
        let written = tasks.find(|written| written.id == task.as_str())?;
        let mut approvers: Vec<ParticipantId> =
            written.required_approvals.iter().map(ParticipantId::trusted).collect();
        if approvers.is_empty() {
            approvers.push(ParticipantId::trusted("h2"));
        }
        let artifacts: Vec<ArtifactKey> = written.artifacts.iter().map(ArtifactKey::trusted).collect();
        let artifacts = artifacts.into_iter().filter(|key| self.shelf.current(instance, key).is_some());
        let artifacts = artifacts.collect();
        let (instance, task) = (instance.clone(), Some((task.clone(), fencing)));
        Some((
            "ask",
            Body::Ask(Ask { instance, task, approvers, key: None, artifacts, title: String::new() }),
        ))
    }

    fn ask(&mut self, instance: &InstanceId) -> Option<(&'static str, Body)> {
        let key = Some(["legal", "f1"][self.chance.below(2)].to_owned());
        let approvers = vec![ParticipantId::trusted(["h1", "h2"][self.chance.below(2)])];
        let (instance, artifacts) = (instance.clone(), Vec::new());
        Some((
            "ask ad hoc",
            Body::Ask(Ask { instance, task: None, approvers, key, artifacts, title: String::new() }),
        ))
    }

    pub(crate) fn decide(&mut self, instance: &InstanceId) -> Option<(&'static str, Body)> {
        let of_instance =
            self.desk.requests.values().filter(|stored| stored.approval.request.instance == *instance);
        let any = self.chance.percent(6);
        let open = of_instance.filter(|stored| any || stored.approval.is_pending());
        let open: Vec<ApprovalId> = open.map(|stored| stored.approval.request.id.clone()).collect();
        let id = self.chance.one(&open)?.clone();
        if self.chance.percent(3) {
            return Some(("withdraw", Body::Withdraw(id)));
        }
        let approval = &self.desk.requests.get(&id)?.approval;
        let shown = approval.digest.to_string();
        let waiting = approval.approvers.iter().filter(|one| one.standing == Standing::Pending);
        let waiting: Vec<ParticipantId> = waiting.map(|one| one.id.clone()).collect();
        let all: Vec<ParticipantId> = ["h1", "h2", "h3"].map(ParticipantId::trusted).to_vec();
        let people = if waiting.is_empty() || self.chance.percent(8) { &all } else { &waiting };
        let person = self.chance.one(people)?.clone();
        let seen = self.client.seen.entry(id.clone()).or_default();
        if seen.last() != Some(&shown) {
            seen.push(shown.clone());
        }
        let oldest = seen.first().cloned().unwrap_or_default();
        let seen = match self.chance.below(100) {
            0..84 => shown,
            84..97 => oldest,
            _ => "sha256:00".to_owned(),
        };
        let (name, choice) = match self.chance.below(100) {
            0..78 => ("approve", Choice::Approve),
            78..90 => ("request changes", Choice::RequestChanges),
            _ => ("reject", Choice::Reject),
        };
        let seen = ContentDigest::claimed(seen);
        let by = self.voter(&person);
        Some((
            name,
            Body::Decide(Decision { approval: id, person, choice, seen, by, comment: String::new() }),
        ))
    }

    fn voter(&mut self, person: &ParticipantId) -> Voter {
        let is_portal = self.chance.percent(70);
        let (kind, id, channel) = match (is_portal, self.chance.percent(2)) {
            (_, true) => (VoterKind::Agent, "a1".to_owned(), Door::Api),
            (true, _) => (VoterKind::Participant, person.to_string(), Door::Portal),
            (false, _) => (VoterKind::Operator, "dev".to_owned(), Door::Api),
        };
        let on_behalf_of = (kind == VoterKind::Operator).then(|| person.clone());
        Voter { kind, id, channel, on_behalf_of }
    }

    fn tell(&mut self, instance: &InstanceId) -> (&'static str, Body) {
        let by = By::Somebody(operator());
        if self.chance.percent(65) {
            let value = self.chance.percent(80);
            let facts = BTreeMap::from([(FACTS[self.chance.below(4)].to_owned(), value)]);
            let action = Action::SetFacts { facts, lease: None, reason: String::new() };
            return ("set facts", Body::Engine(Order::new(instance, by, action)));
        }
        let version = self.engine.rows.get(instance).map(|row| row.state.version);
        let stale = self.chance.percent(10);
        let expected_version = version.filter(|_| self.chance.percent(20)).map(|at| at - u64::from(stale));
        let context = json!({"size": self.chance.below(5)});
        let action = Action::ChangeContext { context, expected_version, lease: None, reason: String::new() };
        ("set context", Body::Engine(Order::new(instance, by, action)))
    }

    fn link(&mut self, instance: &InstanceId) -> Option<(&'static str, Body)> {
        if self.chance.percent(65) {
            let person = ["h1", "h2", "h3", "stranger"][self.chance.below(4)];
            let doing = Doing::Create(instance.clone(), ParticipantId::trusted(person));
            return Some(("create a link", Body::Link(doing)));
        }
        let links: Vec<_> = self.people.links.keys().cloned().collect();
        let link = self.chance.one(&links)?.clone();
        Some(("revoke a link", Body::Link(Doing::Revoke(link))))
    }

    /// Operators and delegators interfere.
    fn steer(&mut self, instance: &InstanceId) -> Option<(&'static str, Body)> {
        let row = self.engine.rows.get(instance)?;
        let state = std::sync::Arc::clone(&row.state);
        let is_stuck = |status: TaskStatus| {
            matches!(status, TaskStatus::Blocked | TaskStatus::Failed | TaskStatus::Escalated)
        };
        let stuck = state.tasks.iter().filter(|(_, task)| is_stuck(task.status));
        let stuck: Vec<TaskId> = stuck.map(|(id, _)| id.clone()).collect();
        let any = self.any_task(instance)?;
        let task = self.chance.one(&stuck).cloned().unwrap_or(any);
        let phases: Vec<PhaseId> = state.phases.keys().cloned().collect();
        let reason = String::new();
        let (name, action) = match self.chance.below(100) {
            _ if state.status == Status::Paused && self.chance.percent(60) => {
                ("resume", Action::Resume { reason })
            }
            0..20 => ("pause", Action::Pause { reason }),
            20..26 => ("resume", Action::Resume { reason }),
            26..28 => ("cancel", Action::Cancel { reason }),
            28..48 => ("retry", Action::RetryTask { task, reason }),
            48..58 => ("skip", Action::SkipTask { task, reason }),
            58..74 => {
                let phase = if self.chance.percent(40) { self.chance.one(&phases).cloned() } else { None };
                let tasks = if self.chance.percent(40) { BTreeSet::from([task]) } else { BTreeSet::new() };
                ("reopen", Action::Reopen { phase, tasks, reason })
            }
            74..92 => ("advance", Action::Advance { from_phase: None, force: false, reason }),
            _ => ("force", Action::Advance { from_phase: None, force: true, reason }),
        };
        let actor = match self.chance.below(100) {
            0..70 => operator(),
            70..90 => participant(DELEGATOR),
            _ => participant("h1"),
        };
        Some((name, Body::Engine(Order::new(instance, By::Somebody(actor), action))))
    }

    /// A sign of life: no transition, only the row.
    pub(crate) fn beat(&mut self, instance: &InstanceId, task: &TaskId, fencing: u64) -> Answer {
        let now = self.now;
        let lease = self.engine.rows.get_mut(instance).and_then(|row| row.leases.get_mut(task));
        match lease {
            Some(lease) if lease.fencing == fencing && lease.ends_at.is_some_and(|end| end > now) => {
                lease.ends_at = Some(now + lease.duration);
                self.witness.extended(instance, task, now + LEASE);
                Answer::Done("continue".to_owned())
            }
            Some(_) | None => Answer::Refused("Abandon".to_owned()),
        }
    }

    /// Leases that somebody holds and that are out.
    pub(crate) fn held(&self) -> Vec<(InstanceId, TaskId, u64)> {
        let tokens = self.client.tokens.iter().filter(|(instance, task, fencing)| {
            let lease = self.engine.rows.get(instance).and_then(|row| row.leases.get(task));
            lease.is_some_and(|lease| {
                lease.fencing == *fencing && lease.ends_at.is_some_and(|at| at > self.now)
            })
        });
        tokens.cloned().collect()
    }
}

pub(crate) fn hand_in(task: &TaskId, fencing: u64) -> Action {
    Action::HandIn {
        task: task.clone(),
        fencing,
        output: Some(json!({"done": true})),
        summary: String::new(),
    }
}

/// Writes the request id into what will stand in the record, so that the record can be held against what was acknowledged.
fn marked(mut body: Body, mark: &str) -> Body {
    match &mut body {
        Body::Engine(order) => {
            for action in &mut order.actions {
                mark_action(action, mark);
            }
        }
        Body::Store(put) if put.content.is_empty() => mark.clone_into(&mut put.content),
        Body::Ask(ask) => mark.clone_into(&mut ask.title),
        Body::Decide(decision) => mark.clone_into(&mut decision.comment),
        Body::Store(_) | Body::Beat { .. } | Body::Link(_) | Body::Withdraw(_) => {}
    }
    body
}

fn mark_action(action: &mut Action, mark: &str) {
    match action {
        Action::Start(start) => mark.clone_into(&mut start.name),
        Action::HandIn { summary, .. } => mark.clone_into(summary),
        Action::Fail { message, .. } => mark.clone_into(message),
        Action::SetFacts { facts, reason, .. } => {
            mark.clone_into(reason);
            facts.insert(mark.to_owned(), true);
        }
        Action::ChangeContext { context, reason, .. } => {
            mark.clone_into(reason);
            if let Value::Object(members) = context {
                members.insert(mark.to_owned(), Value::Null);
            }
        }
        Action::Release { reason, .. }
        | Action::Pause { reason }
        | Action::Resume { reason }
        | Action::Cancel { reason }
        | Action::RetryTask { reason, .. }
        | Action::SkipTask { reason, .. }
        | Action::Reopen { reason, .. }
        | Action::Advance { reason, .. } => mark.clone_into(reason),
        Action::Lease { .. }
        | Action::ExpireLease { .. }
        | Action::Hear { .. }
        | Action::HearAgain { .. } => {}
    }
}

/// A call in a line.
fn said(body: &Body) -> String {
    match body {
        Body::Engine(order) => match order.actions.first() {
            Some(Action::Start(_)) | None => format!("{}", order.instance),
            Some(action) => format!("{} {action:?}", order.instance),
        },
        other => format!("{other:?}"),
    }
}

pub(crate) fn operator() -> Actor {
    Actor { kind: ActorKind::Operator, id: "dev".to_owned(), on_behalf_of: None, channel: Channel::Api }
}

fn participant(id: &str) -> Actor {
    Actor { kind: ActorKind::Participant, id: id.to_owned(), on_behalf_of: None, channel: Channel::Portal }
}
