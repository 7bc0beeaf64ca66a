//! What the service does: asks whoever must be asked, lets the domain decide, and writes the change with its event and
//! its answer in one transaction.

pub mod artifact;
pub mod canonical;
pub mod comment;
mod instance;

use phasegate_clock::SharedClock;
use phasegate_id::{InstanceId, TenantId};
use phasegate_idempotency::{Failure, Refused};
use phasegate_outbox::Relay;
use phasegate_principal::{Forbidden, Permission, Principal};
use phasegate_rpc_error::{Invalid, Relayed};
use phasegate_serve::Peers;

use crate::domain;
use crate::store::{self, Place, Store};
use instance::Instances;

/// The service behind its doors.
#[derive(Debug, Clone)]
pub struct App {
    store: Store,
    instances: Instances,
    relay: Relay,
    clock: SharedClock,
}

/// How a request of this service is told from its repetition.
pub type Once<T> = phasegate_idempotency::Once<T, Error>;

/// Why the service does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules of artifacts do not allow it.
    #[error(transparent)]
    Artifact(#[from] domain::artifact::Rejection),
    /// The rules of comments do not allow it.
    #[error(transparent)]
    Comment(#[from] domain::comment::Rejection),
    /// A field of the request is wrong in a way that every service knows.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// No such instance, or not the caller's.
    #[error("instance {instance} was not found")]
    InstanceNotFound {
        /// What was asked for.
        instance: String,
    },
    /// The instance has ended.
    #[error("instance {instance} is {status}")]
    InstanceTerminal {
        /// Instance.
        instance: InstanceId,
        /// How it ended.
        status: &'static str,
    },
    /// No such key or version.
    #[error("artifact {key} was not found{}", version.map(|version| format!(" in version {version}")).unwrap_or_default())]
    ArtifactNotFound {
        /// What was asked for.
        key: String,
        /// Version, where one was asked for.
        version: Option<i32>,
    },
    /// The caller's key does not allow it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// People who came through a link do not store artifacts.
    #[error("a participant may not store artifacts")]
    ParticipantMayNotStore,
    /// The link does not let its holder read.
    #[error("the link does not let its holder read")]
    MayNotRead,
    /// The id of the request stands in the way.
    #[error(transparent)]
    RequestId(#[from] Refused),
    /// The write took longer than the lease was sure to hold.
    #[error("the artifact could not be written while the lease was sure to hold")]
    LeaseUnsure,
    /// Another service refused, or did not answer.
    #[error(transparent)]
    Peer(Relayed),
    /// The store could not.
    #[error(transparent)]
    Store(#[from] store::Error),
}

// === impl App ===

impl App {
    /// Puts the service together.
    pub fn new(store: Store, peers: Peers, relay: Relay, clock: SharedClock) -> Self {
        Self { store, instances: Instances::new(peers), relay, clock }
    }

    /// The rows that a caller may see: those of the tenant, and of the own instance for people.
    fn place(principal: &Principal, instance_id: &str) -> Result<Place, Error> {
        let not_found = || Error::InstanceNotFound { instance: phasegate_id::shortened(instance_id) };
        if !principal.sees_instance(instance_id) {
            return Err(not_found());
        }
        let instance = InstanceId::parse(instance_id).map_err(|_| not_found())?;
        Ok(Place { tenant: TenantId::trusted(principal.tenant.clone()), instance })
    }

    /// The rows that a caller may read, of an instance that exists.
    async fn readable(&self, principal: &Principal, instance_id: &str) -> Result<Place, Error> {
        let place = Self::place(principal, instance_id)?;
        self.instances.exists(&place).await?;
        if !principal.permits(Permission::View) {
            return Err(Error::MayNotRead);
        }
        Ok(place)
    }
}

// === impl Error ===

impl Error {
    /// A row holds what was never written.
    pub fn inconsistent(table: &'static str, row: impl Into<String>) -> Self {
        Self::Store(store::Error::Inconsistent { table, row: row.into() })
    }
}

impl Failure for Error {
    fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            Self::RequestId(refused) => refused.is_passing(),
            Self::Artifact(_)
            | Self::Comment(_)
            | Self::Invalid(_)
            | Self::InstanceNotFound { .. }
            | Self::InstanceTerminal { .. }
            | Self::ArtifactNotFound { .. }
            | Self::ParticipantMayNotStore
            | Self::Forbidden(_)
            | Self::MayNotRead
            | Self::LeaseUnsure
            | Self::Peer(_) => false,
        }
    }
}

impl From<phasegate_database::Error> for Error {
    fn from(error: phasegate_database::Error) -> Self {
        Self::Store(store::Error::Database(error))
    }
}
