//! What somebody wants of an instance. A command carries everything that deciding it takes: who asks, and what the
//! other services said a moment ago.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{ArtifactKey, InstanceId, ParticipantId, PhaseId, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fact::Fact;
use super::instance::Raid;

/// Somebody wants something.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Who wants it.
    pub actor: Actor,
    /// What it is.
    pub action: Action,
    /// What artifact answered just now for the keys that [`super::content_keys`] names. A key that is not here counts
    /// as unchanged since the engine last heard of it.
    pub current: BTreeMap<ArtifactKey, CurrentVersion>,
}

impl Command {
    /// A command that needs to know of no artifact.
    pub fn new(actor: Actor, action: Action) -> Self {
        Self { actor, action, current: BTreeMap::new() }
    }
}

/// Who did something. Names and addresses are not here: they are personal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Kind of principal.
    pub kind: ActorKind,
    /// Agent id, participant id, operator subject or service name.
    pub id: String,
    /// Participant for whom it was done, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<ParticipantId>,
    /// Door by which it came in.
    pub channel: Channel,
}

impl Actor {
    /// The engine itself: a consequence, a timer, a condition.
    pub fn engine() -> Self {
        Self {
            kind: ActorKind::System,
            id: "engine".to_owned(),
            on_behalf_of: None,
            channel: Channel::Engine,
        }
    }
}

/// Kind of principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A program that works on tasks under a lease.
    Agent,
    /// A person of the instance.
    Participant,
    /// A person who runs the installation.
    Operator,
    /// A program that calls with a key.
    Service,
    /// The engine itself.
    System,
}

/// Door by which something came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// gRPC or REST.
    Api,
    /// The pages that a magic link opens.
    Portal,
    /// The engine.
    Engine,
}

/// The newest version of an artifact, as its owner says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentVersion {
    /// Version.
    pub version: u32,
    /// Kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// "sha256:" and hex.
    pub digest: String,
    /// Phase that it is listed under; empty for none.
    pub phase: String,
    /// Task whose lease stored it; empty for others.
    pub task: String,
}

/// A lease that an agent shows with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownLease {
    /// Task.
    pub task: TaskId,
    /// Fencing token.
    pub fencing: u64,
}

/// What somebody wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Begin.
    Start(Start),
    /// Take a ready task.
    Lease {
        /// Task.
        task: TaskId,
        /// Worker that takes it.
        worker: String,
        /// End of the lease unless it is extended.
        until: Timestamp,
    },
    /// Hand work in.
    HandIn {
        /// Task.
        task: TaskId,
        /// Fencing token of the lease.
        fencing: u64,
        /// Result, an object.
        output: Option<Value>,
        /// What was done, for people.
        summary: String,
    },
    /// Report a failed attempt.
    Fail {
        /// Task.
        task: TaskId,
        /// Fencing token of the lease.
        fencing: u64,
        /// `UPPER_SNAKE_CASE`.
        kind: String,
        /// What happened.
        message: String,
        /// No retry can help.
        non_retryable: bool,
        /// Wait before the retry, instead of the policy's.
        retry_after: Option<Duration>,
        /// Chance, from 0 to 1: spreads retries.
        jitter: f64,
    },
    /// Give a task back unharmed.
    Release {
        /// Task.
        task: TaskId,
        /// Fencing token of the lease.
        fencing: u64,
        /// Why.
        reason: String,
    },
    /// The end of a lease has passed.
    ExpireLease {
        /// Task.
        task: TaskId,
        /// Fencing token of the lease.
        fencing: u64,
        /// Chance, from 0 to 1: spreads retries.
        jitter: f64,
    },
    /// Move to the next phase.
    Advance {
        /// Refused unless this is the current phase.
        from_phase: Option<PhaseId>,
        /// Skip what is left.
        force: bool,
        /// Why; needed with force.
        reason: String,
    },
    /// Take work up again.
    Reopen {
        /// Phase; the current one when absent.
        phase: Option<PhaseId>,
        /// Its tasks; all when empty.
        tasks: BTreeSet<TaskId>,
        /// Why.
        reason: String,
    },
    /// Put on hold.
    Pause {
        /// Why.
        reason: String,
    },
    /// Take up again after a pause.
    Resume {
        /// Why.
        reason: String,
    },
    /// End.
    Cancel {
        /// Why.
        reason: String,
    },
    /// Take a failed, escalated or blocked task up again.
    RetryTask {
        /// Task.
        task: TaskId,
        /// Why.
        reason: String,
    },
    /// Pass a task over.
    SkipTask {
        /// Task.
        task: TaskId,
        /// Why.
        reason: String,
    },
    /// Set names that conditions may use bare.
    SetFacts {
        /// Names with their values.
        facts: BTreeMap<String, bool>,
        /// An agent's lease.
        lease: Option<ShownLease>,
        /// Why; needed without a lease.
        reason: String,
    },
    /// Change the shared context.
    ChangeContext {
        /// The context as it shall be: already merged and checked against the schema.
        context: Value,
        /// Refused unless the instance is at this version.
        expected_version: Option<u64>,
        /// An agent's lease.
        lease: Option<ShownLease>,
        /// Why; needed without a lease.
        reason: String,
    },
    /// Something happened in another service. Always recorded, whatever state the instance is in.
    Hear {
        /// What happened.
        fact: Fact,
        /// When, by the clock of that service.
        at: Timestamp,
    },
    /// Something happened in another service before the engine could use it, and is told once more. Recorded only where
    /// the engine still waits for it.
    HearAgain {
        /// What happened.
        fact: Fact,
        /// When it is told.
        at: Timestamp,
    },
}

/// What an instance begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Its id.
    pub id: InstanceId,
    /// Digest of the pinned version.
    pub definition_digest: String,
    /// Name to show; the definition's when empty.
    pub name: String,
    /// Shared context, an object, already checked against the schema.
    pub context: Value,
    /// People; addresses go to [`super::Personal`].
    pub participants: BTreeMap<ParticipantId, Raid>,
    /// Team that serves it; empty for none.
    pub team_id: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}
