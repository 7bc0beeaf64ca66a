//! Brings a database to the tables that the program expects, under a lock, so that several processes may start at once.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::{Database, Error, Settings, Transaction, args, wall};

/// The lock that migrations of one PostgreSQL database take: any constant that nobody else uses.
const LOCK: i64 = 0x7068_6173_6567_6174;
/// Longer than what the server is told below.
const PATIENCE: Duration = Duration::from_mins(11);
/// How often a migration that had to give way comes again.
const RETRIES: u32 = 10;
/// Before the first time; longer by as much each time.
const PAUSE: Duration = Duration::from_secs(1);

/// One step. A step that was ever released is never changed; what it did wrong is mended by a later one.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number. Steps run in this order.
    pub version: i64,
    /// What it adds.
    pub name: &'static str,
    /// The script for PostgreSQL.
    pub postgres: &'static str,
    /// The script for SQLite.
    pub sqlite: &'static str,
}

/// Executes the steps that the database has not seen, all or none.
pub(crate) async fn migrate(
    database: &Database,
    settings: &Settings,
    migrations: &[Migration],
) -> Result<(), Error> {
    let schema = match settings {
        Settings::Postgres { schema, .. } => Some(schema.clone()),
        Settings::Sqlite { .. } => None,
    };
    let mut steps = migrations.to_vec();
    steps.sort_by_key(|step| step.version);
    for (step, next) in steps.iter().zip(steps.iter().skip(1)) {
        if step.version == next.version {
            return Err(problem(next, "has the number of another migration"));
        }
    }
    let mut tried = 0;
    loop {
        let done = execute(database, schema.clone(), steps.clone()).await;
        tried += 1;
        match done {
            Err(error) if error.is_lock_timeout() && tried <= RETRIES => {
                tracing::info!(%error, tried, "a migration gave way to what is under way, and comes again");
                tokio::time::sleep(PAUSE * tried).await;
            }
            done => return done,
        }
    }
}

async fn execute(database: &Database, schema: Option<String>, steps: Vec<Migration>) -> Result<(), Error> {
    database
        .transaction(move |tx| {
            Box::pin(async move {
                if let Some(schema) = schema {
                    lock(tx, &schema).await?;
                }
                tx.execute(TABLE, args![]).await?;
                for step in &steps {
                    apply(tx, step).await?;
                }
                wall::build(tx).await
            })
        })
        .await
}

/// Checks that the database has seen the steps. It may have seen more.
pub(crate) async fn check(database: &Database, migrations: &[Migration]) -> Result<(), Error> {
    let known = database.fetch_all("select version, checksum from schema_version", args![]).await;
    let known = match known {
        Ok(rows) => rows,
        Err(error) if error.is_undefined_table() => Vec::new(),
        Err(error) => return Err(error),
    };
    let known: BTreeMap<i64, String> = known
        .iter()
        .map(|row| Ok((row.get("version")?, row.get("checksum")?)))
        .collect::<Result<_, Error>>()?;
    for step in migrations {
        match known.get(&step.version) {
            None => return Err(problem(step, "has not been executed: run `phasegate admin migrate`")),
            Some(known) if *known != checksum(step.postgres) => {
                return Err(problem(step, "was changed after the database had executed it"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// What was done to the database.
const TABLE: &str = "create table if not exists schema_version (
    version bigint primary key,
    name text not null,
    checksum text not null
)";

async fn lock(tx: &mut Transaction, schema: &str) -> Result<(), Error> {
    tx.be_patient(PATIENCE);
    tx.execute("set local statement_timeout = '10min'", args![]).await?;
    tx.fetch_all("select pg_advisory_xact_lock($1)::text", args![LOCK]).await?;
    // A step that has to wait for a table keeps everybody waiting who comes after it: then it gives way, and comes again.
    tx.execute("set local lock_timeout = '2s'", args![]).await?;
    let found =
        tx.fetch_optional("select 1 as found from pg_namespace where nspname = $1", args![schema]).await?;
    if found.is_none() {
        // The name was checked when the pool was opened.
        tx.execute(format!("create schema {schema}"), args![]).await?;
    }
    Ok(())
}

async fn apply(tx: &mut Transaction, step: &Migration) -> Result<(), Error> {
    let script = tx.dialect().pick(step.postgres, step.sqlite);
    let checksum = checksum(script);
    let known = tx
        .fetch_optional("select checksum from schema_version where version = $1", args![step.version])
        .await?;
    if let Some(known) = known {
        if known.get::<String>("checksum")? == checksum {
            return Ok(());
        }
        return Err(problem(step, "was changed after the database had executed it"));
    }
    tx.script(script).await?;
    tx.execute(
        "insert into schema_version (version, name, checksum) values ($1, $2, $3)",
        args![step.version, step.name, checksum],
    )
    .await?;
    Ok(())
}

fn checksum(script: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(script.as_bytes()) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn problem(step: &Migration, problem: &str) -> Error {
    Error::Migration { version: step.version, name: step.name.to_owned(), problem: problem.to_owned() }
}
