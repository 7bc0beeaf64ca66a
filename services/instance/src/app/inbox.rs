//! Takes the events of the other services: each becomes part of the record, once, and has its consequences.

use std::sync::Arc;

use futures::future::BoxFuture;
use phasegate_bus::{HandleError, Handler};
use phasegate_proto::internal::event::v1::Event;

use super::execute::{By, Order, Step, Wish};
use super::hear::{self, Heard};
use super::{App, CONSUMER, Error};
use crate::domain::Action;
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
            event_id: Some(if position == 0 { id.clone() } else { format!("{id}-{}", position + 1) }),
        }
    });
    let mut order = Order::of(By::Somebody(heard.actor.clone()), steps.collect());
    order.written.clone_from(&heard.written);
    order.inbox = Some(store::Inbox { consumer: CONSUMER, event_id: event.event_id.clone() });
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
