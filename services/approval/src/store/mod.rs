//! Requests, their history, their timers and answers, in tables of which this service is the only reader.
//!
//! Everything is written by [`Store::commit`]: in one transaction what changed, who must hear of it, the answer to the
//! caller, and the note that an event was taken.

mod approval;
mod commit;
mod commit_postgres;
mod commit_rows;
mod commit_sqlite;
mod count;
mod instance;
mod needed;
mod response;
mod row;
mod timer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use phasegate_database::{Database, Migration, Settings};
use phasegate_id::{ApprovalId, ParticipantId, TenantId};

use crate::domain::{Approval, InstanceCondition};

pub use approval::{Filter, Page, Position};
pub use commit::{Change, Commit, InstanceChange, NewResponse, Receipt, Repeat};
pub use count::Pending;
pub use instance::InstanceState;
pub use needed::{Asked, Known, KnownRequest};
pub use response::Response;
pub use timer::Claimed;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else changed it in between: load it again.
    #[error("somebody else was faster")]
    Stale,
    /// The event was taken before.
    #[error("the event was taken before")]
    Taken,
    /// The request id was used for another request.
    #[error("the request id was used for another request")]
    RequestIdReused,
    /// The same request was answered at the same time: look up its answer.
    #[error("the same request was answered at the same time")]
    Repeated,
    /// A row that we could not have written.
    #[error("table {table} holds an impossible row: {row}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The row's key, and what is wrong with it.
        row: String,
    },
    /// The database could not.
    #[error("the database did not answer")]
    Database(#[from] phasegate_database::Error),
}

impl Error {
    /// The same may succeed if it is tried again.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Stale | Self::Repeated => true,
            Self::Database(error) => error.is_transient(),
            Self::Taken | Self::RequestIdReused | Self::Inconsistent { .. } => false,
        }
    }
}

/// The tables.
#[derive(Debug, Clone)]
pub struct Store {
    db: Database,
    /// What PostgreSQL writes for many callers together.
    group: commit_postgres::Group,
}

/// A request as it is stored, with what is known around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Tenant.
    pub tenant: TenantId,
    /// Number of the events that made it.
    pub version: i64,
    /// The request.
    pub approval: Approval,
    /// People, by id, as far as they are known.
    pub people: BTreeMap<ParticipantId, Person>,
    /// How the instance stands.
    pub instance: InstanceCondition,
    /// Grows with every change of the instance's requests and of the instance.
    pub revision: i64,
}

/// Name and address of a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    /// Name to show.
    pub name: String,
    /// Address; empty where there is none.
    pub email: String,
}

/// Tenant and request: what names a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Tenant.
    pub tenant: TenantId,
    /// Request.
    pub approval: ApprovalId,
}

/// The tables of this service.
const APPROVAL: Migration = Migration {
    version: 10,
    name: "approval",
    postgres: include_str!("../../migrations/postgres/0010_approval.sql"),
    sqlite: include_str!("../../migrations/sqlite/0010_approval.sql"),
};

/// An index for those who watch.
const SEEN: Migration = Migration {
    version: 20,
    name: "seen",
    postgres: include_str!("../../migrations/postgres/0020_seen.sql"),
    sqlite: include_str!("../../migrations/sqlite/0020_seen.sql"),
};

impl Store {
    /// Opens the database and brings it up to date.
    pub async fn open(settings: &Settings) -> Result<Self, Error> {
        let migrations = [phasegate_outbox::MIGRATION, phasegate_idempotency::MIGRATION, APPROVAL, SEEN];
        let db = Database::open(settings, &migrations).await?;
        Ok(Self { group: commit_postgres::Group::new(&db), db })
    }

    /// The database, for the relay.
    pub fn database(&self) -> &Database {
        &self.db
    }
}
