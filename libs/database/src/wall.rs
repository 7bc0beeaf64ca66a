//! The wall between tenants on PostgreSQL: row-level security on every table that has a `tenant_id`, forced, so that it
//! holds for the owner of the table, too. It is not left to the migrations of the services: a table that is added gets
//! it without anybody thinking of it, and a program does not serve from a schema with a gap.
//!
//! A row is there for whoever reaches its tenant, see [`crate::Reach`]. Foreign keys and unique constraints look over
//! the wall, so that keys of tables begin with the tenant, or say nothing that could be guessed.

use crate::{Database, Dialect, Error, Transaction, args};

/// Tables of the schema that have a tenant and no wall around it. A wall is known by its name.
const GAPS: &str = "
select c.relname::text as name
  from pg_class as c
  join pg_attribute as a on a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
 where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
   and not (c.relrowsecurity and c.relforcerowsecurity
            and exists (select 1 from pg_policy as p where p.polrelid = c.oid and p.polname = 'of_tenant'))
 order by 1";

/// Rows that the statements of a transaction see and write: those of the tenant that it was begun for, or all.
const ROWS: &str = "nullif(current_setting('phasegate.tenant', true), '') in (tenant_id, '*')";

/// Closes the gaps.
pub(crate) async fn build(tx: &mut Transaction) -> Result<(), Error> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    for row in tx.fetch_all(GAPS, args![]).await? {
        // A name of a migration of ours, quoted all the same.
        let table = row.get::<String>("name")?.replace('"', "\"\"");
        for statement in [
            format!("alter table \"{table}\" enable row level security"),
            format!("alter table \"{table}\" force row level security"),
            format!("drop policy if exists of_tenant on \"{table}\""),
            format!("create policy of_tenant on \"{table}\" using ({ROWS}) with check ({ROWS})"),
        ] {
            tx.execute(statement, args![]).await?;
        }
    }
    Ok(())
}

/// Refuses a schema with a gap, and a role that walls do not hold for.
pub(crate) async fn check(database: &Database) -> Result<(), Error> {
    let role = "select rolname::text as name from pg_roles
                 where rolname = current_user and (rolsuper or rolbypassrls)";
    if let Some(role) = database.fetch_optional(role, args![]).await? {
        let name: String = role.get("name")?;
        return Err(Error::Unsafe(format!(
            "role {name} is a superuser or bypasses row-level security, so that nothing would keep tenants apart; sign in \
             as a plain role"
        )));
    }
    let reach = database.transaction(|tx| {
        Box::pin(async move {
            // What a connection reaches that was told nothing, which those of ours always are.
            tx.execute("set local phasegate.tenant to default", args![]).await?;
            let set =
                "select 1 as found where nullif(current_setting('phasegate.tenant', true), '') is not null";
            tx.fetch_optional(set, args![]).await
        })
    });
    if reach.await?.is_some() {
        return Err(Error::Unsafe(
            "phasegate.tenant is set for every connection, by the URL, the role or the server, so that what is done for \
             nobody would see rows; do not set it"
                .to_owned(),
        ));
    }
    if let Some(gap) = database.fetch_optional(GAPS, args![]).await? {
        let name: String = gap.get("name")?;
        return Err(Error::Unsafe(format!(
            "table {name} has no row-level security, so that nothing would keep tenants apart: run `phasegate admin migrate`"
        )));
    }
    Ok(())
}
