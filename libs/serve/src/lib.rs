//! What every service is run with: where the others are, the bus, the keys, the clock; and how its server starts and
//! stops. Routes, settings of single services and what they do are never here.

mod call;
mod channel;
mod confirm;
mod deadline;
mod direct;
mod keys;
mod limit;
mod peers;
mod pipe;
mod place;
mod pool;
mod raw;
mod seen;
mod server;
mod tls;
mod verify;
mod way;

use phasegate_bus::Bus;
use phasegate_clock::SharedClock;
use tokio_util::sync::CancellationToken;

pub use call::{Call, Watched, note_caller};
pub use channel::Channel;
pub use confirm::confirm;
pub use deadline::{TIMEOUT_HEADER, remaining, timeout, within};
pub use direct::{Direct, End, direct};
pub use keys::Keys;
pub use peers::Peers;
pub use pipe::pipe;
pub use place::{Limits, Overloaded, Place, Places};
pub use pool::{Address, InvalidAddress};
pub use raw::Raw;
pub use seen::{TIMER_LAG, WATCH_LAG, WATCH_STREAMS, note_timer};
pub use server::{
    DRAIN_SECONDS, Error, Listener, MESSAGE_BYTES_MAX, REQUEST_BYTES_MAX, STREAM_AGE_MAX, drained, serve,
    serve_while,
};
pub use tls::{Certificates, InvalidCertificates, Tls};
pub use verify::{VerifyLayer, Within};
pub use way::Way;

/// The services behind the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Definitions, templates, teams.
    Definition,
    /// The engine.
    Instance,
    /// Requests and decisions.
    Approval,
    /// Artifacts and comments.
    Artifact,
    /// People, links, sessions.
    Participant,
    /// Mail.
    Notification,
}

/// What every service is run with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Tells the time.
    pub clock: SharedClock,
    /// The other services.
    pub peers: Peers,
    /// Events between services.
    pub bus: Bus,
    /// Signing keys.
    pub keys: Keys,
    /// Links begin with this; no slash at its end.
    pub public_url: String,
    /// How much each service takes on.
    pub limits: Limits,
    /// Cancelled a while before `shutdown`: the process answers that it is not ready, so that nobody gives it new work.
    pub draining: CancellationToken,
    /// Ends everything.
    pub shutdown: CancellationToken,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Definition,
        Self::Instance,
        Self::Approval,
        Self::Artifact,
        Self::Participant,
        Self::Notification,
    ];

    /// The service of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == name)
    }

    /// The name: of the context in `proto/`, of the audience of a principal, of the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Definition => "definition",
            Self::Instance => "instance",
            Self::Approval => "approval",
            Self::Artifact => "artifact",
            Self::Participant => "participant",
            Self::Notification => "notification",
        }
    }
}
