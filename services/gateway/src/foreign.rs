//! Statuses that no service of ours made: the transport's own. They get the code and the reason that ours would have,
//! so that a caller meets one kind of error only.

use phasegate_rpc_error::reason_of;
use tonic::{Code, Status};

use crate::method::PublicMethod;
use crate::refusal::Refused;

/// What the transport says when a deadline has passed.
const TIMED_OUT: &str = "Timeout expired";
/// How it begins what it says of a connection that broke.
const PROTOCOL: &str = "h2 protocol error";

/// Whether somebody else may be able to answer, or the same a moment later.
pub(crate) fn passes(status: &Status) -> bool {
    status.code() == Code::Unavailable
}

/// Gives a status of the transport the form of ours. One of ours stays as it is.
pub(crate) fn translate(status: Status, method: &PublicMethod) -> Status {
    if reason_of(&status).is_some() {
        return status;
    }
    let service = method.home.name();
    let too_large = || Refused::MessageTooLarge { bytes_max: method.message_bytes_max };
    let refused = match status.code() {
        // The transport says OUT_OF_RANGE of a message, and RESOURCE_EXHAUSTED of one that grows when it is unpacked.
        Code::OutOfRange | Code::ResourceExhausted => too_large(),
        // It says CANCELLED where a deadline has passed, too; a caller that hangs up hears nothing anyway.
        Code::DeadlineExceeded => Refused::Deadline,
        Code::Cancelled if status.message() == TIMED_OUT => Refused::Deadline,
        // Says in its headers which compressions are understood, and clients try again by that.
        Code::Unimplemented if status.message().contains("compress") => return status,
        Code::Unimplemented => Refused::NoMethod { path: method.path.path().to_owned() },
        // What is not the message: the caller's own bytes, which nobody has looked at before.
        Code::Internal if status.message().contains("decode") => return status,
        Code::Unavailable | Code::Unknown | Code::Cancelled => Refused::Down { service },
        // A connection that ends in the middle of a call.
        Code::Internal if status.message().starts_with(PROTOCOL) => Refused::Down { service },
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => {
            let (code, message) = (status.code(), status.message());
            return internal(format!("the {service} service answered {code:?} without a reason: {message}"));
        }
    };
    tracing::debug!(service, code = ?status.code(), message = status.message(), "a call ended in the transport");
    phasegate_rpc_error::status(&refused)
}

fn internal(what: String) -> Status {
    phasegate_rpc_error::status(&Refused::Internal(what))
}
