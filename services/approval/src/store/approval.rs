//! Reading requests: one, and lists, each of which is a range of an index.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use phasegate_clock::Timestamp;
use phasegate_database::{Dialect, Row, Value, args};
use phasegate_id::{ApprovalId, InstanceId, ParticipantId, TenantId};
use serde::{Deserialize, Serialize};

use super::row::{self, ApprovalRow};
use super::{Error, Key, Person, Record, Store};
use crate::domain::{ContentDigest, Event, fold};

/// What a list is about. What is not given does not narrow it.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this instance.
    pub instance: Option<InstanceId>,
    /// In this state.
    pub status: Option<&'static str>,
    /// That this person has to answer or has answered.
    pub approver: Option<ParticipantId>,
    /// That this person may see: those that ask the person, and those that are settled.
    pub visible_to: Option<ParticipantId>,
}

/// Which part of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// Entries.
    pub size: usize,
    /// The last entry of the page before.
    pub after: Option<Position>,
}

/// Where an entry stands in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// When it was requested.
    pub requested_at: Timestamp,
    /// Its id.
    pub approval: ApprovalId,
}

/// Columns of a request with how its instance stands.
const COLUMNS: &str = "a.approval_id, a.version, a.state, i.paused, i.ended, i.revision";
/// A request always has the row of its instance: both are written together.
const INSTANCE: &str = "join instance i on i.tenant_id = a.tenant_id and i.instance_id = a.instance_id";

impl Store {
    /// The request.
    pub async fn approval_load(&self, tenant: &TenantId, id: &ApprovalId) -> Result<Option<Record>, Error> {
        let people = row::people_of(self.db.dialect(), "a.tenant_id", "a.instance_id");
        let sql = format!(
            "select {COLUMNS}, {people} as people from approval a {INSTANCE}
              where a.tenant_id = $1 and a.approval_id = $2"
        );
        let row = self.db.fetch_optional(sql, args![tenant.as_str(), id.as_str()]).await?;
        row.as_ref().map(|row| with_people(tenant, row)).transpose()
    }

    /// A page of requests, newest first, and whether there are more.
    pub async fn approval_list(
        &self,
        tenant: &TenantId,
        filter: &Filter,
        page: &Page,
    ) -> Result<(Vec<Record>, bool), Error> {
        let (sql, args) = list_statement(self.db.dialect(), tenant, filter, page);
        let mut rows = self.db.fetch_all(sql, args).await?;
        let more = rows.len() > page.size;
        rows.truncate(page.size);
        let records = rows.iter().map(|row| with_people(tenant, row)).collect::<Result<_, _>>()?;
        Ok((records, more))
    }

    /// The request of the instance that was rejected with the same substance, if there is one.
    pub async fn approval_find_rejected(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
        substance: &ContentDigest,
    ) -> Result<Option<ApprovalId>, Error> {
        let row = self
            .db
            .fetch_optional(
                "select approval_id from approval
                  where tenant_id = $1 and instance_id = $2 and substance = $3 and status = 'rejected'
                  limit 1",
                args![tenant.as_str(), instance.as_str(), substance.as_str()],
            )
            .await?;
        row.map(|row| Ok(ApprovalId::trusted(row.get::<String>("approval_id")?))).transpose()
    }

    /// Whether a request was called off before it arrived.
    pub async fn approval_is_moot(&self, key: &Key) -> Result<bool, Error> {
        let row = self
            .db
            .fetch_optional(
                "select reason from approval_moot where tenant_id = $1 and approval_id = $2",
                args![key.tenant.as_str(), key.approval.as_str()],
            )
            .await?;
        Ok(row.is_some())
    }

    /// What has happened to a request, in order.
    pub async fn approval_history(&self, key: &Key) -> Result<Vec<Event>, Error> {
        let rows = self
            .db
            .fetch_all(
                "select payload from approval_event where tenant_id = $1 and approval_id = $2 order by version",
                args![key.tenant.as_str(), key.approval.as_str()],
            )
            .await?;
        let read = |row: &Row| {
            row::from_json("approval_event", key.approval.as_str(), &row.get::<Vec<u8>>("payload")?)
        };
        rows.iter().map(read).collect()
    }

    /// Compares the row of a request with its history.
    pub async fn approval_verify(&self, key: &Key) -> Result<(), Error> {
        let history = self.approval_history(key).await?;
        let row = self.approval_load(&key.tenant, &key.approval).await?;
        let told = fold(&history);
        if row.map(|record| record.approval) == told {
            Ok(())
        } else {
            let row = format!("{}/{}: is not what its history tells", key.tenant, key.approval);
            Err(Error::Inconsistent { table: "approval", row })
        }
    }
}

/// Reads a row with the column of [`row::people_of`].
fn with_people(tenant: &TenantId, row: &Row) -> Result<Record, Error> {
    let people = row.get::<Option<String>>("people")?;
    let people = people.as_deref().map(row::people).transpose()?.unwrap_or_default();
    Ok(record(tenant, row::approval(tenant, row)?, people))
}

fn record(tenant: &TenantId, row: ApprovalRow, people: BTreeMap<ParticipantId, Person>) -> Record {
    let ApprovalRow { version, approval, instance, revision } = row;
    Record { tenant: tenant.clone(), version, approval, people, instance, revision }
}

/// Each combination of filters is a range of one index: of `approver` where a person is given, else of `approval`.
pub(super) fn list_statement(
    dialect: Dialect,
    tenant: &TenantId,
    filter: &Filter,
    page: &Page,
) -> (String, Vec<Value>) {
    let mut args = args![tenant.as_str()];
    let mut place = |value: Value| {
        args.push(value);
        format!("${}", args.len())
    };
    let (from, of) = match &filter.approver {
        Some(_) => {
            ("approver r join approval a on a.tenant_id = r.tenant_id and a.approval_id = r.approval_id", "r")
        }
        None => ("approval a", "a"),
    };
    let mut wheres = format!("{of}.tenant_id = $1");
    if let Some(approver) = &filter.approver {
        let approver = place(approver.as_str().into());
        push(&mut wheres, format_args!("r.participant_id = {approver} and r.standing <> 'not_needed'"));
    }
    if let Some(instance) = &filter.instance {
        let instance = place(instance.as_str().into());
        push(&mut wheres, format_args!("{of}.instance_id = {instance}"));
    }
    if let Some(status) = filter.status {
        let status = place(status.into());
        push(&mut wheres, format_args!("{of}.status = {status}"));
    }
    if let Some(person) = &filter.visible_to {
        let person = place(person.as_str().into());
        push(
            &mut wheres,
            format_args!(
                "(a.status <> 'pending' or exists (select 1 from approver o where o.tenant_id = a.tenant_id
                    and o.approval_id = a.approval_id and o.participant_id = {person}))"
            ),
        );
    }
    if let Some(after) = &page.after {
        let (time, id) = (place(after.requested_at.into()), place(after.approval.as_str().into()));
        push(&mut wheres, format_args!("({of}.requested_at, {of}.approval_id) < ({time}, {id})"));
    }
    // One more than the page tells whether another one follows.
    let limit = place(i64::try_from(page.size).unwrap_or(i64::MAX).saturating_add(1).into());
    let people = row::people_of(dialect, "a.tenant_id", "a.instance_id");
    let sql = format!(
        "select {COLUMNS}, {people} as people from {from} {INSTANCE} where {wheres}
          order by {of}.requested_at desc, {of}.approval_id desc limit {limit}"
    );
    (sql, args)
}

fn push(wheres: &mut String, condition: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = write!(wheres, " and {condition}");
}
