//! The instance service around its real rules: what it loads and remembers, and in which order. The steps are those of
//! `services/instance/src/app/execute.rs`; what is checked and written in a transaction is in [`commit`].

mod commit;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{ArtifactKey, InstanceId, ParticipantId, TaskId};
use phasegate_instance::domain::{
    Action, Actor, ActorKind, Channel, Command, CurrentVersion, Event, Instance, Person, Rejection,
    content_keys, decide, evolve,
};
use phasegate_instance::unwired::{self, Script, Step};
use phasegate_proto::internal::event::v1::event::Payload;

use crate::bug::Bug;
use crate::kept::{Answer, Kept, Once, Receipt};
use crate::world::{TENANT, World};

/// The tables of the service.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    pub(crate) kept: Kept,
    pub(crate) rows: BTreeMap<InstanceId, Row>,
}

/// One instance.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) script: Script,
    pub(crate) state: Arc<Instance>,
    pub(crate) history: Vec<Entry>,
    pub(crate) leases: BTreeMap<TaskId, LeaseRow>,
}

/// One entry of the history: the id of the event, and its JSON.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) event_id: String,
    pub(crate) body: Vec<u8>,
}

/// The row of a lease.
#[derive(Debug, Clone)]
pub(crate) struct LeaseRow {
    pub(crate) fencing: u64,
    pub(crate) ends_at: Option<Timestamp>,
    pub(crate) duration: Duration,
    pub(crate) hold_until: Timestamp,
    pub(crate) holds: BTreeSet<String>,
}

/// What must be true of a lease when a transition is written.
#[derive(Debug, Clone)]
pub(crate) enum Guard {
    Holds(TaskId, u64),
    Over(TaskId, u64),
}

/// Who wishes.
#[derive(Debug, Clone)]
pub(crate) enum By {
    Somebody(Actor),
    AgentOf(TaskId),
}

/// What is to be executed.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) instance: InstanceId,
    pub(crate) by: By,
    pub(crate) actions: Vec<Action>,
    pub(crate) guard: Option<Guard>,
    pub(crate) written: Option<(TaskId, String)>,
    pub(crate) inbox: Option<String>,
    pub(crate) once: Option<Once>,
    pub(crate) lease: Duration,
    /// For a start.
    pub(crate) script: Option<Script>,
}

/// All that one transition writes.
#[derive(Debug)]
pub(crate) struct Transition {
    pub(crate) instance: InstanceId,
    before: u64,
    pub(crate) after: Arc<Instance>,
    entries: Vec<Entry>,
    guard: Option<Guard>,
    written: Option<(TaskId, String)>,
    lease: Duration,
    receipt: Receipt,
    script: Option<Script>,
    now: Timestamp,
    /// What artifact had when it was decided.
    pub(crate) current: BTreeMap<ArtifactKey, u32>,
    pub(crate) answer: Answer,
}

/// What an order comes to before anything is written.
#[derive(Debug)]
pub(crate) enum Prepared<T> {
    /// Nothing is written.
    Answered(Answer),
    /// This is to be written.
    Write(Box<T>),
    /// Something is not there yet.
    NotYet,
    /// It can never be taken.
    Poison(String),
}

impl Order {
    /// One action.
    pub(crate) fn new(instance: &InstanceId, by: By, action: Action) -> Self {
        Self {
            instance: instance.clone(),
            by,
            actions: vec![action],
            guard: None,
            written: None,
            inbox: None,
            once: None,
            lease: Duration::ZERO,
            script: None,
        }
    }
}

impl World {
    /// Loads, decides, and says what would be written. `copy` is which of the two copies does it.
    pub(crate) fn engine_prepare(&mut self, copy: usize, order: &Order) -> Prepared<Transition> {
        if let Some(once) = &order.once
            && self.bug != Some(Bug::RequestRunsAgain)
        {
            match self.engine.kept.answer(once) {
                Ok(None) => {}
                Ok(Some(answer)) => return Prepared::Answered(answer),
                Err(refused) => return Prepared::Answered(refused),
            }
        }
        loop {
            let (before, script, is_fresh) = if let Some(script) = &order.script {
                (Arc::new(Instance::unstarted()), script.clone(), true)
            } else {
                let Some(row) = self.engine.rows.get(&order.instance) else {
                    return Prepared::Answered(Answer::Refused("NotFound".to_owned()));
                };
                let (state, script) = (Arc::clone(&row.state), row.script.clone());
                let cache = &mut self.caches[copy];
                if let Some(known) = cache.get(&order.instance) {
                    (Arc::clone(known), script, false)
                } else {
                    cache.insert(order.instance.clone(), Arc::clone(&state));
                    (state, script, true)
                }
            };
            let is_current = is_fresh || self.is_current(&order.instance, &before);
            match self.engine_decide(&script, &before, order) {
                Err(rejection) => {
                    let trusts = self.bug == Some(Bug::CacheTrusted);
                    if order.script.is_none() && !is_current && !trusts {
                        self.caches[copy].remove(&order.instance);
                        continue;
                    }
                    if order.script.is_none() {
                        self.witness_refusal(&script, order, &rejection);
                    }
                    let why = if self.has_lost_its_lease(order) {
                        "LeaseLost".to_owned()
                    } else {
                        variant(&rejection)
                    };
                    return Prepared::Answered(Answer::Refused(why));
                }
                Ok((after, events, current)) => {
                    if events.is_empty() {
                        if !is_current {
                            self.caches[copy].remove(&order.instance);
                            continue;
                        }
                        if order.inbox.is_none() && order.once.is_none() {
                            return Prepared::Answered(Answer::Done("unchanged".to_owned()));
                        }
                    }
                    return self.engine_lay_out(&script, &before, after, &events, order, current);
                }
            }
        }
    }

    /// Whoever holds no lease any more learns that before anything else.
    fn has_lost_its_lease(&self, order: &Order) -> bool {
        let is_over = |guard: &Guard| !guard.fits(self.engine.rows.get(&order.instance), self.now, None);
        order.guard.as_ref().is_some_and(|guard| matches!(guard, Guard::Holds(..)) && is_over(guard))
    }

    fn is_current(&self, instance: &InstanceId, known: &Instance) -> bool {
        self.engine.rows.get(instance).is_some_and(|row| row.state.version == known.version)
    }

    /// What the rules make of an order on a state.
    pub(crate) fn engine_decide(
        &self,
        script: &Script,
        before: &Instance,
        order: &Order,
    ) -> Result<Decided, Rejection> {
        let mut state = before.clone();
        let mut all = Vec::new();
        let mut known = BTreeMap::new();
        for action in &order.actions {
            let actor = match &order.by {
                By::Somebody(actor) => actor.clone(),
                By::AgentOf(task) => agent_of(&state, task),
            };
            let mut command = Command::new(actor, action.clone());
            if let Action::Lease { until, .. } = &mut command.action {
                *until = self.now + order.lease;
            }
            for key in content_keys(script.definition(), &state, &command.action) {
                if let Some(current) = self.shelf.current(&order.instance, &key) {
                    known.insert(key.clone(), current.version);
                    command.current.insert(key, current);
                }
            }
            let events = decide(script.definition(), &state, &command, self.now)?;
            state = events.iter().fold(state, evolve);
            all.extend(events);
        }
        Ok((state, all, known))
    }

    fn engine_lay_out(
        &mut self,
        script: &Script,
        before: &Arc<Instance>,
        after: Instance,
        events: &[Event],
        order: &Order,
        current: BTreeMap<ArtifactKey, u32>,
    ) -> Prepared<Transition> {
        let after = Arc::new(after);
        let step = Step { before, after: &after, events, now: self.now };
        let people = order.script.as_ref().map(people).unwrap_or_default();
        let mut outbox = unwired::tell(TENANT, script, &step, &people);
        if self.bug == Some(Bug::ApproverIgnored) {
            for event in &mut outbox {
                if let Some(Payload::ApprovalsNeeded(needed)) = &mut event.payload {
                    for need in needed.needs.iter_mut().filter(|need| need.approver_ids.len() > 1) {
                        need.approver_ids.pop();
                    }
                }
            }
        }
        for event in &mut outbox {
            event.event_id = self.next_id("evt");
        }
        let mut entries = Vec::with_capacity(events.len());
        for (place, event) in events.iter().enumerate() {
            let event_id = match &order.inbox {
                Some(inbox) => format!("{inbox}/{place}"),
                None => self.next_id("own"),
            };
            let Ok(body) = serde_json::to_vec(event) else {
                return Prepared::Poison("an event has no JSON".to_owned());
            };
            entries.push(Entry { event_id, body });
        }
        let answer =
            if events.is_empty() { Answer::Done("unchanged".to_owned()) } else { answer_of(&after, order) };
        let outbox = self.engine.kept.place(outbox);
        let receipt = Receipt {
            inbox: order.inbox.clone(),
            answer: order.once.clone().map(|once| (once, answer.clone())),
            outbox,
        };
        Prepared::Write(Box::new(Transition {
            instance: after.id.clone(),
            before: before.version,
            after,
            guard: order.guard.clone().filter(|_| !entries.is_empty()),
            entries,
            written: order.written.clone(),
            lease: order.lease,
            receipt,
            script: order.script.clone(),
            now: self.now,
            current,
            answer,
        }))
    }
}

impl Transition {
    /// The events that leave with it.
    pub(crate) fn outbox(&self) -> &[(u64, Arc<phasegate_proto::internal::event::v1::Event>)] {
        &self.receipt.outbox
    }

    /// Whether it keeps an answer beside its effect.
    pub(crate) fn forget_answer(&mut self) {
        self.receipt.answer = None;
    }
}

/// A worker acts as the agent whose work the task is.
fn agent_of(instance: &Instance, task: &TaskId) -> Actor {
    let id = instance.tasks.get(task).map_or_else(String::new, |task| task.assignee.clone());
    Actor { kind: ActorKind::Agent, id, on_behalf_of: None, channel: Channel::Api }
}

/// The state after an order, what happened, and the versions that it was decided on.
pub(crate) type Decided = (Instance, Vec<Event>, BTreeMap<ArtifactKey, u32>);

/// Everybody has an address.
fn people(script: &Script) -> BTreeMap<ParticipantId, Person> {
    let humans = script.definition().humans.keys();
    humans
        .map(|id| {
            let person = Person { name: id.clone(), email: format!("{id}@acme.test"), external: true };
            (ParticipantId::trusted(id), person)
        })
        .collect()
}

/// What a caller is told: the token for a lease, else the version.
fn answer_of(after: &Instance, order: &Order) -> Answer {
    let leased = order.actions.iter().find_map(|action| {
        if let Action::Lease { task, .. } = action { after.tasks.get(task) } else { None }
    });
    match leased {
        Some(task) => Answer::Done(format!("#{}", task.fencing)),
        None => Answer::Done(format!("version {}", after.version)),
    }
}

/// The name of a variant: the first word of what it writes of itself, without writing the rest.
pub(crate) fn variant(named: &impl fmt::Debug) -> String {
    let mut word = Word(String::new());
    let _ = write!(word, "{named:?}");
    word.0
}

/// Takes the first word and nothing more.
struct Word(String);

impl fmt::Write for Word {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match text.find(['(', ' ', '{']) {
            None => {
                self.0.push_str(text);
                Ok(())
            }
            Some(end) => {
                self.0.push_str(&text[..end]);
                Err(fmt::Error)
            }
        }
    }
}

/// The engine's view of an artifact.
pub(crate) fn version(number: i32, digest: &str, phase: &str, task: &str) -> CurrentVersion {
    CurrentVersion {
        version: u32::try_from(number).unwrap_or_default(),
        kind: "document".to_owned(),
        digest: digest.to_owned(),
        phase: phase.to_owned(),
        task: task.to_owned(),
    }
}
