//! Keeps messages, what has been settled, and what messages call an instance.
//!
//! A message is taken by a claim: a lease of bounded length with a number that grows. Only the newest claim writes the
//! outcome, so that a copy of the service that was away for longer than its lease cannot undo what another one did.

mod claim;
mod given_up;
mod hear_postgres;
mod instance;
mod notification;
mod row;
mod settle;
mod settle_postgres;

pub(crate) use claim::Claim;
pub use given_up::{GivenUp, GivenUpPosition};
pub(crate) use notification::Position;
pub(crate) use settle::Settled;

use phasegate_database::{Database, Dialect, Migration, Settings};

/// Name of this service among the receivers of events, and where it acts by itself.
pub(crate) const CONSUMER: &str = "notification";

/// Steps that make the tables.
pub(crate) const MIGRATIONS: [Migration; 5] = [
    phasegate_outbox::MIGRATION,
    Migration {
        version: 10,
        name: "notification",
        postgres: include_str!("../../migrations/postgres/0010_notification.sql"),
        sqlite: include_str!("../../migrations/sqlite/0010_notification.sql"),
    },
    Migration {
        version: 20,
        name: "seen",
        postgres: include_str!("../../migrations/postgres/0020_seen.sql"),
        sqlite: include_str!("../../migrations/sqlite/0020_seen.sql"),
    },
    Migration {
        version: 30,
        name: "given_up",
        postgres: include_str!("../../migrations/postgres/0030_given_up.sql"),
        sqlite: include_str!("../../migrations/sqlite/0030_given_up.sql"),
    },
    Migration {
        version: 40,
        name: "asked",
        postgres: include_str!("../../migrations/postgres/0040_asked.sql"),
        sqlite: include_str!("../../migrations/sqlite/0040_asked.sql"),
    },
];

/// Why the store could not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The database failed.
    #[error("the database did not answer")]
    Database(#[from] phasegate_database::Error),
    /// A row that could not have been written.
    #[error("row {row} of {table} does not make sense: {problem}")]
    Inconsistent {
        /// Its table.
        table: &'static str,
        /// Its key.
        row: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Error {
    /// Tells whether the same call may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Error::Database(error) => error.is_transient(),
            Error::Inconsistent { .. } => false,
        }
    }
}

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    database: Database,
    /// Writes what events say, where many are written together.
    hearing: Option<hear_postgres::Group>,
    /// Writes outcomes, where many are written together.
    settling: Option<settle_postgres::Group>,
}

impl Store {
    /// Opens it, making its tables where they are not there yet.
    pub(crate) async fn open(settings: &Settings) -> Result<Store, Error> {
        let database = Database::open(settings, &MIGRATIONS).await?;
        let (hearing, settling) = match database.dialect() {
            Dialect::Postgres => {
                (Some(hear_postgres::Group::new(&database)), Some(settle_postgres::Group::new(&database)))
            }
            Dialect::Sqlite => (None, None),
        };
        Ok(Store { database, hearing, settling })
    }

    /// The database, for the relay of the outbox.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }
}
