//! The portal's calls to the services: as the visitor, or where a session is looked up, as the gateway.

use phasegate_principal::Principal;
use phasegate_proto::approval::v1::approval_service_client::ApprovalServiceClient;
use phasegate_proto::approval::v1::{
    Approval, DecideApprovalRequest, GetApprovalRequest, ListApprovalsRequest,
};
use phasegate_proto::artifact::v1::artifact_service_client::ArtifactServiceClient;
use phasegate_proto::artifact::v1::comment_service_client::CommentServiceClient;
use phasegate_proto::artifact::v1::{
    Artifact, Comment, CreateCommentRequest, GetArtifactRequest, ListArtifactsRequest, ListCommentsRequest,
};
use phasegate_proto::instance::v1::instance_service_client::InstanceServiceClient;
use phasegate_proto::instance::v1::{GetInstanceRequest, GetTimelineRequest, PhaseTimeline, ProcessInstance};
use phasegate_proto::internal::participant::v1::participant_internal_service_client::ParticipantInternalServiceClient;
use phasegate_proto::internal::participant::v1::{
    ConsumeNonceRequest, ExchangeLinkRequest, ExchangeLinkResponse, IssueNonceRequest, RenewLinkRequest,
    VerifySessionRequest, VerifySessionResponse,
};
use phasegate_proto::participant::v1::RequestNewLinkRequest;
use phasegate_proto::participant::v1::link_service_client::LinkServiceClient;
use phasegate_serve::{Channel, MESSAGE_BYTES_MAX, Service};
use tonic::Status;

use super::Portal;
use super::readable;
use super::session::Visitor;

/// Entries of one list on one page. What is more is reached through the API.
const LIST_MAX: i32 = 100;

impl Portal {
    fn sessions(&self) -> ParticipantInternalServiceClient<Channel> {
        ParticipantInternalServiceClient::new(self.context.peers.channel(Service::Participant))
    }

    /// A question on the gateway's own account: before a session is known there is nobody else.
    fn own<T>(&self, message: T) -> tonic::Request<T> {
        let gateway = Principal::system("gateway", phasegate_principal::DEFAULT_TENANT);
        self.context.peers.request(Service::Participant, &gateway, message)
    }

    /// Opens a session.
    pub(super) async fn exchange(&self, token: &str) -> Result<ExchangeLinkResponse, Status> {
        let request = self.own(ExchangeLinkRequest { token: token.to_owned() });
        Ok(self.sessions().exchange_link(request).await?.into_inner())
    }

    /// Whom a session stands for.
    pub(super) async fn verify_session(
        &self,
        session_token: &str,
        link_id: &str,
        writes: bool,
    ) -> Result<VerifySessionResponse, Status> {
        let (session_token, link_id) = (session_token.to_owned(), link_id.to_owned());
        let request = self.own(VerifySessionRequest { session_token, link_id, writes });
        Ok(self.sessions().verify_session(request).await?.into_inner())
    }

    /// A nonce for one form.
    pub(super) async fn issue_nonce(&self, visitor: &Visitor, subject: String) -> Result<String, Status> {
        let request = self.own(IssueNonceRequest { session_token: visitor.session_token.clone(), subject });
        Ok(self.sessions().issue_nonce(request).await?.into_inner().nonce)
    }

    /// Uses a nonce up.
    pub(super) async fn consume_nonce(
        &self,
        visitor: &Visitor,
        subject: String,
        nonce: &str,
    ) -> Result<(), Status> {
        let session_token = visitor.session_token.clone();
        let request = self.own(ConsumeNonceRequest { session_token, subject, nonce: nonce.to_owned() });
        self.sessions().consume_nonce(request).await?;
        Ok(())
    }

    /// Has a fresh link mailed.
    pub(super) async fn fresh_link(&self, token: &str) -> Result<(), Status> {
        let request = self.own(RequestNewLinkRequest { token: token.to_owned() });
        LinkServiceClient::new(self.context.peers.channel(Service::Participant))
            .request_new_link(request)
            .await?;
        Ok(())
    }

    /// Has a fresh link mailed to who has come in by a link.
    pub(super) async fn fresh_link_of_session(
        &self,
        session_token: &str,
        link_id: &str,
    ) -> Result<(), Status> {
        let (session_token, link_id) = (session_token.to_owned(), link_id.to_owned());
        self.sessions().renew_link(self.own(RenewLinkRequest { session_token, link_id })).await?;
        Ok(())
    }

    /// The instance.
    pub(super) async fn instance(&self, visitor: &Visitor) -> Result<ProcessInstance, Status> {
        let message = GetInstanceRequest { instance_id: visitor.instance_id().to_owned() };
        let request = self.context.peers.request(Service::Instance, &visitor.principal, message);
        let answer = self.instances().get_instance(request).await?.into_inner();
        Ok(readable::instance(answer.instance.unwrap_or_default()))
    }

    /// Its phases.
    pub(super) async fn phases(&self, visitor: &Visitor) -> Result<Vec<PhaseTimeline>, Status> {
        let message = GetTimelineRequest { instance_id: visitor.instance_id().to_owned() };
        let request = self.context.peers.request(Service::Instance, &visitor.principal, message);
        let phases = self.instances().get_timeline(request).await?.into_inner().phases;
        Ok(phases.into_iter().map(readable::phase).collect())
    }

    /// Requests that the visitor may see, newest first.
    pub(super) async fn approvals(&self, visitor: &Visitor) -> Result<Vec<Approval>, Status> {
        let message = ListApprovalsRequest {
            instance_id: visitor.instance_id().to_owned(),
            all: true,
            page_size: LIST_MAX,
            ..ListApprovalsRequest::default()
        };
        let request = self.context.peers.request(Service::Approval, &visitor.principal, message);
        let approvals = self.requests().list_approvals(request).await?.into_inner().approvals;
        Ok(approvals.into_iter().map(readable::approval).collect())
    }

    /// One request.
    pub(super) async fn approval(&self, visitor: &Visitor, approval_id: &str) -> Result<Approval, Status> {
        let message = GetApprovalRequest { approval_id: approval_id.to_owned() };
        let request = self.context.peers.request(Service::Approval, &visitor.principal, message);
        let answer = self.requests().get_approval(request).await?.into_inner();
        Ok(readable::approval(answer.approval.unwrap_or_default()))
    }

    /// Answers a request.
    pub(super) async fn decide(
        &self,
        visitor: &Visitor,
        decision: DecideApprovalRequest,
    ) -> Result<Approval, Status> {
        let request = self.context.peers.request(Service::Approval, &visitor.principal, decision);
        Ok(self.requests().decide_approval(request).await?.into_inner().approval.unwrap_or_default())
    }

    /// Artifacts of the instance.
    pub(super) async fn artifacts(&self, visitor: &Visitor) -> Result<Vec<Artifact>, Status> {
        let message = ListArtifactsRequest {
            instance_id: visitor.instance_id().to_owned(),
            page_size: LIST_MAX,
            ..ListArtifactsRequest::default()
        };
        let request = self.context.peers.request(Service::Artifact, &visitor.principal, message);
        let artifacts = self.storage().list_artifacts(request).await?.into_inner().artifacts;
        Ok(artifacts.into_iter().map(readable::artifact).collect())
    }

    /// One version of an artifact, with its content; 0 for the newest.
    pub(super) async fn artifact(
        &self,
        visitor: &Visitor,
        key: &str,
        version: i32,
    ) -> Result<Artifact, Status> {
        let instance_id = visitor.instance_id().to_owned();
        let message = GetArtifactRequest { instance_id, key: key.to_owned(), version };
        let request = self.context.peers.request(Service::Artifact, &visitor.principal, message);
        let answer = self.storage().get_artifact(request).await?.into_inner();
        Ok(readable::artifact(answer.artifact.unwrap_or_default()))
    }

    /// Comments that the visitor may see, oldest first.
    pub(super) async fn comments(&self, visitor: &Visitor) -> Result<Vec<Comment>, Status> {
        let message = ListCommentsRequest {
            instance_id: visitor.instance_id().to_owned(),
            page_size: LIST_MAX,
            ..ListCommentsRequest::default()
        };
        let request = self.context.peers.request(Service::Artifact, &visitor.principal, message);
        let comments = self.threads().list_comments(request).await?.into_inner().comments;
        Ok(comments.into_iter().map(readable::comment).collect())
    }

    /// Writes a comment on the instance.
    pub(super) async fn write_comment(&self, visitor: &Visitor, body: String) -> Result<(), Status> {
        let message = CreateCommentRequest {
            instance_id: visitor.instance_id().to_owned(),
            subject: "instance".to_owned(),
            body,
            ..CreateCommentRequest::default()
        };
        let request = self.context.peers.request(Service::Artifact, &visitor.principal, message);
        self.threads().create_comment(request).await?;
        Ok(())
    }

    fn instances(&self) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.context.peers.channel(Service::Instance))
    }

    fn requests(&self) -> ApprovalServiceClient<Channel> {
        ApprovalServiceClient::new(self.context.peers.channel(Service::Approval))
    }

    fn storage(&self) -> ArtifactServiceClient<Channel> {
        ArtifactServiceClient::new(self.context.peers.channel(Service::Artifact))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn threads(&self) -> CommentServiceClient<Channel> {
        CommentServiceClient::new(self.context.peers.channel(Service::Artifact))
    }
}
