//! What went wrong with a call, with everything that the server said about it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What tonic says when the deadline of a call has passed.
const TIMED_OUT: &str = "Timeout expired";

/// One wrong field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, or JSON Pointer into the document.
    pub field: String,
    /// Stable name of what is wrong.
    pub code: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

/// One thing in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precondition {
    /// Stable name of its kind.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// Why, as a sentence.
    pub message: String,
}

/// Why a call was refused or not answered. Its [`Details`] are read through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Details>);

/// Everything that is known of a failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Kind of failure.
    pub code: Code,
    /// Stable name, such as `APPROVAL_ALREADY_DECIDED`; empty where nobody gave one.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Values of the message, by name.
    pub metadata: BTreeMap<String, String>,
    /// Wrong fields of the request.
    pub violations: Vec<Violation>,
    /// Everything in the way.
    pub preconditions: Vec<Precondition>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Error {
    pub(crate) fn address(address: &str, source: &dyn std::error::Error) -> Error {
        Error::plain(Code::InvalidArgument, format!("{address} is not an address: {}", chain(source)))
    }

    pub(crate) fn unreachable(address: &str, source: &dyn std::error::Error) -> Error {
        Error::plain(Code::Unavailable, format!("nobody answers at {address}: {}", chain(source)))
    }

    pub(crate) fn credential() -> Error {
        Error::plain(Code::InvalidArgument, "a key has only visible ASCII characters".to_owned())
    }

    fn plain(code: Code, message: String) -> Error {
        Error::from(Details {
            code,
            reason: String::new(),
            message,
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            preconditions: Vec::new(),
            retry_after: None,
        })
    }

    /// Tells whether the refusal has this reason.
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }
}

impl Deref for Error {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl From<Details> for Error {
    fn from(details: Details) -> Error {
        Error(Box::new(details))
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        let details = status.get_error_details();
        let Error(mut error) = Error::plain(code(&status), status.message().to_owned());
        if let Some(info) = details.error_info() {
            error.reason.clone_from(&info.reason);
            error.metadata = info.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        } else if let Some(source) = std::error::Error::source(&status) {
            // The connection failed: what tonic says itself is only "transport error".
            error.message = format!("{}: {}", status.message(), chain(source));
        }
        if let Some(bad) = details.bad_request() {
            error.violations = bad
                .field_violations
                .iter()
                .map(|violation| Violation {
                    field: violation.field.clone(),
                    code: violation.reason.clone(),
                    message: violation.description.clone(),
                })
                .collect();
        }
        if let Some(failure) = details.precondition_failure() {
            error.preconditions = failure
                .violations
                .iter()
                .map(|blocker| Precondition {
                    kind: blocker.r#type.clone(),
                    subject: blocker.subject.clone(),
                    message: blocker.description.clone(),
                })
                .collect();
        }
        error.retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        Error(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        if !self.reason.is_empty() {
            write!(formatter, " ({})", self.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The kind of a failure. A connection that ends in the middle of a call, as that of a server that stops, says no more than
/// one that is not made: tonic calls it INTERNAL, UNKNOWN or CANCELLED, and a deadline CANCELLED, too. What a server says has no
/// source.
pub(crate) fn code(status: &Status) -> Code {
    let code = status.code();
    if std::error::Error::source(status).is_none() {
        return code;
    }
    if code == Code::Cancelled && status.message() == TIMED_OUT {
        return Code::DeadlineExceeded;
    }
    let is_broken = matches!(code, Code::Internal | Code::Unknown | Code::Cancelled);
    if is_broken { Code::Unavailable } else { code }
}

/// An error with its sources, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = source.source();
    }
    text
}
