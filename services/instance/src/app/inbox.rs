//! Takes the events of the other services: each becomes part of the record, once, and has its consequences.

use std::sync::Arc;

use futures::future::BoxFuture;
use phasegate_bus::{HandleError, Handler, is_note};
use phasegate_proto::internal::event::v1::Event;
use phasegate_proto::internal::event::v1::event::Payload;

use super::execute::{By, Order, Step, Wish};
use super::hear::{self, Heard};
use super::{App, CONSUMER, Error};
use crate::domain::{Action, Actor};
use crate::store;

/// The engine's ear.
#[derive(Debug, Clone)]
pub(crate) struct Inbox(pub(crate) App);

impl Handler for Inbox {
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move {
            match hear::read(&event).map_err(HandleError::Poison)? {
                Some(heard) => self.take(&event, heard).await,
                None => Ok(()),
            }
        })
    }

    fn together(&self, events: &[Arc<Event>]) -> usize {
        let mut speaker = None;
        let mut count = 0;
        for event in events {
            let fits = match kind(event) {
                Kind::Note => true,
                Kind::Word => *speaker.get_or_insert(&event.actor) == &event.actor,
                Kind::Other => false,
            };
            if !fits {
                break;
            }
            count += 1;
        }
        count.max(1)
    }

    fn handle_together(&self, events: Vec<Arc<Event>>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move {
            let mut orders = Vec::with_capacity(events.len());
            let mut of = None;
            for event in &events {
                let heard = hear::read(event).map_err(HandleError::Poison)?;
                let heard =
                    heard.ok_or_else(|| HandleError::Poison("it is not for the record".to_owned()))?;
                orders.push((kind(event), order(event, &heard)));
                of = Some((event.tenant_id.clone(), heard.instance_id));
            }
            let Some((tenant, instance)) = of else { return Ok(()) };
            match self.0.execute(&tenant, &instance, &joined(orders), None).await {
                Ok(_) => Ok(()),
                Err(error) => Err(refused(error)),
            }
        })
    }
}

impl Inbox {
    async fn take(&self, event: &Event, heard: Heard) -> Result<(), HandleError> {
        let order = order(event, &heard);
        match self.0.execute(&event.tenant_id, &heard.instance_id, &order, None).await {
            Ok(_) | Err(Error::Seen) => Ok(()),
            Err(error) => Err(refused(error)),
        }
    }
}

/// What an event is to those beside it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It goes into the record, and nothing follows from it.
    Note,
    /// Others are told what follows from it, and who said it.
    Word,
    /// It is taken by itself.
    Other,
}

fn kind(event: &Event) -> Kind {
    match &event.payload {
        Some(payload) if is_note(payload) => Kind::Note,
        Some(Payload::ApprovalsRequested(asked)) if asked.hold_id.is_empty() => Kind::Word,
        Some(Payload::ApprovalResponded(_) | Payload::ApprovalSettled(_) | Payload::ApprovalReminded(_)) => {
            Kind::Word
        }
        Some(_) | None => Kind::Other,
    }
}

/// One order of several, whose steps each have the actor of their own. What follows is by the one who said a word.
fn joined(orders: Vec<(Kind, Order)>) -> Order {
    let mut joined = Order::of(By::Somebody(Actor::engine()), Vec::new());
    let mut has_word = false;
    for (kind, order) in orders {
        if let By::Somebody(actor) = &order.by {
            if !has_word {
                joined.by = By::Somebody(actor.clone());
            }
            has_word |= kind == Kind::Word;
            let actor = actor.clone();
            joined
                .steps
                .extend(order.steps.into_iter().map(|step| Step { actor: Some(actor.clone()), ..step }));
        }
        joined.inbox.extend(order.inbox);
    }
    joined
}

/// One step for each fact. The first keeps the id of the event; others have theirs derived from it.
pub(super) fn order(event: &Event, heard: &Heard) -> Order {
    let steps = heard.facts.iter().enumerate().map(|(position, (fact, personal))| {
        let id = &event.event_id;
        let (fact, at) = (fact.clone(), heard.at);
        Step {
            action: Wish::fixed(if heard.again {
                Action::HearAgain { fact, at }
            } else {
                Action::Hear { fact, at }
            }),
            personal: personal.clone(),
            actor: None,
            event_id: Some(if position == 0 { id.clone() } else { format!("{id}-{}", position + 1) }),
        }
    });
    let mut order = Order::of(By::Somebody(heard.actor.clone()), steps.collect());
    order.written.clone_from(&heard.written);
    order.inbox = vec![store::Inbox { consumer: CONSUMER, event_id: event.event_id.clone() }];
    order
}

/// What passes is tried again; what lies in the event is not.
fn refused(error: Error) -> HandleError {
    let text = error.to_string();
    match error {
        Error::Busy | Error::Draining | Error::Peer(_) => HandleError::Transient(text),
        Error::Store(error) if error.is_transient() => HandleError::Transient(text),
        Error::Store(_)
        | Error::NotFound(_)
        | Error::Rejected(_)
        | Error::QueueForbidden(_)
        | Error::LeaseLost { .. }
        | Error::Exists(_)
        | Error::Invalid(_)
        | Error::Faults(_)
        | Error::ContextSchema(_)
        | Error::ContextTooLarge { .. }
        | Error::OutputTooLarge { .. }
        | Error::RequestIdReused(_)
        | Error::RequestInProgress(_)
        | Error::Seen
        | Error::Broken(_) => HandleError::Poison(text),
    }
}
