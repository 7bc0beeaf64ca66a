//! PostgreSQL and SQLite behind one set of calls: pool, transaction, dialect, and migration under a lock. Holds no
//! query of any service.
//!
//! `sqlx::Any` cannot read booleans, sums or arrays alike on both databases, so this crate keeps the two pools in an
//! enum and brings its own [`Value`] and [`Row`]: services are compiled once and write one text of SQL for both,
//! with [`Dialect::pick`] where the texts must differ.
//!
//! Statements reach the rows of one tenant, see [`Reach`].
//!
//! Every transaction runs in a task of its own. A caller that goes away (a gRPC client that hung up) can then neither
//! stop it half-way nor drop a `BEGIN` that is under way, which would leave the pooled connection inside an open
//! transaction.
//!
//! SQLite has one writing connection, which begins with `BEGIN IMMEDIATE`, because a transaction that reads first and
//! writes later fails at once when another one wrote in between. Readers have a small pool of read-only connections.

mod afterwards;
mod error;
mod json;
mod migrate;
mod postgres;
mod reach;
mod row;
mod safety;
mod seen;
mod session;
mod sqlite;
mod together;
mod value;
mod wall;

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use phasegate_planted::{self as planted, Bug};
use tracing::Instrument as _;

use self::afterwards::Afterwards;
pub use error::{Error, tell};
pub use json::json_rows;
pub use migrate::Migration;
pub use reach::Reach;
pub use row::{Cell, FromCell, Row};
pub use together::Together;
pub use value::Value;

/// Where a database is.
#[derive(Debug, Clone)]
pub enum Settings {
    /// A file; made if it is not there.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// A schema of a PostgreSQL database; made if it is not there.
    Postgres {
        /// `postgres://user@host:port/database`.
        url: String,
        /// Schema: lower-case letters, digits and underscores.
        schema: String,
        /// Connections that one process may hold.
        max_connections: u32,
        /// What opening it may change.
        opening: Opening,
    },
}

/// What opening a PostgreSQL database may change, and what is asked of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Makes the schema and brings it to the program's migrations, on any server: for development and tests, and for the
    /// job that migrates.
    Migrate,
    /// Changes nothing: fails where the schema is older than the program needs, where the server may lose what it has
    /// acknowledged, and where nothing would keep tenants apart. A schema that is newer is fine, so that two versions of the program can run side by side.
    Check,
}

/// Which SQL is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// SQLite.
    Sqlite,
}

/// An open database. Copies share its connections.
#[derive(Debug, Clone)]
pub struct Database {
    pools: Pools,
    /// What statements reach; that of the work under way where it says nothing.
    reach: Option<Reach>,
    attached: Attached,
}

/// A transaction under way. It exists only inside [`Database::transaction`].
pub struct Transaction {
    open: Open,
    attached: Attached,
    afterwards: Afterwards,
}

/// What a library keeps with a database, shared by all copies.
#[derive(Clone, Default)]
struct Attached(Arc<OnceLock<Arc<dyn Any + Send + Sync>>>);

#[derive(Debug, Clone)]
enum Pools {
    Postgres(postgres::Pool),
    Sqlite(sqlite::Pool),
}

#[derive(Debug)]
enum Open {
    Postgres(postgres::Open),
    Sqlite(sqlite::Open),
}

/// Makes the list of values that a statement is given: `args![id, now, None::<String>]`.
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)?) => { ::std::vec![$($crate::Value::from($value)),*] };
}

// === impl Dialect ===

impl Dialect {
    /// Chooses between two texts of a statement.
    pub const fn pick(self, postgres: &'static str, sqlite: &'static str) -> &'static str {
        match self {
            Self::Postgres => postgres,
            Self::Sqlite => sqlite,
        }
    }
}

// === impl Database ===

impl Database {
    /// Connects, checks that the database keeps what it is given, and brings it to the given migrations, or checks that it
    /// is there ([`Opening`]).
    pub async fn open(settings: &Settings, migrations: &[Migration]) -> Result<Self, Error> {
        let pools = match settings {
            Settings::Postgres { url, schema, max_connections, .. } => {
                Pools::Postgres(postgres::Pool::open(url, schema, *max_connections).await?)
            }
            Settings::Sqlite { path } => Pools::Sqlite(sqlite::Pool::open(path).await?),
        };
        let database = Self { pools, reach: None, attached: Attached::default() };
        match settings {
            Settings::Postgres { opening: Opening::Check, .. } => {
                wall::check(&database).await?;
                safety::check(&database).await?;
                migrate::check(&database, migrations).await?;
            }
            Settings::Postgres { .. } | Settings::Sqlite { .. } => {
                // What a step does to rows, it does to those of all tenants.
                migrate::migrate(&database.across_tenants(), settings, migrations).await?;
            }
        }
        Ok(database)
    }

    /// The same database, whose statements reach the rows of all tenants: for loops that serve all of them, for what has
    /// to find out which tenant something belongs to, and for those who run the installation.
    pub fn across_tenants(&self) -> Self {
        Self { reach: Some(Reach::across_tenants()), ..self.clone() }
    }

    /// Keeps something with the database, for whoever has it or a transaction of it. The first one stays.
    pub fn attach<T: Any + Send + Sync>(&self, thing: Arc<T>) {
        self.attached.0.get_or_init(|| thing);
    }

    /// What is kept with it.
    pub fn attached<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.attached.get()
    }

    fn reach(&self) -> Reach {
        self.reach.clone().unwrap_or_else(Reach::current)
    }

    /// Which SQL is spoken.
    pub const fn dialect(&self) -> Dialect {
        match self.pools {
            Pools::Postgres(_) => Dialect::Postgres,
            Pools::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Reads all rows, outside a transaction.
    pub async fn fetch_all(
        &self,
        sql: impl Into<Cow<'static, str>> + Send,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        match &self.pools {
            Pools::Postgres(pool) => pool.fetch_all(self.reach(), sql.into(), args, false).await,
            Pools::Sqlite(pool) => pool.fetch_all(sql.into(), args).await,
        }
    }

    /// Reads the first row, outside a transaction.
    pub async fn fetch_optional(
        &self,
        sql: impl Into<Cow<'static, str>> + Send,
        args: Vec<Value>,
    ) -> Result<Option<Row>, Error> {
        Ok(self.fetch_all(sql, args).await?.into_iter().next())
    }

    /// Executes one statement as a transaction of its own, and returns its rows. On PostgreSQL that is one round trip.
    pub async fn write(
        &self,
        sql: impl Into<Cow<'static, str>> + Send,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let sql = sql.into();
        match &self.pools {
            Pools::Postgres(pool) => pool.fetch_all(self.reach(), sql, args, true).await,
            Pools::Sqlite(_) => {
                self.transaction(move |tx| Box::pin(async move { tx.fetch_all(sql, args).await })).await
            }
        }
    }

    /// Does `work` in one transaction: commits when it is `Ok`, rolls back when it is `Err`.
    ///
    /// It runs in a task of its own: whoever awaits it may go away, the work is done to its end all the same.
    pub async fn transaction<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: for<'t> FnOnce(&'t mut Transaction) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    {
        let database = self.clone();
        // The task is outside of the reach of the work that waits for it.
        let reach = self.reach();
        let task = async move {
            let mut transaction = database.begin(&reach).await?;
            match work(&mut transaction).await {
                Ok(answer) if planted::is(Bug::AnswerBeforeCommit) => {
                    tokio::spawn(transaction.commit());
                    Ok(answer)
                }
                Ok(answer) => {
                    transaction.commit().await?;
                    Ok(answer)
                }
                Err(refusal) => {
                    transaction.roll_back().await;
                    Err(refusal)
                }
            }
        };
        match tokio::spawn(task.in_current_span()).await {
            Ok(outcome) => outcome,
            Err(broken) => Err(E::from(Error::Aborted(broken.to_string()))),
        }
    }

    /// Closes all connections, once those in use are given back.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Postgres(pool) => pool.close().await,
            Pools::Sqlite(pool) => pool.close().await,
        }
    }

    async fn begin(&self, reach: &Reach) -> Result<Transaction, Error> {
        let open = match &self.pools {
            Pools::Postgres(pool) => Open::Postgres(pool.begin(reach).await?),
            Pools::Sqlite(pool) => Open::Sqlite(pool.begin().await),
        };
        Ok(Transaction { open, attached: self.attached.clone(), afterwards: Afterwards::default() })
    }
}

// === impl Transaction ===

impl Transaction {
    /// Which SQL is spoken.
    pub const fn dialect(&self) -> Dialect {
        match self.open {
            Open::Postgres(_) => Dialect::Postgres,
            Open::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// What is kept with its database.
    pub fn attached<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.attached.get()
    }

    /// Has something done once it is committed; not where it is rolled back, nor where nobody knows. It must not wait. On
    /// SQLite this is done in the order of the commits.
    pub fn afterwards(&mut self, task: impl FnOnce() + Send + 'static) {
        self.afterwards.add(task);
    }

    /// Says that nobody waits for it: on SQLite, where a commit takes longer than what is committed, it is committed with the
    /// next one, or a hundredth of a second later. Whoever awaits it waits for as long.
    pub const fn linger(&mut self) {
        if let Open::Sqlite(open) = &mut self.open {
            open.linger();
        }
    }

    /// Executes a statement and tells how many rows it touched. On SQLite it may be several, and the
    /// last one tells.
    pub async fn execute(
        &mut self,
        sql: impl Into<Cow<'static, str>> + Send,
        args: Vec<Value>,
    ) -> Result<u64, Error> {
        match &mut self.open {
            Open::Postgres(open) => open.execute(sql.into(), args).await,
            Open::Sqlite(open) => open.execute(sql.into(), args).await,
        }
    }

    /// Executes a statement with each of several lists of values, one after the other. On SQLite that takes less than many
    /// rows in one statement do; on PostgreSQL each is a round trip.
    pub async fn execute_each(&mut self, sql: &'static str, rows: Vec<Vec<Value>>) -> Result<(), Error> {
        for args in rows {
            self.execute(sql, args).await?;
        }
        Ok(())
    }

    /// Executes a statement and returns all its rows.
    pub async fn fetch_all(
        &mut self,
        sql: impl Into<Cow<'static, str>> + Send,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        match &mut self.open {
            Open::Postgres(open) => open.fetch_all(sql.into(), args).await,
            Open::Sqlite(open) => open.fetch_all(sql.into(), args).await,
        }
    }

    /// Executes a statement and returns its first row.
    pub async fn fetch_optional(
        &mut self,
        sql: impl Into<Cow<'static, str>> + Send,
        args: Vec<Value>,
    ) -> Result<Option<Row>, Error> {
        Ok(self.fetch_all(sql, args).await?.into_iter().next())
    }

    /// Executes a script of several statements without values.
    pub(crate) async fn script(&mut self, sql: &'static str) -> Result<(), Error> {
        match &mut self.open {
            Open::Postgres(open) => open.script(sql).await,
            Open::Sqlite(open) => open.script(sql).await,
        }
    }

    /// Has each statement waited for as long as given, where there is a server that could be silent.
    pub(crate) fn be_patient(&mut self, patience: Duration) {
        if let Open::Postgres(open) = &mut self.open {
            open.be_patient(patience);
        }
    }

    async fn commit(self) -> Result<(), Error> {
        match self.open {
            Open::Postgres(open) => {
                open.commit().await?;
                self.afterwards.run();
                Ok(())
            }
            Open::Sqlite(open) => open.commit(self.afterwards).await,
        }
    }

    async fn roll_back(self) {
        let done = match self.open {
            Open::Postgres(open) => open.roll_back().await,
            Open::Sqlite(open) => open.roll_back().await,
        };
        if let Err(error) = done {
            // The connection is dropped or repaired before its next use; the change is gone either way.
            tracing::warn!(%error, "a transaction could not be rolled back");
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("open", &self.open).finish_non_exhaustive()
    }
}

// === impl Attached ===

impl Attached {
    fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(self.0.get()?).downcast().ok()
    }
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").finish_non_exhaustive()
    }
}
