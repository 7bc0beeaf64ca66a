//! The one way to write: everything that belongs to a change, in one transaction.

use phasegate_clock::Timestamp;
use phasegate_database::Dialect;
use phasegate_id::{ApprovalId, InstanceId, ParticipantId, TenantId};
use phasegate_idempotency as idempotency;
use phasegate_proto::internal::event::v1::Event as Message;

use super::commit_sqlite::write_sqlite;
use super::{Error, Person, Store};
use crate::domain::{Approval, Event, Request};

/// What one transaction writes about one instance.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Tenant.
    pub tenant: TenantId,
    /// Instance.
    pub instance: InstanceId,
    /// When.
    pub now: Timestamp,
    /// The revision of the instance that the change was decided at, where it depends on what else is asked.
    pub at_revision: Option<i64>,
    /// What changed about the instance itself.
    pub instance_change: Option<InstanceChange>,
    /// Changed and new requests.
    pub changes: Vec<Change>,
    /// People whose names and addresses were learned.
    pub people: Vec<(ParticipantId, Person)>,
    /// Answers for those who watch, in order.
    pub responses: Vec<NewResponse>,
    /// Requests that are called off and have not arrived yet.
    pub moot: Vec<(ApprovalId, String)>,
    /// What the others are told, in order.
    pub outbox: Vec<Message>,
    /// The event that this is the effect of.
    pub receipt: Option<Receipt>,
    /// The answer that a repeated call gets.
    pub repeat: Option<Repeat>,
}

/// One request's new events and what they make of it.
#[derive(Debug, Clone)]
pub struct Change {
    /// Events before these; 0 for a new request.
    pub version: i64,
    /// The events.
    pub events: Vec<Event>,
    /// The request after them.
    pub after: Approval,
}

/// What changed about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceChange {
    /// Put on hold, or taken up again.
    Paused {
        /// On hold.
        paused: bool,
        /// Version of the instance at which it was.
        version: i64,
    },
    /// It is over.
    Ended,
}

/// An answer that has no number yet.
#[derive(Debug, Clone)]
pub struct NewResponse {
    /// The request.
    pub approval: ApprovalId,
    /// The person.
    pub approver: ParticipantId,
    /// The answer without the address, as protobuf.
    pub payload: Vec<u8>,
}

/// An event that is taken.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Who takes it.
    pub consumer: &'static str,
    /// The event.
    pub event_id: String,
}

/// What a repeated call gets.
#[derive(Debug, Clone)]
pub struct Repeat {
    /// What the call is known by.
    pub key: idempotency::Key,
    /// What it says.
    pub fingerprint: [u8; 32],
    /// The encoded answer.
    pub answer: Vec<u8>,
}

impl Commit {
    /// A transaction that writes nothing yet.
    pub fn new(tenant: TenantId, instance: InstanceId, now: Timestamp) -> Self {
        Self {
            tenant,
            instance,
            now,
            at_revision: None,
            instance_change: None,
            changes: Vec::new(),
            people: Vec::new(),
            responses: Vec::new(),
            moot: Vec::new(),
            outbox: Vec::new(),
            receipt: None,
            repeat: None,
        }
    }

    /// Requests that are new.
    pub fn asked(&self) -> impl Iterator<Item = &Request> {
        self.changes.iter().filter(|change| change.version == 0).map(|change| &change.after.request)
    }

    /// Whether there is nothing but a receipt to keep.
    pub(super) fn is_receipt_only(&self) -> bool {
        let is_silent = self.outbox.is_empty() && self.responses.is_empty();
        self.receipt.is_some() && self.repeat.is_none() && is_silent && !self.touches_instance()
    }

    /// Whether the instance's row has to be written: not where there is only a receipt or an answer to keep. What is called
    /// off before it arrives does write it, because somebody may be about to put it to people.
    pub fn touches_instance(&self) -> bool {
        !self.changes.is_empty()
            || !self.people.is_empty()
            || !self.moot.is_empty()
            || self.instance_change.is_some()
    }
}

impl Store {
    /// Writes it all, or nothing and says why.
    pub async fn commit(&self, commit: Commit) -> Result<(), Error> {
        match self.db.dialect() {
            Dialect::Postgres => self.group.commit(commit).await,
            Dialect::Sqlite => {
                self.db.transaction(move |tx| Box::pin(async move { write_sqlite(tx, &commit).await })).await
            }
        }
    }

    /// The first answer to a call, if there was one.
    pub async fn repeat_load(
        &self,
        key: &idempotency::Key,
        fingerprint: [u8; 32],
    ) -> Result<Option<Vec<u8>>, Error> {
        Ok(idempotency::lookup(&self.db, key, fingerprint).await?)
    }
}

impl From<idempotency::Error> for Error {
    fn from(error: idempotency::Error) -> Self {
        match error {
            idempotency::Error::Reused => Self::RequestIdReused,
            idempotency::Error::Raced => Self::Repeated,
            idempotency::Error::Database(error) => Self::Database(error),
        }
    }
}
