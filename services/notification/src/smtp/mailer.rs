//! Hands messages to the mail server.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls as Protection, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::sync::Semaphore;

use super::SettingError;
use crate::config::{Config, Tls};

/// Messages that are handed over at a time, each on a connection of its own. As many connections are kept for the next
/// ones: greeting a server costs more than handing a message over.
const CONNECTIONS: u32 = 8;

/// Longest time that handing over one message may take, whatever is set: it must be over before its claim is.
const HANDING_OVER_MAX: Duration = Duration::from_mins(2);

/// How long a connection is kept without use: shorter than servers hold it.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Answers that will not change: no such mailbox (550, 551), a mailbox name that is not allowed (553), a server that
/// takes no mail for the domain (556).
const FINAL_CODES: [u16; 4] = [550, 551, 553, 556];

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// Hands messages to the mail server.
#[derive(Debug)]
pub(crate) struct Mailer {
    settings: Config,
    transport: RwLock<Arc<Transport>>,
    /// Whoever hands over holds one of these.
    turns: Semaphore,
}

/// Why the mail server did not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    /// What happened.
    pub(crate) message: String,
    /// Another try would get the same answer.
    pub(crate) is_final: bool,
}

impl Mailer {
    /// Prepares a mailer. It connects with the first message.
    pub(crate) fn new(settings: &Config) -> Result<Mailer, SettingError> {
        let smtp_timeout = settings.smtp_timeout.min(HANDING_OVER_MAX);
        let settings = Config { smtp_timeout, ..settings.clone() };
        let transport = RwLock::new(Arc::new(connect(&settings)?));
        Ok(Mailer { settings, transport, turns: Semaphore::new(CONNECTIONS as usize) })
    }

    /// Hands a message over. `Ok` means that the server has taken responsibility for it.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Refused> {
        // Never closed; the time that a message may take begins with its turn.
        let _turn = self.turns.acquire().await;
        let transport = Arc::clone(&self.transport.read().unwrap_or_else(PoisonError::into_inner));
        match tokio::time::timeout(self.settings.smtp_timeout, transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refused(&error)),
            Err(_) => {
                self.forget(&transport);
                let seconds = self.settings.smtp_timeout.as_secs_f32();
                let message = format!("the mail server did not answer within {seconds} s");
                Err(Refused { message, is_final: false })
            }
        }
    }

    /// Leaves the connections of `old` behind. A connection whose message was given up half-way goes back to the pool as
    /// if it were idle, and the next message on it would read the answer that was meant for the one before.
    fn forget(&self, old: &Arc<Transport>) {
        let mut current = self.transport.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, old)
            && let Ok(fresh) = connect(&self.settings)
        {
            *current = Arc::new(fresh);
        }
    }
}

fn connect(settings: &Config) -> Result<Transport, SettingError> {
    let parameters = || TlsParameters::new(settings.smtp_host.clone()).map_err(SettingError::Tls);
    let protection = match settings.smtp_tls {
        Tls::None => Protection::None,
        Tls::Upgraded => Protection::Required(parameters()?),
        Tls::Implicit => Protection::Wrapper(parameters()?),
    };
    let mut builder = Transport::builder_dangerous(settings.smtp_host.clone())
        .port(settings.smtp_port)
        .tls(protection)
        .timeout(Some(settings.smtp_timeout))
        .pool_config(PoolConfig::new().max_size(CONNECTIONS).idle_timeout(IDLE_TIME));
    if let Some((user, password)) = &settings.smtp_credentials {
        builder = builder.credentials(Credentials::new(user.clone(), password.clone()));
    }
    Ok(builder.build())
}

fn refused(error: &lettre::transport::smtp::Error) -> Refused {
    let is_final =
        error.is_permanent() && error.status().is_some_and(|code| FINAL_CODES.contains(&u16::from(code)));
    Refused { message: crate::domain::one_line(&error.to_string()), is_final }
}

#[cfg(test)]
mod tests {
    use phasegate_database::Settings;

    use super::*;

    #[tokio::test]
    async fn no_message_is_handed_over_for_longer_than_it_is_claimed() {
        for (set, used) in [(1, 1), (120, 120), (3_600, 120)] {
            let mut settings = Config::new(Settings::Sqlite { path: "unused".into() });
            settings.smtp_timeout = Duration::from_secs(set);
            let mailer = Mailer::new(&settings).unwrap();
            assert_eq!(mailer.settings.smtp_timeout, Duration::from_secs(used));
        }
    }
}
