//! The tables of this service. What could not have been written by this program is [`Error::Inconsistent`], with the
//! address of the row.

pub mod definition;
pub mod template;

use phasegate_database::{Database, Migration, Settings};

/// The schema, oldest first. This service sends no events; it has the outbox that every service has.
pub const MIGRATIONS: [Migration; 4] = [
    phasegate_outbox::MIGRATION,
    phasegate_idempotency::MIGRATION,
    Migration {
        version: 10,
        name: "definition",
        postgres: include_str!("../../migrations/postgres/0010_definition.sql"),
        sqlite: include_str!("../../migrations/sqlite/0010_definition.sql"),
    },
    Migration {
        version: 11,
        name: "team_template",
        postgres: include_str!("../../migrations/postgres/0011_team_template.sql"),
        sqlite: include_str!("../../migrations/sqlite/0011_team_template.sql"),
    },
];

/// Content of one page, in bytes: a list may hold definitions of a mebibyte each, and an answer has to fit a message.
const PAGE_BYTES_MAX: i64 = 3 * 1024 * 1024;

/// The tables.
#[derive(Debug, Clone)]
pub struct Store {
    db: Database,
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
        Ok(Self { db: Database::open(settings, &MIGRATIONS).await? })
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

/// How many of these sizes, in order, make a page: at least one, and no more than fit.
fn fitting(sizes: impl IntoIterator<Item = i64>) -> i64 {
    let (mut count, mut bytes) = (0, 0_i64);
    for size in sizes {
        bytes = bytes.saturating_add(size);
        if count > 0 && bytes > PAGE_BYTES_MAX {
            break;
        }
        count += 1;
    }
    count
}

/// Whether the database can have this as an id. Others are not asked for: PostgreSQL cannot even be told of a NUL.
fn is_askable(id: &str) -> bool {
    !id.is_empty() && id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_at_least_one_and_fits() {
        for (sizes, count) in [
            (vec![], 0),
            (vec![1, 2, 3], 3),
            (vec![2 * PAGE_BYTES_MAX, 1], 1),
            (vec![PAGE_BYTES_MAX / 2, PAGE_BYTES_MAX / 2, 1], 2),
        ] {
            assert_eq!(fitting(sizes.clone()), count, "{sizes:?}");
        }
    }
}
