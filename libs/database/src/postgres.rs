//! The PostgreSQL half. A service has a schema of its own, found through `search_path`.

use std::borrow::Cow;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use phasegate_telemetry::Outage;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Executor as _,
    Row as _, TypeInfo as _, ValueRef as _,
};
use tracing::Instrument as _;

use crate::held::Held;
use crate::{Cell, Error, Reach, Row, Value};

/// Longer than any statement of ours takes, and as long as anybody waits for a call.
const STATEMENT_TIMEOUT: &str = "10s";
/// A server that has not answered by then has not heard the question, or we do not hear its answer.
const PATIENCE: Duration = Duration::from_secs(12);
/// For what a connection is asked before it is used.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// A transaction of ours never waits for anything but the database; one that idles has lost its process.
const IDLE_TIMEOUT: &str = "10s";
/// Shorter than the deadline of a call, so that the caller is told and does not hang.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was used this recently is believed to be alive; giving one back checks it, too.
const TRUSTED_IDLE: Duration = Duration::from_secs(2);
/// More than a service has statements, so that each is prepared once a connection.
const STATEMENTS_MAX: usize = 512;

#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pool: PgPool,
    /// Whether the server answers, for the log: whoever asks it need not say so.
    outage: Arc<Outage>,
}

#[derive(Debug)]
pub(crate) struct Open {
    held: Held,
    patience: Duration,
    outage: Arc<Outage>,
}

// === impl Pool ===

impl Pool {
    pub(crate) async fn open(url: &str, schema: &str, max_connections: u32) -> Result<Self, Error> {
        check_schema(schema)?;
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| Error::Settings(format!("the database URL cannot be read: {error}")))?
            .application_name(&format!("phasegate/{schema}"))
            .statement_cache_capacity(STATEMENTS_MAX)
            .options([
                ("search_path", schema),
                ("statement_timeout", STATEMENT_TIMEOUT),
                ("idle_in_transaction_session_timeout", IDLE_TIMEOUT),
            ])
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(max_connections.max(2))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > TRUSTED_IDLE {
                        let pinged = tokio::time::timeout(PING_TIMEOUT, connection.ping()).await;
                        pinged.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
                    }
                    Ok(true)
                })
            })
            .connect_with(options)
            .await
            .map_err(|error| Error::doing("connect to PostgreSQL", error))?;
        let outage = Arc::new(Outage::new(format!("the database with schema {schema}"), "postgresql"));
        Ok(Self { pool, outage })
    }

    pub(crate) async fn fetch_all(
        &self,
        reach: Reach,
        sql: Cow<'static, str>,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let Some(begin) = reach.begin("begin read only") else {
            let text = sql.clone();
            let arguments = arguments(&text, args)?;
            let rows = async {
                let mut held = Held::acquire(&self.pool).await?;
                let asked = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(held.connection()?);
                let rows = tokio::time::timeout(PATIENCE, asked).await;
                held.heard(rows)
            };
            // Boxed, because whoever asks holds it, and holds many of them.
            return noted(&self.outage, read(&text, Box::pin(rows).await));
        };
        let pool = self.clone();
        // A task, because a caller that goes away during the `begin` would leave the connection inside a transaction.
        let task = async move {
            let mut open = pool.begin_with(begin).await?;
            // The connection ends the transaction on its way back to the pool, and nobody waits for it.
            noted(&pool.outage, open.fetch_all(sql, args).await)
        };
        match tokio::spawn(task.in_current_span()).await {
            Ok(rows) => rows,
            Err(broken) => Err(Error::Aborted(broken.to_string())),
        }
    }

    /// Begins a transaction, and says in the same breath whose rows it reaches.
    pub(crate) async fn begin(&self, reach: &Reach) -> Result<Open, Error> {
        self.begin_with(reach.begin("begin").unwrap_or_else(|| "begin".to_owned())).await
    }

    async fn begin_with(&self, statement: String) -> Result<Open, Error> {
        let begun = async {
            let mut held = Held::acquire(&self.pool).await?;
            held.is_open = true;
            let statement = sqlx::raw_sql(AssertSqlSafe(statement));
            let answer = tokio::time::timeout(PATIENCE, held.connection()?.execute(statement)).await;
            held.heard(answer)?;
            Ok(held)
        };
        let begun = begun.await.map_err(|error| Error::doing("begin a transaction", error));
        let outage = Arc::clone(&self.outage);
        noted(&outage, begun).map(|held| Open { held, patience: PATIENCE, outage })
    }

    /// All connections, and those that nobody uses.
    pub(crate) fn connections(&self) -> (usize, usize) {
        (usize::try_from(self.pool.size()).unwrap_or(usize::MAX), self.pool.num_idle())
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

// === impl Open ===

impl Open {
    pub(crate) async fn execute(&mut self, sql: Cow<'static, str>, args: Vec<Value>) -> Result<u64, Error> {
        let text = sql.clone();
        let arguments = arguments(&text, args)?;
        let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
        let done = self.ask(async |connection| query.execute(connection).await).await;
        Ok(done.map_err(|error| Error::statement(&text, error))?.rows_affected())
    }

    pub(crate) async fn fetch_all(
        &mut self,
        sql: Cow<'static, str>,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let text = sql.clone();
        let arguments = arguments(&text, args)?;
        let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
        let rows = self.ask(async |connection| query.fetch_all(connection).await).await;
        read(&text, rows)
    }

    pub(crate) async fn script(&mut self, sql: &'static str) -> Result<(), Error> {
        let done = self.ask(async |connection| connection.execute(sqlx::raw_sql(sql)).await).await;
        done.map(drop).map_err(|error| Error::statement(sql, error))
    }

    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        let done = self.ask(async |connection| connection.execute("commit").await).await;
        self.held.is_open = done.is_err();
        noted(&self.outage, done.map(drop).map_err(Error::committing))
    }

    pub(crate) async fn roll_back(mut self) -> Result<(), Error> {
        let done = self.ask(async |connection| connection.execute("rollback").await).await;
        self.held.is_open = done.is_err();
        done.map(drop).map_err(|error| Error::doing("roll a transaction back", error))
    }

    /// How long each answer is waited for.
    pub(crate) fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Asks the server, and waits for its answer in bounded time.
    async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let answer = tokio::time::timeout(self.patience, question(self.held.connection()?)).await;
        self.held.heard(answer)
    }
}

/// Notes whether the server answered.
fn noted<T>(outage: &Outage, outcome: Result<T, Error>) -> Result<T, Error> {
    match &outcome {
        Ok(_) => outage.passed(),
        Err(error) if error.is_away() => outage.failed(error),
        Err(_) => {}
    }
    outcome
}

/// A schema is written into statements and connection options, so it may hold nothing that needs quoting.
fn check_schema(schema: &str) -> Result<(), Error> {
    let starts = schema.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    let plain = schema.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if starts && plain && schema.len() <= 63 && !schema.starts_with("pg_") {
        return Ok(());
    }
    Err(Error::Settings(format!(
        "schema {schema:?} must be 1 to 63 lower-case letters, digits and underscores, begin with no digit, and not \
         with pg_"
    )))
}

fn arguments(sql: &str, values: Vec<Value>) -> Result<PgArguments, Error> {
    let mut arguments = PgArguments::default();
    for value in values {
        let added = match value {
            Value::Integer(value) => arguments.add(value),
            Value::Boolean(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value),
            Value::Bytes(value) => arguments.add(value),
            Value::Texts(values) => arguments.add(values),
            Value::Integers(values) => arguments.add(values),
            Value::Byteses(values) => arguments.add(values),
        };
        added.map_err(|error| Error::statement(sql, sqlx::Error::Encode(error)))?;
    }
    Ok(arguments)
}

fn read(sql: &str, rows: Result<Vec<PgRow>, sqlx::Error>) -> Result<Vec<Row>, Error> {
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

fn cell(row: &PgRow, at: usize) -> Result<Cell, sqlx::Error> {
    let raw = row.try_get_raw(at)?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    let info = raw.type_info();
    Ok(match info.name() {
        "INT8" => Cell::Integer(row.try_get::<i64, _>(at)?),
        "INT4" => Cell::Integer(row.try_get::<i32, _>(at)?.into()),
        "INT2" => Cell::Integer(row.try_get::<i16, _>(at)?.into()),
        "BOOL" => Cell::Boolean(row.try_get::<bool, _>(at)?),
        "BYTEA" => Cell::Bytes(row.try_get::<Vec<u8>, _>(at)?),
        // Everything else is asked for as text, which fails with the name of the type where it is none.
        _ => Cell::Text(row.try_get::<String, _>(at)?),
    })
}

#[cfg(test)]
mod tests {
    use super::check_schema;

    #[test]
    fn a_schema_needs_no_quoting() {
        for good in ["instance", "_x", "t_12"] {
            assert!(check_schema(good).is_ok(), "{good}");
        }
        for bad in ["", "Instance", "1a", "a b", "a-b", "a;drop", "a\"", "pg_temp", &"a".repeat(64)] {
            assert!(check_schema(bad).is_err(), "{bad}");
        }
    }
}
