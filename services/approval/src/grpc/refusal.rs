//! Everything that this service promises about failing.

use std::time::Duration;

use phasegate_rpc_error::{Kind, Refusal, Violation, status};
use tonic::Status;

use crate::app::Error;
use crate::domain::{Rejection, Renewed};

impl Refusal for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Rejected { rejection, .. } => kind(rejection),
            Self::NotFound(_) | Self::InstanceNotFound(_) => Kind::NotFound,
            Self::InstanceTerminal { .. } | Self::TaskClosed { .. } | Self::ContentRejected(_) => {
                Kind::Precondition
            }
            Self::PermissionMissing(_) | Self::RoleForbidden(_) => Kind::Forbidden,
            Self::Forbidden(forbidden) => forbidden.kind(),
            Self::Invalid(invalid) => invalid.kind(),
            Self::Peer(relayed) => relayed.kind(),
            Self::PersonUnknown(_) | Self::LeaseStale | Self::Busy => Kind::Unavailable,
            Self::RequestIdReused(_) => Kind::Invalid,
            Self::Store(error) if error.is_transient() => Kind::Unavailable,
            Self::Store(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Rejected { rejection, .. } => reason(rejection),
            Self::NotFound(_) => "APPROVAL_NOT_FOUND",
            Self::InstanceNotFound(_) => "INSTANCE_NOT_FOUND",
            Self::InstanceTerminal { .. } => "INSTANCE_TERMINAL",
            Self::TaskClosed { .. } => "INVALID_STATE",
            Self::ContentRejected(_) => "CONTENT_REJECTED",
            Self::PermissionMissing(_) => "LINK_PERMISSION_MISSING",
            Self::RoleForbidden(_) => "ROLE_FORBIDDEN",
            Self::Forbidden(forbidden) => forbidden.reason(),
            Self::Invalid(invalid) => invalid.reason,
            Self::Peer(relayed) => relayed.reason(),
            Self::PersonUnknown(_) | Self::LeaseStale => "DEPENDENCY_DOWN",
            Self::Busy => "STORE_UNAVAILABLE",
            Self::RequestIdReused(_) => "REQUEST_ID_REUSED",
            Self::Store(error) if error.is_transient() => "STORE_UNAVAILABLE",
            Self::Store(_) => "INTERNAL",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Rejected { approval, rejection } => {
                let mut metadata = vec![("approval_id", approval.to_string())];
                metadata.extend(values(rejection));
                metadata
            }
            Self::NotFound(id) => vec![("approval_id", id.clone())],
            Self::InstanceNotFound(id) => vec![("instance_id", id.clone())],
            Self::InstanceTerminal { instance, status } => {
                vec![("instance_id", instance.to_string()), ("status", (*status).to_owned())]
            }
            Self::TaskClosed { status } => {
                let allowed = "pending, ready, running, awaiting_approval, blocked, escalated";
                vec![("status", (*status).to_owned()), ("allowed", allowed.to_owned())]
            }
            Self::ContentRejected(id) => vec![("approval_id", id.to_string())],
            Self::PermissionMissing(permission) => vec![("permission", (*permission).to_owned())],
            Self::RoleForbidden(role) => vec![("role", (*role).to_owned())],
            Self::Forbidden(forbidden) => forbidden.metadata(),
            Self::Invalid(invalid) => invalid.metadata(),
            Self::Peer(relayed) => relayed.metadata(),
            Self::PersonUnknown(person) => {
                vec![("service", "participant".to_owned()), ("participant_id", person.clone())]
            }
            Self::LeaseStale => vec![("service", "instance".to_owned())],
            Self::RequestIdReused(id) => vec![("request_id", id.clone())],
            Self::Busy | Self::Store(_) => Vec::new(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        if let Self::Invalid(invalid) = self { invalid.violations() } else { Vec::new() }
    }

    fn retry_after(&self) -> Option<Duration> {
        (self.kind() == Kind::Unavailable).then_some(Duration::from_secs(1))
    }

    fn passed(&self) -> Option<&Status> {
        if let Self::Peer(relayed) = self { relayed.passed() } else { None }
    }
}

fn kind(rejection: &Rejection) -> Kind {
    match rejection {
        Rejection::NobodyAsked => Kind::Invalid,
        Rejection::HumanRequired
        | Rejection::NotAnApprover(_)
        | Rejection::SelfApprovalForbidden(_)
        | Rejection::RoleForbidden => Kind::Forbidden,
        Rejection::AlreadyDecided { .. }
        | Rejection::Expired { .. }
        | Rejection::Withdrawn { .. }
        | Rejection::Superseded { .. }
        | Rejection::InstanceEnded => Kind::Precondition,
        Rejection::ContentChanged { .. } => Kind::Conflict,
    }
}

fn reason(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::NobodyAsked => "APPROVER_INVALID",
        Rejection::HumanRequired => "HUMAN_REQUIRED",
        Rejection::NotAnApprover(_) => "NOT_AN_APPROVER",
        Rejection::SelfApprovalForbidden(_) => "SELF_APPROVAL_FORBIDDEN",
        Rejection::RoleForbidden => "ROLE_FORBIDDEN",
        Rejection::AlreadyDecided { .. } => "APPROVAL_ALREADY_DECIDED",
        Rejection::Expired { .. } => "APPROVAL_EXPIRED",
        Rejection::Withdrawn { .. } => "APPROVAL_WITHDRAWN",
        Rejection::Superseded { .. } => "APPROVAL_SUPERSEDED",
        Rejection::InstanceEnded => "INSTANCE_TERMINAL",
        Rejection::ContentChanged { .. } => "APPROVAL_CONTENT_CHANGED",
    }
}

fn values(rejection: &Rejection) -> Vec<(&'static str, String)> {
    match rejection {
        Rejection::NobodyAsked | Rejection::HumanRequired | Rejection::InstanceEnded => Vec::new(),
        Rejection::NotAnApprover(person) | Rejection::SelfApprovalForbidden(person) => {
            vec![("participant_id", person.to_string())]
        }
        Rejection::RoleForbidden => vec![("role", "participant".to_owned())],
        Rejection::AlreadyDecided { decision, decided_by, decided_at } => vec![
            ("decision", (*decision).to_owned()),
            ("decided_by", decided_by.clone()),
            ("decided_at", decided_at.to_string()),
        ],
        Rejection::Expired { at } => vec![("expired_at", at.to_string())],
        Rejection::Withdrawn { at } => vec![("withdrawn_at", at.to_string())],
        Rejection::Superseded { by, at } => {
            let by = by.as_ref().map(ToString::to_string).unwrap_or_default();
            vec![("superseded_by", by), ("superseded_at", at.to_string())]
        }
        Rejection::ContentChanged { current, changed } => {
            let mut values = vec![("current_digest", current.to_string())];
            if !changed.is_empty() {
                let one = |one: &Renewed| format!("{} {} -> {}", one.key, one.from, one.to);
                values.push(("changed_artifacts", changed.iter().map(one).collect::<Vec<_>>().join(", ")));
            }
            values
        }
    }
}

/// A stored answer that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a stored answer cannot be read")]
struct Unreadable(#[source] prost::DecodeError);

impl Refusal for Unreadable {
    fn kind(&self) -> Kind {
        Kind::Internal
    }

    fn reason(&self) -> &'static str {
        "INTERNAL"
    }
}

/// Answers that a stored answer cannot be read, which is our mistake.
pub(super) fn unreadable(error: prost::DecodeError) -> Status {
    status(&Unreadable(error))
}
