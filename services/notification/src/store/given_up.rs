//! Messages that were given up: listed for operators, over all tenants, and queued anew.

use phasegate_clock::Timestamp;
use phasegate_database::args;
use phasegate_id::NotificationId;

use super::{Error, Store};
use crate::domain::masked;

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Tenant.
    pub tenant_id: String,
    /// The message.
    pub notification_id: String,
    /// Instance that it belongs to.
    pub instance_id: String,
    /// What it is about.
    pub template: String,
    /// Who it was for, masked.
    pub recipient: String,
    /// When it was written.
    pub created_at: Timestamp,
    /// How often the mail server was asked.
    pub attempts: u32,
    /// Why it was given up.
    pub last_error: String,
}

/// Where a page of a list begins: behind this one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GivenUpPosition {
    /// When it was written.
    pub created_at: Timestamp,
    /// Its tenant.
    pub tenant_id: String,
    /// The message.
    pub notification_id: String,
}

impl Store {
    /// Messages that were given up, the oldest first, behind the given one.
    pub(crate) async fn given_up_list(
        &self,
        after: Option<&GivenUpPosition>,
        limit: u32,
    ) -> Result<Vec<GivenUp>, Error> {
        let (at, tenant_id, id) = after.map_or((Timestamp::from_micros(i64::MIN), "", ""), |after| {
            (after.created_at, after.tenant_id.as_str(), after.notification_id.as_str())
        });
        let rows = self
            .database
            .across_tenants()
            .fetch_all(
                "select tenant_id, notification_id, instance_id, template, recipient, created_at, attempts, last_error
                   from notification
                  where status = 'failed' and (created_at, tenant_id, notification_id) > ($2, $3, $4)
                  order by created_at, tenant_id, notification_id limit $1",
                args![limit, at, tenant_id, id],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(GivenUp {
                    tenant_id: row.get("tenant_id")?,
                    notification_id: row.get("notification_id")?,
                    instance_id: row.get("instance_id")?,
                    template: row.get("template")?,
                    recipient: masked(&row.get::<String>("recipient")?),
                    created_at: row.get("created_at")?,
                    attempts: row.get("attempts")?,
                    last_error: row.get("last_error")?,
                })
            })
            .collect()
    }

    /// Queues messages anew that were given up: one, or all without an id. Each has all its tries again. How many.
    pub(crate) async fn given_up_replay(
        &self,
        id: Option<NotificationId>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        self.database
            .across_tenants()
            .transaction(move |tx| {
                Box::pin(async move {
                    let id = id.as_ref().map(NotificationId::as_str);
                    Ok(tx
                        .execute(
                            "update notification set status = 'queued', next_attempt_at = $2, attempts = 0
                              where status = 'failed' and ($1 is null or notification_id = $1)",
                            args![id, now],
                        )
                        .await?)
                })
            })
            .await
    }
}
