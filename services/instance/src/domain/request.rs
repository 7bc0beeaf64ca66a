//! A request for a decision, as far as the engine rests on it. Who may decide, and how votes are counted, is the approval
//! service's.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_clock::Timestamp;
use phasegate_id::{ArtifactKey, GateId, ParticipantId, PhaseId, TaskId};
use serde::{Deserialize, Serialize};

use super::task::Remark;

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
