//! How a refusal becomes a gRPC status: the one place that names a code.
//!
//! A service says what it refuses in its own words and implements [`Refusal`] for them by an exhaustive match; the error
//! carries `google.rpc.ErrorInfo` with a stable reason and every value of its message as metadata (AIP-193), and
//! `BadRequest`, `PreconditionFailure` and `RetryInfo` where they help. No service's error ever stands here.

mod relayed;

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

pub use relayed::{Relayed, relayed};

/// The `domain` of every `ErrorInfo`.
pub const DOMAIN: &str = "phasegate";

/// What a refusal means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wrong whatever the state: fix the request.
    Invalid,
    /// We do not know you: sign in again.
    Unauthenticated,
    /// Known and not allowed: ask the owner.
    Forbidden,
    /// Absent, or none of your business.
    NotFound,
    /// The same id with other content: choose another id.
    Exists,
    /// Not in this state: wait, or look again.
    Precondition,
    /// Somebody was faster: reload and retry.
    Conflict,
    /// A named limit.
    Exhausted,
    /// Past the end of what is kept: read anew.
    OutOfRange,
    /// Try the same again.
    Unavailable,
    /// Too slow.
    Deadline,
    /// No such method.
    Unimplemented,
    /// Our mistake: report the trace.
    Internal,
}

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field: dotted names, or a JSON Pointer into a document.
    pub field: String,
    /// Stable name of what is wrong.
    pub code: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// One thing in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Stable name of its kind.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// Why, as a sentence.
    pub message: String,
}

/// Something that a service refuses to do. Its `Display` is a lower-case fragment without a full stop.
pub trait Refusal: Error {
    /// What it means to the caller.
    fn kind(&self) -> Kind;

    /// Stable name, listed in `proto/phasegate/error/v1/reason.proto`.
    fn reason(&self) -> &'static str;

    /// Every value of the message, by name.
    fn metadata(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Wrong fields.
    fn violations(&self) -> Vec<Violation> {
        Vec::new()
    }

    /// Everything in the way.
    fn preconditions(&self) -> Vec<Blocker> {
        Vec::new()
    }

    /// When to try again.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// A status that another service made, to pass on as it is.
    fn passed(&self) -> Option<&Status> {
        None
    }
}

/// One wrong field: the refusal that most requests need.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {message}")]
pub struct Invalid {
    /// Stable name.
    pub reason: &'static str,
    /// Path of the field.
    pub field: String,
    /// What is allowed: completes "field …".
    pub message: String,
    /// Further values of the message.
    pub metadata: Vec<(&'static str, String)>,
}

// === impl Kind ===

impl Kind {
    /// The gRPC code.
    pub const fn code(self) -> Code {
        match self {
            Self::Invalid => Code::InvalidArgument,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden => Code::PermissionDenied,
            Self::NotFound => Code::NotFound,
            Self::Exists => Code::AlreadyExists,
            Self::Precondition => Code::FailedPrecondition,
            Self::Conflict => Code::Aborted,
            Self::Exhausted => Code::ResourceExhausted,
            Self::OutOfRange => Code::OutOfRange,
            Self::Unavailable => Code::Unavailable,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Unimplemented => Code::Unimplemented,
            Self::Internal => Code::Internal,
        }
    }
}

// === impl Invalid ===

impl Invalid {
    /// A wrong field: `message` completes "field …", such as "must be one line".
    pub fn new(reason: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason, field: field.into(), message: message.into(), metadata: Vec::new() }
    }

    /// Adds a value of the message.
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((key, value.into()));
        self
    }
}

impl Refusal for Invalid {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }

    fn reason(&self) -> &'static str {
        self.reason
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let mut metadata = vec![("field", self.field.clone())];
        metadata.extend(self.metadata.iter().cloned());
        metadata
    }

    fn violations(&self) -> Vec<Violation> {
        vec![Violation {
            field: self.field.clone(),
            code: self.reason.to_owned(),
            message: self.message.clone(),
        }]
    }
}

/// Makes the status of a refusal. What is internal is logged with its sources, and answered without them.
pub fn status(refusal: &(impl Refusal + ?Sized)) -> Status {
    if let Some(status) = refusal.passed() {
        return status.clone();
    }
    let kind = refusal.kind();
    tracing::Span::current().record("error.type", refusal.reason());
    let message = if kind == Kind::Internal {
        log(refusal);
        "something went wrong on our side; report the trace id".to_owned()
    } else {
        refusal.to_string()
    };
    let metadata: HashMap<String, String> =
        refusal.metadata().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut details = ErrorDetails::with_error_info(refusal.reason(), DOMAIN, metadata);
    let violations: Vec<FieldViolation> = refusal.violations().into_iter().map(field_violation).collect();
    if !violations.is_empty() {
        details.set_bad_request(violations);
    }
    let blockers: Vec<PreconditionViolation> = refusal
        .preconditions()
        .into_iter()
        .map(|blocker| PreconditionViolation::new(blocker.kind, blocker.subject, blocker.message))
        .collect();
    if !blockers.is_empty() {
        details.set_precondition_failure(blockers);
    }
    if let Some(delay) = refusal.retry_after() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(kind.code(), message, details)
}

/// The reason that a status carries.
pub fn reason_of(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

fn field_violation(violation: Violation) -> FieldViolation {
    FieldViolation {
        field: violation.field,
        description: violation.message,
        reason: violation.code,
        ..FieldViolation::default()
    }
}

fn log(refusal: &(impl Refusal + ?Sized)) {
    let mut chain = refusal.to_string();
    let mut source = refusal.source();
    while let Some(error) = source {
        chain.push_str(": ");
        chain.push_str(&error.to_string());
        source = error.source();
    }
    tracing::error!(reason = refusal.reason(), error = %chain, "internal error");
}

/// What a code is called in the documentation of gRPC, and on the wire of REST.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_reason_values_and_field() {
        let status =
            status(&Invalid::new("TEXT_INVALID", "title", "must be one line").with("length_max", "200"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "title must be one line");
        assert_eq!(reason_of(&status).as_deref(), Some("TEXT_INVALID"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.domain, DOMAIN);
        assert_eq!(info.metadata.get("length_max").map(String::as_str), Some("200"));
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!((violation.field.as_str(), violation.reason.as_str()), ("title", "TEXT_INVALID"));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("secret table missing")]
    struct Broken;

    impl Refusal for Broken {
        fn kind(&self) -> Kind {
            Kind::Internal
        }

        fn reason(&self) -> &'static str {
            "INTERNAL"
        }
    }

    #[test]
    fn internal_text_stays_inside() {
        let status = status(&Broken);
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"));
    }
}
