//! Rows as the domain sees them.

use phasegate_clock::Timestamp;
use phasegate_database::Row;
use phasegate_id::{InstanceId, LinkId, ParticipantId, TenantId};

use super::Error;
use crate::domain::Author;
use crate::domain::link::{Link, Revoked};
use crate::domain::permission::Permissions;
use crate::domain::person::{Person, Preferences, RaidRole};
use crate::domain::session::Session;

pub(super) fn person(row: &Row) -> Result<Person, Error> {
    let id: String = row.get("participant_id")?;
    let inconsistent = || Error::Inconsistent { table: "participant", row: id.clone() };
    let raid_role: String = row.get("raid_role")?;
    let required_approvals: Vec<u8> = row.get("required_approvals")?;
    Ok(Person {
        name: row.get("name")?,
        email: row.get("email")?,
        role: row.get("role")?,
        raid_role: RaidRole::parse(&raid_role).ok_or_else(inconsistent)?,
        external: row.get("external")?,
        required_approvals: serde_json::from_slice(&required_approvals).map_err(|_| inconsistent())?,
        preferences: Preferences {
            email: row.get("notify_email")?,
            slack: row.get("notify_slack")?,
            in_app: row.get("notify_in_app")?,
        },
        can_delegate: row.get("can_delegate")?,
        created_at: row.get::<Timestamp>("created_at")?,
        id: ParticipantId::trusted(id),
    })
}

pub(super) fn link(row: &Row) -> Result<Link, Error> {
    let id: String = row.get("link_id")?;
    let inconsistent = || Error::Inconsistent { table: "link", row: id.clone() };
    let revoked_at: Option<Timestamp> = row.get("revoked_at")?;
    let revoked_reason: Option<String> = row.get("revoked_reason")?;
    let revoked = match (revoked_at, revoked_reason) {
        (None, None) => None,
        (Some(at), Some(reason)) => Some(Revoked { at, reason }),
        (Some(_), None) | (None, Some(_)) => return Err(inconsistent()),
    };
    Ok(Link {
        tenant: TenantId::trusted(row.get::<String>("tenant_id")?),
        instance: InstanceId::trusted(row.get::<String>("instance_id")?),
        participant: ParticipantId::trusted(row.get::<String>("participant_id")?),
        purpose: row.get("purpose")?,
        permissions: Permissions::from_bits(row.get("permissions")?).ok_or_else(inconsistent)?,
        created_by: Author(row.get("created_by")?),
        created_at: row.get::<Timestamp>("created_at")?,
        expires_at: row.get::<Timestamp>("expires_at")?,
        last_used_at: row.get::<Option<Timestamp>>("last_used_at")?,
        writers: row.get("writers")?,
        revoked,
        id: LinkId::trusted(id),
    })
}

pub(super) fn session(row: &Row) -> Result<Session, Error> {
    Ok(Session {
        tenant: TenantId::trusted(row.get::<String>("tenant_id")?),
        link: LinkId::trusted(row.get::<String>("link_id")?),
        last_used_at: row.get::<Timestamp>("last_used_at")?,
        ends_at: row.get::<Timestamp>("ends_at")?,
        expires_at: row.get::<Timestamp>("expires_at")?,
        has_written: row.get::<Option<Timestamp>>("wrote_at")?.is_some(),
    })
}
