//! The rows of instances, and the definitions that they are pinned to.

use std::collections::BTreeMap;
use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Dialect, Row, Value, args, json_rows};
use phasegate_id::InstanceId;
use serde::{Deserialize, Serialize};

use super::chain::StoredEntry;
use super::{Error, Store, signed, unsigned};
use crate::domain::{self, Instance, Status};

/// An instance as it was read or written last.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) instance: Arc<Instance>,
    /// Hash of the last entry of its history.
    pub(crate) head: [u8; 32],
    /// The newest entries of its history, so many of them, are not in the state that its row keeps.
    pub(crate) state_lag: u64,
}

/// A row whose state may stay behind its history.
struct Kept {
    instance: Instance,
    head: [u8; 32],
    version: u64,
    state_lag: u64,
}

/// Which instances to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListFilter {
    pub(crate) process_id: Option<String>,
    pub(crate) status: Option<Status>,
    /// Only this one: all that a person may see.
    pub(crate) only: Option<String>,
}

/// Where a page of the list ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListPosition {
    pub(crate) started_at: i64,
    pub(crate) instance_id: String,
}

impl Store {
    /// Reads an instance.
    pub(crate) async fn instance_load(
        &self,
        tenant: &str,
        instance_id: &str,
    ) -> Result<Option<Snapshot>, Error> {
        let row = self
            .db
            .fetch_optional(
                "select instance_id, version, head_hash, state, state_lag from instance
                  where tenant_id = $1 and instance_id = $2",
                args![tenant, instance_id],
            )
            .await
            .map_err(Error::doing("read the instance"))?;
        let kept = row.as_ref().map(kept).transpose()?.into_iter().collect();
        Ok(self.caught_up(tenant, kept).await?.pop())
    }

    /// Brings states up to their history, in one read.
    async fn caught_up(&self, tenant: &str, mut all: Vec<Kept>) -> Result<Vec<Snapshot>, Error> {
        let behind = || all.iter().filter(|kept| kept.state_lag > 0);
        if behind().next().is_some() {
            let (sql, wanted) = match self.db.dialect() {
                Dialect::Postgres => {
                    let ids: Vec<String> = behind().map(|kept| kept.instance.id.to_string()).collect();
                    let from: Vec<i64> = behind().map(|kept| signed(kept.instance.version)).collect();
                    let to: Vec<i64> = behind().map(|kept| signed(kept.version)).collect();
                    (BEHIND_POSTGRES, vec![Value::from(ids), Value::from(from), Value::from(to)])
                }
                Dialect::Sqlite => {
                    let rows = behind().map(|kept| {
                        (kept.instance.id.as_str(), signed(kept.instance.version), signed(kept.version))
                    });
                    (BEHIND_SQLITE, vec![json_rows(rows)])
                }
            };
            let mut values = args![tenant];
            values.extend(wanted);
            let rows = self.db.fetch_all(sql, values).await.map_err(Error::doing("read the history"))?;
            let mut entries = BTreeMap::<String, Vec<Vec<u8>>>::new();
            for row in &rows {
                entries.entry(row.get("instance_id")?).or_default().push(row.get("body")?);
            }
            for kept in &mut all {
                kept.catch_up(&entries.remove(kept.instance.id.as_str()).unwrap_or_default())?;
            }
        }
        all.into_iter().map(Kept::snapshot).collect()
    }

    /// Where an instance is, without reading it.
    pub(crate) async fn instance_version(
        &self,
        tenant: &str,
        instance_id: &str,
    ) -> Result<Option<u64>, Error> {
        let row = self
            .db
            .fetch_optional(
                "select version from instance where tenant_id = $1 and instance_id = $2",
                args![tenant, instance_id],
            )
            .await
            .map_err(Error::doing("look at the instance"))?;
        row.map(|row| unsigned("instance", instance_id, row.get("version")?)).transpose()
    }

    /// How an instance stands, without reading it.
    pub(crate) async fn instance_status(
        &self,
        tenant: &str,
        instance_id: &str,
    ) -> Result<Option<Status>, Error> {
        let row = self
            .db
            .fetch_optional(
                "select status from instance where tenant_id = $1 and instance_id = $2",
                args![tenant, instance_id],
            )
            .await
            .map_err(Error::doing("look at the instance"))?;
        let Some(row) = row else { return Ok(None) };
        let status: String = row.get("status")?;
        let known = Status::parse(&status).ok_or_else(|| Error::Inconsistent {
            table: "instance",
            row: instance_id.to_owned(),
            problem: format!("its status is {status}"),
        })?;
        Ok(Some(known))
    }

    /// Lists instances, newest first.
    pub(crate) async fn instance_list(
        &self,
        tenant: &str,
        filter: &ListFilter,
        after: Option<&ListPosition>,
        limit: usize,
    ) -> Result<Vec<(Snapshot, ListPosition)>, Error> {
        let mut sql =
            "select instance_id, version, head_hash, state, state_lag, started_at from instance where tenant_id = $1"
                .to_owned();
        let mut values: Vec<Value> = args![tenant];
        let mut condition = |text: &str, value: Value| {
            values.push(value);
            sql.push_str(&text.replace('?', &format!("${}", values.len())));
        };
        if let Some(process_id) = &filter.process_id {
            condition(" and process_id = ?", Value::from(process_id));
        }
        if let Some(status) = filter.status {
            condition(" and status = ?", Value::from(status.as_str()));
        }
        if let Some(only) = &filter.only {
            condition(" and instance_id = ?", Value::from(only));
        }
        if let Some(after) = after {
            condition(" and (started_at, instance_id) < (?, ", Value::from(after.started_at));
            condition("?)", Value::from(&after.instance_id));
        }
        condition(
            " order by started_at desc, instance_id desc limit ?",
            Value::from(i64::try_from(limit).unwrap_or(i64::MAX)),
        );
        let rows = self.db.fetch_all(sql, values).await.map_err(Error::doing("list instances"))?;
        let position = |row: &Row| {
            Ok(ListPosition { started_at: row.get("started_at")?, instance_id: row.get("instance_id")? })
        };
        let positions = rows.iter().map(position).collect::<Result<Vec<_>, Error>>()?;
        let kept = rows.iter().map(kept).collect::<Result<_, Error>>()?;
        Ok(self.caught_up(tenant, kept).await?.into_iter().zip(positions).collect())
    }

    /// The bytes of a definition that some instance is pinned to.
    pub(crate) async fn definition_load(&self, tenant: &str, digest: &str) -> Result<Option<Vec<u8>>, Error> {
        let row = self
            .db
            .fetch_optional(
                "select document from definition where tenant_id = $1 and digest = $2",
                args![tenant, digest],
            )
            .await
            .map_err(Error::doing("read the definition"))?;
        Ok(row.map(|row| row.get("document")).transpose()?)
    }
}

/// The entries that some states lack, those of each instance in order.
const BEHIND_POSTGRES: &str = "
    select history.instance_id, history.body
      from unnest($2::text[], $3::bigint[], $4::bigint[]) as behind (instance_id, version, until)
      join history on history.tenant_id = $1 and history.instance_id = behind.instance_id
                  and history.sequence > behind.version and history.sequence <= behind.until
     order by history.instance_id, history.sequence";
/// The same on SQLite, which would read all of a tenant's history in another order of the tables.
const BEHIND_SQLITE: &str = "
    select history.instance_id, history.body
      from json_each($2) as behind
     cross join history on history.tenant_id = $1 and history.instance_id = behind.value ->> 0
                       and history.sequence > behind.value ->> 1 and history.sequence <= behind.value ->> 2
     order by history.instance_id, history.sequence";

/// Reads a row.
fn kept(row: &Row) -> Result<Kept, Error> {
    let id: String = row.get("instance_id")?;
    let version = unsigned("instance", &id, row.get("version")?)?;
    let state_lag = unsigned("instance", &id, row.get("state_lag")?)?;
    let state: Vec<u8> = row.get("state")?;
    let instance = serde_json::from_slice(&state).map_err(|error| inconsistent(&id, error.to_string()))?;
    let kept = Kept { instance, head: row.get("head_hash")?, version, state_lag };
    if InstanceId::parse(&id) != Ok(kept.instance.id.clone()) {
        return Err(inconsistent(&id, "the state belongs to another row".to_owned()));
    }
    Ok(kept)
}

fn inconsistent(id: &str, problem: String) -> Error {
    Error::Inconsistent { table: "instance", row: id.to_owned(), problem }
}

impl Kept {
    /// Has the state take in what it lacks.
    fn catch_up(&mut self, entries: &[Vec<u8>]) -> Result<(), Error> {
        for body in entries {
            let entry: StoredEntry = serde_json::from_slice(body)
                .map_err(|error| inconsistent(self.instance.id.as_str(), error.to_string()))?;
            let instance = std::mem::replace(&mut self.instance, Instance::unstarted());
            self.instance = domain::evolve(instance, &entry.event);
        }
        Ok(())
    }

    /// Refuses one that does not agree with itself.
    fn snapshot(self) -> Result<Snapshot, Error> {
        if self.instance.version != self.version {
            let problem =
                format!("its state is of version {} and not {}", self.instance.version, self.version);
            return Err(inconsistent(self.instance.id.as_str(), problem));
        }
        Ok(Snapshot { instance: Arc::new(self.instance), head: self.head, state_lag: self.state_lag })
    }
}

impl From<&Snapshot> for ListPosition {
    fn from(snapshot: &Snapshot) -> Self {
        let started_at = snapshot.instance.started_at.map_or(0, Timestamp::as_micros);
        Self { started_at, instance_id: snapshot.instance.id.to_string() }
    }
}
