//! The bus over Redis Streams: several streams by hash of the instance, a consumer group for each receiver.
//!
//! Redis makes events fast and nothing else. It may be emptied, rolled back or refuse writes: what a sender has put into
//! a stream stays in its outbox until every receiver has confirmed it, and is sent again until then. So streams are
//! short, an entry that is trimmed before it is read comes again, and an entry may come twice.

mod lane;
mod read;
mod seal;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use phasegate_keyring::KeyRing;
use phasegate_proto::internal::event::v1::Event;
use phasegate_telemetry::Outage;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{HandleError, Handler, Receiver, Written};

/// Entries that a stream keeps, about. What is trimmed unread is sent again.
const ENTRIES_KEPT: usize = 10_000;
/// Streams when nothing else is set.
const STREAMS: u16 = 16;
/// When nothing else is set, whoever took an entry and has not finished it by then is believed to be gone.
const LEFT_AFTER: Duration = Duration::from_secs(12);
/// More would leave too few entries for each.
const STREAMS_MAX: u16 = 256;
/// A Redis that does not answer by then is away.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Confirmations that wait to be told. One that finds no room is lost, and its event comes again.
const CONFIRMATIONS_MAX: usize = 10_000;

/// Names of the fields of an entry.
mod field {
    /// Service that sent it.
    pub(super) const SENDER: &str = "s";
    /// Receivers, as a number.
    pub(super) const RECEIVERS: &str = "r";
    /// The event.
    pub(super) const EVENT: &str = "e";
    /// Seal of the sender.
    pub(super) const SEAL: &str = "h";
}

/// Where the streams are.
#[derive(Clone)]
pub struct Settings {
    /// `redis://…` or `rediss://…`. May hold a password, so it is never printed.
    pub url: String,
    /// Begins the names of the streams, so that installations can share a server.
    pub prefix: String,
    /// Number of streams, 1 to 256. Senders and receivers of one installation must agree.
    pub streams: u16,
    /// Whoever took an entry and has not finished it by then is believed to be gone, which need not be true: effects are
    /// once. How often the entries of others are looked at, and how long is waited between tries, goes by it.
    pub left_after: Duration,
}

/// A Redis that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("the URL of Redis cannot be used: {0}")]
pub struct SettingsError(String);

/// That a receiver has taken an event, for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// Service that sent it.
    pub sender: String,
    /// Who has taken it.
    pub receiver: Receiver,
    /// Tenant of the event.
    pub tenant_id: String,
    /// The event.
    pub event_id: String,
}

/// What the receivers of this process have taken, for whoever tells the senders.
pub type Confirmations = mpsc::Receiver<Confirmation>;

#[derive(Clone)]
pub(crate) struct Stream(Arc<Inner>);

struct Inner {
    client: redis::Client,
    prefix: String,
    streams: u16,
    left_after: Duration,
    /// Seal events.
    keys: KeyRing,
    /// For everything that does not block.
    writer: OnceCell<ConnectionManager>,
    subscribers: RwLock<Vec<(Receiver, Arc<dyn Handler>)>>,
    confirmations: mpsc::Sender<Confirmation>,
    /// Whether Redis answers, for the log.
    outage: Outage,
    /// Whether it takes what it is given: one that is full answers, too.
    refusal: Outage,
}

// === impl Settings ===

impl Settings {
    /// The streams of the only installation on a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), prefix: "phasegate".to_owned(), streams: STREAMS, left_after: LEFT_AFTER }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("prefix", &self.prefix)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

// === impl Stream ===

impl Stream {
    pub(crate) fn new(settings: &Settings, keys: KeyRing) -> Result<(Self, Confirmations), SettingsError> {
        let client = redis::Client::open(settings.url.as_str())
            .map_err(|error| SettingsError(error.category().to_owned()))?;
        let (confirmations, confirmed) = mpsc::channel(CONFIRMATIONS_MAX);
        let inner = Inner {
            client,
            prefix: settings.prefix.clone(),
            streams: settings.streams.clamp(1, STREAMS_MAX),
            left_after: settings.left_after,
            keys,
            writer: OnceCell::new(),
            subscribers: RwLock::default(),
            confirmations,
            outage: Outage::new("Redis", "redis"),
            refusal: Outage::new("Redis, asked to keep something,", "redis"),
        };
        Ok((Self(Arc::new(inner)), confirmed))
    }

    pub(crate) fn subscribe(&self, receiver: Receiver, handler: Arc<dyn Handler>) {
        let mut subscribers = self.0.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        subscribers.push((receiver, handler));
    }

    pub(crate) async fn publish(&self, sender: &str, written: &[Written]) -> Result<(), HandleError> {
        let mut pipeline = redis::pipe();
        for one in written.iter().filter(|one| one.receivers != 0) {
            pipeline
                .cmd("XADD")
                .arg(self.key(self.stream_of(&one.event)))
                .arg("MAXLEN")
                .arg("~")
                .arg(ENTRIES_KEPT)
                .arg("*")
                .arg(field::SENDER)
                .arg(sender)
                .arg(field::RECEIVERS)
                .arg(one.receivers)
                .arg(field::EVENT)
                .arg(&one.bytes)
                .arg(field::SEAL)
                .arg(&seal::seal(&self.0.keys, sender, &one.bytes));
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        let published = async { pipeline.exec_async(&mut self.writer().await?).await };
        self.noted(published.await).map_err(away)?;
        self.0.outage.passed();
        self.0.refusal.passed();
        Ok(())
    }

    /// Reads for each subscriber until `shutdown`, then finishes what is under way.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let subscribers = self.0.subscribers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let readers = subscribers.into_iter().map(|(receiver, handler)| {
            read::Reader::new(self.clone(), receiver, handler, shutdown.clone()).run()
        });
        futures::future::join_all(readers).await;
    }

    /// A Redis that evicts keys loses streams with their groups: nothing is lost for good, but much comes late.
    pub(crate) async fn warning(&self) -> Option<String> {
        let mut writer = self.writer().await.ok()?;
        let mut question = redis::cmd("INFO");
        question.arg("memory");
        // That it is away is told as always.
        let told: String = self.noted(question.query_async(&mut writer).await).ok()?;
        let policy = told.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"))?.trim();
        (policy != "noeviction").then(|| {
            format!("Redis evicts keys (maxmemory-policy {policy}), so that events come late; set it to noeviction")
        })
    }

    /// Notes for the log how Redis took something. One that has lost a group is well.
    fn noted<T>(&self, outcome: redis::RedisResult<T>) -> redis::RedisResult<T> {
        if let Err(error) = &outcome {
            match error.code() {
                None => self.0.outage.failed(error),
                Some("NOGROUP") => {}
                Some(_) => self.0.refusal.failed(error),
            }
        }
        outcome
    }

    /// The connection for what does not block. It is made anew by itself when it breaks.
    async fn writer(&self) -> redis::RedisResult<ConnectionManager> {
        let made = self.0.writer.get_or_try_init(async || {
            let config = ConnectionManagerConfig::new()
                .set_number_of_retries(1)
                .set_max_delay(Duration::from_millis(200))
                .set_connection_timeout(Some(RESPONSE_TIMEOUT))
                .set_response_timeout(Some(RESPONSE_TIMEOUT));
            ConnectionManager::new_lazy_with_config(self.0.client.clone(), config)
        });
        made.await.cloned()
    }

    fn key(&self, stream: u16) -> String {
        format!("{}:events:{stream}", self.0.prefix)
    }

    fn keys(&self) -> Vec<String> {
        (0..self.0.streams).map(|stream| self.key(stream)).collect()
    }

    /// All events of an instance are in one stream.
    fn stream_of(&self, event: &Event) -> u16 {
        // FNV-1a: the same on every machine and in every version.
        let hash = event
            .tenant_id
            .bytes()
            .chain([0])
            .chain(event.instance_id.bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        u16::try_from(hash % u64::from(self.0.streams)).unwrap_or(0)
    }
}

/// A Redis that is away, is full or has its memory elsewhere: all of it passes.
fn away(error: redis::RedisError) -> HandleError {
    HandleError::Transient(format!("Redis: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_without_its_password() {
        let error =
            Stream::new(&Settings::new("http://:secret@localhost"), KeyRing::of([7; 32])).err().unwrap();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(!format!("{:?}", Settings::new("redis://:secret@localhost")).contains("secret"));
    }

    #[test]
    fn an_instance_keeps_its_stream() {
        let (stream, _) = Stream::new(&Settings::new("redis://127.0.0.1"), KeyRing::of([7; 32])).unwrap();
        let event = |instance: &str| Event {
            tenant_id: "default".to_owned(),
            instance_id: instance.to_owned(),
            ..Event::default()
        };
        // Never changed: copies of different versions must agree.
        let found: Vec<u16> = ["a", "b", "c", "proc-inst-1"].map(|id| stream.stream_of(&event(id))).into();
        assert!(found.iter().all(|stream| *stream < STREAMS), "{found:?}");
        let many: std::collections::BTreeSet<u16> =
            (0..1_000).map(|id| stream.stream_of(&event(&id.to_string()))).collect();
        assert_eq!(many.len(), usize::from(STREAMS));
    }
}
