//! What a copy of a service is at: it has decided something, and writes it now, or later, or never.

use std::sync::Arc;
use std::time::Duration;

use phasegate_id::TaskId;
use phasegate_instance::domain::Action;
use phasegate_proto::internal::event::v1::Event;

use crate::bug::Bug;
use crate::bus::Delivery;
use crate::client::{Body, Call};
use crate::engine::{Order, Prepared, Transition};
use crate::kept::{Answer, Conflict};
use crate::mail::Noting;
use crate::people::Changing;
use crate::shelf::Storing;
use crate::world::{Copy, World, kind};

/// What failed for a reason that passes is tried again after so long.
pub(crate) const RETRIED_AFTER: Duration = Duration::from_millis(200);

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

/// What a preparation came to, whatever the service.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered(Answer),
    Write(Pending),
    NotYet,
    Poison(String),
}

impl Flight {
    /// Whether somebody is handing this message to the mail server.
    pub(crate) fn is_about_message(&self, id: &str) -> bool {
        match &self.pending {
            Pending::Mail(noting) => noting.is_about(id),
            Pending::Engine(_)
            | Pending::Desk(_)
            | Pending::Shelf(_)
            | Pending::People(_)
            | Pending::Nothing => false,
        }
    }
}

impl<T> Prepared<T> {
    /// Puts what is to be written where all of it is put.
    pub(crate) fn map(self, put: impl FnOnce(Box<T>) -> Pending) -> Outcome {
        match self {
            Self::Answered(answer) => Outcome::Answered(answer),
            Self::Write(what) => Outcome::Write(put(what)),
            Self::NotYet => Outcome::NotYet,
            Self::Poison(why) => Outcome::Poison(why),
        }
    }
}

impl World {
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
        self.by_clock_of(flight.copy, |world| world.write(flight));
    }

    fn write(&mut self, flight: Flight) {
        let Flight { copy, work, pending } = flight;
        let is_in_doubt = !self.calm && self.chance.below(1_000) < self.plan.doubt;
        let remembered = is_in_doubt.then(|| self.caches.clone());
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
        if let Some(remembered) = remembered
            && done.is_ok()
        {
            self.caches = remembered;
            self.nobody_knows(work);
            return;
        }
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
                        self.taken(copy, &delivery);
                    }
                    Err(Conflict::Seen) => {
                        self.cover.note("an event comes again and changes nothing");
                        self.taken(copy, &delivery);
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

    /// The connection was lost over a commit: it took effect, and who wrote it does not know.
    fn nobody_knows(&mut self, work: Work) {
        self.cover.fault("nobody learns whether a commit took effect");
        match work {
            Work::Call(call) => self.unanswered(call),
            Work::Event(mut delivery) => {
                delivery.not_before = self.now + RETRIED_AFTER;
                self.bus.waiting.push(delivery);
            }
            Work::Own(_) | Work::Sent(_) => {}
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

    /// A copy of the service that a call is for takes it.
    pub(crate) fn handle(&mut self, id: u64, number: usize) {
        let Some(call) = self.calls.get(&id).cloned() else { return };
        let copy = Copy { service: call.body.service(), number };
        self.by_clock_of(copy, |world| world.take_call(id, &call, copy));
    }

    fn take_call(&mut self, id: u64, call: &Call, copy: Copy) {
        let number = copy.number;
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
            Outcome::NotYet => self.unanswered(id),
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
        let mut prepared = self.engine_prepare(number, &order);
        if let Prepared::Write(transition) = &mut prepared
            && self.bug == Some(Bug::RequestRunsAgain)
        {
            transition.forget_answer();
        }
        prepared
    }
}
