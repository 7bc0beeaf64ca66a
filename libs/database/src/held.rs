//! A connection of the PostgreSQL pool, whose every answer is waited for in bounded time. The driver itself waits for
//! ever where the server or something on the way to it swallows an answer and keeps the connection open; so would the
//! pool, when it is given such a connection back.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Executor as _, Postgres};
use tokio::time::error::Elapsed;

/// Giving a connection back takes one round trip, or two.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(5);

/// A connection, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    /// None once it is lost.
    connection: Option<PoolConnection<Postgres>>,
    /// A transaction was begun and not ended.
    pub(crate) is_open: bool,
}

impl Held {
    /// Takes a connection from the pool, which waits for one in bounded time.
    pub(crate) async fn acquire(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: Some(pool.acquire().await?), is_open: false })
    }

    /// The connection, to ask it something; the answer goes to [`Self::heard`].
    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        match &mut self.connection {
            Some(connection) => Ok(&mut *connection),
            None => Err(silent()),
        }
    }

    /// The answer, or the lack of one: then the connection is closed, and the pool may open another one in its place.
    pub(crate) fn heard<T>(
        &mut self,
        answer: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, sqlx::Error> {
        answer.unwrap_or_else(|_| {
            drop(self.connection.take().map(PoolConnection::detach));
            Err(silent())
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let is_open = self.is_open;
        // Where there is no runtime any more the process ends, and its connections with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            drop(connection.detach());
            return;
        };
        runtime.spawn(async move {
            if is_open {
                let ended = tokio::time::timeout(GIVEN_BACK_WITHIN, connection.execute("rollback")).await;
                if !matches!(ended, Ok(Ok(_))) {
                    drop(connection.detach());
                    return;
                }
            }
            // Where it takes longer, the connection is closed with what waits for it.
            let _ = tokio::time::timeout(GIVEN_BACK_WITHIN, connection.return_to_pool()).await;
        });
    }
}

fn silent() -> sqlx::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer in time").into()
}
