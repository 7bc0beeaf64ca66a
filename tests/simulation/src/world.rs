//! Everything there is, and the one hand that moves it: one thing happens after the other, each drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use phasegate_bus::Receiver;
use phasegate_clock::Timestamp;
use phasegate_id::InstanceId;
use phasegate_instance::domain::Instance;
use phasegate_instance::unwired::Script;
use phasegate_properties::chance::Chance;
use phasegate_proto::internal::event::v1::Event;

use crate::bug::Bug;
use crate::bus::Bus;
use crate::client::{Call, Client};
use crate::cover::Cover;
use crate::desk::Desk;
use crate::engine::Engine;
use crate::flight::{Flight, Work};
use crate::kept::Kept;
use crate::mail::Mail;
use crate::people::People;
use crate::plan::Plan;
use crate::shelf::Shelf;
use crate::witness::Witness;

/// The only tenant.
pub(crate) const TENANT: &str = "default";
/// By how much a planted timer is early.
pub(crate) const EARLY: Duration = Duration::from_secs(2);
/// When every seed begins, in microseconds.
const BEGIN: i64 = 1_700_000_000_000_000;
/// Steps, of a thousand, at which an operator has receivers try anew what was set aside.
const REPLAY: usize = 5;
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
    /// Events that a service cannot take.
    pub(crate) poisoned: BTreeSet<(Service, String)>,
    /// By how many microseconds the clock of each copy is ahead.
    skews: [[i64; 2]; Service::ALL.len()],
    /// What the right time is, while something is done by the clock of a copy.
    right: Option<Timestamp>,
    /// What happened, for whoever reads a failure; nothing is written while nobody will read it.
    trace: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, traces: bool) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::draw(&mut chance);
        let skews = Service::ALL.map(|_| [(); 2].map(|()| skew(&mut chance, plan.skew)));
        let scripts = (0..2).map(|number| crate::wish::script(&mut chance, &plan, number)).collect();
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
            poisoned: BTreeSet::new(),
            skews,
            right: None,
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
        if self.chance.below(1_000) < self.plan.rollback {
            self.roll_back();
        }
        if self.chance.below(1_000) < REPLAY {
            self.replay();
        }
        match self.chance.below(100) {
            0..26 => self.client_acts(),
            26..46 => self.fly(),
            46..66 => self.deliver(),
            66..78 => self.relay(),
            78..84 => self.confirm(),
            84..87 => {
                self.send_again();
                self.try_anew();
            }
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
        if self.kept(service).has_unsent() {
            self.cover.fault("a copy dies between writing and sending");
        }
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

    /// A copy of a service, any.
    pub(crate) fn some_copy(&mut self, service: Service) -> Copy {
        Copy { service, number: self.chance.below(2) }
    }

    /// Does something by the clock of a copy, which is ahead or behind while there are troubles.
    pub(crate) fn by_clock_of<T>(&mut self, copy: Copy, does: impl FnOnce(&mut Self) -> T) -> T {
        let outside = (self.now, self.right);
        let right = self.right.unwrap_or(self.now);
        let skew = if self.calm { 0 } else { self.skews[copy.service as usize][copy.number] };
        self.right = Some(right);
        self.now = Timestamp::from_micros(right.as_micros() + skew);
        let done = does(self);
        (self.now, self.right) = outside;
        done
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
}

/// By how much a clock is wrong.
fn skew(chance: &mut Chance, millis_max: usize) -> i64 {
    let millis = i64::try_from(chance.below(millis_max + 1)).unwrap_or_default();
    let micros = millis * 1_000;
    if chance.percent(50) { -micros } else { micros }
}

/// The name of an event.
pub(crate) fn kind(event: &Event) -> String {
    event.payload.as_ref().map(crate::engine::variant).unwrap_or_default()
}
