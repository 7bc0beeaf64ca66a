//! Writing a transition with all that follows from it.

use std::sync::Arc;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::Transaction;
use phasegate_id::TaskId;
use phasegate_planted::{self as planted, Bug};
use phasegate_process::Priority;
use phasegate_proto::internal::event::v1::Event as BusEvent;

use super::chain::Entry;
use super::lease::{self, Written};
use super::{Error, Store, group};
use crate::domain::{Instance, ReadyWork};

/// All that one transition writes.
#[derive(Debug, Clone)]
pub(crate) struct Transition {
    pub(crate) tenant: String,
    /// The state after it.
    pub(crate) after: Arc<Instance>,
    /// Version that it was decided on; zero for a start.
    pub(crate) before: u64,
    /// Entries that the row's state will lack, these included: none where the state is written, too.
    pub(crate) state_lag: u64,
    /// Empty when nothing moved.
    pub(crate) entries: Arc<[Entry]>,
    pub(crate) personal: Vec<PersonalRow>,
    /// Tasks that may not be handed out any more.
    pub(crate) unqueued: Vec<TaskId>,
    /// Tasks that may be handed out.
    pub(crate) queued: Vec<ReadyWork>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) granted: Vec<Granted>,
    /// How the instance stands, as far as its state says.
    pub(crate) health: &'static str,
    /// The earliest deadline of a request that people have to decide.
    pub(crate) overdue_at: Option<Timestamp>,
    pub(crate) guard: Option<Guard>,
    /// A write under a lease that was heard of.
    pub(crate) written: Option<Written>,
    pub(crate) outbox: Vec<BusEvent>,
    pub(crate) receipt: Receipt,
    /// For a start.
    pub(crate) pinned: Option<Pinned>,
    pub(crate) now: Timestamp,
}

/// What the transition answers, kept with it so that it happens once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Receipt {
    /// The events of other services that led to it.
    pub(crate) inbox: Vec<Inbox>,
    /// The request that led to it.
    pub(crate) answer: Option<Answer>,
}

/// An event of another service.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    pub(crate) consumer: &'static str,
    pub(crate) event_id: String,
}

/// The first answer to a request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) key: phasegate_idempotency::Key,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) message: Vec<u8>,
}

/// Personal data beside an entry.
#[derive(Debug, Clone)]
pub(crate) struct PersonalRow {
    pub(crate) sequence: u64,
    pub(crate) salt: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// A definition that is used for the first time.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    pub(crate) digest: String,
    pub(crate) document: Vec<u8>,
}

/// A lease that ends.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) task: TaskId,
    pub(crate) fencing: u64,
    pub(crate) checkpoint: CheckpointChange,
}

/// What becomes of the checkpoint of a lease that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckpointChange {
    /// The next attempt gets what the last heartbeat said.
    Keep,
    /// The work is done: the next round begins without.
    Clear,
    /// The worker said it with its last word.
    Set(Vec<u8>),
}

/// A lease that begins.
#[derive(Debug, Clone)]
pub(crate) struct Granted {
    pub(crate) task: TaskId,
    pub(crate) fencing: u64,
    pub(crate) worker: String,
    /// That it was handed out on.
    pub(crate) queue: String,
    pub(crate) duration: Duration,
    pub(crate) ends_at: Timestamp,
}

/// What must be true of a lease when the transition is written.
#[derive(Debug, Clone)]
pub(crate) enum Guard {
    /// Its worker acts: its time must not be over.
    Holds {
        /// Task.
        task: TaskId,
        /// Fencing token.
        fencing: u64,
    },
    /// Its time must be over: a heartbeat may have come in between.
    Over {
        /// Task.
        task: TaskId,
        /// Fencing token.
        fencing: u64,
    },
}

/// The rank of an urgency in the queue.
pub(crate) fn rank(priority: Priority) -> i64 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
        Priority::Urgent => 3,
    }
}

impl Guard {
    /// Task whose lease it is.
    pub(super) const fn task(&self) -> &TaskId {
        match self {
            Self::Holds { task, .. } | Self::Over { task, .. } => task,
        }
    }

    /// Fencing token that the lease must have.
    pub(super) const fn fencing(&self) -> u64 {
        match self {
            Self::Holds { fencing, .. } | Self::Over { fencing, .. } => *fencing,
        }
    }
}

impl Store {
    /// Writes a transition, or nothing.
    pub(crate) async fn instance_append(&self, transition: Transition) -> Result<(), Error> {
        if transition.written.is_none() && !planted::is(Bug::AnswerBeforeCommit) {
            return self.group.append(transition).await;
        }
        self.db.transaction(move |tx| Box::pin(async move { append(tx, &transition).await })).await
    }
}

async fn append(tx: &mut Transaction, transition: &Transition) -> Result<(), Error> {
    // Before work is queued, which looks at what was promised.
    if let Some(written) = &transition.written {
        lease::release(tx, &transition.tenant, &transition.after.id, written).await?;
    }
    group::write_within(tx, transition).await
}

/// The state as the row keeps it, where it is written.
pub(super) fn state(transition: &Transition) -> Result<Vec<u8>, Error> {
    if transition.state_lag > 0 || transition.entries.is_empty() {
        return Ok(Vec::new());
    }
    let instance = &transition.after;
    serde_json::to_vec(&**instance).map_err(|error| Error::Inconsistent {
        table: "instance",
        row: instance.id.to_string(),
        problem: error.to_string(),
    })
}

pub(super) fn checkpoint_change(change: &CheckpointChange) -> (i64, Vec<u8>) {
    match change {
        CheckpointChange::Keep => (0, Vec::new()),
        CheckpointChange::Clear => (1, Vec::new()),
        CheckpointChange::Set(checkpoint) => (2, checkpoint.clone()),
    }
}

pub(super) fn tools(work: &ReadyWork) -> String {
    serde_json::json!(work.tools).to_string()
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
