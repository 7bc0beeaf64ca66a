//! Numbers for those who watch the installation: of all tenants together, from a small index.

use phasegate_clock::Timestamp;
use phasegate_database::{Row, args};

use super::{Error, Store};

/// Requests of one definition that wait for people, all past their deadline or all not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Definition; empty where it was not told.
    pub process: String,
    /// Whether they are past their deadline.
    pub overdue: bool,
    /// How many.
    pub number: u32,
    /// Since when the oldest has waited.
    pub oldest: Timestamp,
}

impl Store {
    /// Counts the requests that wait.
    pub async fn pending_count(&self, now: Timestamp) -> Result<Vec<Pending>, Error> {
        // The deadline is in the state, and one that has passed leaves its mark there.
        let sql = self.db.dialect().pick(
            "select coalesce(convert_from(state, 'UTF8')::json -> 'request' ->> 'process', '') as process,
                    coalesce((convert_from(state, 'UTF8')::json ->> 'overdue')::boolean, false) as overdue,
                    count(*) as number, min(requested_at) as oldest
               from approval where status = 'pending' and requested_at <= $1 group by 1, 2",
            "select coalesce(json_extract(cast(state as text), '$.request.process'), '') as process,
                    coalesce(json_extract(cast(state as text), '$.overdue'), 0) as overdue,
                    count(*) as number, min(requested_at) as oldest
               from approval where status = 'pending' and requested_at <= $1 group by 1, 2",
        );
        let rows = self.db.across_tenants().fetch_all(sql, args![now]).await?;
        let pending = |row: &Row| {
            Ok(Pending {
                process: row.get("process")?,
                overdue: row.get("overdue")?,
                number: row.get("number")?,
                oldest: row.get("oldest")?,
            })
        };
        rows.iter().map(pending).collect()
    }
}
