//! Every promise of this service about failing, on one page.

use std::time::Duration;

use phasegate_rpc_error::{Kind, Refusal, Violation};
use tonic::Status;

use crate::app::Error;

impl Refusal for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::NotificationNotFound(_) | Error::InstanceNotFound(_) => Kind::NotFound,
            Error::Invalid(invalid) => invalid.kind(),
            Error::Relayed(relayed) => relayed.kind(),
            Error::Store(error) if error.is_transient() => Kind::Unavailable,
            Error::Store(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Error::NotificationNotFound(_) => "NOTIFICATION_NOT_FOUND",
            Error::InstanceNotFound(_) => "INSTANCE_NOT_FOUND",
            Error::Invalid(invalid) => invalid.reason(),
            Error::Relayed(relayed) => relayed.reason(),
            Error::Store(error) if error.is_transient() => "STORE_UNAVAILABLE",
            Error::Store(_) => "INTERNAL",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Error::NotificationNotFound(id) => vec![("notification_id", id.clone())],
            Error::InstanceNotFound(id) => vec![("instance_id", id.clone())],
            Error::Invalid(invalid) => invalid.metadata(),
            Error::Relayed(relayed) => relayed.metadata(),
            Error::Store(_) => Vec::new(),
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Error::Invalid(invalid) => invalid.violations(),
            Error::NotificationNotFound(_)
            | Error::InstanceNotFound(_)
            | Error::Relayed(_)
            | Error::Store(_) => Vec::new(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        (self.kind() == Kind::Unavailable).then_some(Duration::from_secs(1))
    }

    fn passed(&self) -> Option<&Status> {
        match self {
            Error::Relayed(relayed) => relayed.passed(),
            Error::NotificationNotFound(_)
            | Error::InstanceNotFound(_)
            | Error::Invalid(_)
            | Error::Store(_) => None,
        }
    }
}
