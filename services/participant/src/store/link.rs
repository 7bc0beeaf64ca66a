//! Links, and the fresh ones that were asked for.

use phasegate_clock::Timestamp;
use phasegate_database::{Transaction, args};
use phasegate_id::{LinkId, ParticipantId, TenantId};
use serde::{Deserialize, Serialize};

use super::{Error, Place, Store, limit_of, row};
use crate::domain::link::{FRESH_WINDOW, Link};

/// Where a page of links begins: after this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// When it was made.
    pub created_at: Timestamp,
    /// Its id.
    pub id: LinkId,
}

/// Writes a link.
pub async fn link_insert_in(tx: &mut Transaction, link: &Link) -> Result<(), Error> {
    tx.execute(
        "insert into link (tenant_id, link_id, instance_id, participant_id, purpose, permissions, created_by,
                created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        args![
            link.tenant.as_str(),
            link.id.as_str(),
            link.instance.as_str(),
            link.participant.as_str(),
            link.purpose.clone(),
            link.permissions.to_bits(),
            &link.created_by.0,
            link.created_at,
            link.expires_at,
        ],
    )
    .await?;
    Ok(())
}

/// Reads the link of a notification.
pub async fn link_of_purpose_in(
    tx: &mut Transaction,
    place: &Place,
    participant: &ParticipantId,
    purpose: &str,
) -> Result<Option<Link>, Error> {
    let found = tx
        .fetch_optional(
            "select tenant_id, link_id, instance_id, participant_id, purpose, permissions, created_by, created_at,
                    expires_at, last_used_at, writers, revoked_at, revoked_reason
               from link where tenant_id = $1 and instance_id = $2 and participant_id = $3 and purpose = $4",
            args![place.tenant.as_str(), place.instance.as_str(), participant.as_str(), purpose],
        )
        .await?;
    found.as_ref().map(row::link).transpose()
}

/// Reads a link.
pub async fn link_in(tx: &mut Transaction, tenant: &TenantId, id: &LinkId) -> Result<Option<Link>, Error> {
    let found = tx
        .fetch_optional(
            "select tenant_id, link_id, instance_id, participant_id, purpose, permissions, created_by, created_at,
                    expires_at, last_used_at, writers, revoked_at, revoked_reason
               from link where tenant_id = $1 and link_id = $2",
            args![tenant.as_str(), id.as_str()],
        )
        .await?;
    found.as_ref().map(row::link).transpose()
}

/// The live links of a person that were asked for, oldest first.
pub async fn live_of_person_in(
    tx: &mut Transaction,
    place: &Place,
    participant: &ParticipantId,
    now: Timestamp,
) -> Result<Vec<LinkId>, Error> {
    let rows = tx
        .fetch_all(
            "select link_id from link
              where tenant_id = $1 and instance_id = $2 and participant_id = $3 and purpose is null
                and revoked_at is null and expires_at > $4
              order by created_at, link_id",
            args![place.tenant.as_str(), place.instance.as_str(), participant.as_str(), now],
        )
        .await?;
    rows.iter().map(|found| Ok(LinkId::trusted(found.get::<String>("link_id")?))).collect()
}

/// The live links of an instance.
pub async fn live_of_instance_in(
    tx: &mut Transaction,
    place: &Place,
    now: Timestamp,
) -> Result<Vec<(LinkId, ParticipantId)>, Error> {
    let rows = tx
        .fetch_all(
            "select link_id, participant_id from link
              where tenant_id = $1 and instance_id = $2 and revoked_at is null and expires_at > $3
              order by created_at, link_id",
            args![place.tenant.as_str(), place.instance.as_str(), now],
        )
        .await?;
    rows.iter()
        .map(|found| {
            let link = LinkId::trusted(found.get::<String>("link_id")?);
            Ok((link, ParticipantId::trusted(found.get::<String>("participant_id")?)))
        })
        .collect()
}

/// Withdraws a link. False when it was withdrawn before.
pub async fn link_revoke_in(
    tx: &mut Transaction,
    tenant: &TenantId,
    id: &LinkId,
    reason: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    let revoked = tx
        .execute(
            "update link set revoked_at = $3, revoked_reason = $4
              where tenant_id = $1 and link_id = $2 and revoked_at is null",
            args![tenant.as_str(), id.as_str(), now, reason],
        )
        .await?;
    Ok(revoked == 1)
}

/// Counts one more session that writes, if the link is live and has room for it; answers how many there are.
pub async fn writer_add_in(
    tx: &mut Transaction,
    tenant: &TenantId,
    id: &LinkId,
    most: i64,
    now: Timestamp,
) -> Result<Option<i64>, Error> {
    let counted = tx
        .fetch_optional(
            "update link set writers = writers + 1, opened_at = coalesce(opened_at, $3)
              where tenant_id = $1 and link_id = $2 and writers < $4 and revoked_at is null and expires_at > $3
              returning writers",
            args![tenant.as_str(), id.as_str(), now, most],
        )
        .await?;
    Ok(counted.map(|found| found.get("writers")).transpose()?)
}

/// Notes that a session of a link was used.
pub async fn link_touch_in(
    tx: &mut Transaction,
    tenant: &TenantId,
    id: &LinkId,
    now: Timestamp,
) -> Result<(), Error> {
    tx.execute(
        "update link set last_used_at = $3
          where tenant_id = $1 and link_id = $2 and (last_used_at is null or last_used_at < $3)",
        args![tenant.as_str(), id.as_str(), now],
    )
    .await?;
    Ok(())
}

/// How many fresh links a person has asked for lately.
pub async fn fresh_count_in(
    tx: &mut Transaction,
    place: &Place,
    participant: &ParticipantId,
    now: Timestamp,
) -> Result<i64, Error> {
    let counted = tx
        .fetch_optional(
            "select count(*) as asked from fresh_link
              where tenant_id = $1 and instance_id = $2 and participant_id = $3 and asked_at > $4",
            args![place.tenant.as_str(), place.instance.as_str(), participant.as_str(), now - FRESH_WINDOW],
        )
        .await?;
    Ok(counted.map_or(Ok(0), |found| found.get("asked"))?)
}

/// Notes that a person has asked for a fresh link.
pub async fn fresh_insert_in(
    tx: &mut Transaction,
    place: &Place,
    participant: &ParticipantId,
    event_id: &str,
    now: Timestamp,
) -> Result<(), Error> {
    tx.execute(
        "insert into fresh_link (tenant_id, fresh_link_id, instance_id, participant_id, asked_at)
         values ($1, $2, $3, $4, $5)",
        args![place.tenant.as_str(), event_id, place.instance.as_str(), participant.as_str(), now],
    )
    .await?;
    Ok(())
}

// === impl Store ===

impl Store {
    /// Reads a link of a tenant.
    pub async fn link_get(&self, tenant: &TenantId, id: &LinkId) -> Result<Option<Link>, Error> {
        let found = self
            .db
            .fetch_optional(
                "select tenant_id, link_id, instance_id, participant_id, purpose, permissions, created_by, created_at,
                        expires_at, last_used_at, writers, revoked_at, revoked_reason
                   from link where tenant_id = $1 and link_id = $2",
                args![tenant.as_str(), id.as_str()],
            )
            .await?;
        found.as_ref().map(row::link).transpose()
    }

    /// Reads a link that a token names: the row says whose it is.
    pub async fn link_find(&self, id: &LinkId) -> Result<Option<Link>, Error> {
        let found = self
            .db
            .across_tenants()
            .fetch_optional(
                "select tenant_id, link_id, instance_id, participant_id, purpose, permissions, created_by, created_at,
                        expires_at, last_used_at, writers, revoked_at, revoked_reason
                   from link where link_id = $1",
                args![id.as_str()],
            )
            .await?;
        found.as_ref().map(row::link).transpose()
    }

    /// Lists links, newest first: of an instance, or of one person of it.
    pub async fn link_list(
        &self,
        place: &Place,
        participant: &str,
        after: Option<&After>,
        limit: usize,
    ) -> Result<Vec<Link>, Error> {
        // After every id of the latest time stands nothing: a text above all ids, which are ASCII.
        let (time, id) =
            after.map_or((i64::MAX, "\u{7f}"), |after| (after.created_at.as_micros(), after.id.as_str()));
        let mut args = args![place.tenant.as_str(), place.instance.as_str(), time, id, limit_of(limit)];
        let narrowed = if participant.is_empty() {
            ""
        } else {
            args.push(participant.into());
            "and participant_id = $6"
        };
        let sql = format!(
            "select tenant_id, link_id, instance_id, participant_id, purpose, permissions, created_by, created_at,
                    expires_at, last_used_at, writers, revoked_at, revoked_reason
               from link
              where tenant_id = $1 and instance_id = $2 and (created_at, link_id) < ($3, $4) {narrowed}
              order by created_at desc, link_id desc limit $5"
        );
        self.db.fetch_all(sql, args).await?.iter().map(row::link).collect()
    }
}
