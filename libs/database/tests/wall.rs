//! The wall between tenants on PostgreSQL, as a role sees it that is no superuser.

use anyhow::{Context as _, ensure};
use phasegate_database::{Database, Error, Migration, Opening, Reach, Settings, args};
use phasegate_test_database::{TestDatabase, both, over_the_walls, postgres, server};

const THING: Migration = Migration {
    version: 1,
    name: "thing",
    postgres: "create table thing (tenant_id text, thing_id text, primary key (tenant_id, thing_id));",
    sqlite: "create table thing (tenant_id text, thing_id text, primary key (tenant_id, thing_id)) strict;",
};

async fn add(db: &Database, tenant: &str, id: &str) -> Result<u64, Error> {
    let args = args![tenant, id];
    db.transaction(move |tx| {
        Box::pin(
            async move { tx.execute("insert into thing (tenant_id, thing_id) values ($1, $2)", args).await },
        )
    })
    .await
}

/// What a statement sees that forgot whose rows it wants: outside of a transaction and inside of one.
async fn seen(db: &Database) -> anyhow::Result<Vec<String>> {
    let sql = "select thing_id from thing order by thing_id";
    let outside = db.fetch_all(sql, args![]).await?;
    let inside: Result<_, Error> =
        db.transaction(move |tx| Box::pin(async move { tx.fetch_all(sql, args![]).await })).await;
    let ids = |rows: &[phasegate_database::Row]| {
        rows.iter().map(|row| row.get("thing_id")).collect::<Result<Vec<String>, _>>()
    };
    let (outside, inside) = (ids(&outside)?, ids(&inside?)?);
    ensure!(outside == inside, "{outside:?} outside of a transaction, {inside:?} inside");
    Ok(outside)
}

/// Two connections, so that whatever one remembered would show.
async fn narrow(fresh: &TestDatabase) -> anyhow::Result<Database> {
    let Settings::Postgres { url, schema, .. } = fresh.settings() else { anyhow::bail!("not PostgreSQL") };
    let settings = Settings::Postgres { url, schema, max_connections: 2, opening: Opening::Migrate };
    Ok(Database::open(&settings, &[THING]).await?)
}

#[tokio::test]
async fn a_statement_that_names_no_tenant_sees_its_own() -> anyhow::Result<()> {
    let db = narrow(&postgres().await?).await?;
    let (acme, globex) = (Reach::of_tenant("acme"), Reach::of_tenant("globex"));
    acme.clone().within(add(&db, "acme", "a")).await?;
    globex.clone().within(add(&db, "globex", "g")).await?;
    for _ in 0..5 {
        ensure!(acme.clone().within(seen(&db)).await? == ["a"]);
        ensure!(seen(&db).await?.is_empty(), "nobody's work sees rows");
        ensure!(globex.clone().within(seen(&db)).await? == ["g"]);
        ensure!(seen(&db.across_tenants()).await? == ["a", "g"]);
        ensure!(acme.clone().within(seen(&db.across_tenants())).await? == ["a", "g"]);
        ensure!(Reach::of_tenant("*").within(seen(&db)).await?.is_empty(), "a tenant called * sees rows");
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_over_the_wall() -> anyhow::Result<()> {
    let db = narrow(&postgres().await?).await?;
    let acme = Reach::of_tenant("acme");
    acme.clone().within(add(&db, "acme", "a")).await?;
    ensure!(acme.clone().within(add(&db, "globex", "g")).await.is_err(), "into another tenant");
    ensure!(add(&db, "acme", "b").await.is_err() && add(&db, "", "b").await.is_err(), "for nobody");
    let change = |db: &Database, sql: &'static str| {
        let db = db.clone();
        async move {
            let done: Result<u64, Error> =
                db.transaction(move |tx| Box::pin(async move { tx.execute(sql, args![]).await })).await;
            done
        }
    };
    let globex = Reach::of_tenant("globex");
    for sql in ["update thing set thing_id = 'x'", "delete from thing"] {
        ensure!(globex.clone().within(change(&db, sql)).await? == 0, "{sql} in another tenant");
        ensure!(change(&db, sql).await? == 0, "{sql} for nobody");
    }
    let stolen = "update thing set tenant_id = 'globex'";
    ensure!(acme.clone().within(change(&db, stolen)).await.is_err(), "a row was given away");
    // What a read outside of a transaction calls is a read.
    let sql = "insert into thing (tenant_id, thing_id) values ('acme', 'z') returning thing_id";
    ensure!(acme.clone().within(db.fetch_all(sql, args![])).await.is_err());
    ensure!(acme.within(seen(&db)).await? == ["a"]);
    Ok(())
}

#[tokio::test]
async fn work_is_the_same_on_both_databases() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = Database::open(&fresh.settings(), &[THING]).await?;
        let acme = Reach::of_tenant("acme");
        let ids: Vec<String> = (0..50).map(|id| format!("{id:02}")).collect();
        let many = ids.iter().map(|id| acme.clone().within(add(&db, "acme", id)));
        for added in futures::future::join_all(many).await {
            ensure!(added? == 1);
        }
        ensure!(acme.within(seen(&db)).await?.len() == 50);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn serving_is_refused_without_a_wall() -> anyhow::Result<()> {
    let fresh = postgres().await?;
    let db = fresh.open(&[THING]).await?;
    let Settings::Postgres { url, schema, .. } = fresh.settings() else { anyhow::bail!("not PostgreSQL") };
    let serving = async |url: &str| {
        let (url, schema) = (url.to_owned(), schema.clone());
        let settings = Settings::Postgres { url, schema, max_connections: 2, opening: Opening::Check };
        let refused = Database::open(&settings, &[THING]).await.err();
        anyhow::Ok(refused.context("a server that loses what it has is always refused")?.to_string())
    };
    // Servers of tests are not safe either, which is what is found once the wall is.
    ensure!(serving(&url).await?.contains("fsync"), "{}", serving(&url).await?);
    let refused = serving(&server().await?).await?;
    ensure!(refused.contains("is a superuser"), "{refused}");
    let refused = serving(&over_the_walls(&url)).await?;
    ensure!(refused.contains("phasegate.tenant is set"), "{refused}");
    let open = async |sql: &'static str| {
        let done: Result<u64, Error> =
            db.transaction(move |tx| Box::pin(async move { tx.execute(sql, args![]).await })).await;
        done
    };
    for (gap, closed) in [
        ("alter table thing no force row level security", true),
        ("alter table thing disable row level security", true),
        ("drop policy of_tenant on thing", true),
        ("create table forgotten (tenant_id text)", true),
        ("create table of_nobody (name text)", false),
    ] {
        open(gap).await?;
        let refused = serving(&url).await?;
        ensure!(refused.contains("has no row-level security") == closed, "{gap}: {refused}");
        // Migrating closes it.
        fresh.open(&[THING]).await?;
        ensure!(serving(&url).await?.contains("fsync"), "{gap}");
    }
    Ok(())
}
