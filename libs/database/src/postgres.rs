//! The PostgreSQL half. A service has a schema of its own, found through `search_path`.

use std::borrow::Cow;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use phasegate_telemetry::Outage;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Executor as _, Row as _, TypeInfo as _,
    ValueRef as _,
};
use tracing::Instrument as _;

use crate::session::{Session, Sessions, Told};
use crate::{Cell, Error, Reach, Row, Value};

/// Longer than any statement of ours takes, and as long as anybody waits for a call.
const STATEMENT_TIMEOUT: &str = "10s";
/// A server that has not answered by then has not heard the question, or we do not hear its answer.
const PATIENCE: Duration = Duration::from_secs(12);
/// A transaction of ours never waits for anything but the database; one that idles has lost its process.
const IDLE_TIMEOUT: &str = "10s";
/// Begins a transaction, whatever a statement by itself may do on its connection.
pub(crate) const BEGIN: &str = "begin read write";
/// More than a service has statements, so that each is prepared once a connection.
const STATEMENTS_MAX: usize = 512;

#[derive(Debug, Clone)]
pub(crate) struct Pool {
    sessions: Sessions,
    /// Whether the server answers, for the log: whoever asks it need not say so.
    outage: Arc<Outage>,
}

#[derive(Debug)]
pub(crate) struct Open {
    session: Session,
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
                // Statements are short and repeated. Compiling one takes longer than a thousand of its runs.
                ("jit", "off"),
                // A plan that was made while a table was empty reads all of it, and stays when it has grown. Every statement
                // of ours that is repeated has an index.
                ("enable_seqscan", "off"),
                // Of what is left, the way that reads the fewest rows: all is in memory, where a row costs what a page does, and
                // a table that nobody has counted yet is never as small as it seems.
                ("cpu_tuple_cost", "1"),
                ("cpu_index_tuple_cost", "1"),
                // For the same reason a plan for these values is none that is better, and planning anew costs more than most
                // statements of ours.
                ("plan_cache_mode", "force_generic_plan"),
                // Nor is there a statement of ours that reads enough rows for workers to be worth starting.
                ("max_parallel_workers_per_gather", "0"),
            ])
            .disable_statement_logging();
        let sessions = Sessions::connect(options, max_connections)
            .await
            .map_err(|error| Error::doing("connect to PostgreSQL", error))?;
        let outage = Arc::new(Outage::new(format!("the database with schema {schema}"), "postgresql"));
        Ok(Self { sessions, outage })
    }

    /// Executes a statement by itself, and returns its rows. Where it writes and its answer is lost, nobody knows whether it
    /// took effect.
    pub(crate) async fn fetch_all(
        &self,
        reach: Reach,
        sql: Cow<'static, str>,
        args: Vec<Value>,
        writes: bool,
    ) -> Result<Vec<Row>, Error> {
        let pool = self.clone();
        // A task, because the connection of a caller that goes away in the middle of a question cannot be used again.
        let task = async move {
            let text = sql.clone();
            let arguments = arguments(&text, args)?;
            let session = async {
                let told = Told { reach, is_read_only: !writes };
                let mut session = pool.sessions.acquire(&told).await?;
                session.tell(&told, PATIENCE).await?;
                Ok(session)
            };
            let rows = match session.await {
                Ok(mut session) => {
                    let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
                    let rows =
                        session.ask(PATIENCE, async |connection| query.fetch_all(connection).await).await;
                    match rows {
                        Err(error) if writes && error.as_database_error().is_none() => {
                            Err(Error::committing(error))
                        }
                        rows => read(&text, rows),
                    }
                }
                Err(error) => read(&text, Err(error)),
            };
            noted(&pool.outage, rows)
        };
        match tokio::spawn(task.in_current_span()).await {
            Ok(rows) => rows,
            Err(broken) => Err(Error::Aborted(broken.to_string())),
        }
    }

    /// Begins a transaction that reaches these rows.
    pub(crate) async fn begin(&self, reach: &Reach) -> Result<Open, Error> {
        let begun = async {
            let told = Told { reach: reach.clone(), is_read_only: false };
            let mut session = self.sessions.acquire(&told).await?;
            // Said in the same breath where it is not known: then it ends with the transaction.
            let begin = if session.reaches(reach) { BEGIN.to_owned() } else { reach.begin() };
            let statement = sqlx::raw_sql(AssertSqlSafe(begin));
            session.ask(PATIENCE, async |connection| connection.execute(statement).await).await?;
            session.keep(true);
            Ok(session)
        };
        let begun = begun.await.map_err(|error| Error::doing("begin a transaction", error));
        let outage = Arc::clone(&self.outage);
        noted(&outage, begun).map(|session| Open { session, patience: PATIENCE, outage })
    }

    /// All connections, and those that nobody uses.
    pub(crate) fn connections(&self) -> (usize, usize) {
        self.sessions.connections()
    }

    pub(crate) async fn close(&self) {
        self.sessions.close().await;
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
        self.session.keep(done.is_err());
        noted(&self.outage, done.map(drop).map_err(Error::committing))
    }

    pub(crate) async fn roll_back(mut self) -> Result<(), Error> {
        let done = self.ask(async |connection| connection.execute("rollback").await).await;
        self.session.keep(done.is_err());
        done.map(drop).map_err(|error| Error::doing("roll a transaction back", error))
    }

    /// How long each answer is waited for.
    pub(crate) fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.session.ask(self.patience, question).await
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
