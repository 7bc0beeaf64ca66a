//! The tables of this service. One file per noun; rows are read in `row`, and what could not have been written by this
//! program is [`Error::Inconsistent`], with the address of the row.

mod ensure_postgres;
mod hear_postgres;
mod heard;
pub mod key;
pub mod link;
pub mod participant;
mod row;
pub mod session;
#[cfg(test)]
mod tests;

pub use ensure_postgres::Ensured;

use phasegate_database::{Database, Dialect, Migration, Settings};
use phasegate_id::{InstanceId, TenantId};

/// The schema, oldest first.
pub const MIGRATIONS: [Migration; 6] = [
    phasegate_outbox::MIGRATION,
    phasegate_idempotency::MIGRATION,
    Migration {
        version: 10,
        name: "participant",
        postgres: include_str!("../../migrations/postgres/0010_participant.sql"),
        sqlite: include_str!("../../migrations/sqlite/0010_participant.sql"),
    },
    Migration {
        version: 11,
        name: "link",
        postgres: include_str!("../../migrations/postgres/0011_link.sql"),
        sqlite: include_str!("../../migrations/sqlite/0011_link.sql"),
    },
    Migration {
        version: 12,
        name: "session",
        postgres: include_str!("../../migrations/postgres/0012_session.sql"),
        sqlite: include_str!("../../migrations/sqlite/0012_session.sql"),
    },
    Migration {
        version: 13,
        name: "key",
        postgres: include_str!("../../migrations/postgres/0013_key.sql"),
        sqlite: include_str!("../../migrations/sqlite/0013_key.sql"),
    },
];

/// The tables.
#[derive(Debug, Clone)]
pub struct Store {
    db: Database,
    /// Writes what events say, where many are written together.
    hearing: Option<hear_postgres::Group>,
    /// Makes links of notifications, where many are made together.
    ensuring: Option<ensure_postgres::Group>,
}

/// Whose rows: every statement about an instance names both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Tenant.
    pub tenant: TenantId,
    /// Instance.
    pub instance: InstanceId,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database could not.
    #[error("the database did not answer")]
    Database(#[from] phasegate_database::Error),
    /// A row holds what was never written.
    #[error("row {row} of {table} holds what was never written")]
    Inconsistent {
        /// Table.
        table: &'static str,
        /// Key of the row.
        row: String,
    },
}

// === impl Store ===

impl Store {
    /// Opens the database and brings it to the schema.
    pub async fn open(settings: &Settings) -> Result<Self, phasegate_database::Error> {
        Ok(Self::over(Database::open(settings, &MIGRATIONS).await?))
    }

    fn over(db: Database) -> Self {
        let (hearing, ensuring) = match db.dialect() {
            Dialect::Postgres => {
                (Some(hear_postgres::Group::new(&db)), Some(ensure_postgres::Group::new(&db)))
            }
            Dialect::Sqlite => (None, None),
        };
        Self { db, hearing, ensuring }
    }

    /// The database, for transactions.
    pub const fn db(&self) -> &Database {
        &self.db
    }
}

// === impl Error ===

impl Error {
    /// The same may succeed if it is tried again.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_transient())
    }

    /// Nothing was changed, and the same may succeed if it is tried again.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_passing())
    }

    /// Somebody wrote the same key first.
    pub fn is_race(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_unique_violation())
    }
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
