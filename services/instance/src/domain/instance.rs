//! What one run of a definition knows about itself. Only `evolve` changes it, and only from events, so the row that
//! caches it can always be made again from the history.
//!
//! It holds no definition: that is pinned by digest and handed to `decide`. It holds no personal data either: remarks
//! point at the entry of the record beside which their text is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, GateId, InstanceId, ParticipantId, PhaseId, ProcessId, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::Actor;
use super::copy_on_write::Shared;
use super::request::{Approval, ApprovalStatus};
use super::task::Task;

/// One run of a definition. Every decision begins with a copy of it, which shares what it does not change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Definition.
    pub process_id: ProcessId,
    /// Version that it is pinned to.
    pub process_version: String,
    /// Digest of the pinned version.
    pub definition_digest: String,
    /// Name to show.
    pub name: String,
    /// Team that serves it; empty for none.
    pub team_id: String,
    /// Free labels.
    pub labels: Shared<BTreeMap<String, String>>,
    /// Life cycle.
    pub status: Status,
    /// Why it was paused, cancelled or failed; empty otherwise.
    pub status_reason: String,
    /// Shared context, an object.
    pub context: Arc<Value>,
    /// Names that were set.
    pub facts: Shared<BTreeMap<String, bool>>,
    /// Phases, by id. Their order is the definition's.
    pub phases: Shared<BTreeMap<PhaseId, Phase>>,
    /// Tasks, by id.
    pub tasks: Shared<BTreeMap<TaskId, Shared<Task>>>,
    /// Gates, by id.
    pub gates: Shared<BTreeMap<GateId, Gate>>,
    /// Requests that a subject rests on, and ad-hoc ones that are open, by id.
    pub approvals: Shared<BTreeMap<ApprovalId, Approval>>,
    /// How ad-hoc requests with a key ended, by key.
    pub answers: Shared<BTreeMap<String, ApprovalStatus>>,
    /// Ad-hoc requests that are settled: a question that comes after its answer opens nothing.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub settled: Shared<BTreeSet<ApprovalId>>,
    /// How requests ended that subjects rested on before: what is told of their end once more is on record.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replaced: Shared<BTreeMap<ApprovalId, ApprovalStatus>>,
    /// Newest known version of each artifact, by key.
    pub artifacts: Shared<BTreeMap<ArtifactKey, Artifact>>,
    /// People, with their responsibility.
    pub participants: Shared<BTreeMap<ParticipantId, Raid>>,
    /// Who started it.
    pub created_by: Actor,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When it was paused; absent unless paused.
    pub paused_at: Option<Timestamp>,
    /// Sequence of the last event; zero before the first.
    pub version: u64,
}

impl Instance {
    /// An instance of which nothing has been recorded: what the first event is taken into.
    pub fn unstarted() -> Self {
        Self {
            id: InstanceId::trusted(""),
            process_id: ProcessId::trusted(""),
            process_version: String::new(),
            definition_digest: String::new(),
            name: String::new(),
            team_id: String::new(),
            labels: Shared::default(),
            status: Status::Unstarted,
            status_reason: String::new(),
            context: Arc::new(Value::Null),
            facts: Shared::default(),
            phases: Shared::default(),
            tasks: Shared::default(),
            gates: Shared::default(),
            approvals: Shared::default(),
            answers: Shared::default(),
            settled: Shared::default(),
            replaced: Shared::default(),
            artifacts: Shared::default(),
            participants: Shared::default(),
            created_by: Actor::engine(),
            started_at: None,
            ended_at: None,
            paused_at: None,
            version: 0,
        }
    }
}

/// Life cycle of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing has been recorded; never stored.
    Unstarted,
    /// Under way.
    Running,
    /// On hold.
    Paused,
    /// Ended well.
    Completed,
    /// Ended by an operator.
    Cancelled,
    /// Ended by a failure.
    Failed,
}

impl Status {
    /// Whether nothing can follow.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }

    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unstarted => "unstarted",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        let all =
            [Self::Unstarted, Self::Running, Self::Paused, Self::Completed, Self::Cancelled, Self::Failed];
        all.into_iter().find(|status| status.as_str() == name)
    }
}

/// A phase inside one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Life cycle.
    pub status: PhaseStatus,
    /// Round of its review, from 1.
    pub round: u32,
    /// Rounds that ended with changes requested since somebody unlocked it last.
    pub changes: u32,
    /// Request of this round.
    pub approval: Option<ApprovalId>,
    /// What holds it; present exactly while it is blocked.
    pub block: Option<Block>,
    /// When its tasks began; absent until it is entered.
    pub started_at: Option<Timestamp>,
    /// When it was completed or passed over.
    pub ended_at: Option<Timestamp>,
    /// When its status last changed.
    pub since: Option<Timestamp>,
}

/// Life cycle of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseStatus {
    /// Not reached.
    Pending,
    /// Reached; a gate or an entry condition is not met.
    Gated,
    /// Its tasks run.
    Active,
    /// Its tasks are handed in; people decide.
    AwaitingApproval,
    /// Done.
    Completed,
    /// Held until somebody unlocks it, or its condition evaluates again.
    Blocked,
    /// Passed over by force.
    Skipped,
}

impl PhaseStatus {
    /// Whether it is behind.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Skipped)
    }

    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Gated => "gated",
            Self::Active => "active",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Completed => "completed",
            Self::Blocked => "blocked",
            Self::Skipped => "skipped",
        }
    }
}

/// What holds a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Kind of obstacle.
    pub cause: BlockCause,
    /// Task, gate, phase or expression.
    pub subject: String,
    /// Why, as a sentence.
    pub message: String,
}

/// Kind of obstacle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockCause {
    /// An approval was rejected, withdrawn or timed out.
    Rejected,
    /// Changes were requested more often than the definition allows, or there is nothing to change.
    Rounds,
    /// A task failed for good.
    Failed,
    /// A condition cannot be evaluated.
    Condition,
}

/// A gate inside one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Life cycle.
    pub status: GateStatus,
    /// Round of its request, from 1.
    pub round: u32,
    /// Rounds that ended with changes requested since somebody unlocked it last.
    pub changes: u32,
    /// Request of this round.
    pub approval: Option<ApprovalId>,
    /// Was opened by force.
    pub forced: bool,
    /// When it opened.
    pub opened_at: Option<Timestamp>,
}

/// Life cycle of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateStatus {
    /// Closed.
    Pending,
    /// Open.
    Open,
    /// Its approval was rejected, withdrawn or timed out.
    Rejected,
}

/// The newest known version of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Version.
    pub version: u32,
    /// Kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Phase that it is listed under; empty for none.
    pub phase: String,
    /// Task whose lease stored it; empty for others.
    pub task: String,
    /// "sha256:" and hex.
    pub digest: String,
}

/// RAID responsibility of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Raid {
    /// Does the work.
    Responsible,
    /// Decides.
    Approver,
    /// Is told.
    Informed,
    /// Assigns.
    Delegator,
}
