//! A transaction under way.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio::task::coop::consume_budget;

use super::refusal::refused;
use super::writer::Writer;
use super::{statement, waiting};
use crate::afterwards::Afterwards;
use crate::{Error, Row, Value};

/// A transaction under way, alone with the connection that writes. It is begun with its first statement.
#[derive(Debug)]
pub(crate) struct Open {
    /// None once it has ended.
    writer: Option<OwnedMutexGuard<Writer>>,
    behind: Arc<AtomicUsize>,
    /// Its commit may wait for others.
    lingers: bool,
}

/// How long a commit that may wait for others does so: much shorter than anybody would notice, and several times as long as
/// a commit takes.
const LINGER: Duration = Duration::from_millis(10);

impl Open {
    pub(super) fn new(mut writer: OwnedMutexGuard<Writer>, behind: Arc<AtomicUsize>) -> Self {
        // Of a part whose task died. Where that fails, nothing is left of what was begun, and it is begun anew.
        drop(writer.undo());
        Self { writer: Some(writer), behind, lingers: false }
    }

    /// Has the commit wait a moment for others.
    pub(crate) const fn linger(&mut self) {
        self.lingers = true;
    }

    pub(crate) async fn execute(&mut self, sql: Cow<'static, str>, args: Vec<Value>) -> Result<u64, Error> {
        let connection = self.begun().await?.connection()?;
        let written = statement::execute(connection, &sql, &args);
        written.map_err(|error| Error::statement(&sql, refused(error)))
    }

    pub(crate) async fn fetch_all(
        &mut self,
        sql: Cow<'static, str>,
        args: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let connection = self.begun().await?.connection()?;
        let rows = statement::fetch_all(connection, &sql, &args);
        rows.map_err(|error| Error::statement(&sql, refused(error)))
    }

    pub(crate) async fn script(&mut self, sql: &'static str) -> Result<(), Error> {
        let connection = self.begun().await?.connection()?;
        connection.execute_batch(sql).map_err(|error| Error::statement(sql, refused(error)))
    }

    /// Commits, by itself or with others.
    pub(crate) async fn commit(mut self, mut afterwards: Afterwards) -> Result<(), Error> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let is_followed = self.behind.load(Ordering::SeqCst) > 0;
        if writer.has_begun() && (is_followed || self.lingers) {
            match writer.leave(afterwards) {
                Ok(committed) => {
                    if !is_followed {
                        commit_soon(&mut writer);
                    }
                    drop(writer);
                    return match committed.await {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(said)) => Err(Error::committing(sqlx::Error::Protocol(said))),
                        Err(_) => Err(Error::committing(sqlx::Error::WorkerCrashed)),
                    };
                }
                Err(given_back) => afterwards = given_back,
            }
        }
        let committed = if writer.has_begun() {
            let committing = waiting(move || writer.commit(afterwards));
            committing.await.map_err(|_| Error::committing(sqlx::Error::WorkerCrashed))?
        } else {
            writer.commit(afterwards)
        };
        committed.map_err(|error| Error::committing(refused(error)))
    }

    pub(crate) async fn roll_back(mut self) -> Result<(), Error> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let undone = writer.undo().map_err(|error| Error::doing("roll a transaction back", refused(error)));
        // What was refused may have been refused for what the others have written: whoever looks again must find it, and not
        // be refused until nobody is behind any more. Those who have done their part learn what becomes of it themselves.
        if writer.has_begun() {
            drop(waiting(move || drop(writer.commit(Afterwards::default()))).await);
        }
        undone
    }

    async fn begun(&mut self) -> Result<&Writer, Error> {
        let ended = || Error::doing("use an ended transaction", sqlx::Error::PoolClosed);
        let writer = self.writer.as_mut().ok_or_else(ended)?;
        consume_budget().await;
        writer.begin().await?;
        Ok(writer)
    }
}

/// Commits what was left, unless somebody who comes meanwhile does.
fn commit_soon(writer: &mut OwnedMutexGuard<Writer>) {
    if !writer.is_first_to_linger() {
        return;
    }
    let mutex = OwnedMutexGuard::mutex(writer).clone();
    tokio::spawn(async move {
        tokio::time::sleep(LINGER).await;
        let mut writer = mutex.lock_owned().await;
        writer.has_lingered();
        // What a task that died has begun is undone, and no part of it.
        drop(writer.undo());
        if writer.has_begun() {
            drop(waiting(move || drop(writer.commit(Afterwards::default()))).await);
        }
    });
}

/// Its task died. What it has written is undone, and those who wait for the commit must not wait for somebody who may never
/// come.
impl Drop for Open {
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        drop(writer.undo());
        if !writer.has_begun() {
            return;
        }
        // Where there is no runtime any more the process ends.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(writer.commit(Afterwards::default())));
        }
    }
}
