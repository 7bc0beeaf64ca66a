//! The connection that writes.
//!
//! A commit waits for the disk, which takes several times as long as what is committed. So transactions that are there at
//! the same time are committed together: each is a part of one that SQLite sees, and is answered when that one is on the disk.
//! A part behind another one stands behind a savepoint, so that it can be undone by itself. Nobody waits for a transaction
//! that may come, but for those whom nobody waits for: whoever finds nobody behind it commits for all.

use std::time::Duration;

use rand::Rng as _;
use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::refusal::{is_busy, refused};
use super::{BUSY_TIMEOUT, closed, statement};
use crate::Error;
use crate::afterwards::Afterwards;

/// Transactions that are committed together at most.
const TOGETHER_MAX: usize = 64;
/// Longest time between two tries to write while another process does.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Writer {
    /// None once it is closed.
    connection: Option<Connection>,
    /// How much the part that is under way has begun. Where its task died, the next one undoes it first.
    begun: Option<Begun>,
    /// There is a savepoint of a part that was done, which the next one releases.
    has_savepoint: bool,
    /// Those who have done their part and wait for the commit.
    done: Vec<Part>,
    /// Somebody will commit what waits for that, if nobody does before.
    lingers: bool,
}

/// What a part has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// All that SQLite sees.
    Transaction,
    /// A part behind others.
    Savepoint,
}

/// A transaction that waits for the commit.
#[derive(Debug)]
struct Part {
    told: oneshot::Sender<Result<(), String>>,
    afterwards: Afterwards,
}

impl Writer {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection: Some(connection),
            begun: None,
            has_savepoint: false,
            done: Vec::new(),
            lingers: false,
        }
    }

    pub(super) fn connection(&self) -> Result<&Connection, Error> {
        self.connection.as_ref().ok_or_else(closed)
    }

    /// Begins a part, where that has not been done.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        let is_inside = !self.connection()?.is_autocommit();
        match self.begun {
            Some(_) if is_inside => Ok(()),
            // What comes next would be committed by itself.
            Some(_) => Err(Error::Aborted("the database has undone it".to_owned())),
            None if is_inside => {
                let text = if self.has_savepoint { "release part; savepoint part" } else { "savepoint part" };
                self.has_savepoint = false;
                self.run(text).map_err(|error| Error::statement(text, refused(error)))?;
                self.begun = Some(Begun::Savepoint);
                Ok(())
            }
            None => {
                self.begin_immediate().await?;
                self.begun = Some(Begun::Transaction);
                Ok(())
            }
        }
    }

    /// Begins what SQLite sees. Only another process could be in the way.
    async fn begin_immediate(&mut self) -> Result<(), Error> {
        let text = "begin immediate";
        let until = Instant::now() + BUSY_TIMEOUT;
        loop {
            match self.run(text) {
                Err(error) if is_busy(&error) && Instant::now() < until => {}
                done => return done.map_err(|error| Error::statement(text, refused(error))),
            }
            let pause = BUSY_PAUSE.mul_f64(rand::rng().random_range(0.2..1.0));
            tokio::time::sleep(pause).await;
        }
    }

    fn run(&self, text: &str) -> rusqlite::Result<()> {
        let connection = self.connection.as_ref().ok_or(rusqlite::Error::InvalidQuery)?;
        statement::execute(connection, text, &[]).map(drop)
    }

    /// Whether something is to be committed.
    pub(super) fn has_begun(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.is_autocommit())
    }

    /// Undoes the part that is under way, if there is one. Where SQLite has undone everything, as it does when the disk is
    /// full, those who have done their part before are told.
    pub(super) fn undo(&mut self) -> rusqlite::Result<()> {
        let undoing = match self.begun.take() {
            None => return Ok(()),
            Some(Begun::Transaction) => "rollback",
            Some(Begun::Savepoint) => "rollback to part; release part",
        };
        let undone = self.run(undoing);
        if let Err(error) = &undone {
            // It fails if nothing is left to roll back, which is as good.
            drop(self.run("rollback"));
            self.has_savepoint = false;
            let said = error.to_string();
            self.tell(&Err(said));
        }
        undone
    }

    /// Has the part that is under way wait for the commit of another one, if it may. Otherwise its end is given back.
    pub(super) fn leave(&mut self, afterwards: Afterwards) -> Result<Waiting, Afterwards> {
        if self.done.len() + 1 >= TOGETHER_MAX {
            return Err(afterwards);
        }
        // Where nothing was done, what the part before has left is still to be released.
        if self.begun.take() == Some(Begun::Savepoint) {
            self.has_savepoint = true;
        }
        let (told, waiting) = oneshot::channel();
        self.done.push(Part { told, afterwards });
        Ok(waiting)
    }

    /// Commits all parts, tells those who have done theirs, and does what is to be done then while nobody else can commit.
    /// Where anything has begun it waits for the disk.
    pub(super) fn commit(&mut self, afterwards: Afterwards) -> rusqlite::Result<()> {
        let committed = if self.has_begun() { self.run("commit") } else { Ok(()) };
        (self.begun, self.has_savepoint) = (None, false);
        if committed.is_err() {
            drop(self.run("rollback"));
        }
        self.tell(&committed.as_ref().map(drop).map_err(ToString::to_string));
        if committed.is_ok() {
            afterwards.run();
        }
        committed
    }

    /// True for one who is to commit in a moment; the others need not.
    pub(super) const fn is_first_to_linger(&mut self) -> bool {
        !std::mem::replace(&mut self.lingers, true)
    }

    pub(super) const fn has_lingered(&mut self) {
        self.lingers = false;
    }

    /// Closes the file, with what waits for a commit committed.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        if self.has_begun() {
            drop(self.undo());
            // Those who wait are told of a failure.
            drop(self.commit(Afterwards::default()));
        }
        let Some(connection) = self.connection.take() else { return Ok(()) };
        connection.close().map_err(|(_, error)| Error::doing("close the file", refused(error)))
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

/// For word of the commit.
pub(super) type Waiting = oneshot::Receiver<Result<(), String>>;
