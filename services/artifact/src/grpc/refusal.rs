//! Every promise of this service about refusing, on one page.

use std::time::Duration;

use phasegate_rpc_error::{Kind, Refusal, Violation};
use tonic::Status;

use crate::app::Error;
use crate::domain::{artifact, comment};

/// What a rule's refusal looks like outside.
struct Look {
    kind: Kind,
    reason: &'static str,
    /// The wrong field, where it is one.
    field: Option<&'static str>,
    metadata: Vec<(&'static str, String)>,
}

impl Refusal for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Artifact(rejection) => artifact_look(rejection).kind,
            Self::Comment(rejection) => comment_look(rejection).kind,
            Self::Invalid(invalid) => invalid.kind(),
            Self::InstanceNotFound { .. } | Self::ArtifactNotFound { .. } => Kind::NotFound,
            Self::InstanceTerminal { .. } => Kind::Precondition,
            Self::ParticipantMayNotStore | Self::MayNotRead => Kind::Forbidden,
            Self::Forbidden(forbidden) => forbidden.kind(),
            Self::RequestId(refused) => refused.kind(),
            Self::LeaseUnsure => Kind::Unavailable,
            Self::Peer(relayed) => relayed.kind(),
            Self::Store(error) if error.is_transient() || error.is_race() => Kind::Unavailable,
            Self::Store(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Artifact(rejection) => artifact_look(rejection).reason,
            Self::Comment(rejection) => comment_look(rejection).reason,
            Self::Invalid(invalid) => invalid.reason(),
            Self::InstanceNotFound { .. } => "INSTANCE_NOT_FOUND",
            Self::ArtifactNotFound { .. } => "ARTIFACT_NOT_FOUND",
            Self::InstanceTerminal { .. } => "INSTANCE_TERMINAL",
            Self::ParticipantMayNotStore => "ROLE_FORBIDDEN",
            Self::Forbidden(forbidden) => forbidden.reason(),
            Self::MayNotRead => "LINK_PERMISSION_MISSING",
            Self::RequestId(refused) => refused.reason(),
            Self::LeaseUnsure => "STORE_UNAVAILABLE",
            Self::Peer(relayed) => relayed.reason(),
            Self::Store(error) if error.is_transient() || error.is_race() => "STORE_UNAVAILABLE",
            Self::Store(_) => "INTERNAL",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Artifact(rejection) => artifact_look(rejection).into_metadata(),
            Self::Comment(rejection) => comment_look(rejection).into_metadata(),
            Self::Invalid(invalid) => invalid.metadata(),
            Self::InstanceNotFound { instance } => vec![("instance_id", instance.clone())],
            Self::ArtifactNotFound { key, version } => {
                let version = version.map(|version| ("version", version.to_string()));
                std::iter::once(("key", key.clone())).chain(version).collect()
            }
            Self::InstanceTerminal { instance, status } => {
                vec![("instance_id", instance.to_string()), ("status", (*status).to_owned())]
            }
            Self::ParticipantMayNotStore => vec![("role", "participant".to_owned())],
            Self::Forbidden(forbidden) => forbidden.metadata(),
            Self::MayNotRead => vec![("permission", "view".to_owned())],
            Self::RequestId(refused) => refused.metadata(),
            Self::Peer(relayed) => relayed.metadata(),
            Self::LeaseUnsure | Self::Store(_) => Vec::new(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        let look = match self {
            Self::Artifact(rejection) => artifact_look(rejection),
            Self::Comment(rejection) => comment_look(rejection),
            Self::Invalid(invalid) => return invalid.violations(),
            Self::InstanceNotFound { .. }
            | Self::ArtifactNotFound { .. }
            | Self::InstanceTerminal { .. }
            | Self::ParticipantMayNotStore
            | Self::Forbidden(_)
            | Self::MayNotRead
            | Self::RequestId(_)
            | Self::LeaseUnsure
            | Self::Peer(_)
            | Self::Store(_) => return Vec::new(),
        };
        let violation = |field: &str| Violation {
            field: field.to_owned(),
            code: look.reason.to_owned(),
            message: self.to_string(),
        };
        look.field.map(violation).into_iter().collect()
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

// === impl Look ===

impl Look {
    fn field(reason: &'static str, field: &'static str) -> Self {
        Self { kind: Kind::Invalid, reason, field: Some(field), metadata: Vec::new() }
    }

    fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    fn into_metadata(self) -> Vec<(&'static str, String)> {
        let field = self.field.map(|field| ("field", field.to_owned()));
        field.into_iter().chain(self.metadata).collect()
    }
}

fn artifact_look(rejection: &artifact::Rejection) -> Look {
    use artifact::Rejection;
    match rejection {
        Rejection::KeyInvalid => Look::field("METADATA_INVALID", "key"),
        Rejection::KindInvalid => {
            Look::field("METADATA_INVALID", "type").with("length_max", artifact::KIND_CHARS_MAX)
        }
        Rejection::ContentTypeInvalid => Look::field("METADATA_INVALID", "content_type")
            .with("length_max", artifact::CONTENT_TYPE_CHARS_MAX),
        Rejection::MetadataTooLarge { size } => Look::field("METADATA_INVALID", "metadata")
            .with("bytes", size)
            .with("bytes_max", artifact::METADATA_BYTES_MAX),
        Rejection::MetadataNumber => Look::field("METADATA_INVALID", "metadata"),
        Rejection::PhaseNotText => Look::field("METADATA_INVALID", "metadata.phase"),
        Rejection::PhaseUnknown { phase, known } => Look::field("METADATA_INVALID", "metadata.phase")
            .with("phase", phase)
            .with("allowed", known.join(", ")),
        Rejection::ContentMissing | Rejection::ContentNumber => Look::field("CONTENT_INVALID", "content"),
        Rejection::TooLarge { size } => {
            let mut look = Look::field("ARTIFACT_TOO_LARGE", "content")
                .with("bytes", size)
                .with("bytes_max", artifact::CONTENT_BYTES_MAX);
            look.kind = Kind::Exhausted;
            look
        }
        Rejection::VersionConflict { key, expected, current } => Look {
            kind: Kind::Conflict,
            reason: "ARTIFACT_VERSION_CONFLICT",
            field: None,
            metadata: vec![
                ("key", key.to_string()),
                ("if_version", expected.to_string()),
                ("current_version", current.to_string()),
            ],
        },
    }
}

fn comment_look(rejection: &comment::Rejection) -> Look {
    use comment::Rejection;
    let missing = |permission: &str| Look {
        kind: Kind::Forbidden,
        reason: "LINK_PERMISSION_MISSING",
        field: None,
        metadata: vec![("permission", permission.to_owned())],
    };
    match rejection {
        Rejection::SubjectInvalid => Look::field("SUBJECT_INVALID", "subject"),
        Rejection::SubjectUnknown(subject) => {
            Look::field("SUBJECT_INVALID", "subject").with("subject", subject)
        }
        Rejection::BodyInvalid => {
            Look::field("TEXT_INVALID", "body").with("bytes_max", comment::BODY_BYTES_MAX)
        }
        Rejection::ParentInvalid => Look::field("COMMENT_PARENT_INVALID", "parent_id"),
        Rejection::MayNotComment => missing("comment"),
        Rejection::MayNotHide => missing("internal"),
    }
}
