//! Artifacts: `artifact_version` holds every version, `artifact` names the newest of each key.

#[cfg(test)]
mod tests;

use phasegate_database::{Dialect, Transaction, args};
use phasegate_id::ArtifactKey;

use super::{Error, Place, Store, row};
use crate::domain::artifact::{Newest, Version};

/// What a list is narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Listed under this phase; any when empty.
    pub phase: String,
    /// Of this kind; any when empty.
    pub kind: String,
}

/// The newest version of a key, as far as other services need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Name.
    pub key: ArtifactKey,
    /// Newest version.
    pub version: i32,
    /// What it is.
    pub kind: String,
    /// "sha256:" and hex.
    pub digest: String,
    /// Phase that it is listed under.
    pub phase_id: String,
    /// Task whose lease stored it.
    pub task_id: String,
}

/// Reads the newest version of a key and, on PostgreSQL, keeps other writers of the key waiting.
pub async fn newest_in(
    tx: &mut Transaction,
    place: &Place,
    key: &ArtifactKey,
) -> Result<Option<Newest>, Error> {
    let (tenant, instance) = (place.tenant.as_str(), place.instance.as_str());
    if tx.dialect() == Dialect::Postgres {
        // In a statement of its own: the read below then sees what the other writer has left.
        tx.execute(
            "select 1 from artifact where tenant_id = $1 and instance_id = $2 and artifact_key = $3 for update",
            args![tenant, instance, key.as_str()],
        )
        .await?;
    }
    let found = tx
        .fetch_optional(
            "select v.artifact_key, v.version, v.form, v.content_type, v.digest
               from artifact a join artifact_version v using (tenant_id, instance_id, artifact_key, version)
              where a.tenant_id = $1 and a.instance_id = $2 and a.artifact_key = $3",
            args![tenant, instance, key.as_str()],
        )
        .await?;
    found.as_ref().map(row::newest).transpose()
}

/// Writes a version and makes it the newest one. A writer that was faster shows as a unique violation.
pub async fn version_append_in(
    tx: &mut Transaction,
    place: &Place,
    version: &Version,
    content: Vec<u8>,
) -> Result<(), Error> {
    let (tenant, instance, key) = (place.tenant.as_str(), place.instance.as_str(), version.key.as_str());
    tx.execute(
        "insert into artifact_version (tenant_id, instance_id, artifact_key, version, kind, form, content_type,
                size_bytes, digest, metadata, phase_id, task_id, created_by, created_at, content)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        args![
            tenant,
            instance,
            key,
            version.number,
            &version.kind,
            row::form_text(version.form),
            &version.content_type,
            version.size,
            &version.digest,
            version.metadata.clone(),
            &version.phase_id,
            &version.task_id,
            &version.created_by.0,
            version.created_at,
            content,
        ],
    )
    .await?;
    tx.execute(
        "insert into artifact (tenant_id, instance_id, artifact_key, version, kind, phase_id)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (tenant_id, instance_id, artifact_key)
         do update set version = excluded.version, kind = excluded.kind, phase_id = excluded.phase_id",
        args![tenant, instance, key, version.number, &version.kind, &version.phase_id],
    )
    .await?;
    Ok(())
}

/// Reads one version without its content.
pub async fn version_in(
    tx: &mut Transaction,
    place: &Place,
    key: &ArtifactKey,
    version: i32,
) -> Result<Option<Version>, Error> {
    let found = tx
        .fetch_optional(
            "select artifact_key, version, kind, form, content_type, size_bytes, digest, metadata, phase_id, task_id,
                    created_by, created_at
               from artifact_version
              where tenant_id = $1 and instance_id = $2 and artifact_key = $3 and version = $4",
            args![place.tenant.as_str(), place.instance.as_str(), key.as_str(), version],
        )
        .await?;
    found.as_ref().map(row::version).transpose()
}

// === impl Store ===

impl Store {
    /// Reads a version with its content: the newest one where none is named.
    pub async fn artifact_get(
        &self,
        place: &Place,
        key: &ArtifactKey,
        version: Option<i32>,
    ) -> Result<Option<(Version, Vec<u8>)>, Error> {
        let (tenant, instance) = (place.tenant.as_str(), place.instance.as_str());
        let found = match version {
            Some(version) => {
                self.db
                    .fetch_optional(
                        "select artifact_key, version, kind, form, content_type, size_bytes, digest, metadata,
                                phase_id, task_id, created_by, created_at, content
                           from artifact_version
                          where tenant_id = $1 and instance_id = $2 and artifact_key = $3 and version = $4",
                        args![tenant, instance, key.as_str(), version],
                    )
                    .await?
            }
            None => {
                self.db
                    .fetch_optional(
                        "select v.artifact_key, v.version, v.kind, v.form, v.content_type, v.size_bytes, v.digest,
                                v.metadata, v.phase_id, v.task_id, v.created_by, v.created_at, v.content
                           from artifact a
                           join artifact_version v using (tenant_id, instance_id, artifact_key, version)
                          where a.tenant_id = $1 and a.instance_id = $2 and a.artifact_key = $3",
                        args![tenant, instance, key.as_str()],
                    )
                    .await?
            }
        };
        let Some(found) = found else { return Ok(None) };
        Ok(Some((row::version(&found)?, found.get("content")?)))
    }

    /// Lists the newest version of every key after `after`, by key.
    pub async fn artifact_list(
        &self,
        place: &Place,
        filter: &Filter,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Version>, Error> {
        // One text for each index: with "or" in it, none would be used.
        let narrowed = match (filter.phase.is_empty(), filter.kind.is_empty()) {
            (true, true) => "",
            (false, true) => "and a.phase_id = $5",
            (true, false) => "and a.kind = $5",
            (false, false) => "and a.phase_id = $5 and a.kind = $6",
        };
        let mut args = args![place.tenant.as_str(), place.instance.as_str(), after, limit_of(limit)];
        args.extend(
            [&filter.phase, &filter.kind].into_iter().filter(|text| !text.is_empty()).map(Into::into),
        );
        let sql = format!(
            "select v.artifact_key, v.version, v.kind, v.form, v.content_type, v.size_bytes, v.digest, v.metadata,
                    v.phase_id, v.task_id, v.created_by, v.created_at
               from artifact a join artifact_version v using (tenant_id, instance_id, artifact_key, version)
              where a.tenant_id = $1 and a.instance_id = $2 and a.artifact_key > $3 {narrowed}
              order by a.artifact_key limit $4"
        );
        self.db.fetch_all(sql, args).await?.iter().map(row::version).collect()
    }

    /// Lists the versions of a key below `below`, newest first.
    pub async fn version_list(
        &self,
        place: &Place,
        key: &ArtifactKey,
        below: i32,
        limit: usize,
    ) -> Result<Vec<Version>, Error> {
        let rows = self
            .db
            .fetch_all(
                "select artifact_key, version, kind, form, content_type, size_bytes, digest, metadata, phase_id,
                        task_id, created_by, created_at
                   from artifact_version
                  where tenant_id = $1 and instance_id = $2 and artifact_key = $3 and version < $4
                  order by version desc limit $5",
                args![place.tenant.as_str(), place.instance.as_str(), key.as_str(), below, limit_of(limit)],
            )
            .await?;
        rows.iter().map(row::version).collect()
    }

    /// The newest version of each key that exists, by key: of the keys named, or of all.
    pub async fn artifact_current(&self, place: &Place, keys: &[String]) -> Result<Vec<Current>, Error> {
        let mut args = args![place.tenant.as_str(), place.instance.as_str()];
        let narrowed = match self.db.dialect() {
            _ if keys.is_empty() => "",
            Dialect::Postgres => {
                args.push(keys.to_vec().into());
                "and a.artifact_key = any($3)"
            }
            Dialect::Sqlite => {
                args.push(serde_json::Value::from(keys.to_vec()).to_string().into());
                "and a.artifact_key in (select value from json_each($3))"
            }
        };
        let sql = format!(
            "select v.artifact_key, v.version, v.kind, v.digest, v.phase_id, v.task_id
               from artifact a join artifact_version v using (tenant_id, instance_id, artifact_key, version)
              where a.tenant_id = $1 and a.instance_id = $2 {narrowed}
              order by a.artifact_key"
        );
        let rows = self.db.fetch_all(sql, args).await?;
        rows.iter()
            .map(|found| {
                let key: String = found.get("artifact_key")?;
                Ok(Current {
                    version: row::number(found, &key)?,
                    kind: found.get("kind")?,
                    digest: found.get("digest")?,
                    phase_id: found.get("phase_id")?,
                    task_id: found.get("task_id")?,
                    key: ArtifactKey::trusted(key),
                })
            })
            .collect()
    }
}

pub(super) fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
