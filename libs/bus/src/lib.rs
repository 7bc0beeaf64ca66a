//! Carries events between services. Two kinds: in process, for `phasegate dev` and tests, and over Redis Streams, for
//! `phasegate serve`. What events mean is never here, and nothing is kept here: the sender's outbox holds what has not
//! been confirmed, the receiver's inbox what has taken effect. Redis may lose everything at any time.

mod local;
mod route;
mod stream;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use phasegate_keyring::KeyRing;
use phasegate_proto::internal::event::v1::Event;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

pub use route::{Receiver, is_note};
pub use stream::{Confirmation, Confirmations, Settings, SettingsError};

/// Receives events.
pub trait Handler: Send + Sync {
    /// Takes one event. Returns once the effect is durable. Called at least once for every event, in no promised order,
    /// and must tolerate twice.
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>>;

    /// How many of the first of these events, which are of one instance and in their order, may be taken by one call of
    /// [`Handler::handle_together`]. One where each is taken by itself.
    fn together(&self, events: &[Arc<Event>]) -> usize {
        let _ = events;
        1
    }

    /// Takes several events at once. Where that fails, each is taken by itself, whatever the reason, and some of them
    /// perhaps twice.
    fn handle_together(&self, events: Vec<Arc<Event>>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move {
            for event in events {
                self.handle(event).await?;
            }
            Ok(())
        })
    }

    /// Called before [`Handler::handle`] for an event that a process took before and did not finish: it may be the event
    /// that ended the process, and whoever counts must count before trying again.
    fn was_left(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        let _ = event;
        Box::pin(async { Ok(()) })
    }

    /// Called after [`Handler::was_left`] when the event was tried, was not taken, and the process lives: what was counted
    /// is not to be held against it, or a long outage would look like an event that ends processes.
    fn was_survived(&self, event: Arc<Event>) -> BoxFuture<'_, ()> {
        let _ = event;
        Box::pin(async {})
    }
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

/// Why not all of several events were taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// How many of the first ones every receiver has taken; some receivers may have taken more.
    pub taken: usize,
    /// Why the one behind those was not.
    pub error: HandleError,
}

impl From<HandleError> for Stopped {
    fn from(error: HandleError) -> Self {
        Self { taken: 0, error }
    }
}

/// An event as it was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// What this version understands of it.
    pub event: Arc<Event>,
    /// What travels: whoever wrote it may be of a later version, and have said more than this one understands.
    pub bytes: Vec<u8>,
    /// Who is to get it, as a number ([`Receiver::bit`]).
    pub receivers: i64,
}

/// How far an event has come once it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Every receiver has taken it.
    Taken,
    /// It is on its way; each receiver confirms it to the sender.
    Sent,
}

/// The bus. Copies share it.
#[derive(Clone)]
pub struct Bus(Kind);

#[derive(Clone)]
enum Kind {
    Local(local::Local),
    Stream(stream::Stream),
}

impl Bus {
    /// A bus within this process.
    pub fn local() -> Self {
        Self(Kind::Local(local::Local::default()))
    }

    /// A bus over Redis Streams, and what its receivers have taken and the senders must be told. Does not connect yet:
    /// a Redis that is away delays events and nothing else. The keys seal events: one without a seal of theirs is dropped.
    pub fn redis(settings: &Settings, keys: KeyRing) -> Result<(Self, Confirmations), SettingsError> {
        let (stream, confirmations) = stream::Stream::new(settings, keys)?;
        Ok((Self(Kind::Stream(stream)), confirmations))
    }

    /// Whether receivers confirm what they have taken after it was published, rather than by the publishing.
    pub const fn is_confirmed_later(&self) -> bool {
        matches!(self.0, Kind::Stream(_))
    }

    /// Adds a receiver. It gets what is for it (see [`Receiver::of`]) and is published from now on.
    pub fn subscribe(&self, receiver: Receiver, handler: Arc<dyn Handler>) {
        match &self.0 {
            Kind::Local(local) => local.subscribe(Some(receiver), handler),
            Kind::Stream(stream) => stream.subscribe(receiver, handler),
        }
    }

    /// Adds somebody who gets everything that is published within this process, whoever it is for. For tests.
    pub fn overhear(&self, handler: Arc<dyn Handler>) {
        match &self.0 {
            Kind::Local(local) => local.subscribe(None, handler),
            Kind::Stream(_) => tracing::warn!("nobody can overhear Redis"),
        }
    }

    /// Gives an event of `sender` to its receivers, or to Redis, which gives it to them. Where some receivers within this
    /// process have not taken it, the worst answer counts, and the event comes again to all: a transient one before a
    /// poisonous one, which may be its consequence.
    pub async fn publish(&self, sender: &str, event: Arc<Event>) -> Result<Delivery, HandleError> {
        let (bytes, receivers) = (event.encode_to_vec(), Receiver::set_of(event.payload.as_ref()));
        self.send(sender, &[Written { event, bytes, receivers }]).await.map_err(|stopped| stopped.error)
    }

    /// The same for events as they were written, in one go: in this process those of one instance, in their order up to the
    /// first that is not taken. Redis gets all of them, and where that fails some of them may be on their way.
    pub async fn send(&self, sender: &str, written: &[Written]) -> Result<Delivery, Stopped> {
        match &self.0 {
            Kind::Local(local) => {
                let events: Vec<Arc<Event>> = written.iter().map(|one| Arc::clone(&one.event)).collect();
                local.publish(&events).await.map(|()| Delivery::Taken)
            }
            Kind::Stream(stream) => {
                stream.publish(sender, written).await.map(|()| Delivery::Sent).map_err(Stopped::from)
            }
        }
    }

    /// Gives events of one instance to one of their receivers, those that are for it in their order up to the first that it
    /// does not take. Within this process only: who gets an event from Redis is between Redis and its readers.
    pub async fn give(&self, receiver: Receiver, events: &[Arc<Event>]) -> Result<(), Stopped> {
        match &self.0 {
            Kind::Local(local) => local.give(receiver, events).await,
            Kind::Stream(_) => {
                Err(HandleError::Transient("Redis gives events away itself".to_owned()).into())
            }
        }
    }

    /// What is wrong with the bus and can be lived with, for the log of whoever starts.
    pub async fn warning(&self) -> Option<String> {
        match &self.0 {
            Kind::Local(_) => None,
            Kind::Stream(stream) => stream.warning().await,
        }
    }

    /// Reads for the receivers of this process until `shutdown`, then finishes what is under way.
    pub async fn run(&self, shutdown: CancellationToken) {
        match &self.0 {
            Kind::Local(_) => shutdown.cancelled().await,
            Kind::Stream(stream) => stream.run(shutdown).await,
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Local(_) => f.write_str("Bus(local)"),
            Kind::Stream(_) => f.write_str("Bus(redis)"),
        }
    }
}

/// Has a handler take an event. A handler that panics has met a poisonous event; whoever called it goes on.
async fn take(handler: &dyn Handler, event: Arc<Event>) -> Result<(), HandleError> {
    unwound(handler.handle(event)).await
}

/// Awaits a handler, whatever it does.
async fn unwound(handling: BoxFuture<'_, Result<(), HandleError>>) -> Result<(), HandleError> {
    use futures::FutureExt as _;
    let done = std::panic::AssertUnwindSafe(handling).catch_unwind().await;
    done.unwrap_or_else(|_| Err(HandleError::Poison("the handler panicked".to_owned())))
}
