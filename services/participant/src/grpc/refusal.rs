//! Every promise of this service about refusing, on one page.

use std::time::Duration;

use phasegate_rpc_error::{Kind, Refusal, Violation};
use tonic::Status;

use crate::app::Error;
use crate::domain::{key, link, session};

impl Refusal for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Link(rejection) => link_look(rejection).0,
            Self::Key(rejection) => key_look(rejection).0,
            Self::Session(rejection) | Self::LinkOver { rejection, .. } => session_look(*rejection).0,
            Self::Invalid(invalid) => invalid.kind(),
            Self::InstanceNotFound { .. } | Self::ParticipantNotFound { .. } | Self::LinkNotFound { .. } => {
                Kind::NotFound
            }
            Self::InstanceTerminal { .. } => Kind::Precondition,
            Self::ParticipantMayNotManage | Self::MayNotRead => Kind::Forbidden,
            Self::RequestId(refused) => refused.kind(),
            Self::Peer(relayed) => relayed.kind(),
            Self::Store(error) if error.is_transient() || error.is_race() => Kind::Unavailable,
            Self::Randomness(_) | Self::KeyRandomness(_) | Self::Token(_) | Self::Store(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Link(rejection) => link_look(rejection).1,
            Self::Key(rejection) => key_look(rejection).1,
            Self::Session(rejection) | Self::LinkOver { rejection, .. } => session_look(*rejection).1,
            Self::Invalid(invalid) => invalid.reason(),
            Self::InstanceNotFound { .. } => "INSTANCE_NOT_FOUND",
            Self::ParticipantNotFound { .. } => "PARTICIPANT_NOT_FOUND",
            Self::LinkNotFound { .. } => "LINK_NOT_FOUND",
            Self::InstanceTerminal { .. } => "INSTANCE_TERMINAL",
            Self::ParticipantMayNotManage => "ROLE_FORBIDDEN",
            Self::MayNotRead => "LINK_PERMISSION_MISSING",
            Self::RequestId(refused) => refused.reason(),
            Self::Peer(relayed) => relayed.reason(),
            Self::Store(error) if error.is_transient() || error.is_race() => "STORE_UNAVAILABLE",
            Self::Randomness(_) | Self::KeyRandomness(_) | Self::Token(_) | Self::Store(_) => "INTERNAL",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Link(rejection) => {
                let (_, _, field, participant) = link_look(rejection);
                let participant = participant.map(|id| ("participant_id", id));
                std::iter::once(("field", field.to_owned())).chain(participant).collect()
            }
            Self::Key(rejection) => key_values(rejection),
            Self::LinkOver { renewable, address, .. } => {
                vec![("renewable", renewable.to_string()), ("address", address.clone())]
            }
            Self::Invalid(invalid) => invalid.metadata(),
            Self::InstanceNotFound { instance } => vec![("instance_id", instance.clone())],
            Self::ParticipantNotFound { participant } => vec![("participant_id", participant.clone())],
            Self::LinkNotFound { link } => vec![("link_id", link.clone())],
            Self::InstanceTerminal { instance, status } => {
                vec![("instance_id", instance.to_string()), ("status", (*status).to_owned())]
            }
            Self::ParticipantMayNotManage => vec![("role", "participant".to_owned())],
            Self::MayNotRead => vec![("permission", "view".to_owned())],
            Self::RequestId(refused) => refused.metadata(),
            Self::Peer(relayed) => relayed.metadata(),
            Self::Session(_)
            | Self::Randomness(_)
            | Self::KeyRandomness(_)
            | Self::Token(_)
            | Self::Store(_) => Vec::new(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Link(rejection) => {
                let (_, reason, field, _) = link_look(rejection);
                let (field, code) = (field.to_owned(), reason.to_owned());
                vec![Violation { field, code, message: self.to_string() }]
            }
            Self::Invalid(invalid) => invalid.violations(),
            Self::Key(key::Rejection::Scope { message, .. }) => {
                let (field, code) = ("scopes".to_owned(), "SCOPE_INVALID".to_owned());
                vec![Violation { field, code, message: (*message).to_owned() }]
            }
            Self::Key(_)
            | Self::Session(_)
            | Self::LinkOver { .. }
            | Self::InstanceNotFound { .. }
            | Self::InstanceTerminal { .. }
            | Self::ParticipantNotFound { .. }
            | Self::LinkNotFound { .. }
            | Self::ParticipantMayNotManage
            | Self::MayNotRead
            | Self::RequestId(_)
            | Self::Peer(_)
            | Self::Randomness(_)
            | Self::KeyRandomness(_)
            | Self::Token(_)
            | Self::Store(_) => Vec::new(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        if let Self::RequestId(refused) = self {
            return refused.retry_after();
        }
        (self.kind() == Kind::Unavailable).then_some(Duration::from_secs(1))
    }

    fn passed(&self) -> Option<&Status> {
        if let Self::Peer(relayed) = self { relayed.passed() } else { None }
    }
}

/// Kind, reason, wrong field, and the person that it is about.
fn link_look(rejection: &link::Rejection) -> (Kind, &'static str, &'static str, Option<String>) {
    use link::Rejection;
    match rejection {
        Rejection::ParticipantInvalid { participant } => {
            (Kind::Invalid, "PARTICIPANT_INVALID", "participant_id", Some(participant.to_string()))
        }
        Rejection::EmailMismatch { participant } => {
            (Kind::Invalid, "EMAIL_MISMATCH", "email", Some(participant.to_string()))
        }
        Rejection::ExpiryInvalid => (Kind::Invalid, "EXPIRY_INVALID", "expires_in", None),
        Rejection::PermissionsInvalid => (Kind::Invalid, "PERMISSIONS_INVALID", "permissions", None),
    }
}

const fn key_look(rejection: &key::Rejection) -> (Kind, &'static str) {
    use key::Rejection;
    match rejection {
        Rejection::Unknown => (Kind::Unauthenticated, "CREDENTIALS_INVALID"),
        Rejection::NotFound { .. } => (Kind::NotFound, "KEY_NOT_FOUND"),
        Rejection::Over { .. } => (Kind::Precondition, "KEY_REVOKED"),
        Rejection::RotationPending { .. } => (Kind::Precondition, "ROTATION_PENDING"),
        Rejection::Scope { .. } => (Kind::Invalid, "SCOPE_INVALID"),
        Rejection::ScopeWider { .. } => (Kind::Forbidden, "SCOPE_INVALID"),
    }
}

fn key_values(rejection: &key::Rejection) -> Vec<(&'static str, String)> {
    use key::Rejection;
    match rejection {
        Rejection::Unknown => Vec::new(),
        Rejection::NotFound { key } => vec![("key_id", key.clone())],
        Rejection::Over { key } | Rejection::RotationPending { key } => vec![("key_id", key.to_string())],
        Rejection::Scope { scope, .. } => {
            vec![("field", "scopes".to_owned()), ("scope", scope.clone())]
        }
        Rejection::ScopeWider { scope } => vec![("field", "scopes".to_owned()), ("scope", scope.clone())],
    }
}

const fn session_look(rejection: session::Rejection) -> (Kind, &'static str) {
    use session::Rejection;
    match rejection {
        Rejection::LinkInvalid => (Kind::Unauthenticated, "LINK_INVALID"),
        Rejection::LinkExpired => (Kind::Unauthenticated, "LINK_EXPIRED"),
        Rejection::LinkRevoked => (Kind::Unauthenticated, "LINK_REVOKED"),
        Rejection::LinkExhausted => (Kind::Exhausted, "LINK_EXHAUSTED"),
        Rejection::SessionExpired => (Kind::Unauthenticated, "SESSION_EXPIRED"),
        Rejection::Csrf => (Kind::Forbidden, "CSRF"),
    }
}
