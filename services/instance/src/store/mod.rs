//! What the engine keeps: the history of each instance, the row that caches it, the work and the leases that follow
//! from it. A transition is written in one transaction with everything that it leads to, or not at all.

mod append;
mod append_postgres;
mod append_sqlite;
pub(crate) mod chain;
mod count;
mod group;
mod history;
mod instance;
mod lease;
mod work;

use phasegate_database::{Database, Migration, Settings};

pub(crate) use append::{
    Answer, CheckpointChange, Ended, Granted, Guard, Inbox, PersonalRow, Pinned, Receipt, Transition, rank,
};
pub(crate) use chain::{Entry, NO_HASH, StoredEntry, Verdict};
pub(crate) use count::Counts;
pub(crate) use history::AuditFilter;
pub(crate) use instance::{ListFilter, ListPosition, Snapshot};
pub(crate) use lease::{Beat, LeaseRow, Out, Written};
pub(crate) use work::{Candidate, CandidatePosition, Look, WorkFilter};

/// The tables of the service.
pub(crate) const MIGRATIONS: [Migration; 6] = [
    phasegate_outbox::MIGRATION,
    phasegate_idempotency::MIGRATION,
    Migration {
        version: 10,
        name: "instance",
        postgres: include_str!("../../migrations/postgres/0010_instance.sql"),
        sqlite: include_str!("../../migrations/sqlite/0010_instance.sql"),
    },
    Migration {
        version: 20,
        name: "seen",
        postgres: include_str!("../../migrations/postgres/0020_seen.sql"),
        sqlite: include_str!("../../migrations/sqlite/0020_seen.sql"),
    },
    Migration {
        version: 30,
        name: "state_lag",
        postgres: include_str!("../../migrations/postgres/0030_state_lag.sql"),
        sqlite: include_str!("../../migrations/sqlite/0030_state_lag.sql"),
    },
    Migration {
        version: 40,
        name: "audit_type",
        postgres: include_str!("../../migrations/postgres/0040_audit_type.sql"),
        sqlite: include_str!("../../migrations/sqlite/0040_audit_type.sql"),
    },
];

/// The database of the service. Copies share it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    db: Database,
    /// Writes transitions together.
    group: group::Group,
}

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Somebody else moved the instance since it was read: read again.
    #[error("the instance has moved on")]
    Stale,
    /// There is an instance with that id.
    #[error("the instance exists already")]
    Exists,
    /// The event was taken before.
    #[error("the event was taken before")]
    Seen,
    /// The lease is not the newest one, or its time is over; or, for one that is to expire, not yet.
    #[error("the lease does not hold")]
    Lease,
    /// The same request was answered at the same time: look the answer up.
    #[error("the same request was answered at the same time")]
    Raced,
    /// A row that this program cannot have written.
    #[error("{table} {row} cannot be read: {problem}")]
    Inconsistent {
        /// Table.
        table: &'static str,
        /// Which row.
        row: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The database could not.
    #[error("could not {doing}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: phasegate_database::Error,
    },
}

impl From<phasegate_database::Error> for Error {
    fn from(source: phasegate_database::Error) -> Self {
        Self::Database { doing: "use the database", source }
    }
}

impl Error {
    /// The same may succeed when it is tried again.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Stale | Self::Raced => true,
            Self::Database { source, .. } => source.is_transient(),
            Self::Exists | Self::Seen | Self::Lease | Self::Inconsistent { .. } => false,
        }
    }

    fn doing(doing: &'static str) -> impl FnOnce(phasegate_database::Error) -> Self {
        move |source| Self::Database { doing, source }
    }
}

impl Store {
    /// Connects and migrates.
    pub(crate) async fn open(settings: &Settings) -> Result<Self, Error> {
        let db = Database::open(settings, &MIGRATIONS).await.map_err(Error::doing("open the database"))?;
        Ok(Self { group: group::Group::new(&db), db })
    }

    /// The database, for the relay and the answers that are kept.
    pub(crate) fn database(&self) -> &Database {
        &self.db
    }
}

/// A number of the database that is never negative.
fn unsigned(table: &'static str, row: &str, value: i64) -> Result<u64, Error> {
    u64::try_from(value).map_err(|_| Error::Inconsistent {
        table,
        row: row.to_owned(),
        problem: format!("{value} is negative"),
    })
}

/// A number for the database. Sequences and fencing tokens count single steps and stay far below the limit.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
