//! Why a command may not happen. A rejection changes nothing.

use phasegate_id::{ArtifactKey, PhaseId, TaskId};

use super::instance::Status;
use super::task::TaskStatus;

/// Why a command may not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The instance was started before.
    #[error("the instance exists already")]
    AlreadyStarted,
    /// Nothing can follow the end.
    #[error("the instance is {}", .0.as_str())]
    Terminal(Status),
    /// The instance is on hold, and this would move it.
    #[error("the instance is paused")]
    Paused,
    /// Only operators and delegators may.
    #[error("this takes an operator or a delegator")]
    RoleForbidden,
    /// It takes a reason.
    #[error("a reason is needed")]
    ReasonRequired,
    /// The definition has no such task.
    #[error("there is no task {0}")]
    TaskNotFound(TaskId),
    /// The definition has no such phase.
    #[error("there is no phase {0}")]
    PhaseNotFound(PhaseId),
    /// The lease is not the newest one of its task, or has ended.
    #[error("the lease of task {0} has ended")]
    LeaseLost(TaskId),
    /// Nothing may be handed out for this task at this moment.
    #[error("task {task} is {}", .status.as_str())]
    NotReady {
        /// Task.
        task: TaskId,
        /// Where it stands.
        status: TaskStatus,
    },
    /// The task is not in a state that allows it.
    #[error("task {task} is {}", .status.as_str())]
    TaskState {
        /// Task.
        task: TaskId,
        /// Where it stands.
        status: TaskStatus,
    },
    /// The phase is not in a state that allows it.
    #[error("phase {0} has not been reached")]
    PhaseNotReached(PhaseId),
    /// Expected artifacts have not been stored.
    #[error("task {task} has not stored all that it is to store")]
    ArtifactsMissing {
        /// Task.
        task: TaskId,
        /// What it has not stored.
        missing: Vec<ArtifactKey>,
    },
    /// Another phase than the caller thought is the current one.
    #[error("the current phase is another one")]
    PhaseMoved {
        /// The current phase; absent once it has ended.
        current: Option<PhaseId>,
    },
    /// The current phase may not end, or the next may not begin.
    #[error("something is in the way")]
    PhaseBlocked(Vec<Blocker>),
    /// The instance has moved on since the caller looked.
    #[error("the instance is at version {current}")]
    VersionMismatch {
        /// Where it is.
        current: u64,
    },
}

/// One thing that is in the way, and who can move it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Kind of obstacle.
    pub kind: BlockerKind,
    /// Task, phase, gate, approval or expression.
    pub subject: String,
    /// Task that does not move; absent where the phase itself is held.
    pub task: Option<TaskId>,
    /// Its phase.
    pub phase: PhaseId,
    /// Why, as a sentence.
    pub message: String,
    /// Tasks, approvals, gates or expressions that hold it.
    pub blocked_by: Vec<String>,
    /// Participant and agent ids, or "operator".
    pub unblocked_by: Vec<String>,
    /// Since when.
    pub since: Option<phasegate_clock::Timestamp>,
}

/// Kind of obstacle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockerKind {
    /// Another task comes first.
    Dependency,
    /// People have to decide.
    Approval,
    /// A gate is closed.
    Gate,
    /// A condition is false or cannot be evaluated.
    Condition,
    /// Something was rejected, withdrawn or timed out.
    Rejected,
    /// A task failed for good.
    Failed,
    /// Work has gone up.
    Escalated,
    /// Nobody polls the queue.
    NoWorker,
    /// The instance is on hold.
    Paused,
    /// A task has still to be done.
    Task,
}

impl BlockerKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dependency => "DEPENDENCY",
            Self::Approval => "APPROVAL",
            Self::Gate => "GATE",
            Self::Condition => "CONDITION",
            Self::Rejected => "REJECTED",
            Self::Failed => "FAILED",
            Self::Escalated => "ESCALATED",
            Self::NoWorker => "NO_WORKER",
            Self::Paused => "PAUSED",
            Self::Task => "TASK",
        }
    }
}
