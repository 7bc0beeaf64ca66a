//! Everything that has to be known before people are asked, or before an event is given to who waits: in one statement, so
//! that it is all of one moment.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_database::{Dialect, Row, Value, args};
use phasegate_id::{ApprovalId, InstanceId, ParticipantId, TenantId};

use super::row;
use super::{Error, InstanceState, Person, Record, Store};

/// A request that may be put to people, and the one of the round before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The request.
    pub approval: ApprovalId,
    /// The request of the round before, where there may be one.
    pub before: Option<ApprovalId>,
}

/// What is known of an instance and of requests that may be put to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// How the instance stands.
    pub state: InstanceState,
    /// People of the instance whose names and addresses are known.
    pub people: BTreeMap<ParticipantId, Person>,
    /// What is known of each request, in their order.
    pub requests: Vec<KnownRequest>,
}

/// What is known of a request that may be put to people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownRequest {
    /// The request, where somebody has asked.
    pub first: Option<Record>,
    /// It was called off before it arrived.
    pub is_moot: bool,
    /// The request of the round before.
    pub before: Option<Record>,
}

/// Each is looked up by its key: a join would be made into one with all that there is.
const LOOKUPS_POSTGRES: &str = "
  left join lateral (
       select revision, paused, ended, response_sequence from instance
        where tenant_id = $1 and instance_id = $2 limit 1) as i on true
  left join lateral (
       select approval_id, version, state from approval
        where tenant_id = $1 and approval_id = wanted.approval_id limit 1) as a on true
  left join lateral (
       select true as found from approval_moot
        where tenant_id = $1 and approval_id = wanted.approval_id limit 1) as m on true
  left join lateral (
       select approval_id, version, state from approval
        where tenant_id = $1 and approval_id = wanted.before_id limit 1) as b on wanted.before_id <> ''";
const LOOKUPS_SQLITE: &str = "
  left join instance i on i.tenant_id = $1 and i.instance_id = $2
  left join approval a on a.tenant_id = $1 and a.approval_id = wanted.approval_id
  left join (select tenant_id, approval_id, 1 as found from approval_moot) m
         on m.tenant_id = $1 and m.approval_id = wanted.approval_id
  left join approval b on b.tenant_id = $1 and b.approval_id = wanted.before_id";

impl Store {
    /// What is known of an instance and of these requests.
    pub async fn needed_load(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
        asked: &[Asked],
    ) -> Result<Known, Error> {
        let (sql, args) = needed_statement(self.db.dialect(), tenant, instance, asked);
        let rows = self.db.fetch_all(sql, args).await?;
        let mut known = Known {
            state: InstanceState::UNHEARD,
            people: BTreeMap::new(),
            requests: vec![KnownRequest::default(); asked.len()],
        };
        for row in &rows {
            if let Some(state) = row::state(row)? {
                known.state = state;
            }
            if let Some(people) = row.get::<Option<String>>("people")? {
                known.people = row::people(&people)?;
            }
        }
        for row in &rows {
            let place = usize::try_from(row.get::<i64>("n")?).unwrap_or_default();
            let Some(request) = place.checked_sub(1).and_then(|place| known.requests.get_mut(place)) else {
                continue;
            };
            let record = |of: [&str; 3]| record(tenant, row, of, known.state, &known.people);
            *request = KnownRequest {
                first: record(["approval_id", "version", "state"])?,
                is_moot: row.get::<Option<bool>>("is_moot")?.is_some(),
                before: record(["before_id", "before_version", "before_state"])?,
            };
        }
        Ok(known)
    }

    /// How an instance stands, and its requests that wait, oldest first.
    pub async fn pending_load(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
    ) -> Result<(InstanceState, Vec<Record>), Error> {
        let people = row::people_of(self.db.dialect(), "$1", "$2");
        let sql = format!(
            "select i.revision, i.paused, i.ended, i.response_sequence, a.approval_id, a.version, a.state,
                    case when a.approval_id is not null then {people} end as people
               from instance i
               left join approval a
                      on a.tenant_id = $1 and a.instance_id = $2 and a.status = 'pending'
              where i.tenant_id = $1 and i.instance_id = $2
              order by a.requested_at, a.approval_id"
        );
        let rows = self.db.fetch_all(sql, args![tenant.as_str(), instance.as_str()]).await?;
        let Some(first) = rows.first() else { return Ok((InstanceState::UNHEARD, Vec::new())) };
        let state = row::state(first)?.unwrap_or(InstanceState::UNHEARD);
        let people = first.get::<Option<String>>("people")?;
        let people = people.as_deref().map(row::people).transpose()?.unwrap_or_default();
        let mut pending = Vec::with_capacity(rows.len());
        for row in &rows {
            pending.extend(record(tenant, row, ["approval_id", "version", "state"], state, &people)?);
        }
        Ok((state, pending))
    }

    /// Which of these requests have arrived.
    pub async fn approval_arrived(
        &self,
        tenant: &TenantId,
        ids: &BTreeSet<ApprovalId>,
    ) -> Result<BTreeSet<ApprovalId>, Error> {
        if ids.is_empty() {
            return Ok(BTreeSet::new());
        }
        let ids = ids.iter().map(ToString::to_string);
        let (sql, args) = match self.db.dialect() {
            Dialect::Postgres => {
                let sql =
                    "select approval_id from approval where tenant_id = $1 and approval_id = any($2::text[])";
                (sql.to_owned(), args![tenant.as_str(), ids.collect::<Vec<String>>()])
            }
            Dialect::Sqlite => {
                let args: Vec<Value> =
                    std::iter::once(tenant.as_str().into()).chain(ids.map(Value::from)).collect();
                let places = (2..=args.len()).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ");
                (
                    format!(
                        "select approval_id from approval where tenant_id = $1 and approval_id in ({places})"
                    ),
                    args,
                )
            }
        };
        let rows = self.db.fetch_all(sql, args).await?;
        rows.iter().map(|row| Ok(ApprovalId::trusted(row.get::<String>("approval_id")?))).collect()
    }
}

/// One row for each request, and the people with the first.
fn needed_statement(
    dialect: Dialect,
    tenant: &TenantId,
    instance: &InstanceId,
    asked: &[Asked],
) -> (String, Vec<Value>) {
    let mut args = args![tenant.as_str(), instance.as_str()];
    let ids = asked.iter().map(|one| one.approval.to_string());
    let before = asked.iter().map(|one| one.before.as_ref().map(ToString::to_string).unwrap_or_default());
    let (wanted, lookups) = match dialect {
        Dialect::Postgres => {
            args.extend(args![ids.collect::<Vec<String>>(), before.collect::<Vec<String>>()]);
            let wanted =
                "unnest($3::text[], $4::text[]) with ordinality as wanted (approval_id, before_id, n)";
            (wanted.to_owned(), LOOKUPS_POSTGRES)
        }
        Dialect::Sqlite => {
            let mut rows = Vec::with_capacity(asked.len());
            for (n, (id, before)) in (1_i64..).zip(ids.zip(before)) {
                args.extend(args![id, before]);
                rows.push(format!(
                    "select ${} as approval_id, ${} as before_id, {n} as n",
                    args.len() - 1,
                    args.len()
                ));
            }
            if rows.is_empty() {
                rows.push("select '' as approval_id, '' as before_id, 0 as n".to_owned());
            }
            (format!("({}) as wanted", rows.join(" union all ")), LOOKUPS_SQLITE)
        }
    };
    let people = row::people_of(dialect, "$1", "$2");
    let sql = format!(
        "select wanted.n, i.revision, i.paused, i.ended, i.response_sequence, a.approval_id, a.version, a.state,
                m.found as is_moot, b.approval_id as before_id, b.version as before_version, b.state as before_state,
                case when wanted.n = 1 then {people} end as people
           from {wanted} {lookups}"
    );
    (sql, args)
}

/// The request whose id, version and state are in these columns, if there is one.
fn record(
    tenant: &TenantId,
    row: &Row,
    [id, version, state]: [&str; 3],
    instance: InstanceState,
    people: &BTreeMap<ParticipantId, Person>,
) -> Result<Option<Record>, Error> {
    let Some(id) = row.get::<Option<String>>(id)? else { return Ok(None) };
    let approval = row::approval_state(tenant, &id, &row.get::<Vec<u8>>(state)?)?;
    Ok(Some(Record {
        tenant: tenant.clone(),
        version: row.get(version)?,
        approval,
        people: people.clone(),
        instance: instance.condition,
        revision: instance.revision,
    }))
}
