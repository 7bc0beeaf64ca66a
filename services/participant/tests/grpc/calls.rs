//! Calls that many tests make.

use std::time::Duration;

use crate::world::{INSTANCE, World};
use phasegate_clock::Timestamp;
use phasegate_principal::Principal;
use phasegate_proto::internal::participant::v1::{
    ConsumeNonceRequest, EnsureLinkRequest, ExchangeLinkRequest, IssueNonceRequest, RenewLinkRequest,
    VerifySessionRequest,
};
use phasegate_proto::participant::v1::RequestNewLinkRequest;

pub(crate) const MINUTE: Duration = Duration::from_mins(1);
pub(crate) const HOUR: Duration = Duration::from_hours(1);
pub(crate) const DAY: Duration = Duration::from_hours(24);

pub(crate) async fn exchange(world: &World, token: &str) -> Result<String, tonic::Status> {
    let request = world.gateway(ExchangeLinkRequest { token: token.into() });
    Ok(world.internal().exchange_link(request).await?.into_inner().session_token)
}

pub(crate) async fn verify(
    world: &World,
    session: &str,
    link: &str,
    writes: bool,
) -> Result<phasegate_proto::internal::participant::v1::VerifySessionResponse, tonic::Status> {
    let request = world.gateway(session_request(session, link, writes));
    Ok(world.internal().verify_session(request).await?.into_inner())
}

pub(crate) fn session_request(session: &str, link: &str, writes: bool) -> VerifySessionRequest {
    VerifySessionRequest { session_token: session.into(), link_id: link.into(), writes }
}

pub(crate) async fn issue(world: &World, session: &str, subject: &str) -> Result<String, tonic::Status> {
    let message = IssueNonceRequest { session_token: session.into(), subject: subject.into() };
    Ok(world.internal().issue_nonce(world.gateway(message)).await?.into_inner().nonce)
}

pub(crate) async fn consume(
    world: &World,
    session: &str,
    subject: &str,
    nonce: &str,
) -> Result<(), tonic::Status> {
    let message =
        ConsumeNonceRequest { session_token: session.into(), subject: subject.into(), nonce: nonce.into() };
    world.internal().consume_nonce(world.gateway(message)).await.map(drop)
}

pub(crate) async fn renew(world: &World, token: &str) -> Result<(), tonic::Status> {
    let message = RequestNewLinkRequest { token: token.into() };
    world.links().request_new_link(world.gateway(message)).await.map(drop)
}

pub(crate) async fn renew_of_session(world: &World, session: &str, link: &str) -> Result<(), tonic::Status> {
    let message = RenewLinkRequest { session_token: session.into(), link_id: link.into() };
    world.internal().renew_link(world.gateway(message)).await.map(drop)
}

pub(crate) async fn ensure(
    world: &World,
    purpose: &str,
    expires_at: Option<Timestamp>,
) -> Result<phasegate_proto::participant::v1::Link, tonic::Status> {
    let request =
        world.call(&Principal::system("notification", "default"), for_notification(purpose, expires_at));
    Ok(world.internal().ensure_link(request).await?.into_inner().link.unwrap_or_default())
}

pub(crate) fn for_notification(purpose: &str, expires_at: Option<Timestamp>) -> EnsureLinkRequest {
    EnsureLinkRequest {
        instance_id: INSTANCE.into(),
        participant_id: "it_admin".into(),
        purpose: purpose.into(),
        expires_at: expires_at.map(Timestamp::to_proto),
    }
}
