//! An approval service that knows three requests: `apr-own`, which asks the person of the tests, `apr-other`, which asks
//! somebody else, and `apr-far` of another instance.

use futures::stream::Empty;
use phasegate_principal::Principal;
use phasegate_proto::approval::v1 as proto;
use phasegate_proto::approval::v1::approval_service_server::ApprovalService;
use phasegate_rpc_error::{Kind, Refusal};
use tonic::{Request, Response, Status};

use crate::world::INSTANCE;

/// Knows the requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FakeApproval;

#[derive(Debug, thiserror::Error)]
#[error("approval was not found")]
struct NotFound;

impl Refusal for NotFound {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }

    fn reason(&self) -> &'static str {
        "APPROVAL_NOT_FOUND"
    }
}

#[tonic::async_trait]
impl ApprovalService for FakeApproval {
    type WatchApprovalResponsesStream = Empty<Result<proto::WatchApprovalResponsesResponse, Status>>;

    async fn get_approval(
        &self,
        request: Request<proto::GetApprovalRequest>,
    ) -> Result<Response<proto::GetApprovalResponse>, Status> {
        let is_person = Principal::of(&request)?.participation.is_some();
        let id = request.into_inner().approval_id;
        let instance_id = match id.as_str() {
            "apr-own" => INSTANCE,
            "apr-other" if !is_person => INSTANCE,
            "apr-far" => "i-2",
            _ => return Err(phasegate_rpc_error::status(&NotFound)),
        };
        let approval = proto::Approval { instance_id: instance_id.into(), id, ..Default::default() };
        Ok(Response::new(proto::GetApprovalResponse { approval: Some(approval) }))
    }

    async fn request_approval(
        &self,
        _: Request<proto::RequestApprovalRequest>,
    ) -> Result<Response<proto::RequestApprovalResponse>, Status> {
        Err(Status::unimplemented("request"))
    }

    async fn list_approvals(
        &self,
        _: Request<proto::ListApprovalsRequest>,
    ) -> Result<Response<proto::ListApprovalsResponse>, Status> {
        Err(Status::unimplemented("list"))
    }

    async fn decide_approval(
        &self,
        _: Request<proto::DecideApprovalRequest>,
    ) -> Result<Response<proto::DecideApprovalResponse>, Status> {
        Err(Status::unimplemented("decide"))
    }

    async fn withdraw_approval(
        &self,
        _: Request<proto::WithdrawApprovalRequest>,
    ) -> Result<Response<proto::WithdrawApprovalResponse>, Status> {
        Err(Status::unimplemented("withdraw"))
    }

    async fn watch_approval_responses(
        &self,
        _: Request<proto::WatchApprovalResponsesRequest>,
    ) -> Result<Response<Self::WatchApprovalResponsesStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
}
