//! What happened in another service, as the record keeps it: everything but what is personal.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, CommentId, LinkId, NotificationId, ParticipantId, TaskId};
use serde::{Deserialize, Serialize};

use super::command::CurrentVersion;
use super::request::{ApprovalStatus, Subject};

/// What a reviewer wants changed, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemarkMade {
    /// Who made it.
    pub participant: ParticipantId,
    /// Artifact that it points at; absent for the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactKey>,
    /// JSON Pointer in the artifact; empty for all of it.
    pub path: String,
    /// When.
    pub made_at: Timestamp,
}

/// A request as its owner describes it, without personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestView {
    /// What it is about.
    pub subject: Subject,
    /// Round of the subject.
    pub round: u32,
    /// Title.
    pub title: String,
    /// Task that it belongs to, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Approval key; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Everybody who is asked.
    pub approvers: BTreeSet<ParticipantId>,
    /// Who has not answered.
    pub waiting_on: BTreeSet<ParticipantId>,
    /// What is reviewed, pinned to versions.
    pub artifacts: BTreeMap<ArtifactKey, u32>,
    /// What a decision refers to: digest of all that was shown.
    pub content_digest: String,
    /// When it was asked.
    pub requested_at: Timestamp,
    /// Deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// An answer of one person.
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

/// How sure we are who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assurance {
    /// The holder of a magic link.
    Link,
    /// A caller of the API that speaks for the person.
    Api,
}

/// What happened in another service. Stored as it stands, so it is as lasting as an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Fact {
    /// A request was put to people; or put to them anew, because its content changed.
    ApprovalRequested {
        /// Request.
        approval: ApprovalId,
        /// As it stands.
        request: RequestView,
    },
    /// A person answered. Comment and remarks are personal.
    ApprovalResponded {
        /// Request.
        approval: ApprovalId,
        /// Unique; a repeated delivery has the same id.
        response: String,
        /// Task, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<TaskId>,
        /// Who answered.
        participant: ParticipantId,
        /// The answer.
        decision: Decision,
        /// How sure we are who it was.
        assurance: Assurance,
        /// Digest of what the person saw.
        content_digest: String,
        /// Who has not answered.
        waiting_on: BTreeSet<ParticipantId>,
        /// Where the request stands after the answer.
        status: ApprovalStatus,
        /// What the person wants changed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remarks: Vec<RemarkMade>,
    },
    /// A request came to its end.
    ApprovalSettled {
        /// Request.
        approval: ApprovalId,
        /// How: not needed or pending.
        status: ApprovalStatus,
        /// As it stands.
        request: RequestView,
        /// What all its approvers want changed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remarks: Vec<RemarkMade>,
        /// Why it was withdrawn or superseded; empty otherwise.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// People were reminded.
    ApprovalReminded {
        /// Request.
        approval: ApprovalId,
        /// Who was reminded.
        participants: BTreeSet<ParticipantId>,
    },
    /// Somebody further was asked.
    ApprovalEscalated {
        /// Request.
        approval: ApprovalId,
        /// Who was added; empty where it went to operators.
        added: BTreeSet<ParticipantId>,
        /// Who has not answered.
        waiting_on: BTreeSet<ParticipantId>,
        /// The deadline has passed.
        overdue: bool,
    },
    /// An artifact version was stored.
    ArtifactStored {
        /// Key.
        key: ArtifactKey,
        /// What was stored.
        artifact: CurrentVersion,
        /// Size.
        size_bytes: u64,
    },
    /// A comment was written. Its text is personal.
    CommentCreated {
        /// Comment.
        comment: CommentId,
        /// Subject.
        subject: String,
        /// Not for external participants.
        internal: bool,
    },
    /// A link was made.
    LinkCreated {
        /// Link.
        link: LinkId,
        /// Person.
        participant: ParticipantId,
        /// Its end.
        expires_at: Timestamp,
        /// What it lets its holder do.
        permissions: BTreeSet<String>,
    },
    /// A link was revoked.
    LinkRevoked {
        /// Link.
        link: LinkId,
        /// Person.
        participant: ParticipantId,
        /// Why.
        reason: String,
    },
    /// A link was used for the first time in a session that did something.
    LinkOpened {
        /// Link.
        link: LinkId,
        /// Person.
        participant: ParticipantId,
    },
    /// A person asked for a fresh link, because its own was over.
    LinkAsked {
        /// Link that is over.
        link: LinkId,
        /// Person.
        participant: ParticipantId,
    },
    /// A notification was sent, or given up. Why it was given up may name an address, so it is personal.
    NotificationSettled {
        /// Notification.
        notification: NotificationId,
        /// Person.
        participant: ParticipantId,
        /// Its template.
        template: String,
        /// True when sent.
        sent: bool,
        /// Requests that it is about.
        approvals: BTreeSet<ApprovalId>,
    },
}
