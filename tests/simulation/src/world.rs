//! Everything there is, and the one hand that moves it: one thing happens after the other, each drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use phasegate_bus::Receiver;
use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, InstanceId, TaskId};
use phasegate_instance::domain::{Action, Actor, Instance};
use phasegate_instance::unwired::{Script, hear};
use phasegate_properties::chance::Chance;
use phasegate_proto::internal::event::v1::Event;

use crate::bug::Bug;
use crate::bus::{Bus, Delivery};
use crate::client::{Body, Call, Client};
use crate::cover::Cover;
use crate::desk::Desk;
use crate::engine::{By, Engine, Guard, Order, Prepared, Transition};
use crate::kept::{Answer, Conflict, Kept, TRIES_MAX};
use crate::mail::{Mail, Noting};
use crate::people::{Changing, Doing, People};
use crate::plan::Plan;
use crate::shelf::{Shelf, Storing};
use crate::witness::Witness;

/// The only tenant.
pub(crate) const TENANT: &str = "default";
/// By how much a planted timer is early.
pub(crate) const EARLY: Duration = Duration::from_secs(2);
/// When every seed begins, in microseconds.
const BEGIN: i64 = 1_700_000_000_000_000;
/// Things that happen before a seed counts as stuck.
const STEPS_MAX: u64 = 60_000;

/// A promise that was broken.
#[derive(Debug)]
pub(crate) struct Violation(pub(crate) String);

/// The services, by the place of their copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Instance,
    Approval,
    Artifact,
    Participant,
    Notification,
}

impl Service {
    pub(crate) const ALL: [Self; 5] =
        [Self::Instance, Self::Approval, Self::Artifact, Self::Participant, Self::Notification];

    pub(crate) fn of(receiver: Receiver) -> Self {
        match receiver {
            Receiver::Instance => Self::Instance,
            Receiver::Approval => Self::Approval,
            Receiver::Participant => Self::Participant,
            Receiver::Notification => Self::Notification,
        }
    }
}

/// One of the two copies of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) service: Service,
    pub(crate) number: usize,
}

/// What a copy is at.
#[derive(Debug)]
pub(crate) enum Work {
    Call(u64),
    Event(Delivery),
    /// A timer or a lease that is due, or a message.
    Own(String),
    /// An event was put on the bus, and that is to be noted.
    Sent(u64),
}

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Pending {
    Engine(Box<Transition>),
    Desk(Box<crate::desk::Write>),
    Shelf(Box<Storing>),
    People(Box<Changing>),
    Mail(Box<Noting>),
    Nothing,
}

/// Something that a copy has decided and not yet written. It dies with the copy.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) copy: Copy,
    pub(crate) work: Work,
    pub(crate) pending: Pending,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    pub(crate) bug: Option<Bug>,
    pub(crate) chance: Chance,
    pub(crate) now: Timestamp,
    pub(crate) engine: Engine,
    pub(crate) desk: Desk,
    pub(crate) shelf: Shelf,
    pub(crate) people: People,
    pub(crate) mail: Mail,
    pub(crate) bus: Bus,
    pub(crate) flights: Vec<Flight>,
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) client: Client,
    pub(crate) scripts: Vec<Script>,
    /// What each copy of the engine remembers of instances.
    pub(crate) caches: [BTreeMap<InstanceId, Arc<Instance>>; 2],
    /// What copies have taken and not yet confirmed to the senders.
    pub(crate) confirmations: Vec<(Copy, Service, String, Receiver)>,
    pub(crate) witness: Witness,
    pub(crate) cover: Cover,
    pub(crate) calm: bool,
    pub(crate) ids: u64,
    /// What happened, for whoever reads a failure; nothing is written while nobody will read it.
    trace: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, traces: bool) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::draw(&mut chance);
        let scripts = (0..2).map(|number| crate::client::script(&mut chance, &plan, number)).collect();
        Self {
            seed,
            plan,
            bug,
            chance,
            now: Timestamp::from_micros(BEGIN),
            engine: Engine::default(),
            desk: Desk::default(),
            shelf: Shelf::default(),
            people: People::default(),
            mail: Mail::default(),
            bus: Bus::default(),
            flights: Vec::new(),
            calls: BTreeMap::new(),
            client: Client::default(),
            scripts,
            caches: [BTreeMap::new(), BTreeMap::new()],
            confirmations: Vec::new(),
            witness: Witness::default(),
            cover: Cover::default(),
            calm: false,
            ids: 0,
            trace: traces.then(String::new),
        }
    }

    /// The plan and all that happened.
    pub(crate) fn script(&self) -> String {
        let trace = self.trace.as_deref().unwrap_or_default();
        format!("seed {} plan {}\n{trace}", self.seed, self.plan)
    }

    /// Whether somebody will read what happens.
    pub(crate) fn traces(&self) -> bool {
        self.trace.is_some()
    }

    /// Notes what happens.
    pub(crate) fn say(&mut self, what: &str) {
        let millis = (self.now.as_micros() - BEGIN) / 1_000;
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{:>9}.{:03} {what}", millis / 1_000, millis % 1_000);
        }
    }

    pub(crate) fn next_id(&mut self, kind: &str) -> String {
        self.ids += 1;
        format!("{kind}-{}", self.ids)
    }

    /// The troubles, while there are any.
    pub(crate) fn storm(&self) -> Option<Plan> {
        (!self.calm).then(|| self.plan.clone())
    }

    /// Plays the whole seed.
    pub(crate) fn play(&mut self) -> Result<(), Violation> {
        while self.client.given < self.plan.commands {
            self.step()?;
            if self.cover.steps > STEPS_MAX {
                return Err(Violation(format!("stuck after {} commands", self.client.given)));
            }
        }
        self.settle_down()?;
        self.cover.commands += u64::try_from(self.client.given).unwrap_or_default();
        Ok(())
    }

    /// One more thing happens.
    fn step(&mut self) -> Result<(), Violation> {
        self.cover.steps += 1;
        if self.chance.below(1_000) < self.plan.crash {
            self.crash();
        }
        if self.chance.below(1_000) < self.plan.wipe && !self.bus.waiting.is_empty() {
            self.say("the bus loses everything");
            self.cover.fault("the bus loses everything");
            self.bus.waiting.clear();
        }
        match self.chance.below(100) {
            0..26 => self.client_acts(),
            26..46 => self.fly(),
            46..66 => self.deliver(),
            66..78 => self.relay(),
            78..84 => self.confirm(),
            84..87 => self.send_again(),
            87..92 => self.timers(),
            92..94 => self.post(),
            _ => {
                let millis = if self.chance.percent(6) {
                    self.chance.between(10_000, 90_000)
                } else {
                    self.chance.below(1_500)
                };
                self.now = self.now + Duration::from_millis(u64::try_from(millis).unwrap_or_default());
            }
        }
        self.verdict()
    }

    /// What the witness has to say.
    pub(crate) fn verdict(&mut self) -> Result<(), Violation> {
        self.witness.broken.take().map_or(Ok(()), |what| Err(Violation(what)))
    }

    /// A copy of a service dies, and forgets everything that is not committed.
    fn crash(&mut self) {
        let service = Service::ALL[self.chance.below(Service::ALL.len())];
        let copy = Copy { service, number: self.chance.below(2) };
        if self.traces() {
            self.say(&format!("{service:?} {} dies", copy.number));
        }
        self.cover.fault("a copy dies");
        let (gone, left): (Vec<Flight>, Vec<Flight>) =
            std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.copy == copy);
        self.flights = left;
        for flight in gone {
            match flight.work {
                // What it had taken and not confirmed is taken over by the other.
                Work::Event(delivery) => {
                    self.cover.fault("a copy dies before it has written");
                    self.bus.waiting.push(delivery);
                }
                Work::Call(call) => {
                    self.cover.fault("a copy dies before it has written");
                    self.unanswered(call);
                }
                Work::Sent(_) => self.cover.fault("a relay dies between sending and noting it"),
                Work::Own(_) => {}
            }
        }
        self.confirmations.retain(|(of, ..)| *of != copy);
        if service == Service::Instance {
            self.caches[copy.number].clear();
        }
    }

    pub(crate) fn kept(&mut self, service: Service) -> &mut Kept {
        match service {
            Service::Instance => &mut self.engine.kept,
            Service::Approval => &mut self.desk.kept,
            Service::Artifact => &mut self.shelf.kept,
            Service::Participant => &mut self.people.kept,
            Service::Notification => &mut self.mail.kept,
        }
    }

    /// A relay of some service takes an event to the bus.
    pub(crate) fn relay(&mut self) {
        let service = Service::ALL[self.chance.below(Service::ALL.len())];
        self.relay_of(service);
    }

    /// True when there was something to send.
    pub(crate) fn relay_of(&mut self, service: Service) -> bool {
        let now = self.now;
        let copy = Copy { service, number: self.chance.below(2) };
        let position = if self.bug == Some(Bug::OutboxByPosition) {
            let kept = self.kept(service);
            let next = kept.outbox.range(kept.sent_up_to + 1..).next().map(|(position, _)| *position);
            if let Some(position) = next {
                kept.sent_up_to = position;
            }
            next
        } else {
            let heads = self.kept(service).heads(now);
            self.chance.one(&heads).copied()
        };
        let Some(position) = position else { return false };
        let Some(event) = self.kept(service).claim(position, now) else { return false };
        self.publish(service, &event);
        self.take_off(copy, Work::Sent(position), Pending::Nothing);
        true
    }

    /// Puts an event on the bus, which does with it what it does.
    pub(crate) fn publish(&mut self, sender: Service, event: &Arc<Event>) {
        if self.traces() {
            self.say(&format!("{sender:?} sends {} {}", event.event_id, kind(event)));
        }
        self.witness.senders.insert(event.event_id.clone(), sender);
        if !self.kept(sender).knows(&event.event_id) && self.bug != Some(Bug::PublishBeforeCommit) {
            self.witness.accuse(format!("{} was sent and never committed", event.event_id));
        }
        let plan = self.storm();
        self.bus.publish(event, self.now, plan.as_ref(), &mut self.chance, &mut self.cover);
    }

    /// Sends again what was not confirmed in time.
    pub(crate) fn send_again(&mut self) {
        if self.bug == Some(Bug::NeverResent) {
            return;
        }
        let now = self.now;
        for service in Service::ALL {
            for event in self.kept(service).overdue(now) {
                self.cover.note("an unconfirmed event is sent again");
                self.publish(service, &event);
            }
        }
    }

    /// Confirmations reach the senders, or are lost.
    pub(crate) fn confirm(&mut self) {
        for (_, sender, event, receiver) in std::mem::take(&mut self.confirmations) {
            if !self.calm && self.chance.below(1_000) < self.plan.unconfirmed {
                self.cover.fault("a confirmation is lost");
                continue;
            }
            self.witness_confirmation(&event, receiver);
            let for_all = self.bug == Some(Bug::ConfirmedForAll);
            let kept = self.kept(sender);
            if for_all {
                kept.confirm_for_all(&event);
            } else {
                kept.confirm(receiver, &event);
            }
        }
    }

    /// A copy of a receiver takes an event off the bus.
    pub(crate) fn deliver(&mut self) {
        let plan = self.storm();
        let (now, chance, cover) = (self.now, &mut self.chance, &mut self.cover);
        let Some(delivery) = self.bus.take(now, plan.as_ref(), chance, cover) else { return };
        let copy = Copy { service: Service::of(delivery.receiver), number: self.chance.below(2) };
        if self.bug == Some(Bug::AckBeforeCommit) {
            self.acknowledge(copy, &delivery);
        }
        if !self.calm && self.chance.below(1_000) < self.plan.hiccup {
            self.cover.fault("a receiver cannot take an event for a moment");
            self.not_yet(copy, delivery);
            return;
        }
        self.take_event(copy, delivery);
    }

    fn take_event(&mut self, copy: Copy, delivery: Delivery) {
        let event = Arc::clone(&delivery.event);
        if self.kept(copy.service).is_set_aside(&event.event_id) {
            self.acknowledge(copy, &delivery);
            return;
        }
        let prepared = match delivery.receiver {
            Receiver::Instance => self.engine_hear(copy.number, &event).map(Pending::Engine),
            Receiver::Approval => self.desk_hear(&event).map(Pending::Desk),
            Receiver::Participant => {
                self.people_prepare(&Doing::Hear(Arc::clone(&event)), None).map(Pending::People)
            }
            Receiver::Notification => self.mail_hear(&event).map(Pending::Mail),
        };
        match prepared {
            Outcome::Answered(Answer::Refused(why)) => self.poison(copy, delivery, &why),
            Outcome::Answered(Answer::Done(_)) => self.acknowledge(copy, &delivery),
            Outcome::Write(pending) => {
                if self.bug == Some(Bug::InboxApart) {
                    let id = delivery.event.event_id.clone();
                    if !self.kept(copy.service).inbox.insert(id) {
                        self.acknowledge(copy, &delivery);
                        return;
                    }
                }
                self.take_off(copy, Work::Event(delivery), pending);
            }
            Outcome::NotYet(_) => self.not_yet(copy, delivery),
            Outcome::Poison(why) => self.poison(copy, delivery, &why),
        }
    }

    fn engine_hear(&mut self, copy: usize, event: &Event) -> Prepared<Transition> {
        match hear(event) {
            Err(why) => Prepared::Poison(why),
            Ok(None) => Prepared::Answered(Answer::Done(String::new())),
            Ok(Some(told)) => {
                let mut order = Order::new(
                    &told.instance,
                    By::Somebody(told.actor),
                    Action::Pause { reason: String::new() },
                );
                order.actions = told.actions;
                order.written = told.written;
                order.inbox = Some(event.event_id.clone());
                self.engine_prepare(copy, &order)
            }
        }
    }

    /// It is tried again in a moment.
    fn not_yet(&mut self, copy: Copy, mut delivery: Delivery) {
        delivery.tries += 1;
        if self.bug == Some(Bug::SetAsideSilently) && delivery.tries >= 2 {
            self.acknowledge(copy, &delivery);
            return;
        }
        self.cover.note("an event is tried again");
        delivery.not_before = self.now + Duration::from_millis(200);
        self.bus.waiting.push(delivery);
    }

    fn poison(&mut self, copy: Copy, mut delivery: Delivery, why: &str) {
        let event = delivery.event.event_id.clone();
        if self.traces() {
            self.say(&format!("{:?} cannot take {event}: {why}", copy.service));
        }
        let tries = self.kept(copy.service).failures.entry(event.clone()).or_default();
        *tries += 1;
        if *tries >= TRIES_MAX {
            self.witness.accuse(format!("{:?} set {event} aside: {why}", copy.service));
            return;
        }
        delivery.not_before = self.now + Duration::from_millis(200);
        self.bus.waiting.push(delivery);
    }

    /// Notes that an event was taken, to be confirmed to its sender.
    fn acknowledge(&mut self, copy: Copy, delivery: &Delivery) {
        let event = &delivery.event.event_id;
        let sender = self.witness.senders.get(event).copied().unwrap_or(Service::Instance);
        self.confirmations.push((copy, sender, event.clone(), delivery.receiver));
    }

    /// Something was decided, and is written now, or later, or never.
    pub(crate) fn take_off(&mut self, copy: Copy, work: Work, pending: Pending) {
        if self.bug == Some(Bug::PublishBeforeCommit) {
            let early: Vec<Arc<Event>> = match &pending {
                Pending::Engine(transition) => transition.outbox().iter().map(|(_, it)| it.clone()).collect(),
                Pending::Desk(write) => write.outbox().iter().map(|(_, event)| event.clone()).collect(),
                Pending::Shelf(_) | Pending::People(_) | Pending::Mail(_) | Pending::Nothing => Vec::new(),
            };
            for event in early {
                self.publish(copy.service, &event);
            }
        }
        let flight = Flight { copy, work, pending };
        if !self.calm && self.chance.below(1_000) < self.plan.linger {
            self.flights.push(flight);
        } else {
            self.land(flight);
        }
    }

    /// Something that was decided a while ago is written.
    pub(crate) fn fly(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let flight = self.flights.swap_remove(self.chance.below(self.flights.len()));
        self.land(flight);
    }

    /// Writes what was decided, and does what comes after.
    fn land(&mut self, flight: Flight) {
        let Flight { copy, work, pending } = flight;
        let mut lapsed = false;
        let done = match pending {
            Pending::Engine(transition) => self.engine_commit(copy.number, *transition),
            Pending::Desk(write) => {
                lapsed = write.lapsed;
                self.desk_commit(*write)
            }
            Pending::Shelf(storing) => self.shelf_commit(*storing),
            Pending::People(changing) => self.people_commit(*changing),
            Pending::Mail(noting) => self.mail_commit(*noting),
            Pending::Nothing => Ok(Answer::Done(String::new())),
        };
        let word = match &done {
            Ok(Answer::Done(what)) => what.clone(),
            Ok(Answer::Refused(why)) => format!("refused: {why}"),
            Err(conflict) => format!("{conflict:?}"),
        };
        match work {
            Work::Sent(position) => {
                let now = self.now;
                self.kept(copy.service).sent(position, now);
            }
            Work::Own(what) => {
                if self.traces() {
                    self.say(&format!("{:?} {}: {what}: {word}", copy.service, copy.number));
                }
            }
            Work::Event(delivery) => {
                if self.traces() {
                    let (event, what) = (&delivery.event.event_id, kind(&delivery.event));
                    self.say(&format!("{:?} {} takes {event} {what} {word}", copy.service, copy.number));
                }
                match done {
                    Ok(_) => {
                        self.cover.events += 1;
                        self.acknowledge(copy, &delivery);
                    }
                    Err(Conflict::Seen) => {
                        self.cover.note("an event comes again and changes nothing");
                        self.acknowledge(copy, &delivery);
                    }
                    Err(Conflict::Stale | Conflict::Raced | Conflict::Lease | Conflict::Exists) => {
                        self.cover.note("two copies race");
                        self.take_event(copy, delivery);
                    }
                }
            }
            Work::Call(call) => match done {
                Ok(_) if lapsed => self.handle(call, copy.number),
                Ok(answer) => self.reply(call, answer),
                Err(Conflict::Stale | Conflict::Raced | Conflict::Seen) => {
                    self.cover.note("two copies race");
                    self.handle(call, copy.number);
                }
                Err(Conflict::Lease) => self.reply(call, Answer::Refused("LeaseLost".to_owned())),
                Err(Conflict::Exists) => self.exists(call),
            },
        }
    }

    /// Whoever took the id may have been the same request.
    fn exists(&mut self, call: u64) {
        let kept = self.calls.get(&call).map(|call| self.engine.kept.answer(&call.once));
        let answer = match kept {
            Some(Ok(Some(answer)) | Err(answer)) => answer,
            Some(Ok(None)) | None => Answer::Refused("Exists".to_owned()),
        };
        self.reply(call, answer);
    }

    /// Timers of requests, and leases whose time is over.
    pub(crate) fn timers(&mut self) {
        let early = if self.bug == Some(Bug::EarlyTimer) { EARLY } else { Duration::ZERO };
        let now = self.now;
        let due = self.desk.timers.iter().filter(|(_, timer)| timer.due_at <= now + early && !timer.paused);
        let due: Vec<ApprovalId> = due.map(|(id, _)| id.clone()).collect();
        for id in due {
            self.elapse(&id);
        }
        let early = if self.bug == Some(Bug::EarlyExpiry) { Duration::from_secs(5) } else { Duration::ZERO };
        let mut over: Vec<(InstanceId, TaskId, u64)> = Vec::new();
        for (instance, row) in &self.engine.rows {
            let ended =
                row.leases.iter().filter(|(_, lease)| lease.ends_at.is_some_and(|at| at <= now + early));
            over.extend(ended.map(|(task, lease)| (instance.clone(), task.clone(), lease.fencing)));
        }
        for (instance, task, fencing) in over {
            let jitter = if self.chance.percent(50) { 1.0 } else { 0.0 };
            let action = Action::ExpireLease { task: task.clone(), fencing, jitter };
            let mut order = Order::new(&instance, By::Somebody(Actor::engine()), action);
            order.guard = Some(Guard::Over(task.clone(), fencing));
            let copy = Copy { service: Service::Instance, number: self.chance.below(2) };
            if let Prepared::Write(transition) = self.engine_prepare(copy.number, &order) {
                let what = format!("the lease #{fencing} of {task} in {instance} is over");
                self.take_off(copy, Work::Own(what), Pending::Engine(transition));
            }
        }
    }

    fn elapse(&mut self, id: &ApprovalId) {
        let Some(record) = self.desk.load(id) else { return };
        // For an instance that was put on hold after the claim no time passes.
        if record.instance == phasegate_approval::domain::InstanceCondition::Paused {
            return;
        }
        let copy = Copy { service: Service::Approval, number: self.chance.below(2) };
        let command = phasegate_approval::domain::Command::Elapse;
        if let Prepared::Write(write) = self.desk_step(&record, &command, None) {
            self.take_off(copy, Work::Own(format!("a timer of {id} is due")), Pending::Desk(write));
        }
    }

    /// Messages that are due are handed to the mail server.
    pub(crate) fn post(&mut self) {
        for id in self.mail_due() {
            let busy = self.flights.iter().any(|flight| match &flight.pending {
                Pending::Mail(noting) => noting.is_about(&id),
                Pending::Engine(_)
                | Pending::Desk(_)
                | Pending::Shelf(_)
                | Pending::People(_)
                | Pending::Nothing => false,
            });
            if busy {
                continue;
            }
            if let Prepared::Write(noting) = self.mail_try(&id) {
                let copy = Copy { service: Service::Notification, number: self.chance.below(2) };
                if !self.calm && self.chance.below(1_000) < self.plan.mail_lost {
                    self.cover.fault("the mail server takes a message and its answer is lost");
                    continue;
                }
                self.take_off(copy, Work::Own(format!("message {id}")), Pending::Mail(noting));
            }
        }
    }

    /// Instances that have not ended.
    pub(crate) fn going_on(&self) -> Vec<InstanceId> {
        let going_on = self.engine.rows.iter().filter(|(_, row)| !row.state.status.is_terminal());
        going_on.map(|(id, _)| id.clone()).collect()
    }

    /// Calls that have no answer yet.
    pub(crate) fn open_calls(&self) -> Vec<u64> {
        let flying: BTreeSet<u64> = self
            .flights
            .iter()
            .filter_map(|flight| if let Work::Call(call) = flight.work { Some(call) } else { None })
            .collect();
        let open = self.calls.iter().filter(|(id, call)| call.answer.is_none() && !flying.contains(id));
        open.map(|(id, _)| *id).collect()
    }

    /// A copy of the service that a call is for takes it.
    pub(crate) fn handle(&mut self, id: u64, number: usize) {
        let Some(call) = self.calls.get(&id).cloned() else { return };
        let copy = Copy { service: call.body.service(), number };
        let outcome = match &call.body {
            Body::Engine(order) => {
                let mut order = order.clone();
                order.once = call.is_repeatable.then(|| call.once.clone());
                self.engine_call(number, order).map(Pending::Engine)
            }
            Body::Beat { instance, task, fencing } => Outcome::Answered(self.beat(instance, task, *fencing)),
            Body::Store(put) => self.shelf_prepare(put, &call.once).map(Pending::Shelf),
            Body::Link(doing) => self.people_prepare(doing, Some(&call.once)).map(Pending::People),
            Body::Ask(ask) => self.desk_ask(ask, &call.once).map(Pending::Desk),
            Body::Decide(decision) => self.desk_decide(decision, &call.once).map(Pending::Desk),
            Body::Withdraw(approval) => self.desk_withdraw(approval, &call.once).map(Pending::Desk),
        };
        match outcome {
            Outcome::Answered(answer) => self.reply(id, answer),
            Outcome::Write(pending) => self.take_off(copy, Work::Call(id), pending),
            Outcome::NotYet(_) => self.unanswered(id),
            Outcome::Poison(why) => self.reply(id, Answer::Refused(why)),
        }
    }

    fn engine_call(&mut self, number: usize, mut order: Order) -> Prepared<Transition> {
        if self.bug == Some(Bug::NoFence) {
            let tasks = self.engine.rows.get(&order.instance).map(|row| row.state.tasks.clone());
            let now_out = |task: &TaskId| tasks.as_ref().and_then(|all| all.get(task)).map(|one| one.fencing);
            for action in &mut order.actions {
                if let Action::HandIn { task, fencing, .. }
                | Action::Fail { task, fencing, .. }
                | Action::Release { task, fencing, .. } = action
                {
                    *fencing = now_out(task).unwrap_or(*fencing);
                }
            }
        }
        let prepared = self.engine_prepare(number, &order);
        match prepared {
            Prepared::Write(mut transition) if self.bug == Some(Bug::RequestRunsAgain) => {
                transition.forget_answer();
                Prepared::Write(transition)
            }
            prepared => prepared,
        }
    }
}

/// What a preparation came to, whatever the service.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered(Answer),
    Write(Pending),
    NotYet(String),
    Poison(String),
}

impl<T> Prepared<T> {
    /// Puts what is to be written where all of it is put.
    pub(crate) fn map(self, put: impl FnOnce(Box<T>) -> Pending) -> Outcome {
        match self {
            Self::Answered(answer) => Outcome::Answered(answer),
            Self::Write(what) => Outcome::Write(put(what)),
            Self::NotYet(why) => Outcome::NotYet(why),
            Self::Poison(why) => Outcome::Poison(why),
        }
    }
}

/// The name of an event.
pub(crate) fn kind(event: &Event) -> String {
    event.payload.as_ref().map(crate::engine::variant).unwrap_or_default()
}
