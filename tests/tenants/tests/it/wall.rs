//! Row-level security of PostgreSQL behind every table of every service: what a statement would see that forgot its
//! tenant. SQLite has none, so that there is nothing to see there.

use std::collections::BTreeSet;

use anyhow::ensure;
use phasegate_database::{Database, Error, Reach, args};
use phasegate_serve::Service;
use phasegate_tenants::scene::Scene;
use phasegate_tenants::world::World;
use phasegate_test_database::{TestDatabase, postgres};

/// The one table that belongs to no tenant.
const OF_NOBODY: &str = "schema_version";

/// Tables of which both tenants must have rows here. What nothing here makes, such as failures, has its policy alone.
const SHOWN_MIN: usize = 20;

async fn open(database: &TestDatabase, service: Service) -> anyhow::Result<Database> {
    Ok(Database::open(&database.settings_named(service.name()), &[]).await?)
}

/// The tables of a service, and those that no wall is around.
async fn tables(db: &Database) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let rows = db
        .fetch_all(
            "select t.table_name::text as name,
                    coalesce(c.relrowsecurity and c.relforcerowsecurity and p.polname is not null
                             and k.column_name is not null, false) as walled
               from information_schema.tables as t
               join pg_class as c
                 on c.relname = t.table_name and c.relnamespace = current_schema()::regnamespace
               left join pg_policy as p on p.polrelid = c.oid
               left join information_schema.columns as k
                 on k.table_schema = t.table_schema and k.table_name = t.table_name and k.column_name = 'tenant_id'
              where t.table_schema = current_schema()
              order by 1",
            args![],
        )
        .await?;
    let (mut all, mut open) = (Vec::new(), Vec::new());
    for row in &rows {
        let name: String = row.get("name")?;
        if name == OF_NOBODY {
            continue;
        }
        if !row.get::<bool>("walled")? {
            open.push(name.clone());
        }
        all.push(name);
    }
    Ok((all, open))
}

/// How many rows of a table there are, and whose they are, without saying whose are wanted.
async fn owners(db: &Database, table: &str) -> anyhow::Result<(i64, BTreeSet<String>)> {
    let sql = format!("select tenant_id, count(*) as number from {table} group by tenant_id");
    let mut seen = (0, BTreeSet::new());
    for row in db.fetch_all(sql, args![]).await? {
        seen.0 += row.get::<i64>("number")?;
        seen.1.insert(row.get("tenant_id")?);
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_shows_a_tenant_its_own_rows_and_nobody_any() -> anyhow::Result<()> {
    let database = postgres().await?;
    let world = World::start(&database, None).await?;
    Scene::set(&world, "acme").await?;
    Scene::set(&world, "globex").await?;
    let both: BTreeSet<String> = ["acme".to_owned(), "globex".to_owned()].into();
    let mut shown = Vec::new();
    for service in Service::ALL {
        let db = open(&database, service).await?;
        let (all, _) = tables(&db).await?;
        ensure!(!all.is_empty(), "{} has no tables", service.name());
        for table in all {
            let what = format!("{}.{table}", service.name());
            let (number, _) = owners(&db, &table).await?;
            ensure!(number == 0, "{what}: {number} rows for nobody");
            let mut whose = BTreeSet::new();
            for tenant in &both {
                let (_, seen) = Reach::of_tenant(tenant).within(owners(&db, &table)).await?;
                ensure!(seen.iter().all(|owner| owner == tenant), "{what}: {tenant} sees rows of {seen:?}");
                whose.extend(seen);
            }
            let (_, seen) = owners(&db.across_tenants(), &table).await?;
            // What a relay and a sweep delete meanwhile was seen before.
            ensure!(seen.is_subset(&both), "{what}: rows of {seen:?}");
            if whose == both {
                shown.push(what);
            }
        }
    }
    ensure!(shown.len() >= SHOWN_MIN, "only {shown:?} had rows of both");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_table_is_without_a_tenant_or_a_policy() -> anyhow::Result<()> {
    let database = postgres().await?;
    let _world = World::start(&database, None).await?;
    for service in Service::ALL {
        let db = open(&database, service).await?;
        let (_, open) = tables(&db).await?;
        ensure!(open.is_empty(), "{}: no wall around {open:?}", service.name());
        // One that somebody forgot would be found.
        let forgot: Result<u64, Error> = db
            .transaction(|tx| {
                Box::pin(async move { tx.execute("create table forgotten (tenant_id text)", args![]).await })
            })
            .await;
        forgot?;
        let (_, open) = tables(&db).await?;
        ensure!(open == ["forgotten"], "{}: {open:?}", service.name());
    }
    Ok(())
}
