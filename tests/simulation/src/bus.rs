//! The bus: it may lose, repeat, reorder and delay, and forget everything at any time.

use std::sync::Arc;
use std::time::Duration;

use phasegate_bus::Receiver;
use phasegate_clock::Timestamp;
use phasegate_properties::chance::Chance;
use phasegate_proto::internal::event::v1::Event;

use crate::cover::Cover;
use crate::plan::Plan;

/// An event on its way to one receiver.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) event: Arc<Event>,
    pub(crate) receiver: Receiver,
    pub(crate) not_before: Timestamp,
    /// Tries that failed for a reason that passes.
    pub(crate) tries: u32,
}

/// What is on its way.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    pub(crate) waiting: Vec<Delivery>,
}

impl Bus {
    /// Takes an event for its receivers; `plan` says what goes wrong, unless nothing does any more.
    pub(crate) fn publish(
        &mut self,
        event: &Arc<Event>,
        now: Timestamp,
        plan: Option<&Plan>,
        chance: &mut Chance,
        cover: &mut Cover,
    ) {
        let receivers = event.payload.as_ref().map_or(&[][..], Receiver::of);
        for receiver in receivers {
            let mut delivery =
                Delivery { event: Arc::clone(event), receiver: *receiver, not_before: now, tries: 0 };
            let Some(plan) = plan else {
                self.waiting.push(delivery);
                continue;
            };
            if chance.below(1_000) < plan.lose {
                cover.fault("an event is lost");
                continue;
            }
            if chance.below(1_000) < plan.delay {
                cover.fault("an event is late");
                let millis = u64::try_from(chance.between(500, 20_000)).unwrap_or_default();
                delivery.not_before = now + Duration::from_millis(millis);
            }
            if chance.below(1_000) < plan.repeat {
                cover.fault("an event comes twice");
                self.waiting.push(delivery.clone());
            }
            self.waiting.push(delivery);
        }
    }

    /// Hands out one event that is due: the oldest one, or any.
    pub(crate) fn take(
        &mut self,
        now: Timestamp,
        plan: Option<&Plan>,
        chance: &mut Chance,
        cover: &mut Cover,
    ) -> Option<Delivery> {
        let due = self.waiting.iter().enumerate().filter(|(_, delivery)| delivery.not_before <= now);
        let due: Vec<usize> = due.map(|(place, _)| place).collect();
        let first = *due.first()?;
        let place = match plan {
            Some(plan) if due.len() > 1 && chance.below(1_000) < plan.reorder => {
                let place = due.get(chance.below(due.len())).copied().unwrap_or(first);
                if place != first {
                    cover.fault("events come out of order");
                }
                place
            }
            Some(_) | None => first,
        };
        Some(self.waiting.remove(place))
    }

    /// When something that is on its way comes next.
    pub(crate) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.waiting.iter().map(|delivery| delivery.not_before).filter(|due| *due > now).min()
    }
}
