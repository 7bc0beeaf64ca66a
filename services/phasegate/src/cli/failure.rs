//! How a command can fail, and with which exit code:
//!
//! | code | meaning |
//! | --- | --- |
//! | 1 | refused by the server, or failed on this side |
//! | 2 | wrong usage |
//! | 3 | declined at the prompt |
//! | 4 | not signed in, or not allowed |
//! | 5 | what was watched ended without success |
//! | 6 | not found |
//! | 7 | in conflict with the state: decided already, phase blocked, version overtaken |
//! | 8 | still pending when `--timeout` ran out |
//! | 9 | nobody answers at the address |
//! | 10 | a definition or request has faults |
//! | 130 | Ctrl-C |

use phasegate_client::Error;
use serde_json::{Value, json};
use tonic::Code;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refused.
    Server(Error),
    /// Nobody answers at the address.
    Unreachable(Error),
    /// Something on this side failed.
    Local(String),
    /// The command line says something that cannot be done.
    Usage(String),
    /// The person said no.
    Declined,
    /// What was watched or done ended without success.
    Unsuccessful(String),
    /// Faults were found and have been written.
    Faulty(String),
    /// The time ran out.
    Pending(String),
    /// Ctrl-C.
    Interrupted,
    /// Nobody reads the output any more.
    NobodyReads,
}

impl Failure {
    /// Something on this side failed.
    pub(super) fn local(doing: &str, error: &dyn std::error::Error) -> Failure {
        Failure::Local(format!("could not {doing}: {error}"))
    }

    /// The exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Failure::Server(error) => server_code(error),
            Failure::Unreachable(_) => 9,
            Failure::Local(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Declined => 3,
            Failure::Unsuccessful(_) => 5,
            Failure::Faulty(_) => 10,
            Failure::Pending(_) => 8,
            Failure::Interrupted => 130,
            Failure::NobodyReads => 0,
        }
    }

    /// What happened, in one line; empty where there is nothing to say.
    pub(super) fn message(&self) -> String {
        match self {
            Failure::Server(error) => error.to_string(),
            Failure::Unreachable(error) => error.message.clone(),
            Failure::Local(message)
            | Failure::Usage(message)
            | Failure::Unsuccessful(message)
            | Failure::Faulty(message)
            | Failure::Pending(message) => message.clone(),
            Failure::Declined => "nothing was done".to_owned(),
            Failure::Interrupted | Failure::NobodyReads => String::new(),
        }
    }

    /// Everything that the server named: wrong fields and what is in the way.
    pub(super) fn details(&self) -> Vec<String> {
        let Failure::Server(error) = self else { return Vec::new() };
        // Of the only one there is, the message has often said all.
        let is_told = match error.violations.as_slice() {
            [only] => !only.message.is_empty() && error.message.ends_with(&only.message),
            _ => false,
        };
        let violations = error.violations.iter().filter(|_| !is_told).map(|violation| {
            let code =
                if violation.code.is_empty() { String::new() } else { format!(" [{}]", violation.code) };
            format!("{}: {}{code}", violation.field, violation.message)
        });
        let blockers = error.preconditions.iter().map(|blocker| {
            let subject = [blocker.kind.as_str(), blocker.subject.as_str()];
            let subject: Vec<&str> = subject.into_iter().filter(|part| !part.is_empty()).collect();
            format!("{}: {}", subject.join(" "), blocker.message)
        });
        violations.chain(blockers).collect()
    }

    /// What to do next. `instance_id` is what the command was about.
    pub(super) fn hint(&self, instance_id: Option<&str>) -> Option<String> {
        match self {
            Failure::Server(error) => server_hint(error, instance_id),
            Failure::Unreachable(_) => {
                Some("start one with: phasegate dev, or name another with --address".to_owned())
            }
            Failure::Local(_)
            | Failure::Usage(_)
            | Failure::Declined
            | Failure::Unsuccessful(_)
            | Failure::Faulty(_)
            | Failure::Pending(_)
            | Failure::Interrupted
            | Failure::NobodyReads => None,
        }
    }

    /// The same for programs, as the REST surface writes errors.
    pub(super) fn document(&self) -> Value {
        let (code, status, details) = match self {
            Failure::Server(error) => {
                (http_code(error.code), phasegate_rpc_error::code_name(error.code), error_details(error))
            }
            Failure::Unreachable(_) => (503, "UNAVAILABLE", Vec::new()),
            Failure::Local(_)
            | Failure::Usage(_)
            | Failure::Declined
            | Failure::Unsuccessful(_)
            | Failure::Faulty(_)
            | Failure::Pending(_)
            | Failure::Interrupted
            | Failure::NobodyReads => (0, "LOCAL", Vec::new()),
        };
        let message = if let Failure::Server(error) = self { error.message.clone() } else { self.message() };
        json!({"error": {"code": code, "status": status, "message": message, "details": details}})
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Server(error)
    }
}

fn server_code(error: &Error) -> u8 {
    match error.code {
        Code::Unauthenticated | Code::PermissionDenied => 4,
        Code::NotFound => 6,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted | Code::OutOfRange => 7,
        Code::DeadlineExceeded => 8,
        Code::Unavailable => 9,
        Code::InvalidArgument if error.is("VALIDATION_FAILED") => 10,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => 1,
    }
}

fn server_hint(error: &Error, instance_id: Option<&str>) -> Option<String> {
    let id = |name: &str| {
        let known = instance_id.filter(|_| name == "instance_id").map(str::to_owned);
        error.metadata.get(name).cloned().or(known).unwrap_or_else(|| format!("<{name}>"))
    };
    let names = |code: &str| error.violations.iter().any(|violation| violation.code == code);
    let hint = match error.reason.as_str() {
        "PROCESS_NOT_FOUND" => "phasegate process list".to_owned(),
        "DEFINITION_NOT_STARTABLE" => "publish the version first: it is a draft".to_owned(),
        "ALREADY_EXISTS" if instance_id.is_some() => format!("phasegate instance get {}", id("instance_id")),
        "PARTICIPANT_NOT_FOUND" => "phasegate process get shows who takes part in its instances".to_owned(),
        "VERSION_IMMUTABLE" => "give the changed definition a higher version".to_owned(),
        "INSTANCE_NOT_FOUND" => "phasegate instance list".to_owned(),
        "TASK_NOT_FOUND" => format!("phasegate task list {}", id("instance_id")),
        "ARTIFACT_NOT_FOUND" => format!("phasegate artifact list {}", id("instance_id")),
        "APPROVAL_NOT_FOUND" | "NOT_AN_APPROVER" => "phasegate approval list".to_owned(),
        "APPROVAL_ALREADY_DECIDED"
        | "APPROVAL_EXPIRED"
        | "APPROVAL_WITHDRAWN"
        | "APPROVAL_SUPERSEDED"
        | "APPROVAL_CONTENT_CHANGED" => format!("phasegate approval get {}", id("approval_id")),
        "COMMENT_REQUIRED" => "say why with --comment".to_owned(),
        "REASON_REQUIRED" => "say why with --reason".to_owned(),
        "PHASE_BLOCKED" => "settle what is in the way, or skip it with --force --reason".to_owned(),
        "PHASE_MOVED" | "INSTANCE_TERMINAL" | "INVALID_STATE" => {
            format!("phasegate instance get {}", id("instance_id"))
        }
        "ARTIFACT_VERSION_CONFLICT" => {
            "read the newest version and say its number with --if-version".to_owned()
        }
        "VALIDATION_FAILED" if names("PARTICIPANT_MISSING") => {
            "name everybody who approves: --participant id=email:name".to_owned()
        }
        "VALIDATION_FAILED" if names("PARTICIPANT_UNKNOWN") => {
            "phasegate process get shows who takes part".to_owned()
        }
        "VALIDATION_FAILED" => {
            "phasegate process validate shows every fault without storing anything".to_owned()
        }
        _ if error.code == Code::Unavailable => {
            "phasegate dev starts a server; --address names another".to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

fn error_details(error: &Error) -> Vec<Value> {
    let mut details = Vec::new();
    if !error.reason.is_empty() {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": error.reason, "domain": "phasegate", "metadata": error.metadata,
        }));
    }
    if !error.violations.is_empty() {
        let violations: Vec<Value> = error
            .violations
            .iter()
            .map(|one| json!({"field": one.field, "reason": one.code, "description": one.message}))
            .collect();
        details.push(
            json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations}),
        );
    }
    if !error.preconditions.is_empty() {
        let violations: Vec<Value> = error
            .preconditions
            .iter()
            .map(|one| json!({"type": one.kind, "subject": one.subject, "description": one.message}))
            .collect();
        details.push(
            json!({"@type": "type.googleapis.com/google.rpc.PreconditionFailure", "violations": violations}),
        );
    }
    if let Some(delay) = error.retry_after {
        let delay = format!("{}s", delay.as_secs_f64());
        details.push(json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}));
    }
    details
}

fn http_code(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => 409,
        Code::OutOfRange => 410,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use phasegate_client::{Details, Violation};

    use super::*;

    fn refused(code: Code, reason: &str) -> Failure {
        Error::from(Details {
            code,
            reason: reason.to_owned(),
            message: "it was refused".to_owned(),
            metadata: BTreeMap::from([("approval_id".to_owned(), "apr-1".to_owned())]),
            violations: Vec::new(),
            preconditions: Vec::new(),
            retry_after: None,
        })
        .into()
    }

    #[test]
    fn every_kind_of_failure_has_its_exit_code() {
        for (failure, code) in [
            (refused(Code::Internal, "INTERNAL"), 1),
            (refused(Code::InvalidArgument, "TEXT_INVALID"), 1),
            (refused(Code::ResourceExhausted, "RATE_LIMITED"), 1),
            (Failure::Local("x".to_owned()), 1),
            (Failure::Usage("x".to_owned()), 2),
            (Failure::Declined, 3),
            (refused(Code::Unauthenticated, "LINK_EXPIRED"), 4),
            (refused(Code::PermissionDenied, "NOT_AN_APPROVER"), 4),
            (Failure::Unsuccessful("x".to_owned()), 5),
            (refused(Code::NotFound, "INSTANCE_NOT_FOUND"), 6),
            (refused(Code::FailedPrecondition, "APPROVAL_ALREADY_DECIDED"), 7),
            (refused(Code::Aborted, "APPROVAL_CONTENT_CHANGED"), 7),
            (refused(Code::AlreadyExists, "ALREADY_EXISTS"), 7),
            (Failure::Pending("x".to_owned()), 8),
            (refused(Code::DeadlineExceeded, ""), 8),
            (refused(Code::Unavailable, "DEPENDENCY_DOWN"), 9),
            (refused(Code::InvalidArgument, "VALIDATION_FAILED"), 10),
            (Failure::Faulty("x".to_owned()), 10),
            (Failure::Interrupted, 130),
            (Failure::NobodyReads, 0),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do_next() {
        let failure = refused(Code::FailedPrecondition, "APPROVAL_ALREADY_DECIDED");
        assert_eq!(failure.message(), "it was refused (APPROVAL_ALREADY_DECIDED)");
        assert_eq!(failure.hint(None).as_deref(), Some("phasegate approval get apr-1"));
        let failure = refused(Code::NotFound, "ARTIFACT_NOT_FOUND");
        assert_eq!(failure.hint(Some("i-1")).as_deref(), Some("phasegate artifact list i-1"));
    }

    #[test]
    fn what_was_said_is_not_said_again() {
        let violation = |field: &str, message: &str| Violation {
            field: field.to_owned(),
            code: String::new(),
            message: message.to_owned(),
        };
        let told = |message: &str, violations: Vec<Violation>| {
            let failure = Failure::Server(Error::from(Details {
                code: Code::InvalidArgument,
                reason: "COMMENT_REQUIRED".to_owned(),
                message: message.to_owned(),
                metadata: BTreeMap::new(),
                violations,
                preconditions: Vec::new(),
                retry_after: None,
            }));
            failure.details()
        };
        let comment = || violation("comment", "must say why");
        assert!(told("comment must say why", vec![comment()]).is_empty());
        assert_eq!(told("the request has 1 fault", vec![comment()]), ["comment: must say why"]);
        let both = told("comment must say why", vec![comment(), violation("title", "must not be empty")]);
        assert_eq!(both, ["comment: must say why", "title: must not be empty"], "of several, all");
        assert_eq!(told("the request is wrong", vec![violation("title", "")]), ["title: "]);
    }

    #[test]
    fn programs_read_what_people_read() {
        let failure = refused(Code::FailedPrecondition, "APPROVAL_ALREADY_DECIDED");
        let document = failure.document();
        assert_eq!(document["error"]["code"], 409);
        assert_eq!(document["error"]["status"], "FAILED_PRECONDITION");
        assert_eq!(document["error"]["details"][0]["reason"], "APPROVAL_ALREADY_DECIDED");
    }
}
