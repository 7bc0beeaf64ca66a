//! A task inside one instance: where it stands, who holds it, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, ParticipantId, PhaseId, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// What was handed in last, an object. Shared memory, as the context.
    pub output: Option<Arc<Value>>,
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
    /// `UPPER_SNAKE_CASE`; [`Failure::LEASE_EXPIRED`] is the engine's own.
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
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);
