//! What is to be executed, and what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{ParticipantId, TaskId};

use super::{Around, Error, PinnedDefinition};
use crate::domain::{Action, Actor, Event, Instance, Person, Personal};
use crate::store::{self, CheckpointChange, Guard};

/// One step: an action, with what is personal about it.
pub(super) struct Step {
    pub(super) action: Wish,
    pub(super) personal: Personal,
    /// Who acts, where that is not the one who gave the order.
    pub(super) actor: Option<Actor>,
    /// Id of the first event; one of ours when absent.
    pub(super) event_id: Option<String>,
}

/// An action, or how to make it of the state that it is decided on.
pub(super) enum Wish {
    Fixed(Box<Action>),
    Made(Box<Making>),
}

/// What an instance begins from.
pub(super) struct Origin {
    pub(super) pinned: Arc<PinnedDefinition>,
    /// The bytes that it was read from.
    pub(super) document: Vec<u8>,
}

impl Wish {
    /// An action that does not depend on the state.
    pub(super) fn fixed(action: Action) -> Self {
        Self::Fixed(Box::new(action))
    }
}

/// Who wishes.
pub(super) enum By {
    Somebody(Actor),
    /// The agent who does the task.
    AgentOf(TaskId),
}

/// What an answer shows.
pub(super) enum Shows {
    /// Neither the instance nor a task of it.
    Nothing,
    /// A task that is handed out.
    Task(TaskId),
    /// The instance with all its tasks.
    Instance,
}

/// What to execute.
pub(super) struct Order {
    pub(super) by: By,
    pub(super) steps: Vec<Step>,
    pub(super) guard: Option<Guard>,
    /// Events of other services that led to it.
    pub(super) inbox: Vec<store::Inbox>,
    /// A write under a lease that was heard of.
    pub(super) written: Option<store::Written>,
    /// Length of the lease that is granted.
    pub(super) lease_duration: Duration,
    /// What becomes of the checkpoint of a lease that ends.
    pub(super) checkpoint: CheckpointChange,
    /// For a start.
    pub(super) start: Option<Origin>,
    /// Decide, and write nothing.
    pub(super) is_dry: bool,
    /// What the answer shows.
    pub(super) shows: Shows,
}

/// A request id, and what it was used for.
#[derive(Debug, Clone)]
pub(crate) struct Once {
    pub(crate) key: phasegate_idempotency::Key,
    pub(crate) fingerprint: [u8; 32],
}

/// An answer, and whether it was given before.
#[derive(Debug, Clone)]
pub(crate) struct Answered<M> {
    pub(crate) message: M,
    pub(crate) is_repeated: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) before: Arc<Instance>,
    pub(crate) after: Arc<Instance>,
    pub(crate) events: Vec<Event>,
    pub(crate) pinned: Arc<PinnedDefinition>,
    /// What the order shows of it.
    pub(crate) around: Around,
    pub(crate) now: Timestamp,
    /// Where the events of each step begin.
    pub(super) firsts: Vec<First>,
}

/// The first event of a step: what is personal about the step belongs to it.
#[derive(Debug, Clone)]
pub(super) struct First {
    pub(super) position: usize,
    pub(super) personal: Personal,
    pub(super) event_id: Option<String>,
}

/// Makes an action of the state that it is decided on, the definition and the time.
type Making = dyn Fn(&Instance, &PinnedDefinition, Timestamp) -> Result<Action, Error> + Send + Sync;

/// Makes the answer that is kept with the effect.
pub(super) type Answering<'a> =
    Option<(&'a Once, &'a (dyn Fn(&Outcome) -> Result<Vec<u8>, Error> + Send + Sync))>;

impl Order {
    /// One action.
    pub(super) fn new(by: By, action: Wish) -> Self {
        Self::of(by, vec![Step { action, personal: Personal::default(), actor: None, event_id: None }])
    }

    /// Several, all or none.
    pub(super) fn of(by: By, steps: Vec<Step>) -> Self {
        Self {
            by,
            steps,
            guard: None,
            inbox: Vec::new(),
            written: None,
            lease_duration: Duration::ZERO,
            checkpoint: CheckpointChange::Keep,
            start: None,
            is_dry: false,
            shows: Shows::Nothing,
        }
    }

    /// Whether it begins an instance.
    pub(super) fn is_start(&self) -> bool {
        self.start.is_some()
    }
}

impl Outcome {
    /// An instance that nothing was done to.
    pub(super) fn unchanged(
        instance: Arc<Instance>,
        pinned: Arc<PinnedDefinition>,
        around: Around,
        now: Timestamp,
    ) -> Self {
        let before = Arc::clone(&instance);
        Self { before, after: instance, events: Vec::new(), pinned, around, now, firsts: Vec::new() }
    }

    /// What is personal about the events, by sequence.
    pub(super) fn personal(&self) -> BTreeMap<u64, Personal> {
        let personal = self.firsts.iter().filter(|first| !first.personal.is_empty());
        personal
            .map(|first| (self.before.version + 1 + first.position as u64, first.personal.clone()))
            .collect()
    }

    /// Names and addresses, for a start.
    pub(super) fn people(&self) -> BTreeMap<ParticipantId, Person> {
        self.firsts.first().map(|first| first.personal.people.clone()).unwrap_or_default()
    }
}
