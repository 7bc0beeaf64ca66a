//! The PostgreSQL half. A service has a schema of its own, found through `search_path`.

use std::borrow::Cow;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Executor as _,
    Postgres, Row as _, TypeInfo as _, ValueRef as _,
};
use tracing::Instrument as _;

use crate::{Cell, Error, Reach, Row, Value};

/// Longer than any statement of ours takes, shorter than what holds back vacuum for long.
const STATEMENT_TIMEOUT: &str = "30s";
/// A transaction of ours never waits for anything but the database; one that idles has lost its process.
const IDLE_TIMEOUT: &str = "10s";
/// Shorter than the deadline of a call, so that the caller is told and does not hang.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was used this recently is believed to be alive; giving one back checks it, too.
const TRUSTED_IDLE: Duration = Duration::from_secs(2);
/// More than a service has statements, so that each is prepared once a connection.
const STATEMENTS_MAX: usize = 512;

#[derive(Debug, Clone)]
pub(crate) struct Pool(PgPool);

#[derive(Debug)]
pub(crate) struct Open(sqlx::Transaction<'static, Postgres>);

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
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options)
            .await
            .map_err(|error| Error::doing("connect to PostgreSQL", error))?;
        Ok(Self(pool))
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
            let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(&self.0).await;
            return read(&text, rows);
        };
        let pool = self.clone();
        // A task, because a caller that goes away during the `begin` would leave the connection inside a transaction.
        let task = async move {
            let mut open = pool.begin_with(Some(begin)).await?;
            // The connection ends the transaction on its way back to the pool, and nobody waits for it.
            open.fetch_all(sql, args).await
        };
        match tokio::spawn(task.in_current_span()).await {
            Ok(rows) => rows,
            Err(broken) => Err(Error::Aborted(broken.to_string())),
        }
    }

    /// Begins a transaction, and says in the same breath whose rows it reaches.
    pub(crate) async fn begin(&self, reach: &Reach) -> Result<Open, Error> {
        self.begin_with(reach.begin("begin")).await
    }

    async fn begin_with(&self, begin: Option<String>) -> Result<Open, Error> {
        let open = match begin {
            Some(begin) => self.0.begin_with(AssertSqlSafe(begin)).await,
            None => self.0.begin().await,
        };
        open.map(Open).map_err(|error| Error::doing("begin a transaction", error))
    }

    /// All connections, and those that nobody uses.
    pub(crate) fn connections(&self) -> (usize, usize) {
        (usize::try_from(self.0.size()).unwrap_or(usize::MAX), self.0.num_idle())
    }

    pub(crate) async fn close(&self) {
        self.0.close().await;
    }
}

// === impl Open ===

impl Open {
    pub(crate) async fn execute(&mut self, sql: Cow<'static, str>, args: Vec<Value>) -> Result<u64, Error> {
        let text = sql.clone();
        let arguments = arguments(&text, args)?;
        let done = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut *self.0).await;
        Ok(done.map_err(|error| Error::statement(&text, error))?.rows_affected())
    }

    pub(crate) async fn fetch_all(
        &mut self,
        sql: Cow<'static, str>,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let text = sql.clone();
        let arguments = arguments(&text, args)?;
        let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(&mut *self.0).await;
        read(&text, rows)
    }

    pub(crate) async fn script(&mut self, sql: &'static str) -> Result<(), Error> {
        let done = self.0.execute(sqlx::raw_sql(sql)).await;
        done.map(drop).map_err(|error| Error::statement(sql, error))
    }

    pub(crate) async fn commit(self) -> Result<(), Error> {
        self.0.commit().await.map_err(Error::committing)
    }

    pub(crate) async fn roll_back(self) -> Result<(), Error> {
        self.0.rollback().await.map_err(|error| Error::doing("roll a transaction back", error))
    }
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
