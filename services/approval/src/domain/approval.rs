//! The nouns: a request, its approvers and where each of them stands.

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, BoundaryId, GateId, InstanceId, ParticipantId, PhaseId, TaskId};
use serde::{Deserialize, Serialize};

use super::actor::{Actor, Assurance};
use super::command::{Decision, Remark};
use super::digest::{self, ContentDigest};
use super::timing::Timing;

/// What was asked, as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Names it for ever.
    pub id: ApprovalId,
    /// Instance.
    pub instance: InstanceId,
    /// Definition of the instance, for those who count.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process: String,
    /// What it is about.
    pub subject: Subject,
    /// Task that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Phase that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<PhaseId>,
    /// Gate, for the approval of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateId>,
    /// Round of review of the subject, from 1.
    pub round: u32,
    /// Approval key: names the fact that an approval sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Requests that were asked together share it.
    pub boundary: BoundaryId,
    /// One line.
    pub title: String,
    /// What the approvers should know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What is reviewed, pinned to versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<ReviewedArtifact>,
    /// Who is asked: distinct persons, in order.
    pub approvers: Vec<ParticipantId>,
    /// Agents and humans whose work is reviewed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub produced_by: Vec<String>,
    /// Who asks.
    pub requested_by: Actor,
    /// How long it may take.
    #[serde(default)]
    pub timing: Timing,
    /// Request of the round before, which this one follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<ApprovalId>,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Kind of thing.
    pub kind: SubjectKind,
    /// Id of the task, phase or gate; the key of an ad-hoc request, or nothing.
    pub id: String,
}

/// Kinds of subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKind {
    /// The work of a task.
    Task,
    /// The exit of a phase.
    Phase,
    /// The opening of a gate.
    Gate,
    /// Whatever an agent or an operator asks.
    AdHoc,
}

/// An artifact version under review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewedArtifact {
    /// Key.
    pub key: ArtifactKey,
    /// Version.
    pub version: u32,
    /// Digest of its content.
    pub digest: String,
    /// Version that was under review before; 0 for none.
    #[serde(default)]
    pub previous_version: u32,
}

/// A request and what has become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// What is asked. Its artifacts are those of the last time that it was asked.
    pub request: Request,
    /// When it was first asked.
    pub requested_at: Timestamp,
    /// How often it was put to people, from 1: each change of its content puts it again.
    pub edition: u32,
    /// Who answers, those asked first before those whom escalations added.
    pub approvers: Vec<Approver>,
    /// What an answer refers to.
    pub digest: ContentDigest,
    /// Deadline.
    pub expires_at: Option<Timestamp>,
    /// When somebody further is asked; nothing once that has happened.
    pub escalates_at: Option<Timestamp>,
    /// Reminders that have not gone out, earliest first.
    pub reminds_at: Vec<Timestamp>,
    /// Past its deadline, and still open.
    pub overdue: bool,
    /// Whether it waits, or how it ended.
    pub state: State,
}

/// One person who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approver {
    /// The person.
    pub id: ParticipantId,
    /// Where the person stands.
    pub standing: Standing,
    /// Was added by an escalation.
    #[serde(default)]
    pub escalated: bool,
}

/// Where one approver stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Has to answer.
    Pending,
    /// Has answered.
    Answered(Answered),
    /// The request was settled without this answer.
    NotNeeded,
}

/// An answer that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The answer.
    pub decision: Decision,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// What the person wants changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<Remark>,
    /// How sure we are who it was.
    pub assurance: Assurance,
    /// Who pressed the button.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
}

/// Whether a request waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// People have to answer.
    Pending,
    /// It has ended.
    Settled(Settlement),
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// The outcome.
    pub outcome: Outcome,
    /// What brought it about.
    pub by: SettledBy,
    /// Why, where somebody said so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// Outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everybody who had to approved.
    Approved,
    /// Somebody rejected, or the time ran out where that counts as a rejection.
    Rejected,
    /// Somebody asked for changes, and nobody rejected.
    ChangesRequested,
    /// The time ran out where that blocks the subject.
    Expired,
    /// Taken back.
    Withdrawn,
    /// Nobody needs it any more, or another replaced it.
    Superseded,
}

/// What settles a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettledBy {
    /// The last answer that it took, of this person.
    Answer(ParticipantId),
    /// Its deadline.
    Deadline,
    /// Who took it back.
    Withdrawal(Actor),
    /// The engine, with the request that replaced it, if one did.
    Replacement(Option<ApprovalId>),
}

impl Approval {
    /// A request that was just put to its approvers.
    pub fn asked(request: Request, at: Timestamp) -> Self {
        let approvers = request.approvers.iter().map(|id| Approver::pending(id.clone(), false)).collect();
        let digest = digest::content(&request);
        let due = request.timing.from(at);
        Self {
            request,
            requested_at: at,
            edition: 1,
            approvers,
            digest,
            expires_at: due.deadline,
            escalates_at: due.escalation,
            reminds_at: due.reminders,
            overdue: false,
            state: State::Pending,
        }
    }

    /// The approver, if the person is one.
    pub fn approver(&self, person: &ParticipantId) -> Option<&Approver> {
        self.approvers.iter().find(|approver| &approver.id == person)
    }

    /// Whether people still have to answer.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending)
    }

    /// How it ended, if it has.
    pub fn settlement(&self) -> Option<&Settlement> {
        match &self.state {
            State::Pending => None,
            State::Settled(settlement) => Some(settlement),
        }
    }

    /// Whether the person asked for it or produced what it is about, and so has no say in it.
    pub fn is_own_work_of(&self, person: &ParticipantId) -> bool {
        self.request.is_own_work_of(person)
    }

    /// Those who have not answered.
    pub fn waits_for(&self) -> impl Iterator<Item = &ParticipantId> {
        self.approvers.iter().filter(|one| one.standing == Standing::Pending).map(|one| &one.id)
    }

    /// What all approvers want changed, in the order of the approvers.
    pub fn remarks(&self) -> Vec<&Remark> {
        let answers = self.approvers.iter().filter_map(Approver::answer);
        answers.flat_map(|answer| &answer.remarks).collect()
    }
}

impl Request {
    /// Whether the person asks for it or produced what it is about.
    pub fn is_own_work_of(&self, person: &ParticipantId) -> bool {
        self.requested_by.stands_for(person) || self.produced_by.iter().any(|one| one == person.as_str())
    }
}

impl Approver {
    /// Somebody who has to answer.
    pub fn pending(id: ParticipantId, escalated: bool) -> Self {
        Self { id, standing: Standing::Pending, escalated }
    }

    /// What the person answered.
    pub fn answer(&self) -> Option<&Answered> {
        match &self.standing {
            Standing::Answered(answer) => Some(answer),
            Standing::Pending | Standing::NotNeeded => None,
        }
    }
}

impl Outcome {
    /// As it is written in the database and in errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::ChangesRequested => "changes_requested",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Superseded => "superseded",
        }
    }
}

impl State {
    /// As it is written in the database and in errors.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Settled(settlement) => settlement.outcome.as_str(),
        }
    }
}

impl Standing {
    /// As it is written in the database.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::NotNeeded => "not_needed",
            Self::Answered(answer) => match answer.decision {
                Decision::Approve => "approved",
                Decision::Reject => "rejected",
                Decision::RequestChanges => "changes_requested",
            },
        }
    }
}

impl SubjectKind {
    /// As ids are derived from it, and as it is written in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Phase => "phase",
            Self::Gate => "gate",
            Self::AdHoc => "ad_hoc",
        }
    }
}
