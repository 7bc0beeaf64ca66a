//! The bus of one process: an event is published once its receivers have taken it.

use std::sync::{Arc, PoisonError, RwLock};

use phasegate_proto::internal::event::v1::Event;

use crate::{HandleError, Handler, Receiver, take};

#[derive(Clone, Default)]
pub(crate) struct Local {
    subscribers: Arc<RwLock<Vec<Subscriber>>>,
}

#[derive(Clone)]
struct Subscriber {
    /// None hears everything.
    receiver: Option<Receiver>,
    handler: Arc<dyn Handler>,
}

impl Local {
    pub(crate) fn subscribe(&self, receiver: Option<Receiver>, handler: Arc<dyn Handler>) {
        let mut subscribers = self.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        subscribers.push(Subscriber { receiver, handler });
    }

    pub(crate) async fn publish(&self, event: Arc<Event>) -> Result<(), HandleError> {
        let receivers = event.payload.as_ref().map_or(&[][..], Receiver::of);
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut poison = None;
        let mut transient = None;
        for subscriber in subscribers {
            if subscriber.receiver.is_some_and(|receiver| !receivers.contains(&receiver)) {
                continue;
            }
            let name = subscriber.receiver.map_or("a listener", Receiver::name);
            match take(subscriber.handler.as_ref(), Arc::clone(&event)).await {
                Ok(()) => {}
                Err(HandleError::Poison(error)) => poison = Some(format!("{name}: {error}")),
                Err(HandleError::Transient(error)) => transient = Some(format!("{name}: {error}")),
            }
        }
        match (transient, poison) {
            (Some(error), _) => Err(HandleError::Transient(error)),
            (None, Some(error)) => Err(HandleError::Poison(error)),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::BoxFuture;
    use phasegate_proto::internal::event::v1::{InstanceEnded, event::Payload};

    use super::*;
    use crate::{Bus, Delivery};

    struct Counting(AtomicUsize, Result<(), HandleError>);

    impl Handler for Counting {
        fn handle(&self, _event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { self.1.clone() })
        }
    }

    struct Panicking;

    impl Handler for Panicking {
        fn handle(&self, _event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
            Box::pin(async { panic!("out of order") })
        }
    }

    fn counting(answer: Result<(), HandleError>) -> Arc<Counting> {
        Arc::new(Counting(AtomicUsize::new(0), answer))
    }

    fn ended() -> Arc<Event> {
        Arc::new(Event {
            payload: Some(Payload::InstanceEnded(InstanceEnded::default())),
            ..Event::default()
        })
    }

    #[tokio::test]
    async fn everybody_gets_every_event_even_when_one_fails() {
        let bus = Bus::local();
        let failing = counting(Err(HandleError::Transient("away".into())));
        let fine = counting(Ok(()));
        bus.subscribe(Receiver::Approval, failing.clone());
        bus.subscribe(Receiver::Notification, fine.clone());
        let answer = bus.publish("instance", ended()).await;
        assert_eq!(answer, Err(HandleError::Transient("approval: away".into())));
        assert_eq!(fine.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_panic_is_poison() {
        let bus = Bus::local();
        bus.subscribe(Receiver::Approval, Arc::new(Panicking));
        let fine = counting(Ok(()));
        bus.subscribe(Receiver::Participant, fine.clone());
        assert!(matches!(bus.publish("instance", ended()).await, Err(HandleError::Poison(_))));
        assert_eq!(fine.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn nobody_gets_what_is_for_others() {
        let bus = Bus::local();
        let engine = counting(Ok(()));
        let listener = counting(Ok(()));
        bus.subscribe(Receiver::Instance, engine.clone());
        bus.overhear(listener.clone());
        assert_eq!(bus.publish("instance", ended()).await, Ok(Delivery::Taken));
        assert_eq!(engine.0.load(Ordering::SeqCst), 0);
        assert_eq!(listener.0.load(Ordering::SeqCst), 1);
    }
}
