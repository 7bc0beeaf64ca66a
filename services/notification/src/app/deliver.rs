//! Hands prepared messages to the mail server.

use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use phasegate_clock::SharedClock;
use phasegate_database::Reach;
use phasegate_id::LinkId;
use phasegate_planted::{self as planted, Bug};
use phasegate_telemetry::{Cause, Subject, WorkKind, work_span};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::directory::{Directory, LinkError, Made};
use super::render::with_link;
use super::seen;
use crate::domain::{MailLink, Notification, RetryPolicy, Status, masked};
use crate::smtp::{Draft, Mailer, Refused, build};
use crate::store::{self, CONSUMER, Claim, Settled, Store};

/// How often a claim is kept up while its message is under way: several times while it lasts.
const CLAIM_KEPT_EVERY: Duration = Duration::from_secs(4);
/// How long a message that is under way may take once the service stops.
const GRACE: Duration = Duration::from_millis(1_500);

/// Hands messages to the mail server.
pub(crate) struct Courier {
    pub(crate) store: Store,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) mailer: Mailer,
    pub(crate) from: Mailbox,
    pub(crate) retry: RetryPolicy,
    pub(crate) clock: SharedClock,
    /// Rung when an outcome was stored that others have to hear of.
    pub(crate) settled: Arc<Notify>,
    /// The time to stop.
    pub(crate) shutdown: CancellationToken,
}

/// What became of one try.
enum Try {
    /// The mail server has it.
    Sent,
    /// It cannot be sent, and that will not change.
    Impossible(String),
    /// The mail server did not take it.
    NotTaken(String),
    /// It did not come as far as the mail server.
    NotTried(String),
    /// Its reason has gone.
    Pointless(String),
}

impl Courier {
    /// Tries one message and stores what became of it.
    pub(crate) async fn deliver(&self, claim: Claim) -> Result<(), store::Error> {
        let notification = &claim.notification;
        let now = self.clock.now();
        if let Status::Queued { next_attempt_at } = notification.status {
            phasegate_serve::note_timer(CONSUMER, "mail", now.duration_since(next_attempt_at));
        }
        let age = now.duration_since(notification.created_at);
        let cause = Cause { trace_parent: &claim.trace_parent, age };
        let subject = Subject {
            tenant_id: notification.tenant_id.as_str(),
            instance_id: notification.instance_id.as_str(),
            ..Subject::default()
        };
        let what = format!("mail {}", notification.template.as_str());
        let span = work_span(CONSUMER, WorkKind::HandOver, &what, cause, subject);
        let reach = Reach::of_tenant(notification.tenant_id.as_str());
        reach.within(self.try_and_settle(claim).instrument(span)).await
    }

    async fn try_and_settle(&self, mut claim: Claim) -> Result<(), store::Error> {
        let mut made = None;
        let outcome = tokio::select! {
            outcome = self.attempt(&claim, &mut made) => outcome,
            () = self.stopped() => Try::NotTried("the service stopped; another copy goes on".to_owned()),
            () = self.lose(&claim) => {
                tracing::warn!(notification = claim.notification.id.as_str(), "another copy has taken the message");
                return Ok(());
            }
        };
        if let (Some(link), Some(made)) = (&mut claim.notification.link, made) {
            link.link_id = Some(made);
        }
        let now = self.clock.now();
        let seed = seed(&claim);
        let settled = match outcome {
            Try::Sent => Settled::Sent { at: now },
            Try::Impossible(why) => Settled::Failed { why, tried: true },
            Try::Pointless(why) => Settled::Suppressed { why },
            Try::NotTaken(why) => match self.retry.wait_after(claim.notification.attempts + 1, seed) {
                Some(wait) => Settled::Later { why, at: now + wait, tried: true },
                None => Settled::Failed { why, tried: true },
            },
            Try::NotTried(why) => {
                Settled::Later { why, at: now + self.retry.wait_for_others(seed), tried: false }
            }
        };
        report(&claim.notification, &settled);
        seen::count(&claim.notification, &settled, now);
        if self.store.notification_settle(claim, settled, now).await? {
            self.settled.notify_one();
        }
        Ok(())
    }

    /// Returns a moment after the time to stop: what the mail server has not taken by then is handed back. Should it take
    /// it all the same, the message goes out a second time, with the same id.
    async fn stopped(&self) {
        self.shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    }

    /// Keeps a claim up, and returns once it is another's.
    async fn lose(&self, claim: &Claim) {
        loop {
            tokio::time::sleep(CLAIM_KEPT_EVERY).await;
            match self.store.notification_claim_keep(claim, self.clock.now()).await {
                Ok(true) => {}
                Ok(false) => return,
                // The claim may hold until the database is back; where it does not, only the newest one is settled.
                Err(error) => phasegate_database::tell(&error, "a claim could not be kept up"),
            }
        }
    }

    /// Tries a message. A link that it makes for it is put into `made`, whatever becomes of the message.
    async fn attempt(&self, claim: &Claim, made: &mut Option<LinkId>) -> Try {
        let notification = &claim.notification;
        if claim.is_moot {
            return Try::Pointless("everything that it asks was settled before it was sent".to_owned());
        }
        let (text, html) = match &notification.link {
            None => (notification.body_text.clone(), notification.body_html.clone()),
            Some(link) => match self.url(claim, link, made).await {
                Ok(url) => {
                    let rendered =
                        with_link(&notification.body_text, &notification.body_html, &link.placeholder, &url);
                    (rendered.text, rendered.html)
                }
                Err(error @ LinkError::Gone(_)) => return Try::Pointless(error.to_string()),
                Err(error @ LinkError::Away(_)) => return Try::NotTried(error.to_string()),
            },
        };
        let draft = Draft {
            from: &self.from,
            to_name: &notification.recipient_name,
            to: &notification.recipient,
            subject: &notification.subject,
            message_id: &notification.message_id,
            boundary: notification.id.as_str(),
            date: notification.created_at,
            text,
            html,
        };
        let message = match build(draft) {
            Ok(message) => message,
            Err(error) => return Try::Impossible(error.to_string()),
        };
        match self.mailer.send(message).await {
            Ok(()) => Try::Sent,
            Err(_) if planted::is(Bug::MailBelieved) => Try::Sent,
            Err(Refused { message, is_final }) => {
                // Servers like to quote the address; the record keeps it masked.
                let why = message.replace(&notification.recipient, &masked(&notification.recipient));
                if is_final { Try::Impossible(why) } else { Try::NotTaken(why) }
            }
        }
    }

    /// The URL of a message's link. The link is made with the first try; asking for it again gives the same one.
    async fn url(
        &self,
        claim: &Claim,
        link: &MailLink,
        made: &mut Option<LinkId>,
    ) -> Result<String, LinkError> {
        let notification = &claim.notification;
        let tenant = &notification.tenant_id;
        if let Some(id) = &link.link_id {
            return self.directory.link_url(tenant, id).await;
        }
        let ensured = self.directory.link_ensure(
            tenant,
            &notification.instance_id,
            &notification.participant_id,
            &notification.id,
            link.expires_at,
        );
        let Made { id, url } = ensured.await?;
        *made = Some(id.clone());
        match url {
            Some(url) => Ok(url),
            None => self.directory.link_url(tenant, &id).await,
        }
    }
}

/// Differs between messages and between tries, and needs no dice.
fn seed(claim: &Claim) -> u64 {
    let id = claim.notification.id.as_str().bytes();
    // FNV-1a.
    id.chain(claim.number.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn report(notification: &Notification, settled: &Settled) {
    let id = notification.id.as_str();
    match settled {
        Settled::Sent { .. } => tracing::debug!(notification = id, "mail sent"),
        Settled::Later { why, .. } => {
            tracing::warn!(notification = id, %why, "mail not taken, tried again later");
        }
        Settled::Failed { why, .. } => tracing::error!(notification = id, %why, "mail given up"),
        Settled::Suppressed { why } => tracing::debug!(notification = id, %why, "mail not sent"),
    }
}
