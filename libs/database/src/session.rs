//! Connections to a PostgreSQL server that remember whose rows they reach.
//!
//! The driver's own pool asks for a sign of life whenever a connection is given back, and knows nothing of tenants, so that
//! each read took four round trips: `begin` with the tenant, the question, `rollback`, and that sign. Here a connection is
//! told the tenant, and whether a statement by itself may write, and keeps that until it is wanted for something else, so
//! that a read takes one. Nobody gets a connection but by [`Sessions::acquire`], which is told what it is for and compares.
//!
//! Every answer is waited for in bounded time. The driver itself waits for ever where the server or something on the way to
//! it swallows an answer and keeps the connection open. A connection whose answer did not come, or that was given up in the
//! middle of a question, is closed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Reach;

/// For what a connection is asked before it is used.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Shorter than the deadline of a call, so that the caller is told and does not hang.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was used this recently is believed to be alive.
const TRUSTED_IDLE: Duration = Duration::from_secs(2);
/// What nobody has used for so long is closed.
const IDLE_MAX: Duration = Duration::from_mins(10);
/// What is older is not used again: a server's process grows with what it has seen.
const AGE_MAX: Duration = Duration::from_mins(30);
/// Between two tries to connect to a server that starts: the first, and the longest.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Has long values compressed in a tenth of the time, where the server knows how.
const COMPRESS: &str = "select set_config('default_toast_compression', 'lz4', false) from pg_settings
                         where name = 'default_toast_compression' and 'lz4' = any(enumvals)";

/// Connections, of which at most so many are open at a time. Copies share them.
#[derive(Debug, Clone)]
pub(crate) struct Sessions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: PgConnectOptions,
    places: Arc<Semaphore>,
    places_max: u32,
    /// Those that nobody uses; the one used last at the end.
    idle: Mutex<Vec<Open>>,
}

/// A connection, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    /// None once it is lost.
    open: Option<Open>,
    /// An answer is under way, or a transaction.
    is_busy: bool,
    _place: OwnedSemaphorePermit,
}

/// What a statement by itself does on a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Whose rows it reaches.
    pub(crate) reach: Reach,
    /// It may not write.
    pub(crate) is_read_only: bool,
}

#[derive(Debug)]
struct Open {
    connection: PgConnection,
    /// None where it was told nothing: the URL, the role or the server may say something to all connections.
    told: Option<Told>,
    born: Instant,
    used: Instant,
}

impl Sessions {
    /// Prepares connections, and makes the first one.
    pub(crate) async fn connect(
        options: PgConnectOptions,
        connections_max: u32,
    ) -> Result<Self, sqlx::Error> {
        let places_max = connections_max.max(2);
        let places = Arc::new(Semaphore::new(usize::try_from(places_max).unwrap_or(usize::MAX)));
        let sessions = Self(Arc::new(Shared { options, places, places_max, idle: Mutex::default() }));
        sessions.acquire(&Told::default()).await?;
        Ok(sessions)
    }

    /// A connection, one that was told the same where there is one; waits for it in bounded time.
    pub(crate) async fn acquire(&self, told: &Told) -> Result<Session, sqlx::Error> {
        let acquired = async {
            let place = self.0.places.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let open = match self.living(told).await {
                Some(open) => open,
                None => self.0.connect().await?,
            };
            Ok(Session { shared: self.0.clone(), open: Some(open), is_busy: false, _place: place })
        };
        let acquired = tokio::time::timeout(ACQUIRE_TIMEOUT, acquired).await;
        acquired.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// One that nobody uses, and that answers.
    async fn living(&self, told: &Told) -> Option<Open> {
        loop {
            let mut open = self.0.take(told)?;
            if open.used.elapsed() <= TRUSTED_IDLE {
                return Some(open);
            }
            let pinged = tokio::time::timeout(PING_TIMEOUT, open.connection.ping()).await;
            if matches!(pinged, Ok(Ok(()))) {
                return Some(open);
            }
        }
    }

    /// All connections, and those that nobody uses.
    pub(crate) fn connections(&self) -> (usize, usize) {
        let idle = self.0.idle().len();
        let places = usize::try_from(self.0.places_max).unwrap_or(usize::MAX);
        (places.saturating_sub(self.0.places.available_permits()) + idle, idle)
    }

    /// Closes all connections, once those in use are given back.
    pub(crate) async fn close(&self) {
        let all = self.0.places.acquire_many(self.0.places_max).await;
        self.0.places.close();
        drop(all);
        let idle = std::mem::take(&mut *self.0.idle());
        for open in idle {
            // The server notices without being told, too.
            let _ = tokio::time::timeout(PING_TIMEOUT, open.connection.close()).await;
        }
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Open>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one used last, of those that were told the same where there is any, or at least reach the same rows.
    fn take(&self, told: &Told) -> Option<Open> {
        let mut idle = self.idle();
        let same = idle.iter().rposition(|open| open.told.as_ref() == Some(told));
        let fits = same.or_else(|| idle.iter().rposition(|open| open.reaches(&told.reach)));
        match fits {
            Some(at) => Some(idle.remove(at)),
            None => idle.pop(),
        }
    }

    /// Connects, and tries again for as long as it is waited for where the server only starts.
    async fn connect(&self) -> Result<Open, sqlx::Error> {
        let (mut pause, pause_max) = RETRY_PAUSES;
        loop {
            match self.options.connect().await {
                Ok(mut connection) => {
                    connection.execute(sqlx::raw_sql(COMPRESS)).await?;
                    let now = Instant::now();
                    return Ok(Open { connection, told: None, born: now, used: now });
                }
                Err(error) if may_pass(&error) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(pause_max);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Nobody listens, or the server starts or has enough connections at this moment.
fn may_pass(error: &sqlx::Error) -> bool {
    if let sqlx::Error::Io(error) = error {
        return error.kind() == std::io::ErrorKind::ConnectionRefused;
    }
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_transient_in_connect_phase)
}

impl Open {
    fn reaches(&self, reach: &Reach) -> bool {
        self.told.as_ref().is_some_and(|told| told.reach == *reach)
    }
}

impl Session {
    /// Tells it what statements by themselves do from now on.
    pub(crate) async fn tell(&mut self, told: &Told, patience: Duration) -> Result<(), sqlx::Error> {
        if self.open.as_ref().is_some_and(|open| open.told.as_ref() == Some(told)) {
            return Ok(());
        }
        let mode = if told.is_read_only { "on" } else { "off" };
        let statement = format!("{}; set default_transaction_read_only = {mode}", told.reach.set());
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        self.ask(patience, async |connection| connection.execute(statement).await).await?;
        if let Some(open) = &mut self.open {
            open.told = Some(told.clone());
        }
        Ok(())
    }

    /// Whether it reaches these rows and no others, when nothing else is said.
    pub(crate) fn reaches(&self, reach: &Reach) -> bool {
        self.open.as_ref().is_some_and(|open| open.reaches(reach))
    }

    /// Asks the server, and waits so long for its answer. Without one, the connection is lost.
    pub(crate) async fn ask<T>(
        &mut self,
        patience: Duration,
        question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let Some(open) = &mut self.open else { return Err(silent()) };
        let was_busy = std::mem::replace(&mut self.is_busy, true);
        let answer = tokio::time::timeout(patience, question(&mut open.connection)).await;
        let answer = answer.unwrap_or_else(|_| Err(silent()));
        if answer.as_ref().is_err_and(is_broken) {
            self.open = None;
        }
        self.is_busy = was_busy;
        answer
    }

    /// Between the beginning of a transaction and its end it must not be given back.
    pub(crate) fn keep(&mut self, is_open: bool) {
        self.is_busy = is_open;
    }
}

/// Whoever gives up in the middle of an answer or a transaction leaves a connection that nobody can use.
impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        if self.is_busy || open.born.elapsed() > AGE_MAX || self.shared.places.is_closed() {
            return;
        }
        open.used = Instant::now();
        let mut idle = self.shared.idle();
        idle.push(open);
        // The one at the front has waited longest.
        if idle.first().is_some_and(|open| open.used.elapsed() > IDLE_MAX) {
            idle.remove(0);
        }
    }
}

/// After what a server answers in words the connection is as good as before, unless it says that it ends.
fn is_broken(error: &sqlx::Error) -> bool {
    if let Some(said) = error.as_database_error() {
        return said.code().is_some_and(|code| code.starts_with("57P"));
    }
    !matches!(
        error,
        sqlx::Error::Encode(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. }
    )
}

fn silent() -> sqlx::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer in time").into()
}
