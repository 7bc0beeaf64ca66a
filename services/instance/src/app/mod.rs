//! What the engine does with a wish: load, decide, append, and again when somebody was faster. Everything that is pure
//! is in [`crate::domain`]; everything that is kept is in `store`.

mod around;
mod audit;
mod cache;
mod convert;
mod effects;
mod execute;
mod feed;
mod feeds;
mod follow;
mod hear;
mod inbox;
mod locks;
mod offers;
mod operate;
mod order;
mod people;
mod pins;
mod poll;
mod read;
mod seen;
mod start;
mod token;
pub mod unwired;
mod work;

use std::sync::Arc;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{InstanceId, TaskId};
use phasegate_outbox::Relay;
use phasegate_principal::Principal;
use phasegate_rpc_error::{Invalid, Relayed, Violation};
use phasegate_serve::Context;
use tokio_util::sync::CancellationToken;

use crate::domain::{Rejection, TaskStatus};
use crate::store::{self, Snapshot, Store};

pub(crate) use crate::store::{AuditFilter, Entry, ListFilter, ListPosition, Out, StoredEntry};

pub(crate) use around::Around;
pub(crate) use audit::AuditPage;
pub(crate) use convert::{LEVELS_MAX, json_object, json_to_struct, levels, struct_to_json};
pub(crate) use effects::{actor_to_proto, phase_status_to_proto, status_to_proto, timing};
pub(crate) use execute::{Answered, Once, Outcome};
pub(crate) use feed::{FeedFilter, Piece};
pub(crate) use inbox::Inbox;
pub(crate) use operate::{ContextChange, FactsWish};
pub(crate) use people::ExternalPerson;
pub(crate) use pins::PinnedDefinition;
pub(crate) use poll::{Leased, Poll};
pub(crate) use start::StartWish;
use token::TaskToken;
pub(crate) use token::TaskTokens;
pub(crate) use work::{BeatWish, Beaten, FailWish};

/// Name of this service among the receivers of events.
pub(crate) const CONSUMER: &str = "instance";

/// The engine of one process. Copies share it.
#[derive(Debug, Clone)]
pub(crate) struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    relay: Relay,
    context: Context,
    tokens: TaskTokens,
    cache: cache::Cache,
    locks: locks::Locks,
    pins: pins::Pins,
    /// Wakes workers: tenant and queue.
    offers: offers::Offers,
    /// Wakes watchers: tenant and instance.
    feeds: feeds::Feeds,
    polls: around::Polls,
    workers: seen::Workers,
    chains: seen::Chains,
    checkpoint: Duration,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no such instance for this caller.
    #[error("instance {0} was not found")]
    NotFound(String),
    /// The rules do not allow it.
    #[error(transparent)]
    Rejected(Rejection),
    /// The caller's key is for other queues.
    #[error("the key of the call is not for the queue {0}")]
    QueueForbidden(String),
    /// The lease is not the newest one of its task, or has ended.
    #[error("the lease on task {task} was lost")]
    LeaseLost {
        /// Task.
        task: TaskId,
        /// Fencing token of the newest lease.
        current: u64,
        /// Where the task stands.
        status: TaskStatus,
    },
    /// The id is taken.
    #[error("instance {0} exists already")]
    Exists(String),
    /// One field of a request is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Fields of a start are wrong.
    #[error("the request has {}", faults(.0.len()))]
    Faults(Vec<Violation>),
    /// The context is not what the definition allows.
    #[error("the context has {}", faults(.0.len()))]
    ContextSchema(Vec<Violation>),
    /// The context is more than is kept.
    #[error("the context is larger than {max} {limit}")]
    ContextTooLarge {
        /// What is limited.
        limit: &'static str,
        /// How much is allowed.
        max: usize,
    },
    /// What a worker hands in is more than is kept in line.
    #[error("the {field} must be at most {max} {limit}")]
    OutputTooLarge {
        /// Field of the request.
        field: &'static str,
        /// What is limited.
        limit: &'static str,
        /// How much is allowed.
        max: usize,
    },
    /// The request id was used for another request.
    #[error("request id {0} was used for another request")]
    RequestIdReused(String),
    /// The same request is being answered.
    #[error("request id {0} is still being answered")]
    RequestInProgress(String),
    /// Another service refused, or did not answer.
    #[error(transparent)]
    Peer(#[from] Relayed),
    /// Others kept changing the instance.
    #[error("the instance is changing too fast")]
    Busy,
    /// The event was taken before.
    #[error("the event was taken before")]
    Seen,
    /// The server is stopping.
    #[error("the server is stopping")]
    Draining,
    /// The database could not.
    #[error(transparent)]
    Store(store::Error),
    /// Something that was checked before is not as it was.
    #[error("{0}")]
    Broken(String),
}

/// Counts in words.
fn faults(count: usize) -> String {
    if count == 1 { "1 fault".to_owned() } else { format!("{count} faults") }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Stale => Self::Busy,
            store::Error::Seen => Self::Seen,
            error @ (store::Error::Exists
            | store::Error::Lease
            | store::Error::Raced
            | store::Error::Inconsistent { .. }
            | store::Error::Database { .. }) => Self::Store(error),
        }
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl App {
    /// An engine on a database.
    pub(crate) fn new(store: Store, relay: Relay, context: Context, config: &crate::Config) -> Self {
        let tokens = TaskTokens::new(&context.keys.task_token);
        Self(Arc::new(Inner {
            store,
            relay,
            tokens,
            context,
            cache: cache::Cache::new(config.cached_instances),
            locks: locks::Locks::default(),
            pins: pins::Pins::default(),
            offers: offers::Offers::default(),
            feeds: feeds::Feeds::default(),
            polls: around::Polls::default(),
            workers: seen::Workers::default(),
            chains: seen::Chains::default(),
            checkpoint: config.checkpoint,
        }))
    }

    /// What time it is.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.context.clock.now()
    }

    /// Ends long polls, watches and loops.
    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.context.shutdown
    }

    /// Makes and reads task tokens.
    pub(crate) fn tokens(&self) -> &TaskTokens {
        &self.0.tokens
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Reads an instance as it is: from memory if that is still so, else from the database.
    pub(crate) async fn snapshot(&self, tenant: &str, instance_id: &str) -> Result<Snapshot, Error> {
        let key = (tenant.to_owned(), instance_id.to_owned());
        if let Some(known) = self.0.cache.get(&key)
            && self.is_current(&key, &known).await?
        {
            return Ok(known);
        }
        let found = self.store().instance_load(tenant, instance_id).await?;
        let found = found.ok_or_else(|| Error::NotFound(instance_id.to_owned()))?;
        self.0.cache.put(&key, found.clone());
        Ok(found)
    }

    /// The id of an instance that a caller may see. What it may not see is not found, and so is what cannot be an id.
    pub(crate) fn visible(principal: &Principal, instance_id: &str) -> Result<InstanceId, Error> {
        let not_found = || Error::NotFound(phasegate_id::shortened(instance_id));
        if !principal.sees_instance(instance_id) {
            return Err(not_found());
        }
        InstanceId::parse(instance_id).map_err(|_| not_found())
    }

    /// The definition that an instance is pinned to.
    pub(crate) async fn pinned(&self, tenant: &str, digest: &str) -> Result<Arc<PinnedDefinition>, Error> {
        self.0.pins.load(self.store(), tenant, digest).await
    }
}
