//! Messages: added with the event that they are about, found, listed.

use std::collections::BTreeSet;

use phasegate_clock::Timestamp;
use phasegate_database::{Dialect, Transaction, Value, args};
use phasegate_id::{ApprovalId, EventId, InstanceId, LinkId, NotificationId, ParticipantId, TenantId};
use serde::{Deserialize, Serialize};

use super::hear_postgres::{News, Piece};
use super::row::{self, COLUMNS};
use super::{CONSUMER, Error, Store};
use crate::domain::{Notification, Status};

/// Where a page of a list begins: after this message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The last one of the page before.
    pub(crate) notification_id: String,
}

/// Who has had a message about which of some requests. In this order of the tables: in another one all messages of the
/// tenant are read.
const ASKED_SQLITE: &str = "
    select distinct n.participant_id, a.approval_id
      from json_each($2) as named
     cross join notification_approval a on a.tenant_id = $1 and a.approval_id = named.value
     cross join notification n on n.tenant_id = a.tenant_id and n.notification_id = a.notification_id
     where n.template <> 'approval_decided'";

impl Store {
    /// Adds the messages of an event of an instance, once.
    pub(crate) async fn notifications_add(
        &self,
        tenant: TenantId,
        instance: InstanceId,
        event: EventId,
        notifications: Vec<Notification>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let trace_parent = phasegate_telemetry::trace_parent().unwrap_or_default();
        if let Some(hearing) = &self.hearing {
            let news = News::Messages { messages: notifications, trace_parent };
            hearing.hear(Piece { tenant, instance, event: Some(event), now, news }).await?;
            return Ok(());
        }
        self.database
            .transaction(move |tx| {
                Box::pin(async move {
                    tx.linger();
                    if !phasegate_outbox::inbox_receive(tx, &tenant, CONSUMER, &event, now).await? {
                        return Ok(());
                    }
                    for notification in &notifications {
                        insert(tx, notification, &trace_parent).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Tells of which of the requests who has had a message.
    pub(crate) async fn approvals_asked(
        &self,
        tenant: &TenantId,
        approvals: &BTreeSet<ApprovalId>,
    ) -> Result<BTreeSet<(ParticipantId, ApprovalId)>, Error> {
        let ids: Vec<String> = approvals.iter().map(ToString::to_string).collect();
        let (sql, ids) = match self.database.dialect() {
            // Each is looked up by itself: in a new database, which knows no better, a plan for all of them at once reads all
            // messages there are.
            Dialect::Postgres => (
                "select distinct asked.participant_id, named.approval_id
                   from unnest($2::text[]) as named (approval_id)
                  cross join lateral (
                        select n.participant_id
                          from notification_approval a
                         cross join lateral (
                               select participant_id, template from notification
                                where tenant_id = a.tenant_id and notification_id = a.notification_id
                                limit 1) as n
                         where a.tenant_id = $1 and a.approval_id = named.approval_id
                           and n.template <> 'approval_decided'
                         offset 0) as asked",
                Value::from(ids),
            ),
            // Ids are visible ASCII; the two that JSON would escape are escaped here.
            Dialect::Sqlite => {
                let quoted = ids.iter().map(|id| {
                    let escaped = id.replace('\\', "\\\\").replace('"', "\\\"");
                    format!("\"{escaped}\"")
                });
                let list = quoted.collect::<Vec<String>>().join(",");
                (ASKED_SQLITE, Value::from(format!("[{list}]")))
            }
        };
        let rows = self.database.fetch_all(sql, vec![Value::from(tenant.as_str()), ids]).await?;
        rows.iter()
            .map(|row| {
                let person = ParticipantId::trusted(row.get::<String>("participant_id")?);
                Ok((person, ApprovalId::trusted(row.get::<String>("approval_id")?)))
            })
            .collect()
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

async fn insert(tx: &mut Transaction, notification: &Notification, trace_parent: &str) -> Result<(), Error> {
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
            trace_parent,
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

#[cfg(test)]
mod tests {
    use super::super::MIGRATIONS;
    use super::*;

    #[tokio::test]
    async fn who_was_asked_is_looked_up_by_request() -> anyhow::Result<()> {
        let fresh = phasegate_test_database::sqlite().await?;
        let database = fresh.open(&MIGRATIONS).await?;
        let explain = format!("explain query plan {ASKED_SQLITE}");
        let rows = database.fetch_all(explain, args!["t", r#"["apr-1"]"#]).await?;
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect::<Result<_, _>>()?;
        let wanted = ["(tenant_id=? AND approval_id=?)", "(tenant_id=? AND notification_id=?)"];
        anyhow::ensure!(wanted.iter().all(|one| plan.iter().any(|step| step.ends_with(one))), "{plan:?}");
        Ok(())
    }
}
