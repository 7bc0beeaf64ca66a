//! What the service does: hears of occasions and writes messages ([`Receiver`]), hands them to the mail server
//! ([`Courier`]), and answers for them.
//!
//! A message is prepared once and stored with everything but its link; it is sent outside any transaction, and its outcome is
//! stored after that. Between the answer of the mail server and that last step the process may die, and then the same bytes go
//! out once more under the same Message-ID: mail cannot promise better.

mod cache;
mod deliver;
mod directory;
mod occasion;
mod receive;
mod render;
mod seen;
pub mod unwired;

pub(crate) use deliver::Courier;
pub(crate) use directory::{Directory, PeerDirectory};
#[cfg(test)]
pub(crate) use directory::{LinkError, LookupError, Made};
pub(crate) use receive::Receiver;

use phasegate_rpc_error::{Invalid, Relayed};

use crate::store;

pub(crate) use crate::store::{Position, Store};

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no such notification, or not for this caller.
    #[error("notification {0} does not exist")]
    NotificationNotFound(String),
    /// There is no such instance, or not for this caller.
    #[error("instance {0} does not exist")]
    InstanceNotFound(String),
    /// A field of the request cannot be used.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Another service said so.
    #[error(transparent)]
    Relayed(#[from] Relayed),
    /// The database could not.
    #[error("the database did not answer")]
    Store(#[from] store::Error),
}
