//! What goes between the services: relays send, the bus carries, receivers take and confirm.

use std::sync::Arc;

use phasegate_bus::Receiver;
use phasegate_instance::domain::Action;
use phasegate_instance::unwired::hear;
use phasegate_proto::internal::event::v1::Event;

use crate::bug::Bug;
use crate::bus::Delivery;
use crate::engine::{By, Order, Prepared, Transition};
use crate::flight::{Outcome, Pending, RETRIED_AFTER, Work};
use crate::kept::{Answer, TRIES_MAX};
use crate::people::Doing;
use crate::world::{Copy, Service, World, kind};

impl World {
    /// A relay of some service takes an event to the bus.
    pub(crate) fn relay(&mut self) {
        let service = Service::ALL[self.chance.below(Service::ALL.len())];
        self.relay_of(service);
    }

    /// True when there was something to send.
    pub(crate) fn relay_of(&mut self, service: Service) -> bool {
        let copy = self.some_copy(service);
        self.by_clock_of(copy, |world| world.relays(copy))
    }

    fn relays(&mut self, copy: Copy) -> bool {
        let (now, service) = (self.now, copy.service);
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
        for service in Service::ALL {
            let copy = self.some_copy(service);
            self.by_clock_of(copy, |world| {
                let now = world.now;
                for event in world.kept(service).overdue(now) {
                    world.cover.note("an unconfirmed event is sent again");
                    world.publish(service, &event);
                }
            });
        }
    }

    /// The bus is set back to what it was a while ago: what was taken long since comes once more.
    pub(crate) fn roll_back(&mut self) {
        let service = Service::ALL[self.chance.below(Service::ALL.len())];
        let sent = self.kept(service).outbox.values().filter(|row| row.sent);
        let sent: Vec<Arc<Event>> = sent.map(|row| Arc::clone(&row.event)).collect();
        if sent.is_empty() {
            return;
        }
        self.say("the bus is set back");
        self.cover.fault("the bus is set back");
        for _ in 0..self.chance.between(1, 6) {
            let event = Arc::clone(&sent[self.chance.below(sent.len())]);
            self.publish(service, &event);
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
        let copy = self.some_copy(Service::of(delivery.receiver));
        if self.bug == Some(Bug::AckBeforeCommit) {
            self.acknowledge(copy, &delivery);
        }
        if !self.calm && self.chance.below(1_000) < self.plan.hiccup {
            self.cover.fault("a receiver cannot take an event for a moment");
            self.not_yet(copy, delivery);
            return;
        }
        if !self.calm && self.chance.below(1_000) < self.plan.poison {
            self.cover.fault("a receiver cannot take an event at all");
            self.poisoned.insert((copy.service, delivery.event.event_id.clone()));
        }
        self.by_clock_of(copy, |world| world.take_event(copy, delivery));
    }

    pub(crate) fn take_event(&mut self, copy: Copy, delivery: Delivery) {
        let event = Arc::clone(&delivery.event);
        if self.kept(copy.service).is_set_aside(&event.event_id) {
            self.acknowledge(copy, &delivery);
            return;
        }
        if self.is_poisoned(copy.service, &event.event_id) {
            self.poison(copy, delivery, "the receiver has a mistake");
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
            Outcome::Answered(Answer::Done(_)) => self.taken(copy, &delivery),
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
            Outcome::NotYet => self.not_yet(copy, delivery),
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
        delivery.not_before = self.now + RETRIED_AFTER;
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
            if self.is_poisoned(copy.service, &event) {
                self.cover.note("an event is set aside");
                self.acknowledge(copy, &delivery);
                self.kept(copy.service).letters.insert(event, delivery);
            } else {
                self.witness.accuse(format!("{:?} set {event} aside: {why}", copy.service));
            }
            return;
        }
        delivery.not_before = self.now + RETRIED_AFTER;
        self.bus.waiting.push(delivery);
    }

    fn is_poisoned(&self, service: Service, event: &str) -> bool {
        self.poisoned.contains(&(service, event.to_owned()))
    }

    /// The receivers are mended, and an operator has them try anew what was set aside.
    pub(crate) fn replay(&mut self) {
        if Service::ALL.into_iter().all(|service| self.kept(service).letters.is_empty()) {
            return;
        }
        self.poisoned.clear();
        for service in Service::ALL {
            self.kept(service).want_letters();
        }
    }

    /// Receivers try anew what an operator wants them to, until they have taken it.
    pub(crate) fn try_anew(&mut self) {
        for service in Service::ALL {
            let now = self.now;
            for delivery in self.kept(service).letters_due(now) {
                self.cover.note("an event that was set aside is tried anew");
                let copy = self.some_copy(service);
                self.by_clock_of(copy, |world| world.take_event(copy, delivery));
            }
        }
    }

    /// Notes that an event was taken: it is no dead letter any more, and is to be confirmed.
    pub(crate) fn taken(&mut self, copy: Copy, delivery: &Delivery) {
        self.kept(copy.service).forget_letter(&delivery.event.event_id);
        self.acknowledge(copy, delivery);
    }

    /// Notes that an event was taken, to be confirmed to its sender.
    pub(crate) fn acknowledge(&mut self, copy: Copy, delivery: &Delivery) {
        let event = &delivery.event.event_id;
        let sender = self.witness.senders.get(event).copied().unwrap_or(Service::Instance);
        self.confirmations.push((copy, sender, event.clone(), delivery.receiver));
    }
}
