//! Messages that are due: claimed by a lease, which is kept up while they are under way.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::{Dialect, Row, args};
use phasegate_id::ApprovalId;

use super::row::{self, COLUMNS};
use super::{Error, Store};
use crate::domain::Notification;

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

impl Store {
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

    /// Claims messages of all tenants that are due, at most `limit`, each with the requests that it is about.
    pub(crate) async fn notification_claim(&self, now: Timestamp, limit: usize) -> Result<Vec<Claim>, Error> {
        // On SQLite whoever writes keeps the others from writing, so it looks before.
        if self.database.dialect() == Dialect::Sqlite && !self.notification_is_due(now).await? {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let statement = claim_statement(self.database.dialect());
        let rows = self.database.across_tenants().write(statement, args![now, limit, now + LEASE]).await?;
        rows.iter().map(claim).collect()
    }

    /// Keeps a claim up. False where a newer one has been granted, or the message is settled.
    pub(crate) async fn notification_claim_keep(&self, claim: &Claim, now: Timestamp) -> Result<bool, Error> {
        let statement = "update notification set leased_until = $4
              where tenant_id = $1 and notification_id = $2 and lease_number = $3 and status = 'queued'
             returning notification_id";
        let notification = &claim.notification;
        let arguments =
            args![notification.tenant_id.as_str(), notification.id.as_str(), claim.number, now + LEASE];
        Ok(!self.database.write(statement, arguments).await?.is_empty())
    }
}

/// Takes what is due and what nobody holds. On PostgreSQL several copies take different rows without waiting for each other;
/// on SQLite writers take turns anyway. `asked` are the requests in their order, each behind a sign that says whether it
/// has been settled (+) or not (-); no id has a space in it.
fn claim_statement(dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => {
            format!(
                "with due as materialized (
                     select tenant_id as due_tenant, notification_id as due_id from notification
                      where status = 'queued' and next_attempt_at <= $1
                        and (leased_until is null or leased_until <= $1)
                      order by next_attempt_at limit $2 for update skip locked
                 ), claimed as (
                     update notification set leased_until = $3, lease_number = lease_number + 1
                       from due where tenant_id = due_tenant and notification_id = due_id
                     returning {COLUMNS}, trace_parent
                 )
                 select claimed.*, coalesce(requests.asked, '') as asked
                   from claimed
                   left join lateral (
                        select string_agg(case when settled.found then '+' else '-' end || a.approval_id,
                                          ' ' order by a.position) as asked
                          from notification_approval a
                          left join lateral (
                               select true as found from settled_approval s
                                where s.tenant_id = a.tenant_id and s.approval_id = a.approval_id
                                limit 1) as settled on true
                         where a.tenant_id = claimed.tenant_id and a.notification_id = claimed.notification_id
                   ) as requests on true"
            )
        }
        Dialect::Sqlite => format!(
            "update notification set leased_until = $3, lease_number = lease_number + 1
              where (tenant_id, notification_id) in (
                    select tenant_id, notification_id from notification
                     where status = 'queued' and next_attempt_at <= $1
                       and (leased_until is null or leased_until <= $1)
                     order by next_attempt_at limit $2)
             returning {COLUMNS}, trace_parent, coalesce((
                 select group_concat(sign || approval_id, ' ') from (
                     select case when s.approval_id is null then '-' else '+' end as sign, a.approval_id
                       from notification_approval a
                       left join settled_approval s
                         on s.tenant_id = a.tenant_id and s.approval_id = a.approval_id
                      where a.tenant_id = notification.tenant_id
                        and a.notification_id = notification.notification_id
                      order by a.position)), '') as asked"
        ),
    }
}

fn claim(row: &Row) -> Result<Claim, Error> {
    let mut notification = row::notification(row)?;
    let asked: String = row.get("asked")?;
    let mut is_open = false;
    for request in asked.split_ascii_whitespace() {
        is_open |= request.starts_with('-');
        notification.approval_ids.push(ApprovalId::trusted(request.get(1..).unwrap_or_default()));
    }
    let is_moot = notification.template.asks() && !notification.approval_ids.is_empty() && !is_open;
    let (number, trace_parent) = (row.get("lease_number")?, row.get("trace_parent")?);
    Ok(Claim { notification, number, is_moot, trace_parent })
}
