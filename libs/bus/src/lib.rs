//! Carries events between services: in process here, for `phasegate dev`. Every subscriber gets every event and answers
//! once its effect is durable; only then does the sender's relay call the event sent. What events mean is never here.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use phasegate_proto::internal::event::v1::Event;

/// Receives events.
pub trait Handler: Send + Sync {
    /// Takes one event. Returns once the effect is durable. Called at least once for every event, and must tolerate twice.
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>>;
}

/// Why an event was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// Something that passes: a database or a service that is away. Tried again for as long as it takes.
    #[error("not taken yet: {0}")]
    Transient(String),
    /// Something about the event itself. Set aside after a bounded number of tries.
    #[error("cannot be taken: {0}")]
    Poison(String),
}

/// The bus of one process.
#[derive(Clone, Default)]
pub struct Bus {
    subscribers: Arc<RwLock<Vec<Subscriber>>>,
}

#[derive(Clone)]
struct Subscriber {
    name: &'static str,
    handler: Arc<dyn Handler>,
}

impl Bus {
    /// A bus without subscribers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a subscriber. It gets what is published from now on.
    pub fn subscribe(&self, name: &'static str, handler: Arc<dyn Handler>) {
        let mut subscribers = self.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        subscribers.push(Subscriber { name, handler });
    }

    /// Gives an event to every subscriber, and returns once all have taken it. Where some have not, the worst answer
    /// counts, and the event comes again to all: a transient one before a poisonous one, which may be its consequence.
    pub async fn publish(&self, event: Event) -> Result<(), HandleError> {
        let event = Arc::new(event);
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut poison = None;
        let mut transient = None;
        for subscriber in subscribers {
            match subscriber.take(Arc::clone(&event)).await {
                Ok(()) => {}
                Err(HandleError::Poison(error)) => poison = Some(format!("{}: {error}", subscriber.name)),
                Err(HandleError::Transient(error)) => {
                    transient = Some(format!("{}: {error}", subscriber.name));
                }
            }
        }
        match (transient, poison) {
            (Some(error), _) => Err(HandleError::Transient(error)),
            (None, Some(error)) => Err(HandleError::Poison(error)),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(subscribers.iter().map(|subscriber| subscriber.name)).finish()
    }
}

impl Subscriber {
    /// A handler that panics has met a poisonous event; the relay goes on.
    async fn take(&self, event: Arc<Event>) -> Result<(), HandleError> {
        let taken = AssertUnwindSafe(self.handler.handle(event)).catch_unwind().await;
        taken.unwrap_or_else(|_| Err(HandleError::Poison("the handler panicked".to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

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

    #[tokio::test]
    async fn everybody_gets_every_event_even_when_one_fails() {
        let bus = Bus::new();
        let failing = counting(Err(HandleError::Transient("away".into())));
        let fine = counting(Ok(()));
        bus.subscribe("failing", failing.clone());
        bus.subscribe("fine", fine.clone());
        let answer = bus.publish(Event::default()).await;
        assert_eq!(answer, Err(HandleError::Transient("failing: away".into())));
        assert_eq!(fine.0.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_panic_is_poison() {
        let bus = Bus::new();
        bus.subscribe("panicking", Arc::new(Panicking));
        let fine = counting(Ok(()));
        bus.subscribe("fine", fine.clone());
        assert!(matches!(bus.publish(Event::default()).await, Err(HandleError::Poison(_))));
        assert_eq!(fine.0.load(Ordering::SeqCst), 1);
    }
}
