//! Every setting of the service.

use std::time::Duration;

use phasegate_database::Settings;

use crate::domain::RetryPolicy;

/// What the service is run with.
#[derive(Clone)]
pub struct Config {
    /// Its own database.
    pub database: Settings,
    /// Name or address of the mail server.
    pub smtp_host: String,
    /// Its port.
    pub smtp_port: u16,
    /// How the connection to it is protected.
    pub smtp_tls: Tls,
    /// Who the mail is from: an address, or a name and an address in angle brackets.
    pub smtp_from: String,
    /// User name and password, where the mail server wants them.
    pub smtp_credentials: Option<(String, String)>,
    /// How long handing over one message may take; at most two minutes.
    pub smtp_timeout: Duration,
    /// How often a message is tried.
    pub retry: RetryPolicy,
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Not at all: for a server on the same machine.
    None,
    /// Begins in the clear and must be upgraded before anything is said.
    Upgraded,
    /// From the first byte.
    Implicit,
}

impl Config {
    /// Mail goes unprotected to port 25 of this machine, as a local mail server takes it.
    pub fn new(database: Settings) -> Config {
        Config {
            database,
            smtp_host: "127.0.0.1".to_owned(),
            smtp_port: 25,
            smtp_tls: Tls::None,
            smtp_from: "Phasegate <phasegate@localhost>".to_owned(),
            smtp_credentials: None,
            smtp_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Config")
            .field("smtp_host", &self.smtp_host)
            .field("smtp_port", &self.smtp_port)
            .field("smtp_tls", &self.smtp_tls)
            .field("smtp_from", &self.smtp_from)
            .field("smtp_user", &self.smtp_credentials.as_ref().map(|(user, _)| user))
            .field("smtp_timeout", &self.smtp_timeout)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
