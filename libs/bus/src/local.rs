//! The bus of one process: events are published once their receivers have taken them.

use std::sync::{Arc, PoisonError, RwLock};

use phasegate_proto::internal::event::v1::Event;

use crate::{HandleError, Handler, Receiver, Stopped, take, unwound};

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

    /// Gives events to their receivers, each of whom takes them in order up to the first that it does not take; receivers
    /// side by side.
    pub(crate) async fn publish(&self, events: &[Arc<Event>]) -> Result<(), Stopped> {
        let subscribers = self.subscribers();
        let taking = subscribers.iter().map(|subscriber| subscriber.take_all(events, |_| true));
        let stops = futures::future::join_all(taking).await.into_iter().filter_map(Result::err);
        // Of those who stopped at the same event, one whom something passing has kept from it: what the others say may
        // follow from that.
        let first = stops.min_by_key(|stop| (stop.taken, matches!(stop.error, HandleError::Poison(_))));
        first.map_or(Ok(()), Err)
    }

    /// Gives events to one of their receivers. Listeners hear each event with the first of its receivers.
    pub(crate) async fn give(&self, receiver: Receiver, events: &[Arc<Event>]) -> Result<(), Stopped> {
        let is_first = |event: &Event| receivers(event).first() == Some(&receiver);
        for subscriber in &self.subscribers() {
            match subscriber.receiver {
                Some(own) if own == receiver => subscriber.take_all(events, |_| true).await?,
                Some(_) => {}
                None => subscriber.take_all(events, is_first).await?,
            }
        }
        Ok(())
    }

    fn subscribers(&self) -> Vec<Subscriber> {
        self.subscribers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn receivers(event: &Event) -> &'static [Receiver] {
    event.payload.as_ref().map_or(&[], Receiver::of)
}

impl Subscriber {
    fn hears(&self, event: &Event) -> bool {
        self.receiver.is_none_or(|receiver| receivers(event).contains(&receiver))
    }

    /// Takes what it hears of events, and of that what is `wanted`.
    async fn take_all(&self, events: &[Arc<Event>], wanted: impl Fn(&Event) -> bool) -> Result<(), Stopped> {
        let is_own = |event: &Event| self.hears(event) && wanted(event);
        let own: Vec<(usize, Arc<Event>)> =
            events.iter().cloned().enumerate().filter(|(_, event)| is_own(event)).collect();
        let mut left = own.as_slice();
        while !left.is_empty() {
            let waiting: Vec<Arc<Event>> = left.iter().map(|(_, event)| Arc::clone(event)).collect();
            let count = waiting.len();
            let together = if count < 2 { 1 } else { self.handler.together(&waiting).clamp(1, count) };
            let (next, behind) = left.split_at(together);
            left = behind;
            let whole = waiting.into_iter().take(together).collect();
            if together == 1 || unwound(self.handler.handle_together(whole)).await.is_err() {
                self.take_each(next).await?;
            }
        }
        Ok(())
    }

    async fn take_each(&self, events: &[(usize, Arc<Event>)]) -> Result<(), Stopped> {
        let name = self.receiver.map_or("a listener", Receiver::name);
        for (taken, event) in events {
            let error = match take(self.handler.as_ref(), Arc::clone(event)).await {
                Ok(()) => continue,
                Err(HandleError::Poison(error)) => HandleError::Poison(format!("{name}: {error}")),
                Err(HandleError::Transient(error)) => HandleError::Transient(format!("{name}: {error}")),
            };
            return Err(Stopped { taken: *taken, error });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
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

    /// Takes several together, unless there is one among them that it cannot take at all.
    #[derive(Default)]
    struct Grouping {
        groups: Mutex<Vec<Vec<String>>>,
        refused: Option<&'static str>,
    }

    impl Grouping {
        fn take(&self, events: &[Arc<Event>]) -> Result<(), HandleError> {
            let ids: Vec<String> = events.iter().map(|event| event.event_id.clone()).collect();
            let is_refused = self.refused.is_some_and(|refused| ids.iter().any(|id| id == refused));
            self.groups.lock().unwrap_or_else(PoisonError::into_inner).push(ids);
            if is_refused { Err(HandleError::Poison("odd".into())) } else { Ok(()) }
        }
    }

    impl Handler for Grouping {
        fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
            Box::pin(async move { self.take(&[event]) })
        }

        fn together(&self, events: &[Arc<Event>]) -> usize {
            events.len().min(3)
        }

        fn handle_together(&self, events: Vec<Arc<Event>>) -> BoxFuture<'_, Result<(), HandleError>> {
            Box::pin(async move { self.take(&events) })
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

    fn several() -> Vec<Arc<Event>> {
        let named = |id: &str| Event { event_id: id.to_owned(), ..Event::clone(&ended()) };
        ["1", "2", "3", "4"].map(|id| Arc::new(named(id))).into()
    }

    #[tokio::test]
    async fn what_is_taken_together_is_given_together() {
        let local = Local::default();
        let grouping = Arc::new(Grouping::default());
        local.subscribe(Some(Receiver::Approval), grouping.clone());
        assert_eq!(local.publish(&several()).await, Ok(()));
        assert_eq!(*grouping.groups.lock().unwrap(), [vec!["1", "2", "3"], vec!["4"]]);
    }

    #[tokio::test]
    async fn one_that_cannot_be_taken_stops_those_behind_it_and_is_told() {
        let local = Local::default();
        let grouping = Arc::new(Grouping { refused: Some("2"), ..Grouping::default() });
        local.subscribe(Some(Receiver::Approval), grouping.clone());
        let fine = counting(Ok(()));
        local.subscribe(Some(Receiver::Participant), fine.clone());
        let stopped = Stopped { taken: 1, error: HandleError::Poison("approval: odd".into()) };
        assert_eq!(local.publish(&several()).await, Err(stopped));
        assert_eq!(*grouping.groups.lock().unwrap(), [vec!["1", "2", "3"], vec!["1"], vec!["2"]]);
        assert_eq!(fine.0.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn one_receiver_is_given_what_is_for_it_and_listeners_hear_it_once() {
        let local = Local::default();
        let (approval, people, listener) = (counting(Ok(())), counting(Ok(())), counting(Ok(())));
        local.subscribe(Some(Receiver::Approval), approval.clone());
        local.subscribe(Some(Receiver::Participant), people.clone());
        local.subscribe(None, listener.clone());
        let counts = || [&approval, &people, &listener].map(|one| one.0.load(Ordering::SeqCst));
        assert_eq!(local.give(Receiver::Participant, &several()).await, Ok(()));
        assert_eq!(counts(), [0, 4, 0]);
        // Its end is for approval first.
        assert_eq!(local.give(Receiver::Approval, &several()).await, Ok(()));
        assert_eq!(counts(), [4, 4, 4]);
        assert_eq!(local.give(Receiver::Instance, &several()).await, Ok(()));
        assert_eq!(counts(), [4, 4, 4]);
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
