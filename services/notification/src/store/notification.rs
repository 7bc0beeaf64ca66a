//! Messages: added with the event that they are about, claimed, settled, listed.

use std::collections::BTreeSet;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::{Dialect, Transaction, args};
use phasegate_id::{ApprovalId, EventId, InstanceId, LinkId, NotificationId, ParticipantId, TenantId};
use phasegate_principal::Principal;
use phasegate_proto::internal::event::v1::NotificationSettled;
use phasegate_proto::internal::event::v1::event::Payload;
use serde::{Deserialize, Serialize};

use super::row::{self, COLUMNS};
use super::{CONSUMER, Error, Store};
use crate::domain::{Notification, Status};

/// How long a claim lasts that nobody keeps up: what a killed copy had claimed waits as long.
const LEASE: Duration = Duration::from_secs(15);

/// A message that this copy of the service may try.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// The message.
    pub(crate) notification: Notification,
    /// Number of the claim.
    pub(crate) number: i64,
    /// It asks for what has been settled.
    pub(crate) is_moot: bool,
    /// The trace in which it was prepared; empty where there was none.
    pub(crate) trace_parent: String,
}

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

/// Where a page of a list begins: after this message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The last one of the page before.
    pub(crate) notification_id: String,
}

impl Store {
    /// Adds the messages of an event, once.
    pub(crate) async fn notifications_add(
        &self,
        tenant: TenantId,
        event: EventId,
        notifications: Vec<Notification>,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
                    if !phasegate_outbox::inbox_receive(tx, &tenant, CONSUMER, &event, now).await? {
                        return Ok(());
                    }
                    for notification in &notifications {
                        insert(tx, notification).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Tells which of the requests a person has had a message about.
    pub(crate) async fn approvals_asked(
        &self,
        tenant: &TenantId,
        person: &ParticipantId,
        approvals: Vec<ApprovalId>,
    ) -> Result<BTreeSet<ApprovalId>, Error> {
        let mut asked = BTreeSet::new();
        for approval in approvals {
            let row = self
                .database
                .fetch_optional(
                    "select 1 as found from notification_approval a
                       join notification n
                         on n.tenant_id = a.tenant_id and n.notification_id = a.notification_id
                      where a.tenant_id = $1 and a.approval_id = $2 and n.participant_id = $3
                        and n.template <> 'approval_decided'",
                    args![tenant.as_str(), approval.as_str(), person.as_str()],
                )
                .await?;
            if row.is_some() {
                asked.insert(approval);
            }
        }
        Ok(asked)
    }

    /// Tells whether anything of any tenant is due: a look that takes no lock.
    pub(crate) async fn notification_is_due(&self, now: Timestamp) -> Result<bool, Error> {
        let row = self
            .database
            .across_tenants()
            .fetch_optional(
                "select 1 as found from notification
                  where status = 'queued' and next_attempt_at <= $1
                    and (leased_until is null or leased_until <= $1) limit 1",
                args![now],
            )
            .await?;
        Ok(row.is_some())
    }

    /// Claims messages of all tenants that are due, at most `limit`.
    pub(crate) async fn notification_claim(&self, now: Timestamp, limit: usize) -> Result<Vec<Claim>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.database
            .across_tenants()
            .transaction(move |tx| {
                Box::pin(async move {
                    let rows =
                        tx.fetch_all(claim_statement(tx.dialect()), args![now, limit, now + LEASE]).await?;
                    let mut claims = Vec::with_capacity(rows.len());
                    for row in rows {
                        let mut notification = row::notification(&row)?;
                        let approvals = approvals(tx, &notification).await?;
                        let open = approvals.iter().any(|(_, settled)| !settled);
                        let is_moot = notification.template.asks() && !approvals.is_empty() && !open;
                        notification.approval_ids = approvals.into_iter().map(|(id, _)| id).collect();
                        let (number, trace_parent) = (row.get("lease_number")?, row.get("trace_parent")?);
                        claims.push(Claim { notification, number, is_moot, trace_parent });
                    }
                    Ok(claims)
                })
            })
            .await
    }

    /// Keeps a claim up. False where a newer one has been granted, or the message is settled.
    pub(crate) async fn notification_claim_keep(&self, claim: &Claim, now: Timestamp) -> Result<bool, Error> {
        let (tenant, id) = (claim.notification.tenant_id.clone(), claim.notification.id.clone());
        let number = claim.number;
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
                    let statement = "update notification set leased_until = $4
                          where tenant_id = $1 and notification_id = $2 and lease_number = $3 and status = 'queued'";
                    let arguments = args![tenant.as_str(), id.as_str(), number, now + LEASE];
                    Ok(tx.execute(statement, arguments).await? > 0)
                })
            })
            .await
    }

    /// Keeps the id of a message's link.
    pub(crate) async fn notification_keep_link(
        &self,
        tenant: TenantId,
        id: NotificationId,
        link: LinkId,
    ) -> Result<(), Error> {
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
                    tx.execute(
                        "update notification set link_id = $3
                          where tenant_id = $1 and notification_id = $2 and link_id is null",
                        args![tenant.as_str(), id.as_str(), link.as_str()],
                    )
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Writes what became of a claim. `true` when others have to hear of it. A claim that is not the newest writes nothing.
    pub(crate) async fn notification_settle(
        &self,
        claim: Claim,
        settled: Settled,
        now: Timestamp,
    ) -> Result<bool, Error> {
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
                    if !settle(tx, &claim, &settled).await? {
                        return Ok(false);
                    }
                    let Some(news) = news(&claim.notification, &settled) else { return Ok(false) };
                    let tenant = &claim.notification.tenant_id;
                    let actor = Principal::system(CONSUMER, tenant.as_str()).actor();
                    let payload = Payload::NotificationSettled(news);
                    let instance = &claim.notification.instance_id;
                    let event = phasegate_outbox::event(tenant, instance, actor, now, payload);
                    phasegate_outbox::append(tx, &event).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// Finds one message.
    pub(crate) async fn notification_find(
        &self,
        tenant: &TenantId,
        id: &NotificationId,
    ) -> Result<Option<Notification>, Error> {
        let sql = format!("select {COLUMNS} from notification where tenant_id = $1 and notification_id = $2");
        let row = self.database.fetch_optional(sql, args![tenant.as_str(), id.as_str()]).await?;
        match row {
            Some(row) => Ok(Some(self.with_approvals(row::notification(&row)?).await?)),
            None => Ok(None),
        }
    }

    /// Lists messages of an instance, newest first, at most `limit`; those to one person only, when given.
    pub(crate) async fn notification_list(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
        person: Option<&str>,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Notification>, Error> {
        let sql = format!(
            "select {COLUMNS} from notification
              where tenant_id = $1 and instance_id = $2
                and ($3 = '' or participant_id = $3) and ($4 = '' or notification_id < $4)
              order by notification_id desc limit $5"
        );
        let after = after.map(|position| position.notification_id).unwrap_or_default();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let args = args![tenant.as_str(), instance.as_str(), person.unwrap_or_default(), after, limit];
        let mut notifications = Vec::new();
        for row in self.database.fetch_all(sql, args).await? {
            notifications.push(self.with_approvals(row::notification(&row)?).await?);
        }
        Ok(notifications)
    }

    async fn with_approvals(&self, mut notification: Notification) -> Result<Notification, Error> {
        let rows = self
            .database
            .fetch_all(
                "select approval_id from notification_approval
                  where tenant_id = $1 and notification_id = $2 order by position",
                args![notification.tenant_id.as_str(), notification.id.as_str()],
            )
            .await?;
        for row in rows {
            notification.approval_ids.push(ApprovalId::trusted(row.get::<String>("approval_id")?));
        }
        Ok(notification)
    }
}

/// Takes what is due and what nobody holds. On PostgreSQL several copies take different rows without waiting for each other;
/// on SQLite writers take turns anyway.
fn claim_statement(dialect: Dialect) -> String {
    let skip = dialect.pick("for update skip locked", "");
    format!(
        "update notification set leased_until = $3, lease_number = lease_number + 1
          where (tenant_id, notification_id) in (
                select tenant_id, notification_id from notification
                 where status = 'queued' and next_attempt_at <= $1
                   and (leased_until is null or leased_until <= $1)
                 order by next_attempt_at limit $2 {skip})
         returning {COLUMNS}, trace_parent"
    )
}

async fn insert(tx: &mut Transaction, notification: &Notification) -> Result<(), Error> {
    let link = notification.link.as_ref();
    let (next_attempt_at, sent_at) = match notification.status {
        Status::Queued { next_attempt_at } => (Some(next_attempt_at), None),
        Status::Sent { sent_at } => (None, Some(sent_at)),
        Status::Failed | Status::Suppressed => (None, None),
    };
    tx.execute(
        "insert into notification (
             tenant_id, notification_id, instance_id, participant_id, template, recipient, recipient_name, subject,
             body_text, body_html, placeholder, message_id, link_expires_at, link_id, status, attempts, last_error,
             created_at, sent_at, next_attempt_at, leased_until, lease_number, trace_parent)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, null, 0, $21)",
        args![
            notification.tenant_id.as_str(),
            notification.id.as_str(),
            notification.instance_id.as_str(),
            notification.participant_id.as_str(),
            notification.template.as_str(),
            &notification.recipient,
            &notification.recipient_name,
            &notification.subject,
            &notification.body_text,
            &notification.body_html,
            link.map(|link| link.placeholder.as_str()).unwrap_or_default(),
            &notification.message_id,
            link.map(|link| link.expires_at),
            link.and_then(|link| link.link_id.as_ref()).map(LinkId::as_str),
            notification.status.as_str(),
            notification.attempts,
            &notification.last_error,
            notification.created_at,
            sent_at,
            next_attempt_at,
            phasegate_telemetry::trace_parent().unwrap_or_default(),
        ],
    )
    .await?;
    for (position, approval) in notification.approval_ids.iter().enumerate() {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        tx.execute(
            "insert into notification_approval (tenant_id, notification_id, approval_id, position)
             values ($1, $2, $3, $4) on conflict do nothing",
            args![notification.tenant_id.as_str(), notification.id.as_str(), approval.as_str(), position],
        )
        .await?;
    }
    Ok(())
}

/// The requests that a message is about, and whether each has been settled.
async fn approvals(
    tx: &mut Transaction,
    notification: &Notification,
) -> Result<Vec<(ApprovalId, bool)>, Error> {
    let rows = tx
        .fetch_all(
            "select a.approval_id, s.settled_at from notification_approval a
               left join settled_approval s on s.tenant_id = a.tenant_id and s.approval_id = a.approval_id
              where a.tenant_id = $1 and a.notification_id = $2 order by a.position",
            args![notification.tenant_id.as_str(), notification.id.as_str()],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let id = ApprovalId::trusted(row.get::<String>("approval_id")?);
            Ok((id, row.get::<Option<Timestamp>>("settled_at")?.is_some()))
        })
        .collect()
}

/// Writes the outcome, unless a newer claim has been granted.
async fn settle(tx: &mut Transaction, claim: &Claim, settled: &Settled) -> Result<bool, Error> {
    let (status, sent_at, next_attempt_at, tried, why) = match settled {
        Settled::Sent { at } => ("sent", Some(*at), None, true, ""),
        Settled::Later { why, at, tried } => ("queued", None, Some(*at), *tried, why.as_str()),
        Settled::Failed { why, tried } => ("failed", None, None, *tried, why.as_str()),
        Settled::Suppressed { why } => ("suppressed", None, None, false, why.as_str()),
    };
    let touched = tx
        .execute(
            "update notification
                set status = $4, sent_at = $5, next_attempt_at = $6, attempts = attempts + $7, last_error = $8,
                    leased_until = null
              where tenant_id = $1 and notification_id = $2 and lease_number = $3 and status = 'queued'",
            args![
                claim.notification.tenant_id.as_str(),
                claim.notification.id.as_str(),
                claim.number,
                status,
                sent_at,
                next_attempt_at,
                i64::from(tried),
                why,
            ],
        )
        .await?;
    Ok(touched == 1)
}

/// What the record hears of: a message that went out, or one that was given up.
fn news(notification: &Notification, settled: &Settled) -> Option<NotificationSettled> {
    let (sent, error) = match settled {
        Settled::Sent { .. } => (true, String::new()),
        Settled::Failed { why, .. } => (false, why.clone()),
        Settled::Later { .. } | Settled::Suppressed { .. } => return None,
    };
    Some(NotificationSettled {
        notification_id: notification.id.to_string(),
        participant_id: notification.participant_id.to_string(),
        template: notification.template.as_str().to_owned(),
        sent,
        approval_ids: notification.approval_ids.iter().map(ToString::to_string).collect(),
        error,
    })
}
