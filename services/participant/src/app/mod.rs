//! What the service does: asks whoever must be asked, lets the domain decide, and writes the change with its event and
//! its answer in one transaction.

mod cache;
mod instance;
pub mod key;
pub mod link;
pub mod mailed;
pub mod person;
pub mod receive;
pub mod secret;
pub mod session;
pub mod tenant;
pub mod token;

use phasegate_clock::{SharedClock, Timestamp};
use phasegate_database::Transaction;
use phasegate_id::{InstanceId, LinkId, TenantId, shortened};
use phasegate_idempotency::{Failure, Refused};
use phasegate_outbox::Relay;
use phasegate_principal::{Permission, Principal};
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_rpc_error::{Invalid, Relayed};
use phasegate_serve::Peers;

use crate::domain;
use crate::domain::person::Person;
use crate::store::{self, Place, Store};
use secret::NoRandomness;
use token::{NotSigned, Tokens};

/// The service behind its doors.
#[derive(Debug, Clone)]
pub struct App {
    store: Store,
    peers: Peers,
    relay: Relay,
    clock: SharedClock,
    tokens: Tokens,
    people: cache::Cache,
}

/// How a request of this service is told from its repetition.
pub type Once<T> = phasegate_idempotency::Once<T, Error>;

/// Why the service does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules of links do not allow it.
    #[error(transparent)]
    Link(#[from] domain::link::Rejection),
    /// The rules of keys do not allow it.
    #[error(transparent)]
    Key(#[from] domain::key::Rejection),
    /// The rules of sessions do not allow it.
    #[error(transparent)]
    Session(#[from] domain::session::Rejection),
    /// A genuine token or session of a link that has ended or was withdrawn.
    #[error("{rejection}")]
    LinkOver {
        /// What became of the link.
        rejection: domain::session::Rejection,
        /// Its holder can ask for a fresh one.
        renewable: bool,
        /// Where a fresh one would go, hardly readable.
        address: String,
    },
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
    /// No such person.
    #[error("participant {participant} was not found")]
    ParticipantNotFound {
        /// What was asked for.
        participant: String,
    },
    /// No such link, or not the caller's.
    #[error("link {link} was not found")]
    LinkNotFound {
        /// What was asked for.
        link: String,
    },
    /// People who came through a link do not manage links.
    #[error("a participant may not manage links")]
    ParticipantMayNotManage,
    /// The link does not let its holder read.
    #[error("the link does not let its holder read")]
    MayNotRead,
    /// The id of the request stands in the way.
    #[error(transparent)]
    RequestId(#[from] Refused),
    /// Another service refused, or did not answer.
    #[error(transparent)]
    Peer(Relayed),
    /// No secret could be made.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// No key could be made.
    #[error(transparent)]
    KeyRandomness(#[from] phasegate_principal::NoRandomness),
    /// No token could be made.
    #[error(transparent)]
    Token(#[from] NotSigned),
    /// The store could not.
    #[error(transparent)]
    Store(#[from] store::Error),
}

// === impl App ===

impl App {
    /// Puts the service together.
    pub fn new(store: Store, peers: Peers, relay: Relay, clock: SharedClock, tokens: Tokens) -> Self {
        Self { store, peers, relay, clock, tokens, people: cache::Cache::new() }
    }

    /// The tables, for what runs beside the doors.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The rows that a caller may see: those of the tenant, and of the own instance for people.
    fn place(principal: &Principal, instance_id: &str) -> Result<Place, Error> {
        let not_found = || Error::InstanceNotFound { instance: shortened(instance_id) };
        if !principal.sees_instance(instance_id) {
            return Err(not_found());
        }
        let instance = InstanceId::parse(instance_id).map_err(|_| not_found())?;
        Ok(Place { tenant: TenantId::trusted(principal.tenant.clone()), instance })
    }

    /// The rows that a caller may read, of an instance whose people are there.
    async fn readable(&self, principal: &Principal, instance_id: &str) -> Result<Place, Error> {
        let place = Self::place(principal, instance_id)?;
        self.people_are_there(&place).await?;
        if !principal.permits(Permission::View) {
            return Err(Error::MayNotRead);
        }
        Ok(place)
    }

    /// The rows of an instance that a caller may manage the links of.
    async fn manageable(&self, principal: &Principal, instance_id: &str) -> Result<Place, Error> {
        let place = Self::place(principal, instance_id)?;
        self.people_are_there(&place).await?;
        if principal.participation.is_some() {
            return Err(Error::ParticipantMayNotManage);
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
            Self::Link(_)
            | Self::Key(_)
            | Self::Session(_)
            | Self::LinkOver { .. }
            | Self::Invalid(_)
            | Self::InstanceNotFound { .. }
            | Self::InstanceTerminal { .. }
            | Self::ParticipantNotFound { .. }
            | Self::LinkNotFound { .. }
            | Self::ParticipantMayNotManage
            | Self::MayNotRead
            | Self::Peer(_)
            | Self::Randomness(_)
            | Self::KeyRandomness(_)
            | Self::Token(_) => false,
        }
    }
}

impl From<phasegate_database::Error> for Error {
    fn from(error: phasegate_database::Error) -> Self {
        Self::Store(store::Error::Database(error))
    }
}

/// Tells the other services, with the change.
async fn tell_in(
    tx: &mut Transaction,
    place: &Place,
    actor: Actor,
    now: Timestamp,
    payload: Payload,
) -> Result<(), Error> {
    let event = phasegate_outbox::event(&place.tenant, &place.instance, actor, now, payload);
    Ok(phasegate_outbox::append(tx, &event).await?)
}

/// The service itself, as an actor: it draws the consequences of what others did.
fn ourselves() -> Actor {
    Principal::system("participant", "").actor()
}

/// A person who came through a link, as an actor.
fn holder(person: &Person) -> Actor {
    use phasegate_proto::actor::v1::{ActorKind, Channel};
    Actor {
        kind: ActorKind::Participant.into(),
        id: person.id.as_str().to_owned(),
        name: person.name.clone(),
        email: String::new(),
        channel: Channel::Portal.into(),
        on_behalf_of: String::new(),
    }
}

fn link_not_found(id: &str) -> Error {
    Error::LinkNotFound { link: shortened(id) }
}

fn parse_link(id: &str) -> Result<LinkId, Error> {
    LinkId::parse(id).map_err(|_| link_not_found(id))
}
