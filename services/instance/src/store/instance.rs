//! The rows of instances, and the definitions that they are pinned to.

use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_database::{Row, Value, args};
use phasegate_id::InstanceId;
use serde::{Deserialize, Serialize};

use super::{Error, Store, unsigned};
use crate::domain::{Instance, Status};

/// An instance as it was read or written last.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) instance: Arc<Instance>,
    /// Hash of the last entry of its history.
    pub(crate) head: [u8; 32],
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
                "select instance_id, version, head_hash, state from instance
                  where tenant_id = $1 and instance_id = $2",
                args![tenant, instance_id],
            )
            .await
            .map_err(Error::doing("read the instance"))?;
        row.as_ref().map(snapshot).transpose()
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
            "select instance_id, version, head_hash, state, started_at from instance where tenant_id = $1"
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
        rows.iter()
            .map(|row| {
                let position =
                    ListPosition { started_at: row.get("started_at")?, instance_id: row.get("instance_id")? };
                Ok((snapshot(row)?, position))
            })
            .collect()
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

/// Reads a row, and refuses one that does not agree with itself.
fn snapshot(row: &Row) -> Result<Snapshot, Error> {
    let id: String = row.get("instance_id")?;
    let inconsistent = |problem: String| Error::Inconsistent { table: "instance", row: id.clone(), problem };
    let version = unsigned("instance", &id, row.get("version")?)?;
    let state: Vec<u8> = row.get("state")?;
    let instance: Instance =
        serde_json::from_slice(&state).map_err(|error| inconsistent(error.to_string()))?;
    if instance.version != version || InstanceId::parse(&id) != Ok(instance.id.clone()) {
        return Err(inconsistent("the state belongs to another row".to_owned()));
    }
    Ok(Snapshot { instance: Arc::new(instance), head: row.get("head_hash")? })
}

impl From<&Snapshot> for ListPosition {
    fn from(snapshot: &Snapshot) -> Self {
        let started_at = snapshot.instance.started_at.map_or(0, Timestamp::as_micros);
        Self { started_at, instance_id: snapshot.instance.id.to_string() }
    }
}
