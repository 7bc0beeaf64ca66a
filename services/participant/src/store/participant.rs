//! People, and what is known of their instances.

use phasegate_clock::Timestamp;
use phasegate_database::{Dialect, Row, Transaction, args};
use phasegate_id::ParticipantId;

use super::{Error, Place, Store, limit_of, row};
use crate::domain::person::Person;

/// What is known of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// Its people are there.
    pub has_people: bool,
    /// How it ended.
    pub end: Option<End>,
}

/// How an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Well.
    Completed,
    /// By an operator.
    Cancelled,
    /// By a failure.
    Failed,
}

/// Notes that the people of an instance are there. Its end may have come first.
pub async fn instance_start_in(tx: &mut Transaction, place: &Place, now: Timestamp) -> Result<(), Error> {
    tx.execute(
        "insert into instance (tenant_id, instance_id, people_at) values ($1, $2, $3)
         on conflict (tenant_id, instance_id)
         do update set people_at = coalesce(instance.people_at, excluded.people_at)",
        args![place.tenant.as_str(), place.instance.as_str(), now],
    )
    .await?;
    Ok(())
}

/// Notes how an instance ended, once. On PostgreSQL this waits for links of it that are being made.
pub async fn instance_end_in(
    tx: &mut Transaction,
    place: &Place,
    end: End,
    now: Timestamp,
) -> Result<(), Error> {
    tx.execute(
        "insert into instance (tenant_id, instance_id, end_state, ended_at) values ($1, $2, $3, $4)
         on conflict (tenant_id, instance_id)
         do update set end_state = coalesce(instance.end_state, excluded.end_state),
                       ended_at = coalesce(instance.ended_at, excluded.ended_at)",
        args![place.tenant.as_str(), place.instance.as_str(), end.as_str(), now],
    )
    .await?;
    Ok(())
}

/// What is known of an instance, which on PostgreSQL does not end before this transaction does.
pub async fn instance_in(tx: &mut Transaction, place: &Place) -> Result<Option<Known>, Error> {
    let sql = tx.dialect().pick(
        "select people_at, end_state from instance where tenant_id = $1 and instance_id = $2 for share",
        "select people_at, end_state from instance where tenant_id = $1 and instance_id = $2",
    );
    let found = tx.fetch_optional(sql, args![place.tenant.as_str(), place.instance.as_str()]).await?;
    found.as_ref().map(|found| known(place, found)).transpose()
}

/// Writes the people of an instance; those who are there stay as they are.
pub async fn people_insert_in(
    tx: &mut Transaction,
    place: &Place,
    people: &[Person],
    now: Timestamp,
) -> Result<(), Error> {
    instance_start_in(tx, place, now).await?;
    for person in people {
        person_insert_in(tx, place, person).await?;
    }
    Ok(())
}

/// Adds a person, unless the person is there.
pub async fn person_insert_in(tx: &mut Transaction, place: &Place, person: &Person) -> Result<(), Error> {
    tx.execute(
        "insert into participant (tenant_id, instance_id, participant_id, name, email, role, raid_role, external,
                required_approvals, notify_email, notify_slack, notify_in_app, can_delegate, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         on conflict do nothing",
        args![
            place.tenant.as_str(),
            place.instance.as_str(),
            person.id.as_str(),
            &person.name,
            &person.email,
            &person.role,
            person.raid_role.as_str(),
            person.external,
            approvals_json(person),
            person.preferences.email,
            person.preferences.slack,
            person.preferences.in_app,
            person.can_delegate,
            person.created_at,
        ],
    )
    .await?;
    Ok(())
}

/// The approval keys of a person, as they are stored.
pub(super) fn approvals_json(person: &Person) -> Vec<u8> {
    serde_json::Value::from(person.required_approvals.clone()).to_string().into_bytes()
}

/// Reads a person and, on PostgreSQL, keeps others who want to change the person's links waiting.
pub async fn person_lock_in(
    tx: &mut Transaction,
    place: &Place,
    id: &ParticipantId,
) -> Result<Option<Person>, Error> {
    let sql = tx.dialect().pick(
        "select participant_id, name, email, role, raid_role, external, required_approvals, notify_email,
                notify_slack, notify_in_app, can_delegate, created_at
           from participant where tenant_id = $1 and instance_id = $2 and participant_id = $3 for update",
        "select participant_id, name, email, role, raid_role, external, required_approvals, notify_email,
                notify_slack, notify_in_app, can_delegate, created_at
           from participant where tenant_id = $1 and instance_id = $2 and participant_id = $3",
    );
    let found =
        tx.fetch_optional(sql, args![place.tenant.as_str(), place.instance.as_str(), id.as_str()]).await?;
    found.as_ref().map(row::person).transpose()
}

// === impl Store ===

impl Store {
    /// What is known of an instance; nothing if no event of it has come.
    pub async fn instance(&self, place: &Place) -> Result<Option<Known>, Error> {
        let found = self
            .db
            .fetch_optional(
                "select people_at, end_state from instance where tenant_id = $1 and instance_id = $2",
                args![place.tenant.as_str(), place.instance.as_str()],
            )
            .await?;
        found.as_ref().map(|found| known(place, found)).transpose()
    }

    /// Lists the people of an instance after `after`, by id.
    pub async fn person_list(&self, place: &Place, after: &str, limit: usize) -> Result<Vec<Person>, Error> {
        let rows = self
            .db
            .fetch_all(
                "select participant_id, name, email, role, raid_role, external, required_approvals, notify_email,
                        notify_slack, notify_in_app, can_delegate, created_at
                   from participant where tenant_id = $1 and instance_id = $2 and participant_id > $3
                  order by participant_id limit $4",
                args![place.tenant.as_str(), place.instance.as_str(), after, limit_of(limit)],
            )
            .await?;
        rows.iter().map(row::person).collect()
    }

    /// Reads a person.
    pub async fn person_get(&self, place: &Place, id: &ParticipantId) -> Result<Option<Person>, Error> {
        let found = self
            .db
            .fetch_optional(
                "select participant_id, name, email, role, raid_role, external, required_approvals, notify_email,
                        notify_slack, notify_in_app, can_delegate, created_at
                   from participant where tenant_id = $1 and instance_id = $2 and participant_id = $3",
                args![place.tenant.as_str(), place.instance.as_str(), id.as_str()],
            )
            .await?;
        found.as_ref().map(row::person).transpose()
    }

    /// Reads the people named who are there, by id; all of the instance when none is named.
    pub async fn people(&self, place: &Place, ids: &[String]) -> Result<Vec<Person>, Error> {
        let mut args = args![place.tenant.as_str(), place.instance.as_str()];
        let narrowed = match self.db.dialect() {
            _ if ids.is_empty() => "",
            Dialect::Postgres => {
                args.push(ids.to_vec().into());
                "and participant_id = any($3)"
            }
            Dialect::Sqlite => {
                args.push(serde_json::Value::from(ids.to_vec()).to_string().into());
                "and participant_id in (select value from json_each($3))"
            }
        };
        let sql = format!(
            "select participant_id, name, email, role, raid_role, external, required_approvals, notify_email,
                    notify_slack, notify_in_app, can_delegate, created_at
               from participant where tenant_id = $1 and instance_id = $2 {narrowed}
              order by participant_id"
        );
        self.db.fetch_all(sql, args).await?.iter().map(row::person).collect()
    }
}

// === impl Known ===

impl Known {
    /// Its links are dead, and no fresh one is to be had: nothing is left to look at.
    pub fn is_called_off(self) -> bool {
        matches!(self.end, Some(End::Cancelled | End::Failed))
    }
}

// === impl End ===

impl End {
    /// As it is stored and said.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

fn known(place: &Place, found: &Row) -> Result<Known, Error> {
    let end: Option<String> = found.get("end_state")?;
    let end = match end {
        None => None,
        Some(text) => Some(
            [End::Completed, End::Cancelled, End::Failed]
                .into_iter()
                .find(|end| end.as_str() == text)
                .ok_or_else(|| Error::Inconsistent { table: "instance", row: place.instance.to_string() })?,
        ),
    };
    Ok(Known { has_people: found.get::<Option<Timestamp>>("people_at")?.is_some(), end })
}
