//! Numbers for those who watch the installation: of all tenants together, from a small index.

use phasegate_clock::Timestamp;
use phasegate_database::args;

use super::{Error, Store};

/// Requests that wait for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// Past their deadline.
    pub overdue: u32,
    /// The others.
    pub in_time: u32,
    /// Since when the oldest has waited.
    pub oldest: Option<Timestamp>,
}

impl Store {
    /// Counts the requests that wait.
    pub async fn pending_count(&self, now: Timestamp) -> Result<Pending, Error> {
        // The deadline is in the state, and one that has passed leaves its mark there.
        let sql = self.db.dialect().pick(
            "select coalesce((convert_from(state, 'UTF8')::json ->> 'overdue')::boolean, false) as overdue,
                    count(*) as number, min(requested_at) as oldest
               from approval where status = 'pending' and requested_at <= $1 group by 1",
            "select coalesce(json_extract(cast(state as text), '$.overdue'), 0) as overdue,
                    count(*) as number, min(requested_at) as oldest
               from approval where status = 'pending' and requested_at <= $1 group by 1",
        );
        let mut pending = Pending::default();
        for row in self.db.across_tenants().fetch_all(sql, args![now]).await? {
            let (overdue, number): (bool, u32) = (row.get("overdue")?, row.get("number")?);
            let oldest: Timestamp = row.get("oldest")?;
            if overdue {
                pending.overdue = number;
            } else {
                pending.in_time = number;
            }
            pending.oldest = Some(pending.oldest.map_or(oldest, |known| known.min(oldest)));
        }
        Ok(pending)
    }
}
