//! Keys with their secrets, and tenants.

use phasegate_clock::Timestamp;
use phasegate_database::{Row, Transaction, args};
use phasegate_id::{KeyId, TenantId};
use serde::{Deserialize, Serialize};

use super::{Error, Store, limit_of};
use crate::domain::key::{Key, Secret, Tenant};

/// Where a page of keys begins: after this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// When it was made.
    pub created_at: Timestamp,
    /// Its id.
    pub id: KeyId,
}

/// A secret that was found by what may be shown of it, with its key.
#[derive(Debug, Clone)]
pub struct Found {
    /// The key, with this secret alone.
    pub key: Key,
    /// SHA-256 of the secret.
    pub digest: Vec<u8>,
}

/// Writes a key, without its secrets.
pub async fn key_insert_in(tx: &mut Transaction, key: &Key) -> Result<(), Error> {
    tx.execute(
        "insert into api_key (tenant_id, key_id, name, scopes, queues, participant_id, service, created_by,
                created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        args![
            key.tenant.as_str(),
            key.id.as_str(),
            key.name.as_str(),
            list(&key.scopes),
            list(&key.queues),
            key.participant.clone(),
            key.service.clone(),
            key.created_by.as_str(),
            key.created_at,
            key.expires_at,
        ],
    )
    .await?;
    Ok(())
}

/// Writes a secret of a key.
pub async fn secret_insert_in(
    tx: &mut Transaction,
    key: &Key,
    secret: &Secret,
    digest: &[u8; 32],
) -> Result<(), Error> {
    tx.execute(
        "insert into api_key_secret (tenant_id, prefix, key_id, digest, created_at, ends_at)
         values ($1, $2, $3, $4, $5, $6)",
        args![
            key.tenant.as_str(),
            secret.prefix.as_str(),
            key.id.as_str(),
            digest,
            secret.created_at,
            secret.ends_at
        ],
    )
    .await?;
    Ok(())
}

/// Reads a key with its secrets, and keeps others from changing it until the end of the transaction.
pub async fn key_lock_in(tx: &mut Transaction, tenant: &TenantId, id: &KeyId) -> Result<Option<Key>, Error> {
    let sql = tx.dialect().pick(
        "select * from api_key where tenant_id = $1 and key_id = $2 for update",
        "select * from api_key where tenant_id = $1 and key_id = $2",
    );
    let Some(found) = tx.fetch_optional(sql, args![tenant.as_str(), id.as_str()]).await? else {
        return Ok(None);
    };
    let secrets = tx
        .fetch_all(
            "select * from api_key_secret where tenant_id = $1 and key_id = $2 order by created_at desc, prefix",
            args![tenant.as_str(), id.as_str()],
        )
        .await?;
    let mut key = key(&found)?;
    key.secrets = secrets.iter().map(secret).collect::<Result<_, _>>()?;
    Ok(Some(key))
}

/// Withdraws a key.
pub async fn key_revoke_in(tx: &mut Transaction, key: &Key, now: Timestamp) -> Result<(), Error> {
    tx.execute(
        "update api_key set revoked_at = $3 where tenant_id = $1 and key_id = $2 and revoked_at is null",
        args![key.tenant.as_str(), key.id.as_str(), now],
    )
    .await?;
    Ok(())
}

/// Ends a secret at a time, if it does not end earlier.
pub async fn secret_end_in(
    tx: &mut Transaction,
    key: &Key,
    prefix: &str,
    ends_at: Timestamp,
) -> Result<(), Error> {
    tx.execute(
        "update api_key_secret set ends_at = $4
          where tenant_id = $1 and key_id = $2 and prefix = $3 and (ends_at is null or ends_at > $4)",
        args![key.tenant.as_str(), key.id.as_str(), prefix, ends_at],
    )
    .await?;
    Ok(())
}

/// Writes a tenant. False when there is one of this name.
pub async fn tenant_insert_in(
    tx: &mut Transaction,
    tenant: &TenantId,
    now: Timestamp,
) -> Result<bool, Error> {
    let written = tx
        .execute(
            "insert into tenant (tenant_id, created_at) values ($1, $2) on conflict do nothing",
            args![tenant.as_str(), now],
        )
        .await?;
    Ok(written == 1)
}

// === impl Store ===

impl Store {
    /// Finds a secret by what may be shown of it, whoever's it is.
    pub async fn key_find(&self, prefix: &str) -> Result<Option<Found>, Error> {
        let found = self
            .db
            .across_tenants()
            .fetch_optional(
                "select k.tenant_id, k.key_id, k.name, k.scopes, k.queues, k.participant_id, k.service, k.created_by,
                        k.created_at, k.expires_at, k.revoked_at, k.last_used_at,
                        s.prefix, s.digest, s.ends_at, s.created_at as secret_created_at
                   from api_key_secret s join api_key k on k.tenant_id = s.tenant_id and k.key_id = s.key_id
                  where s.prefix = $1",
                args![prefix],
            )
            .await?;
        let Some(found) = found else { return Ok(None) };
        let mut key = key(&found)?;
        key.secrets = vec![Secret {
            prefix: found.get("prefix")?,
            created_at: found.get::<Timestamp>("secret_created_at")?,
            ends_at: found.get("ends_at")?,
        }];
        Ok(Some(Found { key, digest: found.get("digest")? }))
    }

    /// Lists the keys of a tenant with their secrets, newest first; only those that are good at `only_good_at`, if given.
    pub async fn key_list(
        &self,
        tenant: &TenantId,
        only_good_at: Option<Timestamp>,
        after: Option<&After>,
        limit: usize,
    ) -> Result<Vec<Key>, Error> {
        let (after_time, after_id) = match after {
            Some(after) => (after.created_at, after.id.as_str()),
            None => (Timestamp::from_micros(i64::MAX), ""),
        };
        // Whoever sees all compares with a time that no end is before.
        let good_at = only_good_at.unwrap_or(Timestamp::from_micros(i64::MIN));
        let page = "where tenant_id = $1 and (created_at < $2 or (created_at = $2 and key_id < $3))
               and ($5 or revoked_at is null) and (expires_at is null or expires_at > $4)
             order by created_at desc, key_id desc limit $6";
        let values =
            || args![tenant.as_str(), after_time, after_id, good_at, only_good_at.is_none(), limit_of(limit)];
        let rows = self.db.fetch_all(format!("select * from api_key {page}"), values()).await?;
        let secrets = self
            .db
            .fetch_all(
                format!(
                    "select * from api_key_secret where tenant_id = $1 and key_id in (select key_id from api_key {page})
                      order by created_at desc, prefix"
                ),
                values(),
            )
            .await?;
        let mut keys = rows.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        for row in &secrets {
            let owner: String = row.get("key_id")?;
            if let Some(key) = keys.iter_mut().find(|key| key.id.as_str() == owner) {
                key.secrets.push(secret(row)?);
            }
        }
        Ok(keys)
    }

    /// Notes that a key was used.
    pub async fn key_touch(&self, key: &Key, now: Timestamp) -> Result<(), Error> {
        let (tenant, id) = (key.tenant.clone(), key.id.clone());
        self.db
            .transaction(move |tx| {
                Box::pin(async move {
                    tx.execute(
                        "update api_key set last_used_at = $3
                          where tenant_id = $1 and key_id = $2 and (last_used_at is null or last_used_at < $3)",
                        args![tenant.as_str(), id.as_str(), now],
                    )
                    .await?;
                    Ok::<_, Error>(())
                })
            })
            .await
    }

    /// The tenants, by name.
    pub async fn tenant_list(&self) -> Result<Vec<Tenant>, Error> {
        let rows = self
            .db
            .across_tenants()
            .fetch_all("select tenant_id, created_at from tenant order by tenant_id", args![])
            .await?;
        let tenant = |row: &Row| {
            Ok(Tenant {
                id: TenantId::trusted(row.get::<String>("tenant_id")?),
                created_at: row.get::<Timestamp>("created_at")?,
            })
        };
        rows.iter().map(tenant).collect()
    }
}

fn list(texts: &[String]) -> Vec<u8> {
    // Texts always have a JSON form.
    serde_json::to_vec(texts).unwrap_or_default()
}

fn key(row: &Row) -> Result<Key, Error> {
    let id: String = row.get("key_id")?;
    let inconsistent = || Error::Inconsistent { table: "api_key", row: id.clone() };
    let texts = |column: &str| -> Result<Vec<String>, Error> {
        serde_json::from_slice(&row.get::<Vec<u8>>(column)?).map_err(|_| inconsistent())
    };
    Ok(Key {
        tenant: TenantId::trusted(row.get::<String>("tenant_id")?),
        name: row.get("name")?,
        scopes: texts("scopes")?,
        queues: texts("queues")?,
        participant: row.get("participant_id")?,
        service: row.get("service")?,
        created_by: row.get("created_by")?,
        created_at: row.get::<Timestamp>("created_at")?,
        expires_at: row.get("expires_at")?,
        revoked_at: row.get("revoked_at")?,
        last_used_at: row.get("last_used_at")?,
        secrets: Vec::new(),
        id: KeyId::trusted(id),
    })
}

fn secret(row: &Row) -> Result<Secret, Error> {
    Ok(Secret {
        prefix: row.get("prefix")?,
        created_at: row.get::<Timestamp>("created_at")?,
        ends_at: row.get("ends_at")?,
    })
}
