//! What somebody, or time, wants to happen to a request.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, ParticipantId};
use serde::{Deserialize, Serialize};

use super::actor::{Actor, Assurance};
use super::digest::ContentDigest;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// An approver answers.
    Answer(Answer),
    /// Somebody takes the request back.
    Withdraw {
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// Nobody needs the request any more.
    Supersede {
        /// The request that replaces it.
        by: Option<ApprovalId>,
        /// Why.
        reason: String,
    },
    /// These are the newest versions of artifacts, as far as somebody knows.
    Refresh {
        /// Newest versions, by key; keys that the request does not review are ignored.
        current: BTreeMap<ArtifactKey, CurrentArtifact>,
    },
    /// Time has passed.
    Elapse,
}

/// One person's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The person.
    pub approver: ParticipantId,
    /// What the person says.
    pub verdict: Verdict,
    /// The content that the person saw.
    pub seen: ContentDigest,
    /// Who pressed the button.
    pub by: Actor,
    /// How sure we are who it was.
    pub assurance: Assurance,
    /// How the instance stands, as far as is known.
    pub instance: InstanceCondition,
}

/// What a person says: a no comes with words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    decision: Decision,
    comment: String,
    wishes: Vec<Wish>,
}

/// What a person wants changed, as the person says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Artifact that it points at; empty for the whole.
    pub artifact_key: String,
    /// JSON Pointer in the artifact.
    pub path: String,
    /// The wish.
    pub text: String,
}

/// A no without a word of explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("say why in comment or remarks")]
pub struct WordsMissing;

/// Answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Yes.
    Approve,
    /// No.
    Reject,
    /// Not yet.
    RequestChanges,
}

/// What a reviewer wants changed, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// Round that it was made in.
    pub round: u32,
    /// Who made it.
    pub participant: ParticipantId,
    /// Artifact that it points at; empty for the whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_key: String,
    /// JSON Pointer in the artifact.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The remark.
    pub text: String,
    /// When.
    pub made_at: Timestamp,
}

/// The newest version of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentArtifact {
    /// Version.
    pub version: u32,
    /// Digest of its content.
    pub digest: String,
}

/// How the instance of a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceCondition {
    /// It goes on.
    Running,
    /// It is on hold: no deadline passes, but people may decide.
    Paused,
    /// It is over.
    Ended,
}

impl Verdict {
    /// Takes what a person says.
    pub fn new(decision: Decision, comment: String, wishes: Vec<Wish>) -> Result<Self, WordsMissing> {
        let explained = !comment.trim().is_empty() || !wishes.is_empty();
        match decision {
            Decision::Reject | Decision::RequestChanges if !explained => Err(WordsMissing),
            Decision::Approve | Decision::Reject | Decision::RequestChanges => {
                Ok(Self { decision, comment, wishes })
            }
        }
    }

    /// The answer.
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// Why.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// What the person wants changed.
    pub fn wishes(&self) -> &[Wish] {
        &self.wishes
    }
}

impl InstanceCondition {
    /// What was heard last wins where it says more: an end is for ever.
    pub fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ended, _) | (_, Self::Ended) => Self::Ended,
            (Self::Paused, _) | (_, Self::Paused) => Self::Paused,
            (Self::Running, Self::Running) => Self::Running,
        }
    }
}

impl Decision {
    /// As errors name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::RequestChanges => "request_changes",
        }
    }
}
