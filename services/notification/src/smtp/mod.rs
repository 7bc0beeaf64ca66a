//! Mail as the wire has it: building a message from typed parts, and handing it to the mail server.

mod mailer;
mod message;

pub(crate) use mailer::{Mailer, Refused};
pub(crate) use message::{Draft, build};

use lettre::message::Mailbox;

/// A setting of the mail server that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingError {
    /// The sender is not an address.
    #[error("the sender {0:?} is not an address")]
    From(String),
    /// The protection of the connection cannot be set up.
    #[error("the connection to the mail server cannot be protected")]
    Tls(#[source] lettre::transport::smtp::Error),
}

/// Reads the sender.
pub(crate) fn sender(from: &str) -> Result<Mailbox, SettingError> {
    from.parse().map_err(|_| SettingError::From(from.to_owned()))
}
