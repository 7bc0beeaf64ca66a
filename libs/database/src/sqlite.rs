//! The SQLite half: one connection that writes, four that read.
//!
//! A commit waits for the disk, which takes several times as long as what is committed. So transactions that are there at
//! the same time are committed together: each is a savepoint within one that SQLite sees, and is answered when that one is
//! on the disk. Nobody waits for a transaction that may come: whoever finds nobody behind it commits for all.
//!
//! The connection has a thread of its own, and the way there and back costs more than most statements. So what nobody waits
//! for goes there with what comes next: the beginning, the savepoint, the release of the one before.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Either, Executor as _,
    Row as _, TypeInfo as _, ValueRef as _,
};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use crate::afterwards::Afterwards;
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
/// Statements that go with the next one at most: each combination is a text of its own, which is prepared and kept.
const WAITING_MAX: usize = 16;
/// Transactions that are committed together at most.
const TOGETHER_MAX: usize = 64;

#[derive(Debug, Clone)]
pub(crate) struct Pool {
    writer: Arc<Mutex<Writer>>,
    /// Transactions that wait for their turn.
    behind: Arc<AtomicUsize>,
    readers: SqlitePool,
}

/// The connection that writes.
#[derive(Debug)]
struct Writer {
    /// None once it is closed.
    connection: Option<SqliteConnection>,
    /// What SQLite sees was begun and not ended.
    is_begun: bool,
    /// The savepoint of a part that is not done. Where its task died, the next one rolls it back first.
    open: Option<Savepoint>,
    /// The savepoint of the part that was done last, which the next one releases.
    kept: Option<Savepoint>,
    /// Those who have done their part and wait for the commit.
    done: Vec<Part>,
}

/// A transaction that waits for the commit.
#[derive(Debug)]
struct Part {
    told: oneshot::Sender<Result<(), String>>,
    afterwards: Afterwards,
}

#[derive(Debug)]
pub(crate) struct Open {
    /// None once it has ended.
    writer: Option<OwnedMutexGuard<Writer>>,
    behind: Arc<AtomicUsize>,
    waiting: Waiting,
}

/// Statements that go with the next one.
#[derive(Debug, Default)]
struct Waiting {
    text: String,
    values: Vec<Value>,
    count: usize,
}

/// A statement behind those that go before it.
struct Joined {
    text: Cow<'static, str>,
    arguments: SqliteArguments,
    /// How many go before it.
    before: usize,
    /// Where in the text the part's own statements begin.
    own: usize,
}

/// What became of the statements of a text.
struct Done {
    /// How many succeeded.
    count: usize,
    /// Rows that the last of these wrote.
    last: u64,
    result: Result<(), sqlx::Error>,
}

/// A part's savepoint has another name than that of the part before it. So what undoes a part whose savepoint was never
/// made, because its task died on the way, finds nothing to undo rather than the part before, which somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Savepoint {
    One,
    Two,
}

/// One that waits for its turn, for as long as this lives.
struct Behind(Arc<AtomicUsize>);

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
        let writer = Writer {
            connection: Some(connection),
            is_begun: false,
            open: None,
            kept: None,
            done: Vec::new(),
        };
        Ok(Self { writer: Arc::new(Mutex::new(writer)), behind: Arc::default(), readers })
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

    pub(crate) async fn begin(&self) -> Open {
        let behind = Behind::new(&self.behind);
        let mut writer = self.writer.clone().lock_owned().await;
        drop(behind);
        // Of a part whose task died. Where that fails, nothing is left of what was begun, and it is begun anew.
        drop(writer.undo().await);
        Open { writer: Some(writer), behind: self.behind.clone(), waiting: Waiting::default() }
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

// === impl Behind ===

impl Behind {
    fn new(behind: &Arc<AtomicUsize>) -> Self {
        behind.fetch_add(1, Ordering::SeqCst);
        Self(behind.clone())
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Writer ===

impl Writer {
    fn connection(&mut self) -> Result<&mut SqliteConnection, Error> {
        self.connection.as_mut().ok_or_else(|| Error::doing("use a closed database", sqlx::Error::PoolClosed))
    }

    async fn run(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        let connection = self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        connection.execute(statement).await.map(drop)
    }

    /// What goes before the first statement of a part, and how many statements that is.
    fn opening(&mut self) -> (&'static str, usize) {
        let is_begun = std::mem::replace(&mut self.is_begun, true);
        let (text, count, savepoint) = match self.kept.take() {
            _ if !is_begun => ("begin immediate; savepoint one; ", 2, Savepoint::One),
            None => ("savepoint one; ", 1, Savepoint::One),
            Some(Savepoint::One) => ("release one; savepoint two; ", 2, Savepoint::Two),
            Some(Savepoint::Two) => ("release two; savepoint one; ", 2, Savepoint::One),
        };
        self.open = Some(savepoint);
        (text, count)
    }

    /// Undoes the last part, if anything was done. Where SQLite has undone everything, as it does when the disk is full,
    /// those who have done their part before are told.
    async fn undo(&mut self) -> Result<(), sqlx::Error> {
        let undoing = match self.open.take() {
            None => return Ok(()),
            Some(Savepoint::One) => "rollback to one; release one",
            Some(Savepoint::Two) => "rollback to two; release two",
        };
        let undone = self.run(undoing).await;
        if let Err(error) = &undone {
            // It fails if nothing is left to roll back, which is as good.
            drop(self.run("rollback").await);
            self.is_begun = false;
            self.kept = None;
            self.tell(&Err(error.to_string()));
        }
        undone
    }

    /// Ends what SQLite sees, and tells all who have done their part.
    async fn end(&mut self, how: &'static str) -> Result<(), sqlx::Error> {
        if !std::mem::replace(&mut self.is_begun, false) {
            return Ok(());
        }
        self.kept = None;
        let ended = self.run(how).await;
        if ended.is_err() {
            drop(self.run("rollback").await);
        }
        self.tell(&ended.as_ref().map(drop).map_err(ToString::to_string));
        ended
    }

    fn tell(&mut self, outcome: &Result<(), String>) {
        for one in self.done.drain(..) {
            if outcome.is_ok() {
                one.afterwards.run();
            }
            // Whoever waited may have died.
            let _ = one.told.send(outcome.clone());
        }
    }
}

// === impl Open ===

impl Open {
    pub(crate) async fn execute(&mut self, sql: Cow<'static, str>, args: Vec<Value>) -> Result<u64, Error> {
        let Joined { text, arguments, own, .. } = self.joined(sql, args)?;
        let done = steps(self.connection()?, &text, arguments).await;
        done.result.map_err(|error| Error::statement(text.get(own..).unwrap_or_default(), error))?;
        // Those that went along come first.
        Ok(done.last)
    }

    pub(crate) async fn fetch_all(
        &mut self,
        sql: Cow<'static, str>,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let Joined { text, arguments, own, .. } = self.joined(sql, args)?;
        let query = sqlx::query_with(AssertSqlSafe(text.clone()), arguments);
        let rows = query.fetch_all(self.connection()?).await;
        read(text.get(own..).unwrap_or_default(), rows)
    }

    /// Executes a statement with the next one.
    pub(crate) async fn put(&mut self, sql: Cow<'static, str>, args: Vec<Value>) -> Result<(), Error> {
        self.waiting.add(&sql, args);
        if self.waiting.count == WAITING_MAX { self.flush().await } else { Ok(()) }
    }

    pub(crate) async fn script(&mut self, sql: &'static str) -> Result<(), Error> {
        self.flush().await?;
        let Joined { text, .. } = self.joined(Cow::Borrowed(sql), Vec::new())?;
        let done = self.connection()?.execute(sqlx::raw_sql(AssertSqlSafe(text))).await;
        done.map(drop).map_err(|error| Error::statement(sql, error))
    }

    /// Executes what waits.
    async fn flush(&mut self) -> Result<(), Error> {
        if self.waiting.count == 0 {
            return Ok(());
        }
        let Waiting { text, values, .. } = std::mem::take(&mut self.waiting);
        self.execute(text.into(), values).await.map(drop)
    }

    /// A statement behind what waits, and behind the savepoint where it is the first one.
    fn joined(&mut self, sql: Cow<'static, str>, args: Vec<Value>) -> Result<Joined, Error> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let (mut text, values, mut before) = if waiting.count == 0 {
            (sql, args, 0)
        } else {
            let before = waiting.count;
            waiting.add(&sql, args);
            (waiting.text.into(), waiting.values, before)
        };
        let arguments = arguments(&text, values)?;
        let writer = self.writer.as_mut().ok_or_else(ended)?;
        let mut own = 0;
        if writer.open.is_none() {
            let (opening, count) = writer.opening();
            own = opening.len();
            text = format!("{opening}{text}").into();
            before += count;
        }
        Ok(Joined { text, arguments, before, own })
    }

    /// Commits, and does what is to be done then while nobody else can commit.
    pub(crate) async fn commit(mut self, afterwards: Afterwards) -> Result<(), Error> {
        let Some(writer) = &self.writer else { return Ok(()) };
        if self.behind.load(Ordering::SeqCst) == 0 || writer.done.len() + 1 >= TOGETHER_MAX {
            return self.commit_all(afterwards).await;
        }
        let flushed = self.flush().await;
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        if let Err(error) = flushed {
            drop(writer.undo().await);
            drop(writer.end("commit").await);
            return Err(error);
        }
        // Where nothing was done, what the part before has left is still to be released.
        if let Some(savepoint) = writer.open.take() {
            writer.kept = Some(savepoint);
        }
        let (told, committed) = oneshot::channel();
        writer.done.push(Part { told, afterwards });
        drop(writer);
        match committed.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(said)) => Err(Error::committing(sqlx::Error::Protocol(said))),
            Err(_) => Err(Error::committing(sqlx::Error::WorkerCrashed)),
        }
    }

    /// Executes what waits and commits all parts, on one way.
    async fn commit_all(mut self, afterwards: Afterwards) -> Result<(), Error> {
        if self.waiting.count == 0 {
            let Some(mut writer) = self.writer.take() else { return Ok(()) };
            writer.open = None;
            writer.end("commit").await.map_err(Error::committing)?;
            afterwards.run();
            return Ok(());
        }
        let Joined { text, arguments, before, own } = self.joined(Cow::Borrowed("commit"), Vec::new())?;
        let done = steps(self.connection()?, &text, arguments).await;
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        match done.result {
            Ok(()) => {
                writer.open = None;
                writer.kept = None;
                writer.is_begun = false;
                writer.tell(&Ok(()));
                afterwards.run();
                Ok(())
            }
            // Of all that went along only the commit did not succeed.
            Err(error) if done.count == before => {
                drop(writer.run("rollback").await);
                writer.open = None;
                writer.kept = None;
                writer.is_begun = false;
                writer.tell(&Err(error.to_string()));
                Err(Error::committing(error))
            }
            Err(error) => {
                drop(writer.undo().await);
                drop(writer.end("commit").await);
                Err(Error::statement(text.get(own..).unwrap_or_default(), error))
            }
        }
    }

    pub(crate) async fn roll_back(mut self) -> Result<(), Error> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let undone = writer.undo().await.map_err(|error| Error::doing("roll a transaction back", error));
        // What was refused may have been refused for what the others have written: whoever looks again must find it, and not
        // be refused until nobody is behind any more. Those who have done their part learn what becomes of it themselves.
        drop(writer.end("commit").await);
        undone
    }

    fn connection(&mut self) -> Result<&mut SqliteConnection, Error> {
        self.writer.as_mut().ok_or_else(ended)?.connection()
    }
}

fn ended() -> Error {
    Error::doing("use an ended transaction", sqlx::Error::PoolClosed)
}

// === impl Waiting ===

impl Waiting {
    fn add(&mut self, sql: &str, args: Vec<Value>) {
        if self.count > 0 {
            self.text.push_str("; ");
        }
        number_from(&mut self.text, sql, self.values.len());
        self.values.extend(args);
        self.count += 1;
    }
}

/// Executes the statements of a text, one after the other.
async fn steps(connection: &mut SqliteConnection, text: &str, arguments: SqliteArguments) -> Done {
    let mut all = connection.fetch_many(sqlx::query_with(AssertSqlSafe(text.to_owned()), arguments));
    let mut done = Done { count: 0, last: 0, result: Ok(()) };
    loop {
        match all.try_next().await {
            Ok(Some(Either::Left(one))) => {
                done.count += 1;
                done.last = one.rows_affected();
            }
            Ok(Some(Either::Right(_))) => {}
            Ok(None) => return done,
            Err(error) => return Done { result: Err(error), ..done },
        }
    }
}

/// Adds a statement to a text, its placeholders numbered behind so many others.
fn number_from(text: &mut String, sql: &str, others: usize) {
    let mut parts = sql.split('$');
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = part.split_at(digits);
        text.push('$');
        match number.parse::<usize>() {
            Ok(number) => text.push_str(&(number + others).to_string()),
            // Not a placeholder.
            Err(_) => text.push_str(number),
        }
        text.push_str(rest);
    }
}

/// Its task died. What it has written is undone, and those who wait for the commit must not wait for somebody who may never
/// come.
impl Drop for Open {
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        // Where there is no runtime any more the process ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                drop(writer.undo().await);
                drop(writer.end("commit").await);
            });
        }
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

#[cfg(test)]
mod tests {
    use super::number_from;

    #[test]
    fn placeholders_are_numbered_behind_others() {
        let mut text = "insert $1; ".to_owned();
        number_from(&mut text, "update t set a = $1, b = '$.c', c = $12 where d = $2 and e = '$'", 3);
        assert_eq!(text, "insert $1; update t set a = $4, b = '$.c', c = $15 where d = $5 and e = '$'");
    }
}
