//! Who calls, and what it may see.

use phasegate_id::{ParticipantId, TenantId};
use phasegate_idempotency as idempotency;
use phasegate_principal::{Caller as Kind, Forbidden, Permission, Principal, SpeaksFor};
use phasegate_proto::actor::v1::Actor as ActorMessage;
use phasegate_rpc_error::Invalid;

use super::Error;
use crate::domain::{Actor, ActorKind, Assurance, Channel};
use crate::store::Record;

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    principal: Principal,
}

impl Caller {
    /// The caller that the server verified.
    pub fn new(principal: Principal) -> Self {
        Self { principal }
    }

    /// As it was verified, to ask another service in its name.
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Refuses an agent's key without a task token.
    pub fn needs_lease(&self, task_token: &str) -> Result<(), Forbidden> {
        self.principal.needs_lease(task_token)
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        TenantId::trusted(self.principal.tenant.clone())
    }

    /// As the record names it.
    pub fn message(&self) -> ActorMessage {
        self.principal.actor()
    }

    /// As the rules know it.
    pub fn actor(&self) -> Actor {
        let (kind, channel) = match self.principal.kind {
            Kind::Operator => (ActorKind::Operator, Channel::Api),
            Kind::Service => (ActorKind::Service, Channel::Api),
            Kind::Participant => (ActorKind::Participant, Channel::Portal),
            Kind::System => (ActorKind::System, Channel::Engine),
        };
        let on_behalf_of = self.principal.represents().map(ParticipantId::trusted);
        Actor { kind, id: self.principal.id.clone(), channel, on_behalf_of }
    }

    /// How sure we are that an answer of this caller is the approver's own.
    pub fn assurance(&self) -> Assurance {
        match self.principal.kind {
            Kind::Participant => Assurance::Link,
            Kind::Operator | Kind::Service | Kind::System => Assurance::Api,
        }
    }

    /// The person who calls, if it is one.
    pub fn person(&self) -> Option<ParticipantId> {
        let participation = self.principal.participation.as_ref();
        participation.map(|own| ParticipantId::trusted(own.participant_id.clone()))
    }

    /// Whether the caller plays all parts: the operator of `phasegate dev`.
    pub fn speaks_for_everybody(&self) -> bool {
        self.principal.speaks_for == SpeaksFor::Everybody
    }

    /// The person for whom a key speaks.
    pub fn represents(&self) -> Option<ParticipantId> {
        self.principal.represents().map(ParticipantId::trusted)
    }

    /// The only instance that the caller sees, if there is just one.
    pub fn own_instance(&self) -> Option<&str> {
        self.principal.participation.as_ref().map(|own| own.instance_id.as_str())
    }

    /// Whether the caller sees an instance at all.
    pub fn sees_instance(&self, instance: &str) -> bool {
        self.principal.sees_instance(instance)
    }

    /// Whether the caller sees a request: a person sees those that ask it, and those of its instance that are settled.
    pub fn sees(&self, record: &Record) -> bool {
        let approval = &record.approval;
        let Some(person) = self.person() else { return true };
        self.sees_instance(approval.request.instance.as_str())
            && (!approval.is_pending() || approval.approver(&person).is_some())
    }

    /// Refuses what the caller's link does not allow.
    pub fn needs(&self, permission: Permission, name: &'static str) -> Result<(), Error> {
        if self.principal.permits(permission) { Ok(()) } else { Err(Error::PermissionMissing(name)) }
    }

    /// What a call of this caller is known by; nothing where it cannot be repeated.
    pub fn idempotency_key(
        &self,
        method: &str,
        request_id: &str,
    ) -> Result<Option<idempotency::Key>, Invalid> {
        idempotency::Key::of(&self.principal, method, request_id)
    }
}
