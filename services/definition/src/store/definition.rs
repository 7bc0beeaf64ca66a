//! Versions of definitions.

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Row, Transaction, args};
use phasegate_id::TenantId;
use phasegate_process::precedence;

use super::{Error, fitting, is_askable};
use crate::domain::{Author, Status, Version};

/// Which version of a process a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newest {
    /// The newest published one.
    Published,
    /// The newest of any status.
    Any,
}

const LOAD: &str = "select * from definition where tenant_id = $1 and process_id = $2 and version = $3";

/// The newest version of each process, after a position. No version of it is newer.
const LIST_PUBLISHED: (&str, &str) = (
    "select process_id, length(content) as size from definition as d
      where tenant_id = $1 and process_id > $2 and status = 'published'
        and not exists (select 1 from definition as newer
             where newer.tenant_id = d.tenant_id and newer.process_id = d.process_id and newer.status = 'published'
               and (newer.precedence, newer.version) > (d.precedence, d.version))
      order by process_id limit $3",
    "select * from definition as d
      where tenant_id = $1 and process_id > $2 and status = 'published'
        and not exists (select 1 from definition as newer
             where newer.tenant_id = d.tenant_id and newer.process_id = d.process_id and newer.status = 'published'
               and (newer.precedence, newer.version) > (d.precedence, d.version))
      order by process_id limit $3",
);

/// The same over drafts, too.
const LIST_ANY: (&str, &str) = (
    "select process_id, length(content) as size from definition as d
      where tenant_id = $1 and process_id > $2
        and not exists (select 1 from definition as newer
             where newer.tenant_id = d.tenant_id and newer.process_id = d.process_id
               and (newer.precedence, newer.version) > (d.precedence, d.version))
      order by process_id limit $3",
    "select * from definition as d
      where tenant_id = $1 and process_id > $2
        and not exists (select 1 from definition as newer
             where newer.tenant_id = d.tenant_id and newer.process_id = d.process_id
               and (newer.precedence, newer.version) > (d.precedence, d.version))
      order by process_id limit $3",
);

/// One version.
pub async fn load(
    db: &Database,
    tenant: &TenantId,
    process_id: &str,
    version: &str,
) -> Result<Option<Version>, Error> {
    if !is_askable(process_id) || !is_askable(version) {
        return Ok(None);
    }
    let row = db.fetch_optional(LOAD, args![tenant.as_str(), process_id, version]).await?;
    row.as_ref().map(read).transpose()
}

/// One version, in a transaction.
pub async fn load_in(
    tx: &mut Transaction,
    tenant: &TenantId,
    process_id: &str,
    version: &str,
) -> Result<Option<Version>, Error> {
    let row = tx.fetch_optional(LOAD, args![tenant.as_str(), process_id, version]).await?;
    row.as_ref().map(read).transpose()
}

/// The published version of highest precedence.
pub async fn latest(db: &Database, tenant: &TenantId, process_id: &str) -> Result<Option<Version>, Error> {
    if !is_askable(process_id) {
        return Ok(None);
    }
    let row = db
        .fetch_optional(
            "select * from definition where tenant_id = $1 and process_id = $2 and status = 'published'
              order by precedence desc, version desc limit 1",
            args![tenant.as_str(), process_id],
        )
        .await?;
    row.as_ref().map(read).transpose()
}

/// The newest version of every process after `after`: at most `limit`, and no more than fit a message.
pub async fn list(
    db: &Database,
    tenant: &TenantId,
    newest: Newest,
    after: &str,
    limit: usize,
) -> Result<Vec<Version>, Error> {
    let (sizes, rows) = match newest {
        Newest::Published => LIST_PUBLISHED,
        Newest::Any => LIST_ANY,
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sizes = db.fetch_all(sizes, args![tenant.as_str(), after, limit]).await?;
    let sizes: Vec<i64> = sizes.iter().map(|row| row.get("size")).collect::<Result<_, _>>()?;
    let rows = db.fetch_all(rows, args![tenant.as_str(), after, fitting(sizes)]).await?;
    rows.iter().map(read).collect()
}

/// Versions of one process below `below`, newest first: at most `limit`, and no more than fit a message.
pub async fn list_versions(
    db: &Database,
    tenant: &TenantId,
    process_id: &str,
    below: Option<&str>,
    limit: usize,
) -> Result<Vec<Version>, Error> {
    if !is_askable(process_id) {
        return Ok(Vec::new());
    }
    // Sorts after the precedence of every version.
    let (place, version) =
        below.map_or_else(|| ("~".to_owned(), ""), |version| (precedence(version), version));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sizes = db
        .fetch_all(
            "select length(content) as size from definition
              where tenant_id = $1 and process_id = $2 and (precedence, version) < ($3, $4)
              order by precedence desc, version desc limit $5",
            args![tenant.as_str(), process_id, &place, version, limit],
        )
        .await?;
    let sizes: Vec<i64> = sizes.iter().map(|row| row.get("size")).collect::<Result<_, _>>()?;
    let rows = db
        .fetch_all(
            "select * from definition
              where tenant_id = $1 and process_id = $2 and (precedence, version) < ($3, $4)
              order by precedence desc, version desc limit $5",
            args![tenant.as_str(), process_id, place, version, fitting(sizes)],
        )
        .await?;
    rows.iter().map(read).collect()
}

/// Adds a version; false where somebody added it first.
pub async fn add_in(tx: &mut Transaction, tenant: &TenantId, version: &Version) -> Result<bool, Error> {
    let added = tx
        .execute(
            "insert into definition (tenant_id, process_id, version, precedence, status, content, digest, warnings,
                    created_by, created_at, published_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict do nothing",
            args![
                tenant.as_str(),
                &version.process_id,
                &version.version,
                precedence(&version.version),
                version.status.as_str(),
                version.content.as_slice(),
                &version.digest,
                warnings(version)?,
                version.created_by.0.as_slice(),
                version.created_at,
                version.published_at
            ],
        )
        .await?;
    Ok(added == 1)
}

/// Replaces a draft; false where it is none any more.
pub async fn replace_in(tx: &mut Transaction, tenant: &TenantId, version: &Version) -> Result<bool, Error> {
    let replaced = tx
        .execute(
            "update definition
                set status = $4, content = $5, digest = $6, warnings = $7, created_by = $8, created_at = $9,
                    published_at = $10
              where tenant_id = $1 and process_id = $2 and version = $3 and status = 'draft'",
            args![
                tenant.as_str(),
                &version.process_id,
                &version.version,
                version.status.as_str(),
                version.content.as_slice(),
                &version.digest,
                warnings(version)?,
                version.created_by.0.as_slice(),
                version.created_at,
                version.published_at
            ],
        )
        .await?;
    Ok(replaced == 1)
}

/// Publishes a draft; false where it is none any more, or has other content.
pub async fn publish_in(
    tx: &mut Transaction,
    tenant: &TenantId,
    version: &Version,
    now: Timestamp,
) -> Result<bool, Error> {
    let published = tx
        .execute(
            "update definition set status = 'published', published_at = $5
              where tenant_id = $1 and process_id = $2 and version = $3 and status = 'draft' and digest = $4",
            args![tenant.as_str(), &version.process_id, &version.version, &version.digest, now],
        )
        .await?;
    Ok(published == 1)
}

fn warnings(version: &Version) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(&version.warnings).map_err(|_| inconsistent(&version.process_id, &version.version))
}

fn read(row: &Row) -> Result<Version, Error> {
    let (process_id, version): (String, String) = (row.get("process_id")?, row.get("version")?);
    let content: Vec<u8> = row.get("content")?;
    let digest: String = row.get("digest")?;
    let status = Status::parse(&row.get::<String>("status")?);
    let warnings = serde_json::from_slice(&row.get::<Vec<u8>>("warnings")?);
    let (Some(status), Ok(warnings)) = (status, warnings) else {
        return Err(inconsistent(&process_id, &version));
    };
    // What instances are pinned to is checked whenever it is read.
    if phasegate_process::digest(&content) != digest {
        return Err(inconsistent(&process_id, &version));
    }
    Ok(Version {
        status,
        content,
        digest,
        warnings,
        created_by: Author(row.get("created_by")?),
        created_at: row.get("created_at")?,
        published_at: row.get("published_at")?,
        process_id,
        version,
    })
}

fn inconsistent(process_id: &str, version: &str) -> Error {
    Error::Inconsistent { table: "definition", row: format!("{process_id} {version}") }
}
