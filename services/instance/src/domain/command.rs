//! What somebody wants of an instance. A command carries everything that deciding it takes: who asks, and what the
//! other services said a moment ago.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{
    ApprovalId, ArtifactKey, CommentId, InstanceId, LinkId, NotificationId, ParticipantId, PhaseId, TaskId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::instance::{ApprovalStatus, Raid, Subject};

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
        /// UPPER_SNAKE_CASE.
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
        /// Why; may be empty.
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
