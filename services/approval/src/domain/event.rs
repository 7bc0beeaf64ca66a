//! What has happened to a request. Stored for ever: only added to, and every shape that was ever stored has a history
//! in `tests/histories`.

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ParticipantId};
use serde::{Deserialize, Serialize};

use super::actor::Actor;
use super::approval::{Answered, Outcome, Request, ReviewedArtifact};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It was put to its approvers.
    Requested {
        /// What was asked.
        request: Box<Request>,
        /// When.
        at: Timestamp,
    },
    /// Its content changed: answers so far are void, and everybody is asked again.
    AskedAgain {
        /// What is reviewed from here on.
        artifacts: Vec<ReviewedArtifact>,
        /// When.
        at: Timestamp,
    },
    /// A person answered.
    Responded {
        /// The person.
        approver: ParticipantId,
        /// The answer.
        answer: Box<Answered>,
    },
    /// The answers decided it.
    Settled {
        /// How.
        outcome: Outcome,
        /// The person whose answer it was.
        by: ParticipantId,
        /// When.
        at: Timestamp,
    },
    /// Those who had not answered were reminded.
    Reminded {
        /// Who.
        people: Vec<ParticipantId>,
        /// When.
        at: Timestamp,
    },
    /// Somebody further was asked.
    Escalated {
        /// The person who was added; operators were told where there was nobody.
        added: Option<ParticipantId>,
        /// It was the deadline that did it.
        overdue: bool,
        /// When.
        at: Timestamp,
    },
    /// The time ran out.
    TimedOut {
        /// What that means.
        outcome: Outcome,
        /// When.
        at: Timestamp,
    },
    /// It was taken back.
    Withdrawn {
        /// By whom.
        by: Actor,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// Nobody needs it any more.
    Superseded {
        /// The request that replaced it.
        by: Option<ApprovalId>,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
}

impl Event {
    /// When it happened.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Requested { at, .. }
            | Self::AskedAgain { at, .. }
            | Self::Settled { at, .. }
            | Self::Reminded { at, .. }
            | Self::Escalated { at, .. }
            | Self::TimedOut { at, .. }
            | Self::Withdrawn { at, .. }
            | Self::Superseded { at, .. } => *at,
            Self::Responded { answer, .. } => answer.at,
        }
    }
}
