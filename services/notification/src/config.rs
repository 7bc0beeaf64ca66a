//! Every setting of the service.

use std::time::Duration;

use phasegate_database::Settings;

use crate::domain::RetryPolicy;

/// What the service is run with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its own database.
    pub database: Settings,
    /// The mail server.
    pub smtp: Smtp,
    /// How often a message is tried.
    pub retry: RetryPolicy,
}

/// The mail server.
#[derive(Clone)]
pub struct Smtp {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: Tls,
    /// Who the mail is from: an address, or a name and an address in angle brackets.
    pub from: String,
    /// User name and password, where the server wants them.
    pub credentials: Option<(String, String)>,
    /// How long handing over one message may take.
    pub timeout: Duration,
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Not at all: for a server on the same machine.
    None,
    /// Begins in the clear and must be upgraded before anything is said.
    StartTls,
    /// From the first byte.
    Implicit,
}

impl Config {
    /// Mail goes unprotected to port 25 of this machine, as a local mail server takes it.
    pub fn new(database: Settings) -> Config {
        Config {
            database,
            smtp: Smtp {
                host: "127.0.0.1".to_owned(),
                port: 25,
                tls: Tls::None,
                from: "Phasegate <phasegate@localhost>".to_owned(),
                credentials: None,
                timeout: Duration::from_secs(30),
            },
            retry: RetryPolicy::default(),
        }
    }
}

impl std::fmt::Debug for Smtp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Smtp")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("from", &self.from)
            .field("user", &self.credentials.as_ref().map(|(user, _)| user))
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
