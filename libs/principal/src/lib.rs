//! Who calls. The gateway turns whoever knocks into a [`Principal`], signs it for one service and a minute, and every
//! service verifies it on every call before it looks at anything else. What a principal may do is for each domain to say.

mod key;
mod scope;
mod token;

use phasegate_proto::actor::v1::{Actor, ActorKind, Channel};
use phasegate_rpc_error::{Kind, Refusal};
use serde::{Deserialize, Serialize};

pub use key::{ApiKey, KEY_PREFIX, NoRandomness};
pub use scope::{Forbidden, Need, Scope, is_internal};
pub use token::{HEADER, Refused, Signer, TOKEN_SECONDS, Verifier};

/// The tenant of an installation that has one.
pub const DEFAULT_TENANT: &str = "default";

/// Who calls, and for which tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Tenant: the wall between customers.
    pub tenant: String,
    /// Kind of caller.
    pub kind: Caller,
    /// Operator subject, service name or participant id.
    pub id: String,
    /// Name to show.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// A person who came through a magic link, and what the link allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participation: Option<Participation>,
    /// What an operator or a program may call. Others need none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// The only queues that the caller gets work of, where there are any: it is an agent then, and never decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<String>,
    /// For whom a caller decides who is no participant.
    #[serde(default)]
    pub speaks_for: SpeaksFor,
}

/// For whom a caller decides who is no participant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeaksFor {
    /// For nobody.
    #[default]
    Nobody,
    /// For one participant, by id, of whichever instance.
    Participant(String),
    /// For everybody: the operator of `phasegate dev`, who plays all parts.
    Everybody,
}

/// Kinds of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// A person who runs the installation.
    Operator,
    /// A program with a key.
    Service,
    /// A person through a magic link.
    Participant,
    /// One of our own services, on its own account.
    System,
}

/// A person's place in one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participation {
    /// The only instance that the person sees.
    pub instance_id: String,
    /// The person.
    pub participant_id: String,
    /// The link that let the person in.
    pub link_id: String,
    /// What the link lets its holder do, within what the person's role allows.
    pub permissions: Vec<Permission>,
}

/// What a link lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Read.
    View,
    /// Decide.
    Approve,
    /// Write comments.
    Comment,
    /// Hand on.
    Delegate,
}

impl Principal {
    /// The operator of `phasegate dev`, who needs no key.
    pub fn dev_operator() -> Self {
        Self {
            tenant: DEFAULT_TENANT.to_owned(),
            kind: Caller::Operator,
            id: "dev".to_owned(),
            name: String::new(),
            participation: None,
            scopes: vec![Scope::Admin],
            queues: Vec::new(),
            speaks_for: SpeaksFor::Everybody,
        }
    }

    /// One of our own services.
    pub fn system(service: &str, tenant: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            kind: Caller::System,
            id: service.to_owned(),
            name: String::new(),
            participation: None,
            scopes: Vec::new(),
            queues: Vec::new(),
            speaks_for: SpeaksFor::Nobody,
        }
    }

    /// One of our own services on its own account, which may use no task token that this caller may not.
    pub fn asked_by(&self, service: &str) -> Self {
        Self { queues: self.queues.clone(), ..Self::system(service, &self.tenant) }
    }

    /// A person through a magic link.
    pub fn participant(tenant: &str, name: &str, participation: Participation) -> Self {
        Self {
            tenant: tenant.to_owned(),
            kind: Caller::Participant,
            id: participation.participant_id.clone(),
            name: name.to_owned(),
            participation: Some(participation),
            scopes: Vec::new(),
            queues: Vec::new(),
            speaks_for: SpeaksFor::Nobody,
        }
    }

    /// Who verified caller of a request is. Our own mistake where no layer verified one.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, tonic::Status> {
        request.extensions().get::<Self>().ok_or_else(|| phasegate_rpc_error::status(&Refused::Missing))
    }

    /// As the record names it.
    pub fn actor(&self) -> Actor {
        let (kind, channel) = match self.kind {
            Caller::Operator => (ActorKind::Operator, Channel::Api),
            Caller::Service => (ActorKind::Service, Channel::Api),
            Caller::Participant => (ActorKind::Participant, Channel::Portal),
            Caller::System => (ActorKind::System, Channel::Engine),
        };
        Actor {
            kind: kind.into(),
            id: self.id.clone(),
            name: self.name.clone(),
            email: String::new(),
            channel: channel.into(),
            on_behalf_of: self.represents().unwrap_or_default().to_owned(),
        }
    }

    /// The one participant for whom a key speaks.
    pub fn represents(&self) -> Option<&str> {
        match &self.speaks_for {
            SpeaksFor::Participant(participant) => Some(participant),
            SpeaksFor::Nobody | SpeaksFor::Everybody => None,
        }
    }

    /// Whether the caller is an agent by its key.
    pub fn is_agent(&self) -> bool {
        !self.queues.is_empty() && !self.is_system()
    }

    /// Whether the caller may be handed work of a queue.
    pub fn may_poll(&self, queue: &str) -> bool {
        self.queues.is_empty() || self.queues.iter().any(|own| own == queue)
    }

    /// Whether one of our services asks on its own account.
    pub fn is_system(&self) -> bool {
        self.kind == Caller::System
    }

    /// Refuses everybody but our own services.
    pub fn needs_to_be_a_service_of_ours(&self) -> Result<(), Forbidden> {
        match self.kind {
            Caller::System => Ok(()),
            Caller::Operator => Err(Forbidden::OurServicesOnly("operator")),
            Caller::Service => Err(Forbidden::OurServicesOnly("service")),
            Caller::Participant => Err(Forbidden::OurServicesOnly("participant")),
        }
    }

    /// Refuses an agent that gives no task token: what it changes, it changes under the lease of a task, or it could go
    /// round a lease that it has lost.
    pub fn needs_lease(&self, task_token: &str) -> Result<(), Forbidden> {
        if self.is_agent() && task_token.is_empty() { Err(Forbidden::LeaseMissing) } else { Ok(()) }
    }

    /// Whether the caller runs the installation.
    pub fn is_operator(&self) -> bool {
        self.kind == Caller::Operator
    }

    /// Whether the caller may see an instance at all: a person sees the own one only.
    pub fn sees_instance(&self, instance_id: &str) -> bool {
        self.participation.as_ref().is_none_or(|own| own.instance_id == instance_id)
    }

    /// Whether the caller may do what a link must allow. Others than people need no link.
    pub fn permits(&self, permission: Permission) -> bool {
        self.participation.as_ref().is_none_or(|own| own.permissions.contains(&permission))
    }
}

impl Refusal for Refused {
    fn kind(&self) -> Kind {
        Kind::Unauthenticated
    }

    fn reason(&self) -> &'static str {
        "INTERNAL_AUTH"
    }
}
