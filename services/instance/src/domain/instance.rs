//! What one run of a definition knows about itself. Only `evolve` changes it, and only from events, so the row that
//! caches it can always be made again from the history.
//!
//! It holds no definition: that is pinned by digest and handed to `decide`. It holds no personal data either: remarks
//! point at the entry of the record beside which their text is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, GateId, InstanceId, ParticipantId, PhaseId, ProcessId, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::Actor;

/// One run of a definition.
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
    pub labels: BTreeMap<String, String>,
    /// Life cycle.
    pub status: Status,
    /// Why it was paused, cancelled or failed; empty otherwise.
    pub status_reason: String,
    /// Shared context, an object.
    pub context: Value,
    /// Names that were set.
    pub facts: BTreeMap<String, bool>,
    /// Phases, by id. Their order is the definition's.
    pub phases: BTreeMap<PhaseId, Phase>,
    /// Tasks, by id.
    pub tasks: BTreeMap<TaskId, Task>,
    /// Gates, by id.
    pub gates: BTreeMap<GateId, Gate>,
    /// Requests that a subject rests on, and ad-hoc ones that are open, by id.
    pub approvals: BTreeMap<ApprovalId, Approval>,
    /// How ad-hoc requests with a key ended, by key.
    pub answers: BTreeMap<String, ApprovalStatus>,
    /// Newest known version of each artifact, by key.
    pub artifacts: BTreeMap<ArtifactKey, Artifact>,
    /// People, with their responsibility.
    pub participants: BTreeMap<ParticipantId, Raid>,
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
            labels: BTreeMap::new(),
            status: Status::Unstarted,
            status_reason: String::new(),
            context: Value::Null,
            facts: BTreeMap::new(),
            phases: BTreeMap::new(),
            tasks: BTreeMap::new(),
            gates: BTreeMap::new(),
            approvals: BTreeMap::new(),
            answers: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            participants: BTreeMap::new(),
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

/// A task inside one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its phase.
    pub phase: PhaseId,
    /// Life cycle.
    pub status: TaskStatus,
    /// Attempts used in this round; 1 while the first one runs.
    pub attempt: u32,
    /// Round of review, from 1.
    pub round: u32,
    /// Rounds that ended with changes requested since somebody unlocked it last.
    pub changes: u32,
    /// Grows with every lease and every time that a lease is taken away.
    pub fencing: u64,
    /// Who holds it; present exactly while it runs.
    pub lease: Option<Lease>,
    /// Not handed out before this; absent unless ready.
    pub ready_at: Option<Timestamp>,
    /// Why it is handed out next.
    pub delivery: Delivery,
    /// Agent or human of the definition.
    pub owner: String,
    /// Who does it: the owner, or whom it has gone up to.
    pub assignee: String,
    /// Whom it has gone up to, oldest first, since somebody unlocked it last.
    pub escalated_to: Vec<String>,
    /// What was handed in last, an object.
    pub output: Option<Value>,
    /// What was said about it when it was handed in last.
    pub summary: String,
    /// What reviewers asked for, newest round last.
    pub remarks: Vec<Remark>,
    /// Last failure.
    pub last_failure: Option<Failure>,
    /// Request of this round. An agent may have had it made before handing in.
    pub approval: Option<ApprovalId>,
    /// First lease.
    pub started_at: Option<Timestamp>,
    /// Done, passed over or cancelled.
    pub ended_at: Option<Timestamp>,
    /// When its status last changed.
    pub since: Option<Timestamp>,
}

/// Life cycle of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Its phase or its dependencies are not there yet.
    Pending,
    /// Waits for a worker, or for the time of its next attempt.
    Ready,
    /// Leased.
    Running,
    /// Handed in; people decide.
    AwaitingApproval,
    /// Done.
    Completed,
    /// Its approval was rejected, withdrawn or timed out.
    Blocked,
    /// Gone up to a human or to operators.
    Escalated,
    /// Failed for good.
    Failed,
    /// Passed over; dependants see it as done.
    Skipped,
    /// Its instance ended before it.
    Cancelled,
}

impl TaskStatus {
    /// Whether dependants may begin.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Completed | Self::Skipped)
    }

    /// Whether its work is out of the agents' hands.
    pub fn is_handed_in(self) -> bool {
        matches!(self, Self::Completed | Self::Skipped | Self::AwaitingApproval)
    }

    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Completed => "completed",
            Self::Blocked => "blocked",
            Self::Escalated => "escalated",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The right to work on a task. Its end is not here: heartbeats move it without a transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Worker that holds it.
    pub worker: String,
    /// When it was granted.
    pub granted_at: Timestamp,
}

/// Why a task is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// For the first time.
    First,
    /// After a failed attempt, or an operator's retry.
    Retry,
    /// Reviewers asked for changes, or the phase was reopened.
    Rework,
    /// The lease before ran out.
    LeaseExpired,
    /// It was given back.
    Released,
    /// It has come up from another agent.
    Escalation,
}

/// What a reviewer wants changed. Its text is personal, and kept beside the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// Round that it was made in.
    pub round: u32,
    /// Who made it.
    pub participant: ParticipantId,
    /// Artifact that it points at; absent for the whole.
    pub artifact: Option<ArtifactKey>,
    /// JSON Pointer in the artifact; empty for all of it.
    pub path: String,
    /// When.
    pub made_at: Timestamp,
    /// Entry of the record beside which its text is kept: [`super::Personal::remarks`].
    pub sequence: u64,
    /// Position among the texts there.
    pub position: usize,
}

/// One failure, as reported or inferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// UPPER_SNAKE_CASE; [`Failure::LEASE_EXPIRED`] is the engine's own.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// No retry can help.
    pub non_retryable: bool,
    /// Lease that it happened under.
    pub fencing: u64,
    /// When.
    pub occurred_at: Timestamp,
}

impl Failure {
    /// The lease ran out without a word from its worker.
    pub const LEASE_EXPIRED: &'static str = "LEASE_EXPIRED";
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

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Subject {
    /// The work of a task.
    Task(TaskId),
    /// The exit of a phase.
    Phase(PhaseId),
    /// The opening of a gate.
    Gate(GateId),
    /// Whatever an agent or an operator asked: its key, or empty.
    AdHoc(String),
}

impl Subject {
    /// The word in ids and conditions.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Task(_) => "task",
            Self::Phase(_) => "phase",
            Self::Gate(_) => "gate",
            Self::AdHoc(_) => "ad_hoc",
        }
    }

    /// The id in the definition, or the key.
    pub fn id(&self) -> &str {
        match self {
            Self::Task(id) => id.as_str(),
            Self::Phase(id) => id.as_str(),
            Self::Gate(id) => id.as_str(),
            Self::AdHoc(key) => key,
        }
    }
}

/// A request for a decision, as far as the engine rests on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// What it is about.
    pub subject: Subject,
    /// Round of the subject.
    pub round: u32,
    /// Title; empty until the request was put to people.
    pub title: String,
    /// Task that it belongs to, where there is one.
    pub task: Option<TaskId>,
    /// Approval key; empty for none.
    pub key: String,
    /// Who has not answered.
    pub waiting_on: BTreeSet<ParticipantId>,
    /// What is reviewed, pinned to versions.
    pub artifacts: BTreeMap<ArtifactKey, u32>,
    /// Where it stands.
    pub status: ApprovalStatus,
    /// What its approvers want changed, once settled that way.
    pub remarks: Vec<Remark>,
    /// When the engine needed it, or somebody asked.
    pub requested_at: Timestamp,
    /// Deadline.
    pub expires_at: Option<Timestamp>,
    /// Past its deadline, and still open.
    pub overdue: bool,
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    /// The engine needs it; it has not been put to people yet.
    Needed,
    /// People have to answer.
    Pending,
    /// Everybody approved.
    Approved,
    /// Somebody rejected, or the time ran out where that counts as a rejection.
    Rejected,
    /// Somebody asked for changes, and nobody rejected.
    ChangesRequested,
    /// The time ran out where that blocks the subject.
    Expired,
    /// Taken back.
    Withdrawn,
    /// Its content changed, or a later round replaced it.
    Superseded,
}

impl ApprovalStatus {
    /// Whether an answer is still to come.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Needed | Self::Pending)
    }

    /// The word in conditions and in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Needed => "needed",
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::ChangesRequested => "changes_requested",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Superseded => "superseded",
        }
    }
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

/// Work that a worker may take: one row of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyWork {
    /// Task.
    pub task: TaskId,
    /// Queue that it is handed out on.
    pub queue: String,
    /// Urgency, higher first.
    pub priority: phasegate_process::Priority,
    /// Not before this.
    pub ready_at: Timestamp,
    /// Fencing token before the next lease: tells two rows of the same task apart.
    pub fencing: u64,
    /// Tools that the work needs.
    pub tools: Vec<String>,
}

/// A lease that is out: one row of the leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// Task.
    pub task: TaskId,
    /// Fencing token of the lease.
    pub fencing: u64,
    /// Worker that holds it.
    pub worker: String,
    /// When it was granted.
    pub granted_at: Timestamp,
}

/// Longest time that a worker may ask the engine to wait before the next attempt.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
