//! What another service refused, on its way to our caller.

use std::time::Duration;

use tonic::{Code, Status};

use crate::{Kind, Refusal, reason_of};

/// A refusal of another service: passed on where it is the caller's to mend, else "try again".
#[derive(Debug, Clone, thiserror::Error)]
#[error("the {service} service did not answer")]
pub struct Relayed {
    service: &'static str,
    status: Box<Status>,
    passes: bool,
}

/// Takes what `service` answered. A refusal with a reason that the caller can act upon is passed on unchanged;
/// anything else becomes `UNAVAILABLE` with the reason `DEPENDENCY_DOWN`.
pub fn relayed(status: Status, service: &'static str) -> Relayed {
    let theirs = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unauthenticated
    );
    let reason = reason_of(&status);
    // Our own principal was refused: that is between the services.
    let passes = theirs && reason.is_some_and(|reason| reason != "INTERNAL_AUTH");
    if !passes {
        tracing::warn!(service, code = ?status.code(), message = status.message(), "a call to another service failed");
    }
    Relayed { service, status: Box::new(status), passes }
}

impl Relayed {
    /// The status, where it is passed on.
    pub fn refusal(&self) -> Option<&Status> {
        self.passes.then_some(&*self.status)
    }

    /// The reason, where it is passed on.
    pub fn reason_passed(&self) -> Option<String> {
        self.refusal().and_then(reason_of)
    }
}

impl Refusal for Relayed {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }

    fn reason(&self) -> &'static str {
        "DEPENDENCY_DOWN"
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![("service", self.service.to_owned())]
    }

    fn retry_after(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn passed(&self) -> Option<&Status> {
        self.refusal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Invalid, status};

    #[test]
    fn a_callers_mistake_is_passed_on() {
        let theirs = status(&Invalid::new("TEXT_INVALID", "title", "must be one line"));
        let ours = status(&relayed(theirs, "artifact"));
        assert_eq!(reason_of(&ours).as_deref(), Some("TEXT_INVALID"));
    }

    #[test]
    fn a_failure_is_ours_to_hide() {
        let theirs = Status::unknown("stack trace");
        let ours = status(&relayed(theirs, "artifact"));
        assert_eq!(ours.code(), Code::Unavailable);
        assert_eq!(reason_of(&ours).as_deref(), Some("DEPENDENCY_DOWN"));
        assert!(!ours.message().contains("stack"));
    }
}
