//! What the participant service knows: people with their addresses, and links.

use futures::future::BoxFuture;
use phasegate_clock::Timestamp;
use phasegate_id::{InstanceId, LinkId, NotificationId, ParticipantId, TenantId};
use phasegate_principal::Principal;
use phasegate_proto::internal::participant::v1::participant_internal_service_client::ParticipantInternalServiceClient;
use phasegate_proto::internal::participant::v1::{EnsureLinkRequest, GetPeopleRequest, SignLinkRequest};
use phasegate_proto::participant::v1::Participant;
use phasegate_rpc_error::reason_of;
use phasegate_serve::{Channel, Peers, Service};
use tonic::Code;

use crate::domain::Person;
use crate::store::CONSUMER;

/// A link that was made.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// Its id.
    pub(crate) id: LinkId,
    /// Its URL, a secret. `None` where it has to be asked for, which says why there is none.
    pub(crate) url: Option<String>,
}

/// Finds people and makes links.
pub(crate) trait Directory: Send + Sync {
    /// Finds people of an instance; those that are not there yet are left out.
    fn people<'a>(
        &'a self,
        tenant: &'a TenantId,
        instance: &'a InstanceId,
        ids: Vec<ParticipantId>,
    ) -> BoxFuture<'a, Result<Vec<Person>, LookupError>>;

    /// Makes the link of a notification, once: the same one whenever it is asked for.
    fn link_ensure<'a>(
        &'a self,
        tenant: &'a TenantId,
        instance: &'a InstanceId,
        person: &'a ParticipantId,
        purpose: &'a NotificationId,
        expires_at: Timestamp,
    ) -> BoxFuture<'a, Result<Made, LinkError>>;

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
    ) -> BoxFuture<'a, Result<Made, LinkError>> {
        Box::pin(async move {
            let message = EnsureLinkRequest {
                instance_id: instance.to_string(),
                participant_id: person.to_string(),
                purpose: purpose.to_string(),
                expires_at: Some(expires_at.to_proto()),
            };
            let answer = self.client().ensure_link(self.request(tenant, message)).await;
            let answer = answer.map_err(|status| link_error(&status))?.into_inner();
            let link = answer.link.ok_or_else(|| LinkError::Away("the answer has no link".to_owned()))?;
            let id = LinkId::parse(&link.id).map_err(|error| LinkError::Away(error.to_string()))?;
            Ok(Made { id, url: Some(answer.url).filter(|url| !url.is_empty()) })
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

/// What the participant service refuses it refuses again; only what it did not answer may be answered later.
fn link_error(status: &tonic::Status) -> LinkError {
    match status.code() {
        Code::NotFound
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::FailedPrecondition
            if !is_between_services(status) =>
        {
            LinkError::Gone(reason_of(status).unwrap_or_else(|| status.message().to_owned()))
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => LinkError::Away(status.message().to_owned()),
    }
}

/// Our own principal was refused, which says nothing about the link.
fn is_between_services(status: &tonic::Status) -> bool {
    reason_of(status).as_deref() == Some("INTERNAL_AUTH")
}

#[cfg(test)]
mod tests {
    use phasegate_rpc_error::{Kind, Refusal, status};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused(Kind, &'static str);

    impl Refusal for Refused {
        fn kind(&self) -> Kind {
            self.0
        }

        fn reason(&self) -> &'static str {
            self.1
        }
    }

    #[test]
    fn only_what_was_not_answered_is_asked_again() {
        for (kind, reason, gone) in [
            (Kind::Unauthenticated, "LINK_EXPIRED", true),
            (Kind::Unauthenticated, "LINK_REVOKED", true),
            (Kind::NotFound, "LINK_NOT_FOUND", true),
            (Kind::NotFound, "PARTICIPANT_NOT_FOUND", true),
            (Kind::Invalid, "PARTICIPANT_INVALID", true),
            (Kind::Unauthenticated, "INTERNAL_AUTH", false),
            (Kind::Unavailable, "DEPENDENCY_DOWN", false),
            (Kind::Internal, "INTERNAL", false),
            (Kind::Exhausted, "RATE_LIMITED", false),
        ] {
            let error = link_error(&status(&Refused(kind, reason)));
            assert_eq!(matches!(error, LinkError::Gone(_)), gone, "{reason}");
        }
    }
}
