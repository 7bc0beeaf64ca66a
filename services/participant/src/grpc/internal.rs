//! `ParticipantInternalService`. What opens, verifies and consumes is found by its own hash or id, because a token, a
//! cookie and a form name no tenant: the row says whose it is.

use phasegate_clock::Timestamp;
use phasegate_idempotency::respond;
use phasegate_principal::Principal;
use phasegate_proto::internal::participant::v1 as proto;
use phasegate_proto::internal::participant::v1::participant_internal_service_server::ParticipantInternalService;
use phasegate_rpc_error::Invalid;
use tonic::{Request, Response, Status};

use super::{Api, convert, status};
use crate::app::secret::Secret;

#[tonic::async_trait]
impl ParticipantInternalService for Api {
    async fn get_people(
        &self,
        request: Request<proto::GetPeopleRequest>,
    ) -> Result<Response<proto::GetPeopleResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let people = self
            .app
            .people(&principal, &request.instance_id, &request.participant_ids)
            .await
            .map_err(status)?;
        let participants =
            people.into_iter().map(|person| convert::person(&request.instance_id, person)).collect();
        Ok(Response::new(proto::GetPeopleResponse { participants }))
    }

    async fn ensure_link(
        &self,
        request: Request<proto::EnsureLinkRequest>,
    ) -> Result<Response<proto::EnsureLinkResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let expires_at = match &request.expires_at {
            None => None,
            Some(time) => Some(Timestamp::from_proto(time).ok_or_else(|| {
                status(Invalid::new("EXPIRY_INVALID", "expires_at", "must be a time of this era"))
            })?),
        };
        let (held, url) = self
            .app
            .link_ensure_signed(
                &principal,
                &request.instance_id,
                &request.participant_id,
                &request.purpose,
                expires_at,
            )
            .await
            .map_err(status)?;
        let url = url.map(|url| url.expose().to_owned()).unwrap_or_default();
        let response = proto::EnsureLinkResponse { link: Some(convert::held(&held)), url };
        Ok(respond(response, held.unchanged))
    }

    async fn sign_link(
        &self,
        request: Request<proto::SignLinkRequest>,
    ) -> Result<Response<proto::SignLinkResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let url = self.app.link_sign(&principal, &request.into_inner().link_id).await.map_err(status)?;
        Ok(Response::new(proto::SignLinkResponse { url: url.expose().to_owned() }))
    }

    async fn exchange_link(
        &self,
        request: Request<proto::ExchangeLinkRequest>,
    ) -> Result<Response<proto::ExchangeLinkResponse>, Status> {
        Principal::of(&request)?;
        let token = Secret::new(request.into_inner().token);
        let opened = self.app.link_exchange_counted(&token).await.map_err(status)?;
        let link = convert::standing(&opened.standing);
        let tenant_id = opened.standing.link.tenant.into_string();
        Ok(Response::new(proto::ExchangeLinkResponse {
            session_token: opened.token.expose().to_owned(),
            session_expires_at: Some(opened.ends_at.to_proto()),
            participant: Some(convert::person(&link.instance_id, opened.standing.person)),
            link: Some(link),
            tenant_id,
        }))
    }

    async fn verify_session(
        &self,
        request: Request<proto::VerifySessionRequest>,
    ) -> Result<Response<proto::VerifySessionResponse>, Status> {
        Principal::of(&request)?;
        let request = request.into_inner();
        let token = Secret::new(request.session_token);
        let standing =
            self.app.session_verify(&token, &request.link_id, request.writes).await.map_err(status)?;
        let link = convert::standing(&standing);
        Ok(Response::new(proto::VerifySessionResponse {
            participant: Some(convert::person(&link.instance_id, standing.person)),
            link: Some(link),
            tenant_id: standing.link.tenant.into_string(),
        }))
    }

    async fn issue_nonce(
        &self,
        request: Request<proto::IssueNonceRequest>,
    ) -> Result<Response<proto::IssueNonceResponse>, Status> {
        Principal::of(&request)?;
        let request = request.into_inner();
        let token = Secret::new(request.session_token);
        let nonce = self.app.nonce_issue(&token, &request.subject).await.map_err(status)?;
        Ok(Response::new(proto::IssueNonceResponse { nonce: nonce.expose().to_owned() }))
    }

    async fn consume_nonce(
        &self,
        request: Request<proto::ConsumeNonceRequest>,
    ) -> Result<Response<proto::ConsumeNonceResponse>, Status> {
        Principal::of(&request)?;
        let request = request.into_inner();
        let (token, nonce) = (Secret::new(request.session_token), Secret::new(request.nonce));
        self.app.nonce_consume(&token, &request.subject, &nonce).await.map_err(status)?;
        Ok(Response::new(proto::ConsumeNonceResponse {}))
    }

    async fn renew_link(
        &self,
        request: Request<proto::RenewLinkRequest>,
    ) -> Result<Response<proto::RenewLinkResponse>, Status> {
        Principal::of(&request)?;
        let request = request.into_inner();
        let token = Secret::new(request.session_token);
        self.app.link_renew_of_session(&token, &request.link_id).await.map_err(status)?;
        Ok(Response::new(proto::RenewLinkResponse {}))
    }
}
