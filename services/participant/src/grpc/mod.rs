//! The doors: one method for each rpc, which converts, asks `app`, and converts back. Requests and answers hold
//! tokens, so no message is ever logged.

mod convert;
mod internal;
mod key;
mod link;
mod person;
mod refusal;

use phasegate_page_token::PageTokens;
use phasegate_proto::internal::participant::v1::key_internal_service_server::KeyInternalServiceServer;
use phasegate_proto::internal::participant::v1::participant_internal_service_server::ParticipantInternalServiceServer;
use phasegate_proto::participant::v1::key_service_server::KeyServiceServer;
use phasegate_proto::participant::v1::link_service_server::LinkServiceServer;
use phasegate_proto::participant::v1::participant_service_server::ParticipantServiceServer;
use phasegate_serve::bounded;
use tonic::Status;
use tonic::service::Routes;

use crate::app::{App, Error};

/// The service as gRPC sees it.
#[derive(Debug, Clone)]
struct Api {
    app: App,
    pages: PageTokens,
}

/// All routes of the service.
pub(crate) fn routes(app: App, pages: PageTokens) -> Routes {
    let api = Api { app, pages };
    Routes::new(bounded!(ParticipantServiceServer::new(api.clone())))
        .add_service(bounded!(LinkServiceServer::new(api.clone())))
        .add_service(bounded!(KeyServiceServer::new(api.clone())))
        .add_service(bounded!(KeyInternalServiceServer::new(api.clone())))
        .add_service(bounded!(ParticipantInternalServiceServer::new(api)))
}

fn status(error: impl Into<Error>) -> Status {
    phasegate_rpc_error::status(&error.into())
}

/// Reads an answer that was kept.
fn kept<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, Status> {
    M::decode(bytes).map_err(|_| status(Error::inconsistent("idempotency", "answer")))
}
