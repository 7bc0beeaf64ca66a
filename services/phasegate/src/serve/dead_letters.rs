//! What was set aside: events that a service could not take, and mail that was given up. Read and queued anew directly in
//! the databases, because whoever needs it has an installation that does not work as it should.

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use phasegate_bus::Receiver;
use phasegate_clock::{Clock as _, SystemClock, Timestamp};
use phasegate_database::{Database, Opening};
use phasegate_id::NotificationId;
use phasegate_notification::{GivenUp, GivenUpPosition};
use phasegate_outbox::{DeadLetter, DeadLetterPosition};
use phasegate_serve::Service;
use serde::{Deserialize, Serialize};

use super::Options;

/// Something that was set aside.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Letter {
    /// Service that could not take it, or send it.
    pub service: &'static str,
    /// "event" or "mail".
    pub kind: &'static str,
    /// Names it for a replay.
    pub id: String,
    /// Tenant.
    pub tenant_id: String,
    /// Instance that it belongs to.
    pub instance_id: String,
    /// What it tells of.
    pub about: String,
    /// Who a mail was for, masked; empty for an event.
    pub recipient: String,
    /// When the event was set aside, or the mail was written.
    pub since: Timestamp,
    /// How often it was tried.
    pub tries: u32,
    /// What happened at the last try.
    pub error: String,
}

/// A page of them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Letters {
    /// The page: service by service, in each the oldest first.
    pub dead_letters: Vec<Letter>,
    /// Begins the next page; empty on the last one.
    pub next_page_token: String,
}

/// What has a list of its own, in the order of the lists: the events of a receiver, or the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Events(Receiver),
    Mail,
}

/// The last one of a page.
#[derive(Debug, Serialize, Deserialize)]
enum Position {
    Event(String, DeadLetterPosition),
    Mail(GivenUpPosition),
}

/// Lists what `services` have set aside, or all without any.
pub async fn dead_letters_list(
    options: &Options,
    services: &[Service],
    limit: u32,
    page_token: &str,
) -> anyhow::Result<Letters> {
    let mut after = Position::read(page_token)?;
    let begins_at = after.as_ref().map(Position::source).transpose()?;
    let sources = sources(services).into_iter();
    let mut letters = Vec::new();
    let mut last = None;
    for source in sources.skip_while(|source| begins_at.is_some_and(|first| first != *source)) {
        let left = limit.saturating_sub(u32::try_from(letters.len()).unwrap_or(u32::MAX));
        if left == 0 {
            break;
        }
        let (found, end) = source.list(options, after.take(), left).await?;
        letters.extend(found);
        last = end.or(last);
    }
    // Whether more follows shows when it is asked for.
    let is_full = u32::try_from(letters.len()) == Ok(limit);
    let next_page_token = last.filter(|_| is_full).map(|last| last.text()).transpose()?.unwrap_or_default();
    Ok(Letters { dead_letters: letters, next_page_token })
}

/// Has what `services` have set aside tried anew: those named, or everything without a name. How many that are.
pub async fn dead_letters_replay(
    options: &Options,
    services: &[Service],
    ids: &[String],
) -> anyhow::Result<u64> {
    let now = SystemClock.now();
    let mut replayed = 0;
    for source in sources(services) {
        let wanted: Vec<Option<&str>> =
            if ids.is_empty() { vec![None] } else { ids.iter().map(|id| Some(id.as_str())).collect() };
        for id in wanted {
            replayed += source.replay(options, id, now).await?;
        }
    }
    Ok(replayed)
}

fn sources(services: &[Service]) -> Vec<Source> {
    let events = Receiver::ALL.map(Source::Events).into_iter();
    let is_wanted = |source: &Source| {
        services.is_empty() || services.iter().any(|service| service.name() == source.service())
    };
    events.chain([Source::Mail]).filter(is_wanted).collect()
}

impl Source {
    const fn service(self) -> &'static str {
        match self {
            Self::Events(receiver) => receiver.name(),
            Self::Mail => Receiver::Notification.name(),
        }
    }

    fn settings(self, options: &Options) -> anyhow::Result<phasegate_database::Settings> {
        let service = Service::named(self.service()).context("a receiver is a service")?;
        options.database(service, Opening::Check)
    }

    /// The next ones, and the last of them.
    async fn list(
        self,
        options: &Options,
        after: Option<Position>,
        limit: u32,
    ) -> anyhow::Result<(Vec<Letter>, Option<Position>)> {
        let doing = || format!("what {} has set aside cannot be listed", self.service());
        let settings = self.settings(options)?;
        match self {
            Self::Events(receiver) => {
                let after = if let Some(Position::Event(_, after)) = after { Some(after) } else { None };
                let database = Database::open(&settings, &[phasegate_outbox::MIGRATION]).await?;
                let found = phasegate_outbox::dead_letters(&database, after.as_ref(), limit).await;
                database.close().await;
                let found = found.with_context(doing)?;
                let last = found.last().map(|last| Position::event(receiver, last));
                Ok((found.into_iter().map(|letter| Letter::event(receiver, letter)).collect(), last))
            }
            Self::Mail => {
                let after = if let Some(Position::Mail(after)) = after { Some(after) } else { None };
                let found = phasegate_notification::given_up_list(&settings, after.as_ref(), limit).await;
                let found = found.with_context(doing)?;
                let last = found.last().map(Position::mail);
                Ok((found.into_iter().map(Letter::mail).collect(), last))
            }
        }
    }

    async fn replay(self, options: &Options, id: Option<&str>, now: Timestamp) -> anyhow::Result<u64> {
        let settings = self.settings(options)?;
        let replayed = match self {
            Self::Events(_) => {
                let database = Database::open(&settings, &[phasegate_outbox::MIGRATION]).await?;
                let replayed = phasegate_outbox::replay(&database, id, now).await;
                database.close().await;
                replayed.map_err(anyhow::Error::new)
            }
            Self::Mail => {
                // What is no id of a mail is one of an event.
                let id = match id.map(str::parse::<NotificationId>) {
                    None => None,
                    Some(Ok(id)) => Some(id),
                    Some(Err(_)) => return Ok(0),
                };
                let replayed = phasegate_notification::given_up_replay(&settings, id, now).await;
                replayed.map_err(anyhow::Error::new)
            }
        };
        replayed.with_context(|| format!("what {} has set aside cannot be tried anew", self.service()))
    }
}

impl Letter {
    fn event(receiver: Receiver, letter: DeadLetter) -> Self {
        Self {
            service: receiver.name(),
            kind: "event",
            id: letter.event_id,
            tenant_id: letter.tenant_id,
            instance_id: letter.instance_id,
            about: letter.topic.to_owned(),
            recipient: String::new(),
            since: letter.set_aside_at,
            tries: letter.tries,
            error: letter.last_error,
        }
    }

    fn mail(mail: GivenUp) -> Self {
        Self {
            service: Receiver::Notification.name(),
            kind: "mail",
            id: mail.notification_id,
            tenant_id: mail.tenant_id,
            instance_id: mail.instance_id,
            about: mail.template,
            recipient: mail.recipient,
            since: mail.created_at,
            tries: mail.attempts,
            error: mail.last_error,
        }
    }
}

impl Position {
    fn event(receiver: Receiver, last: &DeadLetter) -> Self {
        let position = DeadLetterPosition {
            set_aside_at: last.set_aside_at,
            tenant_id: last.tenant_id.clone(),
            event_id: last.event_id.clone(),
        };
        Self::Event(receiver.name().to_owned(), position)
    }

    fn mail(last: &GivenUp) -> Self {
        Self::Mail(GivenUpPosition {
            created_at: last.created_at,
            tenant_id: last.tenant_id.clone(),
            notification_id: last.notification_id.clone(),
        })
    }

    fn source(&self) -> anyhow::Result<Source> {
        match self {
            Self::Event(receiver, _) => match Receiver::named(receiver) {
                Some(receiver) => Ok(Source::Events(receiver)),
                None => bail!("the page token is not one of this list"),
            },
            Self::Mail(_) => Ok(Source::Mail),
        }
    }

    /// It is no secret and needs no signature: whoever shows it may read the whole database.
    fn text(&self) -> anyhow::Result<String> {
        Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(self)?))
    }

    fn read(token: &str) -> anyhow::Result<Option<Self>> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok();
        let position = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        position.map(Some).context("the page token is not one of this list")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_follow_one_another_by_service() {
        assert_eq!(sources(&[]).len(), 5);
        let mail = [Source::Events(Receiver::Notification), Source::Mail];
        assert_eq!(sources(&[Service::Notification]), mail);
        assert_eq!(sources(&[Service::Definition]), []);
    }

    #[test]
    fn a_page_token_is_read_as_it_was_written() {
        let at = Timestamp::from_micros(5);
        let position =
            DeadLetterPosition { set_aside_at: at, tenant_id: "acme".to_owned(), event_id: "e".to_owned() };
        let token = Position::Event("approval".to_owned(), position).text().unwrap();
        let read = Position::read(&token).unwrap().unwrap();
        assert_eq!(read.source().unwrap(), Source::Events(Receiver::Approval));
        assert!(Position::read("").unwrap().is_none());
        for bad in ["x", "e30", "eyJFdmVudCI6W119"] {
            assert!(Position::read(bad).is_err(), "{bad}");
        }
    }
}
