//! Connections that read.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::refusal::was_stopped;
use super::statement;
use crate::{Row, Value};

/// Connections for what is read at once; nobody has one for longer than a statement takes.
const BRIEF: usize = 4;
/// Connections for what takes long.
const LONG: usize = 2;
/// Instructions of SQLite between two looks at how long a statement takes.
const INSTRUCTIONS: i32 = 10_000;
/// Looks after which it takes long: some milliseconds.
const LOOKS_MAX: u32 = 10;

/// Connections that read. Empty once they are closed.
#[derive(Debug)]
pub(super) struct Readers {
    brief: Vec<Mutex<Option<Brief>>>,
    long: Vec<Mutex<Option<Connection>>>,
    next: AtomicUsize,
}

/// A connection whose statements are stopped when they take long.
#[derive(Debug)]
struct Brief {
    connection: Connection,
    looks: Arc<AtomicU32>,
}

impl Readers {
    pub(super) fn open(connect: impl Fn() -> rusqlite::Result<Connection>) -> rusqlite::Result<Self> {
        let brief = || Ok(Mutex::new(Some(Brief::new(connect()?)?)));
        let long = || Ok(Mutex::new(Some(connect()?)));
        Ok(Self {
            brief: (0..BRIEF).map(|_| brief()).collect::<rusqlite::Result<_>>()?,
            long: (0..LONG).map(|_| long()).collect::<rusqlite::Result<_>>()?,
            next: AtomicUsize::default(),
        })
    }

    /// Reads what a statement answers; none of it where that takes long.
    pub(super) fn fetch_briefly(&self, sql: &str, values: &[Value]) -> rusqlite::Result<Option<Vec<Row>>> {
        let reader = self.any(&self.brief);
        let Some(Brief { connection, looks }) = reader.as_ref().and_then(|reader| reader.as_ref()) else {
            // Closed, as whoever reads at length is told.
            return Ok(None);
        };
        looks.store(0, Ordering::Relaxed);
        match statement::fetch_all(connection, sql, values) {
            Err(error) if was_stopped(&error) => Ok(None),
            done => done.map(Some),
        }
    }

    /// The same, however long it takes. None once they are closed.
    pub(super) fn fetch_at_length(&self, sql: &str, values: &[Value]) -> rusqlite::Result<Option<Vec<Row>>> {
        let reader = self.any(&self.long);
        let connection = reader.as_ref().and_then(|reader| reader.as_ref());
        connection.map(|connection| statement::fetch_all(connection, sql, values)).transpose()
    }

    /// One that is free, or one that soon is.
    fn any<'a, T>(&self, all: &'a [Mutex<T>]) -> Option<MutexGuard<'a, T>> {
        let free = all.iter().find_map(|one| one.try_lock().ok());
        free.or_else(|| {
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % all.len().max(1);
            Some(all.get(turn)?.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }

    /// All of them, and those that nobody uses.
    pub(super) fn count(&self) -> (usize, usize) {
        let brief = self.brief.iter().filter(|one| one.try_lock().is_ok()).count();
        let long = self.long.iter().filter(|one| one.try_lock().is_ok()).count();
        (self.brief.len() + self.long.len(), brief + long)
    }

    pub(super) fn close(&self) {
        for one in &self.brief {
            drop(one.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        for one in &self.long {
            drop(one.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

impl Brief {
    fn new(connection: Connection) -> rusqlite::Result<Self> {
        let looks = Arc::new(AtomicU32::new(0));
        let counted = looks.clone();
        let is_long = move || counted.fetch_add(1, Ordering::Relaxed) >= LOOKS_MAX;
        connection.progress_handler(INSTRUCTIONS, Some(is_long))?;
        Ok(Self { connection, looks })
    }
}
