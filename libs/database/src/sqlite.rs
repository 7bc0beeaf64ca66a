//! The SQLite half: one connection that writes, and some that read.
//!
//! A statement is executed where it is asked for, on the thread that asks: most take some microseconds, and a way to another
//! thread and back takes several times as long. What may keep a thread waiting goes to one that may wait: a commit, which
//! waits for the disk, and a statement that reads for long.

mod open;
mod readers;
mod refusal;
mod statement;
mod writer;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Mutex;
use tokio::task::coop::consume_budget;

pub(crate) use self::open::Open;
use self::readers::Readers;
use self::refusal::{is_busy, refused};
use self::writer::Writer;
use crate::{Cell, Error, Row, Value};

/// Only another process could keep us waiting: writers of this one queue for the one connection.
/// What is tried again has to fit into the time of a call, too.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a busy file is tried again while it is opened.
const OPENINGS: u32 = 100;
/// The time between two tries.
const OPENING_PAUSE: Duration = Duration::from_millis(30);
/// Pages of the log that are moved into the file in one go, 16 MiB: the longer it is, the more often a page has been written
/// again meanwhile, and is moved once.
const LOG_PAGES: u32 = 4_096;
/// More than a service has statements, so that each is prepared once a connection.
const STATEMENTS_MAX: usize = 512;

#[derive(Debug, Clone)]
pub(crate) struct Pool {
    writer: Arc<Mutex<Writer>>,
    /// Transactions that wait for their turn.
    behind: Arc<AtomicUsize>,
    readers: Arc<Readers>,
}

/// One that waits for its turn, for as long as this lives.
struct Behind(Arc<AtomicUsize>);

// === impl Pool ===

impl Pool {
    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        let (writer, readers) = waiting(move || {
            let opening = |error| Error::doing(&format!("open {}", path.display()), refused(error));
            let writer = patiently(|| writer(&path)).map_err(opening)?;
            check(&writer)?;
            // What keeps it waiting from now on is waited for elsewhere.
            writer.busy_timeout(Duration::ZERO).map_err(opening)?;
            let readers = Readers::open(|| reader(&path)).map_err(opening)?;
            Ok((writer, readers))
        })
        .await??;
        Ok(Self {
            writer: Arc::new(Mutex::new(Writer::new(writer))),
            behind: Arc::default(),
            readers: Arc::new(readers),
        })
    }

    pub(crate) async fn fetch_all(
        &self,
        sql: Cow<'static, str>,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        // Whoever reads one thing after the other lets other tasks have their turn now and then.
        consume_budget().await;
        match self.readers.fetch_briefly(&sql, &args) {
            Ok(Some(rows)) => Ok(rows),
            Ok(None) => {
                let readers = self.readers.clone();
                waiting(move || {
                    let rows = readers.fetch_at_length(&sql, &args);
                    rows.map_err(|error| Error::statement(&sql, refused(error)))?.ok_or_else(closed)
                })
                .await?
            }
            Err(error) => Err(Error::statement(&sql, refused(error))),
        }
    }

    pub(crate) async fn begin(&self) -> Open {
        let behind = Behind::new(&self.behind);
        let writer = self.writer.clone().lock_owned().await;
        drop(behind);
        Open::new(writer, self.behind.clone())
    }

    /// All connections, and those that nobody uses.
    pub(crate) fn connections(&self) -> (usize, usize) {
        let (readers, idle) = self.readers.count();
        (readers + 1, idle + usize::from(self.writer.try_lock().is_ok()))
    }

    pub(crate) async fn close(&self) {
        let mut writer = self.writer.clone().lock_owned().await;
        let readers = self.readers.clone();
        // The last one moves what is in the log into the file.
        let closing = waiting(move || {
            readers.close();
            writer.close()
        });
        if let Err(error) = closing.await.and_then(|closed| closed) {
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

/// Does something on a thread that may wait.
async fn waiting<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Aborted(error.to_string()))
}

fn writer(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = connect(path, flags)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    Ok(connection)
}

fn reader(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    // Each is used by one thread at a time.
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // What would undo a part goes to memory and not to a file of its own.
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

/// Opens the file. While another one turns a fresh file into one with a write-ahead log, SQLite answers "busy" at once,
/// whatever time-out is set.
fn patiently(open: impl Fn() -> rusqlite::Result<Connection>) -> rusqlite::Result<Connection> {
    for _ in 0..OPENINGS {
        match open() {
            Err(error) if is_busy(&error) => std::thread::sleep(OPENING_PAUSE),
            done => return done,
        }
    }
    open()
}

/// A setting that the file or the platform does not take is answered silently with another one, so what is in force
/// is looked at.
fn check(connection: &Connection) -> Result<(), Error> {
    for (pragma, wanted) in [
        ("pragma journal_mode", Cell::Text("wal".to_owned())),
        ("pragma synchronous", Cell::Integer(2)),
        ("pragma foreign_keys", Cell::Integer(1)),
    ] {
        let rows = statement::fetch_all(connection, pragma, &[])
            .map_err(|error| Error::statement(pragma, refused(error)))?;
        let found = rows.into_iter().next().and_then(|row| row.cells.into_iter().next());
        if found.as_ref() != Some(&wanted) {
            return Err(Error::Unsafe(format!("`{pragma}` is {found:?} instead of {wanted:?}")));
        }
    }
    Ok(())
}

fn closed() -> Error {
    Error::doing("use a closed database", sqlx::Error::PoolClosed)
}
