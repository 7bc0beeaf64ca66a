//! A fresh database of each kind for every test. Never used by the product.
//!
//! SQLite gets a file in a temporary folder. PostgreSQL gets a schema of its own on the server that
//! `PHASEGATE_TEST_POSTGRES` names (`postgres://user@host:port/database`) or, without that, on a private server that
//! is started once in the process and ends with it. No test is left out because a server is missing.
//!
//! Whoever the server is named with makes databases and roles; tests sign in as a plain role, for which the walls between
//! tenants stand as they do in production.

mod role;
mod server;

use std::future::Future;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use phasegate_database::{Database, Dialect, Migration, Opening, Settings, args};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tempfile::TempDir;

/// Connections of one fresh database: many tests share a server.
const MAX_CONNECTIONS: u32 = 12;

/// A database that nobody else knows. The SQLite file goes when this is dropped.
#[derive(Debug)]
pub struct TestDatabase {
    dialect: Dialect,
    name: String,
    folder: TempDir,
    /// As the plain role.
    url: String,
}

/// Runs a test on a fresh SQLite file and on a fresh PostgreSQL schema, and says on which one it failed.
pub async fn both<F, Fut>(test: F) -> anyhow::Result<()>
where
    F: Fn(TestDatabase) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    // Boxed, because tests are large and so are their futures.
    Box::pin(test(sqlite().await?)).await.context("on SQLite")?;
    Box::pin(test(postgres().await?)).await.context("on PostgreSQL")
}

/// A fresh SQLite file.
#[expect(clippy::unused_async, reason = "it is called like its sibling")]
pub async fn sqlite() -> anyhow::Result<TestDatabase> {
    TestDatabase::new(Dialect::Sqlite, String::new())
}

/// A fresh PostgreSQL schema.
pub async fn postgres() -> anyhow::Result<TestDatabase> {
    TestDatabase::new(Dialect::Postgres, role::plain(&server().await?).await?)
}

/// The URL of the server as whoever may do everything there.
pub async fn server() -> anyhow::Result<String> {
    tokio::task::spawn_blocking(server::url).await?
}

/// The URL of a fresh PostgreSQL database, for a program that chooses its schemas itself. It belongs to the plain role.
pub async fn postgres_url() -> anyhow::Result<String> {
    let database = postgres().await?;
    let options = PgConnectOptions::from_str(&server().await?)?;
    let mut connection = options.connect().await?;
    // The name is letters, digits and underscores.
    let statement = format!("create database {} owner {}", database.name, role::NAME);
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    let (server, _) = database.url().rsplit_once('/').context("a URL names a database")?;
    Ok(format!("{server}/{}", database.name))
}

/// Waits until everything in the outbox is taken: what is sent leaves it by itself, so that rows are compared afterwards.
/// Gives up after 20 s.
pub async fn sent(db: &Database) -> anyhow::Result<()> {
    let taken = async {
        while !db.fetch_all("select 1 from outbox limit 1", args![]).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.context("something is never taken")?
}

/// The URL for looking over the walls between tenants, at what a program wrote to a database.
pub fn over_the_walls(url: &str) -> String {
    format!("{url}?options[phasegate.tenant]=*")
}

// === impl TestDatabase ===

impl TestDatabase {
    fn new(dialect: Dialect, url: String) -> anyhow::Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let folder = tempfile::Builder::new().prefix("phasegate-test-").tempdir()?;
        // The folder's random name keeps processes that share a server apart.
        let random: String = folder
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .chars()
            .rev()
            .take_while(char::is_ascii_alphanumeric)
            .map(|letter| letter.to_ascii_lowercase())
            .collect();
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        Ok(Self { dialect, name: format!("t_{}_{random}_{made}", std::process::id()), folder, url })
    }

    /// Which kind it is.
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Where the one database of the test is. The same at every call, so that a test can open it twice.
    pub fn settings(&self) -> Settings {
        self.settings_named("main")
    }

    /// Where the database of one service is, for tests with several services.
    pub fn settings_named(&self, service: &str) -> Settings {
        match self.dialect {
            Dialect::Sqlite => Settings::Sqlite { path: self.folder.path().join(format!("{service}.db")) },
            Dialect::Postgres => Settings::Postgres {
                url: self.url.clone(),
                schema: format!("{}_{service}", self.name),
                max_connections: MAX_CONNECTIONS,
                opening: Opening::Migrate,
            },
        }
    }

    /// Opens the one database of the test, with all its tenants. Tests of the walls between them open the settings.
    pub async fn open(&self, migrations: &[Migration]) -> anyhow::Result<Database> {
        Ok(Database::open(&self.settings(), migrations).await?.across_tenants())
    }

    /// The server's URL, for looking at it from outside as the plain role; empty for SQLite.
    pub fn url(&self) -> &str {
        &self.url
    }
}
