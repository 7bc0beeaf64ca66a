//! Rows become what they stand for, or an error that names them.

use std::collections::BTreeMap;

use phasegate_database::{Dialect, Row};
use phasegate_id::{ParticipantId, TenantId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, InstanceState, Person};
use crate::domain::{Approval, InstanceCondition};

/// An `approval` row.
pub(super) struct ApprovalRow {
    pub(super) version: i64,
    pub(super) approval: Approval,
    pub(super) instance: InstanceCondition,
    pub(super) revision: i64,
}

/// Reads an `approval` row that was joined with its `instance` row.
pub(super) fn approval(tenant: &TenantId, row: &Row) -> Result<ApprovalRow, Error> {
    let id: String = row.get("approval_id")?;
    let state: Vec<u8> = row.get("state")?;
    let approval = approval_state(tenant, &id, &state)?;
    let instance = condition(row.get("paused")?, row.get("ended")?);
    let (version, revision) = (row.get("version")?, row.get("revision")?);
    Ok(ApprovalRow { version, approval, instance, revision })
}

/// Reads what the row of a request keeps of it.
pub(super) fn approval_state(tenant: &TenantId, id: &str, state: &[u8]) -> Result<Approval, Error> {
    let approval = from_json::<Approval>("approval", id, state)?;
    if approval.request.id.as_str() != id {
        return Err(inconsistent("approval", tenant, id, "is about another request"));
    }
    Ok(approval)
}

/// Reads how an instance stands; nothing where it was never heard of.
pub(super) fn state(row: &Row) -> Result<Option<InstanceState>, Error> {
    let Some(revision) = row.get::<Option<i64>>("revision")? else { return Ok(None) };
    let condition = condition(row.get("paused")?, row.get("ended")?);
    Ok(Some(InstanceState { revision, condition, response_sequence: row.get("response_sequence")? }))
}

/// The people of an instance in one column, so that no other statement is needed for them: see [`people`].
pub(super) fn people_of(dialect: Dialect, tenant: &str, instance: &str) -> String {
    let list = dialect.pick(
        "json_agg(json_build_array(p.participant_id, p.name, p.email))::text",
        "json_group_array(json_array(p.participant_id, p.name, p.email))",
    );
    format!("(select {list} from person p where p.tenant_id = {tenant} and p.instance_id = {instance})")
}

/// Reads the column of [`people_of`].
pub(super) fn people(list: &str) -> Result<BTreeMap<ParticipantId, Person>, Error> {
    let list: Vec<(String, String, String)> = from_json("person", "a list", list.as_bytes())?;
    let known =
        |(id, name, email): (String, String, String)| (ParticipantId::trusted(id), Person { name, email });
    Ok(list.into_iter().map(known).collect())
}

/// How an instance stands.
pub(super) fn condition(paused: bool, ended: bool) -> InstanceCondition {
    match (ended, paused) {
        (true, _) => InstanceCondition::Ended,
        (false, true) => InstanceCondition::Paused,
        (false, false) => InstanceCondition::Running,
    }
}

/// Writes what a column keeps as JSON.
pub(super) fn to_json(table: &'static str, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Inconsistent { table, row: error.to_string() })
}

/// Reads what a column keeps as JSON.
pub(super) fn from_json<T: DeserializeOwned>(
    table: &'static str,
    key: &str,
    bytes: &[u8],
) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Inconsistent { table, row: format!("{key}: {error}") })
}

fn inconsistent(table: &'static str, tenant: &TenantId, key: &str, what: &str) -> Error {
    Error::Inconsistent { table, row: format!("{tenant}/{key}: {what}") }
}
