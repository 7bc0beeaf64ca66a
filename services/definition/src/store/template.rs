//! Team templates, and the teams made from them.

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Row, Transaction, args};
use phasegate_id::{TeamId, TenantId};

use super::{Error, fitting, is_askable};
use crate::domain::{Author, Template};

/// A team, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    /// Its id.
    pub id: TeamId,
    /// Its template.
    pub template_id: String,
    /// As readers get it.
    pub message: Vec<u8>,
    /// When it was made.
    pub created_at: Timestamp,
}

const LOAD: &str = "select * from team_template where tenant_id = $1 and team_template_id = $2";

/// One template.
pub async fn load(db: &Database, tenant: &TenantId, id: &str) -> Result<Option<Template>, Error> {
    if !is_askable(id) {
        return Ok(None);
    }
    let row = db.fetch_optional(LOAD, args![tenant.as_str(), id]).await?;
    row.as_ref().map(read).transpose()
}

/// One template, in a transaction.
pub async fn load_in(tx: &mut Transaction, tenant: &TenantId, id: &str) -> Result<Option<Template>, Error> {
    let row = tx.fetch_optional(LOAD, args![tenant.as_str(), id]).await?;
    row.as_ref().map(read).transpose()
}

/// Templates after `after`, by id: at most `limit`, and no more than fit a message.
pub async fn list(
    db: &Database,
    tenant: &TenantId,
    after: &str,
    limit: usize,
) -> Result<Vec<Template>, Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sizes = db
        .fetch_all(
            "select length(content) as size from team_template where tenant_id = $1 and team_template_id > $2
              order by team_template_id limit $3",
            args![tenant.as_str(), after, limit],
        )
        .await?;
    let sizes: Vec<i64> = sizes.iter().map(|row| row.get("size")).collect::<Result<_, _>>()?;
    let rows = db
        .fetch_all(
            "select * from team_template where tenant_id = $1 and team_template_id > $2
              order by team_template_id limit $3",
            args![tenant.as_str(), after, fitting(sizes)],
        )
        .await?;
    rows.iter().map(read).collect()
}

/// Adds a template; false where somebody added one with this id first.
pub async fn add_in(tx: &mut Transaction, tenant: &TenantId, template: &Template) -> Result<bool, Error> {
    let warnings = serde_json::to_vec(&template.warnings).map_err(|_| inconsistent(&template.id))?;
    let added = tx
        .execute(
            "insert into team_template (tenant_id, team_template_id, content, warnings, created_by, created_at)
             values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
            args![
                tenant.as_str(),
                &template.id,
                template.content.as_slice(),
                warnings,
                template.created_by.0.as_slice(),
                template.created_at
            ],
        )
        .await?;
    Ok(added == 1)
}

/// Adds a team.
pub async fn team_add_in(tx: &mut Transaction, tenant: &TenantId, team: &Team) -> Result<(), Error> {
    tx.execute(
        "insert into team (tenant_id, team_id, team_template_id, message, created_at) values ($1, $2, $3, $4, $5)",
        args![tenant.as_str(), team.id.as_str(), &team.template_id, team.message.as_slice(), team.created_at],
    )
    .await?;
    Ok(())
}

/// One team, as it was written.
pub async fn team_load(db: &Database, tenant: &TenantId, id: &str) -> Result<Option<Vec<u8>>, Error> {
    if !is_askable(id) {
        return Ok(None);
    }
    let row = db
        .fetch_optional(
            "select message from team where tenant_id = $1 and team_id = $2",
            args![tenant.as_str(), id],
        )
        .await?;
    Ok(row.map(|row| row.get("message")).transpose()?)
}

fn read(row: &Row) -> Result<Template, Error> {
    let id: String = row.get("team_template_id")?;
    let warnings = serde_json::from_slice(&row.get::<Vec<u8>>("warnings")?).map_err(|_| inconsistent(&id))?;
    Ok(Template {
        content: row.get("content")?,
        warnings,
        created_by: Author(row.get("created_by")?),
        created_at: row.get("created_at")?,
        id,
    })
}

fn inconsistent(id: &str) -> Error {
    Error::Inconsistent { table: "team_template", row: id.to_owned() }
}
