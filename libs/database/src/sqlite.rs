//! The SQLite half: one connection that writes, four that read.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Executor as _,
    Row as _, TypeInfo as _, ValueRef as _,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{Cell, Error, Row, Value};

/// Only another process could keep us waiting: writers of this one queue for the one connection.
/// What is tried again has to fit into the time of a call, too.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a busy file is tried again while it is opened.
const OPENINGS: u32 = 100;
/// The time between two tries.
const OPENING_PAUSE: Duration = Duration::from_millis(30);
/// Connections that read.
const READERS: u32 = 4;
/// More than a service has statements, so that each is prepared once a connection.
const STATEMENTS_MAX: usize = 512;

#[derive(Debug, Clone)]
pub(crate) struct Pool {
    writer: Arc<Mutex<Writer>>,
    readers: SqlitePool,
}

/// The connection that writes.
#[derive(Debug)]
struct Writer {
    /// None once it is closed.
    connection: Option<SqliteConnection>,
    /// A transaction was begun and not ended, because its task died. The next one rolls it back first.
    is_open: bool,
}

#[derive(Debug)]
pub(crate) struct Open(OwnedMutexGuard<Writer>);

// === impl Pool ===

impl Pool {
    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .statement_cache_capacity(STATEMENTS_MAX)
            .disable_statement_logging();
        let opening = format!("open {}", path.display());
        let mut connection = patiently(&opening, &options.clone().create_if_missing(true)).await?;
        check(&mut connection).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await
            .map_err(|error| Error::doing(&opening, error))?;
        let writer = Writer { connection: Some(connection), is_open: false };
        Ok(Self { writer: Arc::new(Mutex::new(writer)), readers })
    }

    pub(crate) async fn fetch_all(
        &self,
        sql: Cow<'static, str>,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let text = sql.clone();
        let arguments = arguments(&text, args)?;
        let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(&self.readers).await;
        read(&text, rows)
    }

    pub(crate) async fn begin(&self) -> Result<Open, Error> {
        let mut writer = self.writer.clone().lock_owned().await;
        let was_open = std::mem::replace(&mut writer.is_open, true);
        let connection = writer.connection()?;
        if was_open {
            // It fails if the transaction never began, which is as good.
            drop(connection.execute("rollback").await);
        }
        let begun = connection.execute("begin immediate").await;
        begun.map_err(|error| Error::doing("begin a transaction", error))?;
        Ok(Open(writer))
    }

    /// All connections, and those that nobody uses.
    pub(crate) fn connections(&self) -> (usize, usize) {
        let writing = usize::from(self.writer.try_lock().is_ok());
        let readers = usize::try_from(self.readers.size()).unwrap_or(usize::MAX - 1);
        (readers + 1, self.readers.num_idle() + writing)
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        let connection = self.writer.lock().await.connection.take();
        if let Some(connection) = connection
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the database file was not closed cleanly");
        }
    }
}

// === impl Writer ===

impl Writer {
    fn connection(&mut self) -> Result<&mut SqliteConnection, Error> {
        self.connection.as_mut().ok_or_else(|| Error::doing("use a closed database", sqlx::Error::PoolClosed))
    }
}

// === impl Open ===

impl Open {
    pub(crate) async fn execute(&mut self, sql: Cow<'static, str>, args: Vec<Value>) -> Result<u64, Error> {
        let text = sql.clone();
        let arguments = arguments(&text, args)?;
        let done = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(self.0.connection()?).await;
        Ok(done.map_err(|error| Error::statement(&text, error))?.rows_affected())
    }

    pub(crate) async fn fetch_all(
        &mut self,
        sql: Cow<'static, str>,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let text = sql.clone();
        let arguments = arguments(&text, args)?;
        let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(self.0.connection()?).await;
        read(&text, rows)
    }

    pub(crate) async fn script(&mut self, sql: &'static str) -> Result<(), Error> {
        let done = self.0.connection()?.execute(sqlx::raw_sql(sql)).await;
        done.map(drop).map_err(|error| Error::statement(sql, error))
    }

    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        let done = self.0.connection()?.execute("commit").await;
        done.map_err(Error::committing)?;
        self.0.is_open = false;
        Ok(())
    }

    pub(crate) async fn roll_back(mut self) -> Result<(), Error> {
        let done = self.0.connection()?.execute("rollback").await;
        done.map_err(|error| Error::doing("roll a transaction back", error))?;
        self.0.is_open = false;
        Ok(())
    }
}

/// Opens the file. While another one turns a fresh file into one with a write-ahead log, SQLite answers "busy" at once,
/// whatever time-out is set.
async fn patiently(opening: &str, options: &SqliteConnectOptions) -> Result<SqliteConnection, Error> {
    for _ in 0..OPENINGS {
        match options.connect().await.map_err(|error| Error::doing(opening, error)) {
            Err(error) if error.is_transient() => tokio::time::sleep(OPENING_PAUSE).await,
            done => return done,
        }
    }
    options.connect().await.map_err(|error| Error::doing(opening, error))
}

/// A setting that the file or the platform does not take is answered silently with another one, so what is in force
/// is looked at.
async fn check(connection: &mut SqliteConnection) -> Result<(), Error> {
    for (pragma, wanted) in [
        ("pragma journal_mode", Cell::Text("wal".to_owned())),
        ("pragma synchronous", Cell::Integer(2)),
        ("pragma foreign_keys", Cell::Integer(1)),
    ] {
        let rows = read(pragma, sqlx::query(pragma).fetch_all(&mut *connection).await)?;
        let found = rows.into_iter().next().and_then(|row| row.cells.into_iter().next());
        if found.as_ref() != Some(&wanted) {
            return Err(Error::Unsafe(format!("`{pragma}` is {found:?} instead of {wanted:?}")));
        }
    }
    Ok(())
}

fn arguments(sql: &str, values: Vec<Value>) -> Result<SqliteArguments, Error> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        let added = match value {
            Value::Integer(value) => arguments.add(value),
            Value::Boolean(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value),
            Value::Bytes(value) => arguments.add(value),
            Value::Texts(_) | Value::Integers(_) | Value::Byteses(_) => Err("SQLite knows no arrays".into()),
        };
        added.map_err(|error| Error::statement(sql, sqlx::Error::Encode(error)))?;
    }
    Ok(arguments)
}

fn read(sql: &str, rows: Result<Vec<SqliteRow>, sqlx::Error>) -> Result<Vec<Row>, Error> {
    let rows = rows.map_err(|error| Error::statement(sql, error))?;
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let columns: Arc<[String]> = first.columns().iter().map(|column| column.name().to_owned()).collect();
    rows.iter()
        .map(|row| {
            let cells = (0..columns.len()).map(|at| cell(row, at)).collect::<Result<_, _>>()?;
            Ok(Row { columns: columns.clone(), cells })
        })
        .collect::<Result<_, sqlx::Error>>()
        .map_err(|error| Error::statement(sql, error))
}

fn cell(row: &SqliteRow, at: usize) -> Result<Cell, sqlx::Error> {
    let raw = row.try_get_raw(at)?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    let info = raw.type_info().into_owned();
    Ok(match info.name() {
        "INTEGER" | "BOOLEAN" => Cell::Integer(row.try_get_unchecked::<i64, _>(at)?),
        "BLOB" => Cell::Bytes(row.try_get_unchecked::<Vec<u8>, _>(at)?),
        _ => Cell::Text(row.try_get_unchecked::<String, _>(at)?),
    })
}
