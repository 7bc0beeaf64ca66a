//! What the callers want next: mostly something sensible, sometimes not, sometimes with what they saw a while ago.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_approval::domain::{
    Actor as Voter, ActorKind as VoterKind, Channel as Door, ContentDigest, Decision as Choice, Standing,
};
use phasegate_id::{ApprovalId, ArtifactKey, InstanceId, ParticipantId, PhaseId, TaskId};
use phasegate_instance::domain::{Action, ShownLease, Start, Status, TaskStatus, ready_work};
use phasegate_instance::unwired::Script;
use phasegate_process::{OnTimeout, Timing};
use phasegate_properties::chance::Chance;
use phasegate_properties::generate::{DELEGATOR, FACTS, definition};
use serde_json::json;

use crate::ask::{Ask, Decision};
use crate::engine::{By, Guard, Order};
use crate::people::Doing;
use crate::plan::Plan;
use crate::shelf::Put;
use crate::world::World;

use crate::client::{Body, LEASE, hand_in, operator, participant};

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

impl World {
    /// What somebody wants next.
    pub(crate) fn wish(&mut self) -> Option<(&'static str, Body)> {
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
            79..81 => Some(self.ask(&instance)),
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
        Some(Self::under_lease(&instance, &task, fencing, action))
    }

    pub(crate) fn under_lease(
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

    fn ask(&mut self, instance: &InstanceId) -> (&'static str, Body) {
        let key = Some(["legal", "f1"][self.chance.below(2)].to_owned());
        let approvers = vec![ParticipantId::trusted(["h1", "h2"][self.chance.below(2)])];
        let (instance, artifacts) = (instance.clone(), Vec::new());
        (
            "ask ad hoc",
            Body::Ask(Ask { instance, task: None, approvers, key, artifacts, title: String::new() }),
        )
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
            26..30 => ("cancel", Action::Cancel { reason }),
            30..48 => ("retry", Action::RetryTask { task, reason }),
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
}
