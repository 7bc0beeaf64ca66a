//! Reading the history: for the feed, the audit log and the check of the chain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use phasegate_clock::Timestamp;
use phasegate_database::{Row, Value, args};
use phasegate_id::InstanceId;

use super::chain::{Entry, Verdict, Verifier};
use super::{Error, Store, signed, unsigned};
use crate::domain::Personal;

/// Entries that are read at once.
const PAGE: usize = 500;

/// Which entries to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditFilter {
    /// Kinds; all when empty.
    pub(crate) types: Vec<String>,
    /// Not before this.
    pub(crate) since: Option<Timestamp>,
    /// Before this.
    pub(crate) until: Option<Timestamp>,
}

impl Store {
    /// Reads entries after a position, in order.
    pub(crate) async fn history_list(
        &self,
        tenant: &str,
        instance_id: &str,
        after: u64,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        // Writing to a string cannot fail.
        let mut sql = "select sequence, event_id, kind, audit_type, occurred_at, body, previous_hash, hash
                         from history where tenant_id = $1 and instance_id = $2 and sequence > $3"
            .to_owned();
        let mut values: Vec<Value> = args![tenant, instance_id, signed(after)];
        if !filter.types.is_empty() {
            let places: Vec<String> =
                (0..filter.types.len()).map(|at| format!("${}", values.len() + 1 + at)).collect();
            let _ = write!(sql, " and audit_type in ({})", places.join(", "));
            values.extend(filter.types.iter().map(Value::from));
        }
        for (time, comparison) in [(filter.since, ">="), (filter.until, "<")] {
            if let Some(time) = time {
                values.push(Value::from(time));
                let _ = write!(sql, " and occurred_at {comparison} ${}", values.len());
            }
        }
        values.push(Value::from(i64::try_from(limit).unwrap_or(i64::MAX)));
        let _ = write!(sql, " order by sequence limit ${}", values.len());
        let rows = self.db.fetch_all(sql, values).await.map_err(Error::doing("read the history"))?;
        rows.iter().map(entry).collect()
    }

    /// The position of an event.
    pub(crate) async fn history_find(
        &self,
        tenant: &str,
        instance_id: &str,
        event_id: &str,
    ) -> Result<Option<u64>, Error> {
        let row = self
            .db
            .fetch_optional(
                "select sequence from history where tenant_id = $1 and instance_id = $2 and event_id = $3",
                args![tenant, instance_id, event_id],
            )
            .await
            .map_err(Error::doing("find the event"))?;
        row.map(|row| unsigned("history", event_id, row.get("sequence")?)).transpose()
    }

    /// Whether an entry of one of some kinds follows a position.
    pub(crate) async fn history_has(
        &self,
        tenant: &str,
        instance_id: &str,
        after: u64,
        kinds: [&str; 3],
    ) -> Result<bool, Error> {
        let [first, second, third] = kinds;
        let row = self
            .db
            .fetch_optional(
                "select 1 from history where tenant_id = $1 and instance_id = $2 and sequence > $3
                    and kind in ($4, $5, $6) limit 1",
                args![tenant, instance_id, signed(after), first, second, third],
            )
            .await
            .map_err(Error::doing("look for a kind of event"))?;
        Ok(row.is_some())
    }

    /// Reads what is personal about some entries; what was erased is absent.
    pub(crate) async fn personal_load(
        &self,
        tenant: &str,
        instance_id: &str,
        sequences: &BTreeSet<u64>,
    ) -> Result<BTreeMap<u64, Personal>, Error> {
        let mut found = BTreeMap::new();
        let (Some(first), Some(last)) = (sequences.first(), sequences.last()) else { return Ok(found) };
        for (sequence, (_, body)) in self.personal_rows(tenant, instance_id, *first, *last).await? {
            if sequences.contains(&sequence) {
                let personal = serde_json::from_slice(&body).map_err(|error| Error::Inconsistent {
                    table: "personal",
                    row: format!("{instance_id}/{sequence}"),
                    problem: error.to_string(),
                })?;
                found.insert(sequence, personal);
            }
        }
        Ok(found)
    }

    async fn personal_rows(
        &self,
        tenant: &str,
        instance_id: &str,
        first: u64,
        last: u64,
    ) -> Result<BTreeMap<u64, (Vec<u8>, Vec<u8>)>, Error> {
        let rows = self
            .db
            .fetch_all(
                "select sequence, salt, body from personal
                  where tenant_id = $1 and instance_id = $2 and sequence between $3 and $4",
                args![tenant, instance_id, signed(first), signed(last)],
            )
            .await
            .map_err(Error::doing("read personal data"))?;
        rows.iter()
            .map(|row| {
                let sequence = unsigned("personal", instance_id, row.get("sequence")?)?;
                Ok((sequence, (row.get("salt")?, row.get("body")?)))
            })
            .collect()
    }

    /// Checks the chain of an instance from its first entry to its last; nothing when there is no such instance.
    pub(crate) async fn history_verify(
        &self,
        tenant: &str,
        instance_id: &InstanceId,
    ) -> Result<Option<Verdict>, Error> {
        // Read first: entries that are appended meanwhile are left for the next check.
        let row = self
            .db
            .fetch_optional(
                "select version, head_hash from instance where tenant_id = $1 and instance_id = $2",
                args![tenant, instance_id.as_str()],
            )
            .await
            .map_err(Error::doing("read the instance"))?;
        let Some(row) = row else { return Ok(None) };
        let version = unsigned("instance", instance_id.as_str(), row.get("version")?)?;
        let mut verifier = Verifier::new(instance_id.clone());
        let mut after = 0;
        loop {
            let page =
                self.history_list(tenant, instance_id.as_str(), after, &AuditFilter::default(), PAGE).await?;
            let Some(last) = page.last().map(|entry| entry.sequence) else { break };
            let personal = self.personal_rows(tenant, instance_id.as_str(), after + 1, last).await?;
            for entry in page.iter().take_while(|entry| entry.sequence <= version) {
                if let Err(problem) = verifier.entry(entry, &personal) {
                    return Ok(Some(verifier.fail(&entry.event_id, problem)));
                }
            }
            if last >= version {
                break;
            }
            after = last;
        }
        Ok(Some(verifier.finish(version, row.get("head_hash")?)))
    }
}

fn entry(row: &Row) -> Result<Entry, Error> {
    Ok(Entry {
        sequence: unsigned("history", "sequence", row.get("sequence")?)?,
        event_id: row.get("event_id")?,
        kind: row.get("kind")?,
        audit_type: row.get("audit_type")?,
        occurred_at: row.get("occurred_at")?,
        body: row.get("body")?,
        previous_hash: row.get("previous_hash")?,
        hash: row.get("hash")?,
    })
}
