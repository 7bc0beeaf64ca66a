//! What the service refuses, and how: every promise about failing, on one page.

use std::fmt::Display as _;
use std::time::Duration;

use phasegate_rpc_error::{Blocker as Obstacle, Kind, Refusal, Violation};
use tonic::Status;

use crate::app::Error;
use crate::domain::{Blocker, PhaseStatus, Rejection, TaskStatus};

/// A refusal about an instance.
#[derive(Debug)]
pub(crate) struct Refused {
    error: Error,
    instance_id: String,
}

/// Makes the status of a refusal that has to do with no instance in particular.
pub(crate) fn refuse(error: Error) -> Status {
    refuse_about("")(error)
}

/// Makes the status of a refusal about an instance.
pub(crate) fn refuse_about(instance_id: &str) -> impl FnOnce(Error) -> Status {
    let instance_id = phasegate_id::shortened(instance_id);
    move |error| phasegate_rpc_error::status(&Refused { error, instance_id })
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Error::Rejected(rejection) = &self.error {
            return self.describe(rejection, f);
        }
        // What the database said is for the log.
        if self.kind() == Kind::Unavailable && matches!(self.error, Error::Store(_)) {
            return f.write_str("the database did not answer");
        }
        self.error.fmt(f)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Refusal for Refused {
    fn kind(&self) -> Kind {
        match &self.error {
            Error::NotFound(_) => Kind::NotFound,
            Error::Rejected(rejection) => rejection_kind(rejection),
            Error::QueueForbidden(_) => Kind::Forbidden,
            Error::LeaseLost { .. } => Kind::Precondition,
            Error::Exists(_) => Kind::Exists,
            Error::Invalid(_) | Error::Faults(_) | Error::ContextSchema(_) | Error::RequestIdReused(_) => {
                Kind::Invalid
            }
            Error::ContextTooLarge { .. } | Error::OutputTooLarge { .. } => Kind::Exhausted,
            Error::RequestInProgress(_) => Kind::Conflict,
            Error::Peer(relayed) => relayed.kind(),
            Error::Busy | Error::Draining => Kind::Unavailable,
            Error::Store(error) if error.is_transient() => Kind::Unavailable,
            Error::Store(_) | Error::Seen | Error::Broken(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match &self.error {
            Error::NotFound(_) => "INSTANCE_NOT_FOUND",
            Error::Rejected(rejection) => rejection_reason(rejection),
            Error::QueueForbidden(_) => "QUEUE_FORBIDDEN",
            Error::LeaseLost { .. } => "LEASE_LOST",
            Error::Exists(_) => "ALREADY_EXISTS",
            Error::Invalid(invalid) => invalid.reason,
            Error::Faults(_) => "VALIDATION_FAILED",
            Error::ContextSchema(_) => "CONTEXT_SCHEMA_MISMATCH",
            Error::ContextTooLarge { .. } => "CONTEXT_TOO_LARGE",
            Error::OutputTooLarge { .. } => "OUTPUT_TOO_LARGE",
            Error::RequestIdReused(_) => "REQUEST_ID_REUSED",
            Error::RequestInProgress(_) => "REQUEST_IN_PROGRESS",
            Error::Peer(relayed) => relayed.reason(),
            Error::Draining => "DRAINING",
            Error::Busy => "STORE_UNAVAILABLE",
            Error::Store(error) if error.is_transient() => "STORE_UNAVAILABLE",
            Error::Store(_) | Error::Seen | Error::Broken(_) => "INTERNAL",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match &self.error {
            Error::NotFound(id) => vec![("instance_id", id.clone())],
            Error::Rejected(rejection) => self.rejection_metadata(rejection),
            Error::QueueForbidden(queue) => vec![("queue", queue.clone())],
            Error::LeaseLost { task, current, status } => vec![
                ("task_id", task.to_string()),
                ("current_fencing_token", current.to_string()),
                ("task_status", status.as_str().to_owned()),
            ],
            Error::Exists(id) => vec![("resource", "instance".to_owned()), ("id", id.clone())],
            Error::Invalid(invalid) => invalid.metadata(),
            Error::Faults(violations) | Error::ContextSchema(violations) => {
                vec![("issue_count", violations.len().to_string())]
            }
            Error::ContextTooLarge { limit, max } => {
                vec![("limit", (*limit).to_owned()), ("max", max.to_string())]
            }
            Error::OutputTooLarge { field, limit, max } => {
                vec![("field", (*field).to_owned()), ("limit", (*limit).to_owned()), ("max", max.to_string())]
            }
            Error::RequestIdReused(id) | Error::RequestInProgress(id) => vec![("request_id", id.clone())],
            Error::Peer(relayed) => relayed.metadata(),
            Error::Busy | Error::Draining | Error::Store(_) | Error::Seen | Error::Broken(_) => Vec::new(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        if let Error::Faults(violations) | Error::ContextSchema(violations) = &self.error {
            return violations.clone();
        }
        if let Error::Invalid(invalid) = &self.error {
            return invalid.violations();
        }
        if let Error::Rejected(Rejection::ReasonRequired) = &self.error {
            let (field, code) = ("reason".to_owned(), "REASON_REQUIRED".to_owned());
            return vec![Violation { field, code, message: "must say why".to_owned() }];
        }
        Vec::new()
    }

    fn preconditions(&self) -> Vec<Obstacle> {
        if let Error::Rejected(Rejection::PhaseBlocked(blockers)) = &self.error {
            return blockers.iter().map(obstacle).collect();
        }
        if let Error::Rejected(Rejection::ArtifactsMissing { missing, .. }) = &self.error {
            let obstacles = missing.iter().map(|key| Obstacle {
                kind: "ARTIFACT".to_owned(),
                subject: key.to_string(),
                message: format!("{key} has not been stored"),
            });
            return obstacles.collect();
        }
        Vec::new()
    }

    fn retry_after(&self) -> Option<Duration> {
        if let Error::Peer(relayed) = &self.error {
            return relayed.retry_after();
        }
        if let Error::Busy | Error::RequestInProgress(_) = &self.error {
            return Some(Duration::from_millis(100));
        }
        (self.kind() == Kind::Unavailable).then_some(Duration::from_secs(1))
    }

    fn passed(&self) -> Option<&Status> {
        if let Error::Peer(relayed) = &self.error { relayed.refusal() } else { None }
    }
}

fn obstacle(blocker: &Blocker) -> Obstacle {
    Obstacle {
        kind: blocker.kind.as_str().to_owned(),
        subject: blocker.subject.clone(),
        message: blocker.message.clone(),
    }
}

fn joined<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn rejection_kind(rejection: &Rejection) -> Kind {
    match rejection {
        Rejection::AlreadyStarted => Kind::Exists,
        Rejection::RoleForbidden => Kind::Forbidden,
        Rejection::ReasonRequired => Kind::Invalid,
        Rejection::TaskNotFound(_) | Rejection::PhaseNotFound(_) => Kind::NotFound,
        Rejection::PhaseMoved { .. } | Rejection::VersionMismatch { .. } => Kind::Conflict,
        Rejection::Terminal(_)
        | Rejection::Paused
        | Rejection::LeaseLost(_)
        | Rejection::NotReady { .. }
        | Rejection::TaskState { .. }
        | Rejection::PhaseNotReached(_)
        | Rejection::ArtifactsMissing { .. }
        | Rejection::PhaseBlocked(_) => Kind::Precondition,
    }
}

fn rejection_reason(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::AlreadyStarted => "ALREADY_EXISTS",
        Rejection::Terminal(_) => "INSTANCE_TERMINAL",
        Rejection::RoleForbidden => "ROLE_FORBIDDEN",
        Rejection::ReasonRequired => "REASON_REQUIRED",
        Rejection::TaskNotFound(_) => "TASK_NOT_FOUND",
        Rejection::PhaseNotFound(_) => "PHASE_NOT_FOUND",
        Rejection::LeaseLost(_) => "LEASE_LOST",
        Rejection::Paused
        | Rejection::NotReady { .. }
        | Rejection::TaskState { .. }
        | Rejection::PhaseNotReached(_) => "INVALID_STATE",
        Rejection::ArtifactsMissing { .. } => "ARTIFACTS_MISSING",
        Rejection::PhaseMoved { .. } => "PHASE_MOVED",
        Rejection::PhaseBlocked(_) => "PHASE_BLOCKED",
        Rejection::VersionMismatch { .. } => "VERSION_MISMATCH",
    }
}

impl Refused {
    /// The message, with all that the caller can act upon.
    fn describe(&self, rejection: &Rejection, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Rejection::Terminal(status) = rejection
            && !self.instance_id.is_empty()
        {
            return write!(f, "instance {} is {}", self.instance_id, status.as_str());
        }
        if let Rejection::PhaseBlocked(blockers) = rejection {
            let phase = blockers.first().map_or("", |blocker| blocker.phase.as_str());
            let noun = if blockers.len() == 1 { "blocker" } else { "blockers" };
            return write!(f, "phase {phase} has {} {noun}", blockers.len());
        }
        if let Rejection::ArtifactsMissing { task, missing } = rejection {
            return write!(f, "task {task} has not stored {}", joined(missing));
        }
        if let Rejection::PhaseMoved { current: Some(current) } = rejection {
            return write!(f, "the instance is in phase {current}");
        }
        rejection.fmt(f)
    }

    fn rejection_metadata(&self, rejection: &Rejection) -> Vec<(&'static str, String)> {
        let instance = ("instance_id", self.instance_id.clone());
        match rejection {
            Rejection::AlreadyStarted => vec![("resource", "instance".to_owned()), ("id", instance.1)],
            Rejection::Terminal(status) => vec![instance, ("status", status.as_str().to_owned())],
            Rejection::Paused => {
                vec![instance, ("status", "paused".to_owned()), ("allowed", "running".to_owned())]
            }
            Rejection::RoleForbidden => vec![("role", "operator, delegator".to_owned())],
            Rejection::ReasonRequired => vec![("field", "reason".to_owned())],
            Rejection::TaskNotFound(task) => vec![("task_id", task.to_string())],
            Rejection::PhaseNotFound(phase) => vec![("phase_id", phase.to_string())],
            Rejection::LeaseLost(task) => vec![
                ("task_id", task.to_string()),
                ("current_fencing_token", String::new()),
                ("task_status", String::new()),
            ],
            Rejection::NotReady { task, status } => state(task.as_str(), *status, &[TaskStatus::Ready]),
            Rejection::TaskState { task, status } => state(
                task.as_str(),
                *status,
                &[TaskStatus::Blocked, TaskStatus::Escalated, TaskStatus::Failed],
            ),
            Rejection::PhaseNotReached(phase) => vec![
                ("phase_id", phase.to_string()),
                ("status", PhaseStatus::Pending.as_str().to_owned()),
                ("allowed", "the current phase and those before it".to_owned()),
            ],
            Rejection::ArtifactsMissing { task, missing } => {
                vec![("task_id", task.to_string()), ("missing", joined(missing))]
            }
            Rejection::PhaseMoved { current } => {
                vec![("current_phase", current.as_ref().map(ToString::to_string).unwrap_or_default())]
            }
            Rejection::PhaseBlocked(blockers) => {
                let phase = blockers.first().map(|blocker| blocker.phase.to_string()).unwrap_or_default();
                vec![("phase_id", phase), ("blocker_count", blockers.len().to_string())]
            }
            Rejection::VersionMismatch { current } => vec![("current_version", current.to_string())],
        }
    }
}

fn state(task: &str, status: TaskStatus, allowed: &[TaskStatus]) -> Vec<(&'static str, String)> {
    let allowed: Vec<&str> = allowed.iter().map(|status| status.as_str()).collect();
    vec![
        ("task_id", task.to_owned()),
        ("status", status.as_str().to_owned()),
        ("allowed", allowed.join(", ")),
    ]
}
