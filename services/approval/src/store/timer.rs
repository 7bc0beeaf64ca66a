//! Timers: rows with a due time, written and removed with the changes that make and end them. Claiming says which are
//! due; what happens then is for the domain to say, with the request as it stands.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::args;
use phasegate_id::{ApprovalId, TenantId};

use super::{Error, Key, Store};

/// A timer that is due, and ours for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The request.
    pub key: Key,
    /// When it was due.
    pub due_at: Timestamp,
}

/// A copy of the service that claimed a timer and died leaves it to the others after this time. Longer than a round takes;
/// where one takes longer, a timer is looked at twice and fires once.
const CLAIM: Duration = Duration::from_secs(8);

impl Store {
    /// Claims timers of all tenants that are due, longest due first. Those of instances on hold are left alone.
    pub async fn timer_claim(&self, now: Timestamp, limit: u32) -> Result<Vec<Claimed>, Error> {
        let sql = self.db.dialect().pick(
            // Rows that another copy is claiming are passed over instead of waited for.
            "with due as (
                select tenant_id, approval_id from approval_timer
                 where due_at <= $1 and not paused and claimed_until <= $1
                 order by due_at limit $3 for update skip locked)
             update approval_timer t set claimed_until = $2 from due
              where t.tenant_id = due.tenant_id and t.approval_id = due.approval_id
             returning t.tenant_id, t.approval_id, t.due_at",
            "update approval_timer set claimed_until = $2
              where (tenant_id, approval_id) in (
                select tenant_id, approval_id from approval_timer
                 where due_at <= $1 and paused = 0 and claimed_until <= $1
                 order by due_at limit $3)
             returning tenant_id, approval_id, due_at",
        );
        let claim = args![now, now + CLAIM, limit];
        let rows = self
            .db
            .across_tenants()
            .transaction(move |tx| Box::pin(async move { Ok::<_, Error>(tx.fetch_all(sql, claim).await?) }))
            .await?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            let key = Key {
                tenant: TenantId::trusted(row.get::<String>("tenant_id")?),
                approval: ApprovalId::trusted(row.get::<String>("approval_id")?),
            };
            claimed.push(Claimed { key, due_at: row.get("due_at")? });
        }
        claimed.sort_by_key(|timer| timer.due_at);
        Ok(claimed)
    }

    /// When the next timer is due, for looking at it.
    pub async fn timer_due(&self, key: &Key) -> Result<Option<Timestamp>, Error> {
        let row = self
            .db
            .fetch_optional(
                "select due_at from approval_timer where tenant_id = $1 and approval_id = $2",
                args![key.tenant.as_str(), key.approval.as_str()],
            )
            .await?;
        Ok(row.map(|row| row.get("due_at")).transpose()?)
    }
}
