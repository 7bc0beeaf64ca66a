//! The door: each method converts, asks the application, and converts back.

mod convert;
mod refusal;
mod watch;

use phasegate_idempotency::respond;
use phasegate_page_token::{PageTokens, cut, page_size};
use phasegate_principal::Principal;
use phasegate_proto::approval::v1::approval_service_server::{ApprovalService, ApprovalServiceServer};
use phasegate_proto::approval::v1::{
    DecideApprovalRequest, DecideApprovalResponse, GetApprovalRequest, GetApprovalResponse,
    ListApprovalsRequest, ListApprovalsResponse, RequestApprovalRequest, RequestApprovalResponse,
    WatchApprovalResponsesRequest, WatchApprovalResponsesResponse, WithdrawApprovalRequest,
    WithdrawApprovalResponse,
};
use phasegate_rpc_error::{Refusal, status};
use prost::Message;
use tonic::{Request, Response, Status};

use crate::app::{App, Call, Caller, Done, Page, Record, message};

pub use watch::Watching;

/// `ApprovalService`.
#[derive(Debug, Clone)]
pub struct Api {
    app: App,
    pages: PageTokens,
    watching: Watching,
}

impl Api {
    /// The door of an application.
    pub fn new(app: App, pages: PageTokens, watching: Watching) -> Self {
        Self { app, pages, watching }
    }

    /// As a server takes it.
    pub fn into_server(self) -> ApprovalServiceServer<Self> {
        phasegate_serve::bounded!(ApprovalServiceServer::new(self))
    }
}

#[tonic::async_trait]
impl ApprovalService for Api {
    type WatchApprovalResponsesStream =
        futures::stream::BoxStream<'static, Result<WatchApprovalResponsesResponse, Status>>;

    async fn request_approval(
        &self,
        request: Request<RequestApprovalRequest>,
    ) -> Result<Response<RequestApprovalResponse>, Status> {
        let caller = caller(&request)?;
        let message = request.into_inner();
        let call = call(&caller, "RequestApproval", &message.request_id, &message, |record| {
            RequestApprovalResponse { approval: Some(message::approval(record)) }.encode_to_vec()
        })?;
        let ask = convert::ask(message).map_err(refused)?;
        let done = self.app.request(&caller, ask, call.as_ref()).await.map_err(refused)?;
        answer(done, |record| RequestApprovalResponse { approval: Some(message::approval(record)) })
    }

    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Result<Response<ListApprovalsResponse>, Status> {
        let caller = caller(&request)?;
        let message = request.into_inner();
        let size = page_size(message.page_size).map_err(refused)?;
        let scope = convert::list_scope(&caller, &message);
        let after = self.pages.decode(&scope, &message.page_token).map_err(refused)?;
        let list = convert::list(message).map_err(refused)?;
        let listed = self.app.list(&caller, list, Page { size, after }).await.map_err(refused)?;
        let mut approvals = listed.records.iter().map(message::approval).collect();
        let next = if cut(&mut approvals, size) { listed.next } else { listed.after(approvals.len()) };
        let next_page_token = next.map(|next| self.pages.encode(&scope, &next)).unwrap_or_default();
        Ok(Response::new(ListApprovalsResponse { approvals, next_page_token }))
    }

    async fn get_approval(
        &self,
        request: Request<GetApprovalRequest>,
    ) -> Result<Response<GetApprovalResponse>, Status> {
        let caller = caller(&request)?;
        let record = self.app.get(&caller, &request.into_inner().approval_id).await.map_err(refused)?;
        Ok(Response::new(GetApprovalResponse { approval: Some(message::approval(&record)) }))
    }

    async fn decide_approval(
        &self,
        request: Request<DecideApprovalRequest>,
    ) -> Result<Response<DecideApprovalResponse>, Status> {
        let caller = caller(&request)?;
        let message = request.into_inner();
        let call = call(&caller, "DecideApproval", &message.request_id, &message, |record| {
            DecideApprovalResponse { approval: Some(message::approval(record)) }.encode_to_vec()
        })?;
        let wish = convert::decide(message).map_err(refused)?;
        let done = self.app.decide_counted(&caller, wish, call.as_ref()).await.map_err(refused)?;
        answer(done, |record| DecideApprovalResponse { approval: Some(message::approval(record)) })
    }

    async fn withdraw_approval(
        &self,
        request: Request<WithdrawApprovalRequest>,
    ) -> Result<Response<WithdrawApprovalResponse>, Status> {
        let caller = caller(&request)?;
        let message = request.into_inner();
        let call = call(&caller, "WithdrawApproval", &message.request_id, &message, |record| {
            WithdrawApprovalResponse { approval: Some(message::approval(record)) }.encode_to_vec()
        })?;
        let wish = convert::withdraw(message).map_err(refused)?;
        let done = self.app.withdraw(&caller, wish, call.as_ref()).await.map_err(refused)?;
        answer(done, |record| WithdrawApprovalResponse { approval: Some(message::approval(record)) })
    }

    async fn watch_approval_responses(
        &self,
        request: Request<WatchApprovalResponsesRequest>,
    ) -> Result<Response<Self::WatchApprovalResponsesStream>, Status> {
        let caller = caller(&request)?;
        let message = request.into_inner();
        let from = convert::resume_at(&message.resume_token).map_err(refused)?;
        let start = self.app.watch_from(&caller, &message.instance_id, from).await.map_err(refused)?;
        let (instance, position) = start.ok_or_else(|| refused(convert::resume_token_invalid()))?;
        let stream = self.watching.stream(self.app.clone(), caller, instance, position);
        Ok(Response::new(Box::pin(stream)))
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    Ok(Caller::new(Principal::of(request)?.clone()))
}

/// What a call is known by, where the caller gave it a name.
fn call(
    caller: &Caller,
    method: &str,
    request_id: &str,
    request: &impl Message,
    encode: fn(&Record) -> Vec<u8>,
) -> Result<Option<Call>, Status> {
    let key = caller.idempotency_key(method, request_id).map_err(refused)?;
    Ok(key.map(|key| Call { key, fingerprint: phasegate_idempotency::fingerprint(request), encode }))
}

/// The answer, marked where its effect was there already.
fn answer<M: Message + Default>(done: Done, fresh: impl FnOnce(&Record) -> M) -> Result<Response<M>, Status> {
    let (message, repeated) = match done {
        Done::Now { record, repeated } => (fresh(&record), repeated),
        Done::Before(stored) => (M::decode(stored.as_slice()).map_err(refusal::unreadable)?, true),
    };
    Ok(respond(message, repeated))
}

fn refused(refusal: impl Refusal) -> Status {
    status(&refusal)
}
