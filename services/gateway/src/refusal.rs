//! What the gateway itself refuses, before any service sees the call.

use std::time::Duration;

use phasegate_proto_json::{Fault, Faults};
use phasegate_rpc_error::{Kind, Refusal, Violation};
use phasegate_serve::Overloaded;

/// Why the gateway refuses a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The JSON is not that of the message.
    #[error("{}", summary(.0))]
    Json(#[from] Faults),
    /// One parameter of the path or the query.
    #[error("{field} {message}")]
    Parameter { reason: &'static str, field: String, message: String },
    /// The body is too large.
    #[error("the body must be at most {bytes_max} bytes")]
    BodyTooLarge { bytes_max: usize },
    /// The gRPC message is too large.
    #[error("the message must be at most {bytes_max} bytes")]
    MessageTooLarge { bytes_max: usize },
    /// The headers are too large or too many.
    #[error("the headers must be at most {bytes_max} bytes and {headers_max} in number")]
    HeadersTooLarge { bytes_max: usize, headers_max: usize },
    /// The body did not arrive in time.
    #[error("the body must arrive within {} seconds", .0.as_secs())]
    BodyTooSlow(Duration),
    /// The connection broke while the body was read.
    #[error("the body ends too early")]
    BodyCut,
    /// The body is not JSON by its own account.
    #[error("the body must be application/json, not {content_type}")]
    UnsupportedMediaType { content_type: String },
    /// Nothing is there.
    #[error("nothing is served at {method} {path}")]
    NoRoute { method: String, path: String },
    /// Something is there, for other HTTP methods.
    #[error("{path} is served to {allow}, not to {method}")]
    WrongMethod { method: String, path: String, allow: String },
    /// No such gRPC method.
    #[error("there is no method {path}")]
    NoMethod { path: String },
    /// A credential stands where logs keep it.
    #[error("{parameter} must not stand in the address; send it as Authorization: Bearer")]
    CredentialsInUrl { parameter: String },
    /// No credential.
    #[error("the call carries no credential")]
    CredentialsMissing,
    /// A credential that is none of ours.
    #[error("the credential of the call is not valid")]
    CredentialsInvalid,
    /// A browser sent this for another site's page.
    #[error("the call comes from a page of another site")]
    ForeignSite,
    /// The call is for another host.
    #[error("this server answers to its own names only, such as localhost")]
    ForeignHost,
    /// Two parts of a call name two things.
    #[error("{field} in the address and in the body must be the same")]
    IdMismatch { field: String },
    /// The answer did not come in time.
    #[error("the answer did not come in time")]
    Deadline,
    /// Somebody has called too often.
    #[error("this {limit} has made more than {per_second} calls a second; try again in {} ms", .wait.as_millis())]
    RateLimited { limit: &'static str, per_second: u32, wait: Duration },
    /// As many calls are under way as are taken on.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// Too many streams.
    #[error("at most {streams_max} streams are open at a time")]
    TooManyStreams { streams_max: usize },
    /// A service does not answer.
    #[error("the {service} service did not answer")]
    Down { service: &'static str },
    /// The server stops.
    #[error("the server is stopping")]
    Draining,
    /// Our own mistake.
    #[error("{0}")]
    Internal(String),
}

impl Refused {
    /// A parameter of the path or the query that is wrong.
    pub(crate) fn parameter(reason: &'static str, field: &str, message: impl Into<String>) -> Self {
        Self::Parameter { reason, field: field.to_owned(), message: message.into() }
    }

    /// As a gRPC caller sees it.
    pub(crate) fn into_status(self) -> tonic::Status {
        phasegate_rpc_error::status(&self)
    }
}

impl Refusal for Refused {
    fn kind(&self) -> Kind {
        match self {
            Self::Json(_)
            | Self::Parameter { .. }
            | Self::BodyCut
            | Self::UnsupportedMediaType { .. }
            | Self::IdMismatch { .. } => Kind::Invalid,
            Self::BodyTooLarge { .. }
            | Self::MessageTooLarge { .. }
            | Self::HeadersTooLarge { .. }
            | Self::RateLimited { .. }
            | Self::TooManyStreams { .. } => Kind::Exhausted,
            Self::BodyTooSlow(_) | Self::Deadline => Kind::Deadline,
            Self::NoRoute { .. } => Kind::NotFound,
            Self::WrongMethod { .. } | Self::NoMethod { .. } => Kind::Unimplemented,
            Self::CredentialsInUrl { .. } | Self::CredentialsMissing | Self::CredentialsInvalid => {
                Kind::Unauthenticated
            }
            Self::ForeignSite | Self::ForeignHost => Kind::Forbidden,
            Self::Overloaded(overloaded) => overloaded.kind(),
            Self::Down { .. } | Self::Draining => Kind::Unavailable,
            Self::Internal(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Json(faults) => faults.0.first().map_or("MALFORMED_JSON", |fault| fault.reason.as_str()),
            Self::Parameter { reason, .. } => reason,
            Self::BodyTooLarge { .. } => "BODY_TOO_LARGE",
            Self::MessageTooLarge { .. } => "MESSAGE_TOO_LARGE",
            Self::HeadersTooLarge { .. } => "HEADERS_TOO_LARGE",
            Self::BodyTooSlow(_) => "BODY_TOO_SLOW",
            Self::BodyCut => "MALFORMED_JSON",
            Self::UnsupportedMediaType { .. } => "UNSUPPORTED_MEDIA_TYPE",
            Self::NoRoute { .. } | Self::WrongMethod { .. } | Self::NoMethod { .. } => "NO_ROUTE",
            Self::CredentialsInUrl { .. } => "CREDENTIALS_IN_URL",
            Self::CredentialsMissing => "CREDENTIALS_MISSING",
            Self::CredentialsInvalid => "CREDENTIALS_INVALID",
            Self::ForeignSite | Self::ForeignHost => "CSRF",
            Self::IdMismatch { .. } => "ID_MISMATCH",
            Self::Deadline => "DEADLINE_EXCEEDED",
            Self::RateLimited { .. } => "RATE_LIMITED",
            Self::Overloaded(overloaded) => overloaded.reason(),
            Self::TooManyStreams { .. } => "TOO_MANY_STREAMS",
            Self::Down { .. } => "DEPENDENCY_DOWN",
            Self::Draining => "DRAINING",
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Json(faults) => faults.0.first().map(values).unwrap_or_default(),
            Self::Parameter { field, .. } | Self::IdMismatch { field } => vec![("field", field.clone())],
            Self::BodyTooLarge { bytes_max } | Self::MessageTooLarge { bytes_max } => {
                vec![("bytes_max", bytes_max.to_string())]
            }
            Self::HeadersTooLarge { bytes_max, headers_max } => {
                vec![("bytes_max", bytes_max.to_string()), ("headers_max", headers_max.to_string())]
            }
            Self::BodyTooSlow(limit) => vec![("seconds_max", limit.as_secs().to_string())],
            Self::UnsupportedMediaType { content_type } => vec![("content_type", content_type.clone())],
            Self::NoRoute { method, path } => vec![("method", method.clone()), ("path", path.clone())],
            Self::WrongMethod { method, path, allow } => {
                vec![("method", method.clone()), ("path", path.clone()), ("allow", allow.clone())]
            }
            Self::NoMethod { path } => vec![("path", path.clone())],
            Self::CredentialsInUrl { parameter } => vec![("parameter", parameter.clone())],
            Self::RateLimited { limit, per_second, wait } => vec![
                ("limit", (*limit).to_owned()),
                ("per_second", per_second.to_string()),
                ("retry_after_ms", wait.as_millis().to_string()),
            ],
            Self::Overloaded(overloaded) => overloaded.metadata(),
            Self::TooManyStreams { streams_max } => vec![("streams_max", streams_max.to_string())],
            Self::Down { service } => vec![("service", (*service).to_owned())],
            Self::BodyCut
            | Self::CredentialsMissing
            | Self::CredentialsInvalid
            | Self::ForeignSite
            | Self::ForeignHost
            | Self::Deadline
            | Self::Draining
            | Self::Internal(_) => Vec::new(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        let one = |field: &String, message: &str| {
            let code = self.reason().to_owned();
            vec![Violation { field: field.clone(), code, message: message.to_owned() }]
        };
        if let Self::Json(Faults(faults)) = self {
            faults.iter().map(violation).collect()
        } else if let Self::Parameter { field, message, .. } = self {
            one(field, message)
        } else if let Self::IdMismatch { field } = self {
            one(field, "must be the same in the address and in the body")
        } else {
            Vec::new()
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        if let Self::RateLimited { wait, .. } = self {
            return Some(*wait);
        }
        let passes = matches!(
            self,
            Self::Down { .. } | Self::Draining | Self::TooManyStreams { .. } | Self::Overloaded(_)
        );
        passes.then_some(Duration::from_secs(1))
    }
}

/// Tells of the first fault, and how many there are.
fn summary(Faults(faults): &Faults) -> String {
    match faults.as_slice() {
        [] => "the body is not JSON".to_owned(),
        [fault] => fault.to_string(),
        [fault, rest @ ..] => format!("{fault} (and {} more)", rest.len()),
    }
}

fn values(fault: &Fault) -> Vec<(&'static str, String)> {
    let mut values = fault.values.clone();
    if !fault.path.is_empty() {
        values.insert(0, ("field", fault.path.clone()));
    }
    values
}

fn violation(fault: &Fault) -> Violation {
    Violation {
        field: fault.path.clone(),
        code: fault.reason.as_str().to_owned(),
        message: fault.message.clone(),
    }
}
