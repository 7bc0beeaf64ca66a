//! What people are told, and when a message is tried again.
//!
//! An [`Occasion`] is something that happened and that somebody has to hear of. [`addressees`] says who, [`letter`] says what,
//! and [`RetryPolicy`] says how often delivery is tried. Nothing here knows of mail servers, links or databases.

mod letter;
mod occasion;
mod retry;
mod words;

pub(crate) use letter::{Letter, letter};
pub(crate) use occasion::{Answer, Occasion, Outcome, Person, PhaseMove, Process, Request, addressees};
pub use retry::RetryPolicy;
pub(crate) use words::{masked, one_line};

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, InstanceId, LinkId, NotificationId, ParticipantId, TenantId};

/// What kind of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Template {
    /// A person has to decide.
    ApprovalRequested,
    /// A person still has to decide.
    ApprovalReminder,
    /// A person has to decide because others have not.
    ApprovalEscalated,
    /// The receipt of an answer.
    ApprovalDecided,
    /// A phase moved.
    PhaseChanged,
    /// Work went up.
    TaskEscalated,
    /// An instance ended.
    InstanceEnded,
    /// A fresh link, as the person asked.
    LinkNew,
}

impl Template {
    /// Every kind.
    pub(crate) const ALL: [Template; 8] = [
        Template::ApprovalRequested,
        Template::ApprovalReminder,
        Template::ApprovalEscalated,
        Template::ApprovalDecided,
        Template::PhaseChanged,
        Template::TaskEscalated,
        Template::InstanceEnded,
        Template::LinkNew,
    ];

    /// Names it in the API and the database.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Template::ApprovalRequested => "approval_requested",
            Template::ApprovalReminder => "approval_reminder",
            Template::ApprovalEscalated => "approval_escalated",
            Template::ApprovalDecided => "approval_decided",
            Template::PhaseChanged => "phase_changed",
            Template::TaskEscalated => "task_escalated",
            Template::InstanceEnded => "instance_ended",
            Template::LinkNew => "link_new",
        }
    }

    /// Finds it by name.
    pub(crate) fn parse(name: &str) -> Option<Template> {
        Template::ALL.into_iter().find(|template| template.as_str() == name)
    }

    /// Tells whether it asks for a decision, and so is pointless once that has been made.
    pub(crate) fn asks(self) -> bool {
        match self {
            Template::ApprovalRequested | Template::ApprovalReminder | Template::ApprovalEscalated => true,
            Template::ApprovalDecided
            | Template::PhaseChanged
            | Template::TaskEscalated
            | Template::InstanceEnded
            | Template::LinkNew => false,
        }
    }

    /// Tells whether it goes by mail whatever the person prefers: without it the person could not do what it is asked.
    pub(crate) fn is_due_whatever_is_preferred(self) -> bool {
        self.asks() || self == Template::LinkNew
    }
}

/// Where a delivery stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Waits for its first or next try.
    Queued {
        /// When it is tried.
        next_attempt_at: Timestamp,
    },
    /// Taken by the mail server.
    Sent {
        /// When.
        sent_at: Timestamp,
    },
    /// Given up.
    Failed,
    /// Not sent: the person does not want mail, or its reason has gone.
    Suppressed,
}

impl Status {
    /// Names it in the database.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Status::Queued { .. } => "queued",
            Status::Sent { .. } => "sent",
            Status::Failed => "failed",
            Status::Suppressed => "suppressed",
        }
    }
}

/// A message to one person. Everything that is sent is here, except for the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notification {
    /// Whose it is.
    pub(crate) tenant_id: TenantId,
    /// Names it; sorts by time.
    pub(crate) id: NotificationId,
    /// What it is about.
    pub(crate) instance_id: InstanceId,
    /// Whom it goes to.
    pub(crate) participant_id: ParticipantId,
    /// What kind it is.
    pub(crate) template: Template,
    /// Address; empty where the person has none.
    pub(crate) recipient: String,
    /// Name of the person.
    pub(crate) recipient_name: String,
    /// Subject line.
    pub(crate) subject: String,
    /// Rendered text, with the placeholder.
    pub(crate) body_text: String,
    /// Rendered HTML, with the placeholder.
    pub(crate) body_html: String,
    /// The link that it carries, if any.
    pub(crate) link: Option<MailLink>,
    /// The same for every try.
    pub(crate) message_id: String,
    /// Where its delivery stands.
    pub(crate) status: Status,
    /// Tries so far.
    pub(crate) attempts: u32,
    /// Why the last try failed, or why it is not sent.
    pub(crate) last_error: String,
    /// Requests that it is about, in order.
    pub(crate) approval_ids: Vec<ApprovalId>,
    /// When it was made.
    pub(crate) created_at: Timestamp,
}

/// The link of a message: what stands for it in the bodies, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MailLink {
    /// Text that the URL replaces.
    pub(crate) placeholder: String,
    /// How long it works.
    pub(crate) expires_at: Timestamp,
    /// Its id, once it has been made.
    pub(crate) link_id: Option<LinkId>,
}
