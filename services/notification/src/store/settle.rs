//! What became of messages, written by whoever holds the newest claim.

use phasegate_clock::Timestamp;
use phasegate_database::{Transaction, args};
use phasegate_id::LinkId;
use phasegate_principal::Principal;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, NotificationSettled};

use super::claim::Claim;
use super::settle_postgres::Piece;
use super::{CONSUMER, Error, Store};
use crate::domain::Notification;

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The mail server has it.
    Sent {
        /// When.
        at: Timestamp,
    },
    /// It is tried again.
    Later {
        /// Why it was not taken.
        why: String,
        /// When.
        at: Timestamp,
        /// It came as far as the mail server, which uses up a try.
        tried: bool,
    },
    /// It is given up.
    Failed {
        /// Why.
        why: String,
        /// It came as far as the mail server.
        tried: bool,
    },
    /// It has become pointless.
    Suppressed {
        /// Why.
        why: String,
    },
}

/// An outcome, as it is stored.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: &'static str,
    pub(super) sent_at: Option<Timestamp>,
    pub(super) next_attempt_at: Option<Timestamp>,
    pub(super) tried: bool,
    pub(super) why: String,
}

impl Store {
    /// Writes what became of a claim, and the link of its message. `true` when others have to hear of it. A claim that is
    /// not the newest writes nothing.
    ///
    /// That the link is kept with the outcome loses nothing: it is made for the message by name, so whoever tries the
    /// message again is given the same one.
    pub(crate) async fn notification_settle(
        &self,
        claim: Claim,
        settled: Settled,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let event = event(&claim.notification, &settled, now);
        let is_news = event.is_some();
        let Claim { notification, number, .. } = claim;
        let piece = Piece {
            tenant: notification.tenant_id,
            id: notification.id,
            number,
            outcome: outcome(settled),
            link: notification.link.and_then(|link| link.link_id),
            event,
        };
        if let Some(settling) = &self.settling {
            return Ok(settling.settle(piece).await? && is_news);
        }
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
                    tx.linger();
                    if !settle(tx, &piece).await? {
                        return Ok(false);
                    }
                    if let Some(event) = &piece.event {
                        phasegate_outbox::append(tx, event).await?;
                    }
                    Ok(is_news)
                })
            })
            .await
    }
}

fn outcome(settled: Settled) -> Outcome {
    let (status, sent_at, next_attempt_at, tried, why) = match settled {
        Settled::Sent { at } => ("sent", Some(at), None, true, String::new()),
        Settled::Later { why, at, tried } => ("queued", None, Some(at), tried, why),
        Settled::Failed { why, tried } => ("failed", None, None, tried, why),
        Settled::Suppressed { why } => ("suppressed", None, None, false, why),
    };
    Outcome { status, sent_at, next_attempt_at, tried, why }
}

/// Writes the outcome, unless a newer claim has been granted.
async fn settle(tx: &mut Transaction, piece: &Piece) -> Result<bool, Error> {
    let outcome = &piece.outcome;
    let touched = tx
        .execute(
            "update notification
                set status = $4, sent_at = $5, next_attempt_at = $6, attempts = attempts + $7, last_error = $8,
                    leased_until = null, link_id = coalesce(link_id, $9)
              where tenant_id = $1 and notification_id = $2 and lease_number = $3 and status = 'queued'",
            args![
                piece.tenant.as_str(),
                piece.id.as_str(),
                piece.number,
                outcome.status,
                outcome.sent_at,
                outcome.next_attempt_at,
                i64::from(outcome.tried),
                &outcome.why,
                piece.link.as_ref().map(LinkId::as_str),
            ],
        )
        .await?;
    Ok(touched == 1)
}

/// What the record hears of: a message that went out, or one that was given up.
fn event(notification: &Notification, settled: &Settled, now: Timestamp) -> Option<Event> {
    let (sent, error) = match settled {
        Settled::Sent { .. } => (true, String::new()),
        Settled::Failed { why, .. } => (false, why.clone()),
        Settled::Later { .. } | Settled::Suppressed { .. } => return None,
    };
    let payload = Payload::NotificationSettled(NotificationSettled {
        notification_id: notification.id.to_string(),
        participant_id: notification.participant_id.to_string(),
        template: notification.template.as_str().to_owned(),
        sent,
        approval_ids: notification.approval_ids.iter().map(ToString::to_string).collect(),
        error,
    });
    let tenant = &notification.tenant_id;
    let actor = Principal::system(CONSUMER, tenant.as_str()).actor();
    Some(phasegate_outbox::event(tenant, &notification.instance_id, actor, now, payload))
}
