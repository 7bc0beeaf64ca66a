//! What the participant service knows: people with their addresses, and links.

use futures::future::BoxFuture;
use phasegate_clock::Timestamp;
use phasegate_id::{InstanceId, LinkId, NotificationId, ParticipantId, TenantId};
use phasegate_principal::Principal;
use phasegate_proto::internal::participant::v1::participant_internal_service_client::ParticipantInternalServiceClient;
use phasegate_proto::internal::participant::v1::{EnsureLinkRequest, GetPeopleRequest, SignLinkRequest};
use phasegate_proto::participant::v1::Participant;
use phasegate_rpc_error::reason_of;
use phasegate_serve::{Peers, Service};
use tonic::transport::Channel;

use crate::domain::Person;
use crate::store::CONSUMER;

/// Finds people and makes links.
pub(crate) trait Directory: Send + Sync {
    /// Finds people of an instance; those that are not there yet are left out.
    fn people<'a>(
        &'a self,
        tenant: &'a TenantId,
        instance: &'a InstanceId,
        ids: Vec<ParticipantId>,
    ) -> BoxFuture<'a, Result<Vec<Person>, LookupError>>;

    /// Makes the link of a notification, once.
    fn link_ensure<'a>(
        &'a self,
        tenant: &'a TenantId,
        instance: &'a InstanceId,
        person: &'a ParticipantId,
        purpose: &'a NotificationId,
        expires_at: Timestamp,
    ) -> BoxFuture<'a, Result<LinkId, LinkError>>;

    /// Signs the URL of a link: the same bytes whenever it is asked. A secret.
    fn link_url<'a>(
        &'a self,
        tenant: &'a TenantId,
        link: &'a LinkId,
    ) -> BoxFuture<'a, Result<String, LinkError>>;
}

/// People could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("people cannot be looked up: {0}")]
pub(crate) struct LookupError(pub(crate) String);

/// A link could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// It has ended, or its person has gone.
    #[error("its link is gone: {0}")]
    Gone(String),
    /// Nobody could be asked.
    #[error("links cannot be made: {0}")]
    Away(String),
}

/// Asks the participant service.
#[derive(Clone, Debug)]
pub(crate) struct PeerDirectory {
    peers: Peers,
}

impl PeerDirectory {
    /// Asks through `peers`.
    pub(crate) fn new(peers: Peers) -> PeerDirectory {
        PeerDirectory { peers }
    }

    fn client(&self) -> ParticipantInternalServiceClient<Channel> {
        ParticipantInternalServiceClient::new(self.peers.channel(Service::Participant))
    }

    fn request<T>(&self, tenant: &TenantId, message: T) -> tonic::Request<T> {
        let caller = Principal::system(CONSUMER, tenant.as_str());
        self.peers.request(Service::Participant, &caller, message)
    }
}

impl Directory for PeerDirectory {
    fn people<'a>(
        &'a self,
        tenant: &'a TenantId,
        instance: &'a InstanceId,
        ids: Vec<ParticipantId>,
    ) -> BoxFuture<'a, Result<Vec<Person>, LookupError>> {
        Box::pin(async move {
            let message = GetPeopleRequest {
                instance_id: instance.to_string(),
                participant_ids: ids.into_iter().map(ParticipantId::into_string).collect(),
            };
            let answer = self.client().get_people(self.request(tenant, message)).await;
            let people = answer.map_err(|status| LookupError(status.message().to_owned()))?.into_inner();
            Ok(people.participants.into_iter().map(person).collect())
        })
    }

    fn link_ensure<'a>(
        &'a self,
        tenant: &'a TenantId,
        instance: &'a InstanceId,
        person: &'a ParticipantId,
        purpose: &'a NotificationId,
        expires_at: Timestamp,
    ) -> BoxFuture<'a, Result<LinkId, LinkError>> {
        Box::pin(async move {
            let message = EnsureLinkRequest {
                instance_id: instance.to_string(),
                participant_id: person.to_string(),
                purpose: purpose.to_string(),
                expires_at: Some(expires_at.to_proto()),
            };
            let answer = self.client().ensure_link(self.request(tenant, message)).await;
            let link = answer.map_err(|status| link_error(&status))?.into_inner().link;
            let link = link.ok_or_else(|| LinkError::Away("the answer has no link".to_owned()))?;
            LinkId::parse(&link.id).map_err(|error| LinkError::Away(error.to_string()))
        })
    }

    fn link_url<'a>(
        &'a self,
        tenant: &'a TenantId,
        link: &'a LinkId,
    ) -> BoxFuture<'a, Result<String, LinkError>> {
        Box::pin(async move {
            let message = SignLinkRequest { link_id: link.to_string() };
            let answer = self.client().sign_link(self.request(tenant, message)).await;
            Ok(answer.map_err(|status| link_error(&status))?.into_inner().url)
        })
    }
}

fn person(participant: Participant) -> Person {
    let wants_mail = participant.notification_preferences.and_then(|wishes| wishes.email).unwrap_or(true);
    Person {
        id: ParticipantId::trusted(participant.id),
        name: participant.name,
        email: participant.email,
        wants_mail,
    }
}

fn link_error(status: &tonic::Status) -> LinkError {
    match reason_of(status).as_deref() {
        Some(
            reason @ ("LINK_NOT_FOUND"
            | "LINK_EXPIRED"
            | "LINK_REVOKED"
            | "PARTICIPANT_NOT_FOUND"
            | "INSTANCE_NOT_FOUND"),
        ) => LinkError::Gone(reason.to_owned()),
        Some(_) | None => LinkError::Away(status.message().to_owned()),
    }
}
