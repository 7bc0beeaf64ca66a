//! What the service does with the rules: loads, decides, writes, and does it again when somebody else was faster.

mod caller;
mod check;
mod decide;
mod elapse;
mod inbox;
pub mod message;
mod peers;
pub mod plan;
mod read;
mod request;
mod seen;
mod tell;
mod watch;

use std::sync::Arc;

use phasegate_clock::{SharedClock, Timestamp};
use phasegate_id::{ApprovalId, InstanceId, TenantId};
use phasegate_idempotency as idempotency;
use phasegate_outbox::Relay;
use phasegate_principal::Forbidden;
use phasegate_proto::actor::v1::Actor as ActorMessage;
use phasegate_rpc_error::{Invalid, Relayed};

use crate::domain::{Approval, Command, Event, Rejection, evolve};
use crate::store::{self, Change, Commit, InstanceChange, Key, Receipt, Repeat, Store};

pub use caller::Caller;
pub use decide::{Decide, Withdraw};
pub use inbox::{CONSUMER, Envelope, Inbox};
pub use peers::Neighbours;
pub use read::{List, Listed};
pub use request::Ask;
pub use watch::{Answers, ResumeAt};

pub use crate::store::{Page, Position, Record};

/// Answers that can race on one request are bounded by its approvers; whoever loses to all of them still succeeds.
const ATTEMPTS: usize = 32;

/// Why a call or an event has no effect.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules do not allow it.
    #[error("approval {approval}: {rejection}")]
    Rejected {
        /// The request.
        approval: ApprovalId,
        /// Which rule.
        rejection: Rejection,
    },
    /// No such request, or none that the caller may see.
    #[error("approval {0} was not found")]
    NotFound(String),
    /// No such instance, or none that the caller may see.
    #[error("instance {0} was not found")]
    InstanceNotFound(String),
    /// The instance is over.
    #[error("instance {instance} is {status}")]
    InstanceTerminal {
        /// The instance.
        instance: InstanceId,
        /// How it ended.
        status: &'static str,
    },
    /// The task is over.
    #[error("the task is {status}")]
    TaskClosed {
        /// How it stands.
        status: &'static str,
    },
    /// The same was rejected before.
    #[error("this content was rejected as {0}")]
    ContentRejected(ApprovalId),
    /// The caller's link does not allow it.
    #[error("this link does not allow to {0}")]
    PermissionMissing(&'static str),
    /// The caller's key does not allow it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The caller's role does not allow it.
    #[error("a {0} may not ask for approval")]
    RoleForbidden(&'static str),
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Another service refused, or did not answer.
    #[error(transparent)]
    Peer(#[from] Relayed),
    /// A person of the instance has not arrived at the participant service.
    #[error("the participant service does not know {0} yet")]
    PersonUnknown(String),
    /// Too long ago did instance confirm the lease.
    #[error("the lease was confirmed too long ago")]
    LeaseStale,
    /// The request id was used for another request.
    #[error("request id {0} was used for another request")]
    RequestIdReused(String),
    /// Somebody else was faster every time.
    #[error("too many changes at the same time")]
    Busy,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The service behind its doors. Copies share everything.
#[derive(Debug, Clone)]
pub struct App {
    store: Store,
    clock: SharedClock,
    peers: Neighbours,
    relay: Relay,
    /// Told after every commit, for those who watch.
    committed: Arc<tokio::sync::watch::Sender<u64>>,
    /// For those who count.
    counted: seen::Counted,
}

/// A call that can be repeated: what it is known by, and how its answer is encoded.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it is known by.
    pub key: idempotency::Key,
    /// What it says.
    pub fingerprint: [u8; 32],
    /// Encodes the answer.
    pub encode: fn(&Record) -> Vec<u8>,
}

/// What a call did.
#[derive(Debug, Clone)]
pub enum Done {
    /// It took effect, or found its effect there.
    Now {
        /// The request after it.
        record: Box<Record>,
        /// The effect was there already.
        repeated: bool,
    },
    /// It was answered before: the first answer, encoded.
    Before(Vec<u8>),
}

impl App {
    /// Puts the parts together.
    pub fn new(store: Store, clock: SharedClock, peers: Neighbours, relay: Relay) -> Self {
        let committed = Arc::new(tokio::sync::watch::Sender::new(0));
        Self { store, clock, peers, relay, committed, counted: seen::Counted::default() }
    }

    /// The tables.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What time it is.
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Loads, decides, writes; again when somebody else was faster.
    async fn execute(
        &self,
        key: &Key,
        actor: &ActorMessage,
        call: Option<&Call>,
        command: impl Fn(&Record) -> Option<Command> + Send,
    ) -> Result<Done, Error> {
        self.execute_on(self.load(key).await?, actor, call, command).await
    }

    /// The same where the request was read a moment ago. What was decided on what has changed since is not written.
    async fn execute_on(
        &self,
        mut record: Record,
        actor: &ActorMessage,
        call: Option<&Call>,
        command: impl Fn(&Record) -> Option<Command> + Send,
    ) -> Result<Done, Error> {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                record = self.load(&record.key()).await?;
            }
            let now = self.now();
            let Some(command) = command(&record) else {
                return Ok(Done::Now { record: Box::new(record), repeated: true });
            };
            let step = plan::step(&record, actor, &command, call, now)?;
            let plan::Step { after, repeated, lapsed, commit } = step;
            let Some(commit) = commit else {
                return Ok(Done::Now { record: Box::new(after), repeated });
            };
            match self.commit(commit).await {
                Ok(()) if lapsed => {}
                Ok(()) => return Ok(Done::Now { record: Box::new(after), repeated }),
                Err(store::Error::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    /// Gives a command to each of an instance's waiting requests that `choose` has one for, in one transaction with
    /// the receipt of the event that wants it.
    async fn execute_pending(
        &self,
        wanted: &Wanted<'_>,
        choose: impl Fn(&Record) -> Option<Command> + Send,
    ) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let now = self.now();
            // A request that is put to people after this list was read would be in no list: then it is read again.
            let (state, pending) = self.store.pending_load(&wanted.tenant, &wanted.instance).await?;
            let commit = plan::pending(wanted, state, &pending, &choose, now)?;
            match self.commit(commit).await {
                Ok(()) | Err(store::Error::Taken) => return Ok(()),
                Err(store::Error::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    async fn load(&self, key: &Key) -> Result<Record, Error> {
        let record = self.store.approval_load(&key.tenant, &key.approval).await?;
        record.ok_or_else(|| Error::NotFound(key.approval.to_string()))
    }

    async fn commit(&self, commit: Commit) -> Result<(), store::Error> {
        let tells = !commit.outbox.is_empty();
        let asked: Vec<String> = commit.asked().map(|request| request.process.clone()).collect();
        self.store.commit(commit).await?;
        self.counted.remember(asked);
        if tells {
            self.relay.wake();
            self.committed.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(())
    }

    /// The first answer to a call, if there was one.
    async fn answered_before(&self, call: Option<&Call>) -> Result<Option<Done>, Error> {
        let Some(call) = call else { return Ok(None) };
        match self.store.repeat_load(&call.key, call.fingerprint).await {
            Ok(answer) => Ok(answer.map(Done::Before)),
            Err(store::Error::RequestIdReused) => Err(Error::RequestIdReused(call.key.request_id.clone())),
            Err(error) => Err(error.into()),
        }
    }

    /// What a call did, when another one with the same id was answered meanwhile: that one's effect may be what is in the
    /// way of this one.
    async fn unless_repeated(&self, call: Option<&Call>, done: Result<Done, Error>) -> Result<Done, Error> {
        let error = match done {
            // It was looked up already, and is refused for what it is.
            Ok(_) | Err(Error::RequestIdReused(_)) => return done,
            Err(error) => error,
        };
        match (self.answered_before(call).await?, error) {
            (Some(first), _) => Ok(first),
            (None, Error::Store(store::Error::Repeated)) => Err(Error::Busy),
            (None, error) => Err(error),
        }
    }
}

/// What an event wants of the waiting requests of an instance.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Tenant.
    pub tenant: TenantId,
    /// Instance.
    pub instance: InstanceId,
    /// Who did it.
    pub actor: &'a ActorMessage,
    /// The event.
    pub receipt: Receipt,
    /// What it changes about the instance itself.
    pub instance_change: Option<InstanceChange>,
    /// Requests that are called off and have not arrived.
    pub moot: Vec<(ApprovalId, String)>,
}

/// The rules said no to a request that is stored.
fn rejected(record: &Record, rejection: Rejection) -> Error {
    let request = &record.approval.request;
    match rejection {
        Rejection::InstanceEnded => {
            Error::InstanceTerminal { instance: request.instance.clone(), status: "over" }
        }
        Rejection::NobodyAsked
        | Rejection::HumanRequired
        | Rejection::NotAnApprover(_)
        | Rejection::SelfApprovalForbidden(_)
        | Rejection::AlreadyDecided { .. }
        | Rejection::Expired { .. }
        | Rejection::Withdrawn { .. }
        | Rejection::Superseded { .. }
        | Rejection::ContentChanged { .. }
        | Rejection::RoleForbidden => Error::Rejected { approval: request.id.clone(), rejection },
    }
}

impl Call {
    fn answer(&self, record: &Record) -> Repeat {
        Repeat { key: self.key.clone(), fingerprint: self.fingerprint, answer: (self.encode)(record) }
    }
}

impl Record {
    /// The record after events that were not written yet.
    pub fn after(&self, events: &[Event]) -> Self {
        let approval: Approval = events.iter().fold(self.approval.clone(), evolve);
        let written = i64::try_from(events.len()).unwrap_or(i64::MAX);
        Self { approval, version: self.version.saturating_add(written), ..self.clone() }
    }

    /// What names it.
    pub fn key(&self) -> Key {
        Key { tenant: self.tenant.clone(), approval: self.approval.request.id.clone() }
    }
}

impl Change {
    fn new(version: i64, events: Vec<Event>, after: Approval) -> Self {
        Self { version, events, after }
    }
}
