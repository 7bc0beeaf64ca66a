//! The doors: one method for each rpc, which converts, asks `app`, and converts back.

mod artifact;
mod comment;
mod convert;
mod internal;
mod refusal;

use phasegate_idempotency::{Answer, respond};
use phasegate_page_token::PageTokens;
use phasegate_proto::artifact::v1::artifact_service_server::ArtifactServiceServer;
use phasegate_proto::artifact::v1::comment_service_server::CommentServiceServer;
use phasegate_proto::internal::artifact::v1::artifact_internal_service_server::ArtifactInternalServiceServer;
use phasegate_serve::{MESSAGE_BYTES_MAX, bounded};
use tonic::service::Routes;
use tonic::{Response, Status};

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
    let artifacts = bounded!(ArtifactServiceServer::new(api.clone()), MESSAGE_BYTES_MAX);
    Routes::new(artifacts)
        .add_service(bounded!(CommentServiceServer::new(api.clone())))
        .add_service(bounded!(ArtifactInternalServiceServer::new(api)))
}

fn status(error: impl Into<Error>) -> Status {
    phasegate_rpc_error::status(&error.into())
}

/// The answer to a change: made now by `encode`, or kept from the first time.
fn answer<T, M: prost::Message + Default>(
    answer: Answer<T>,
    make: impl FnOnce(&T) -> Result<M, Error>,
    unchanged: impl FnOnce(&T) -> bool,
) -> Result<Response<M>, Status> {
    let (message, repeated) = match answer {
        Answer::First(done) => (make(&done).map_err(status)?, unchanged(&done)),
        Answer::Repeated(bytes) => {
            let message = M::decode(bytes.as_slice())
                .map_err(|_| status(Error::inconsistent("idempotency", "answer")))?;
            (message, true)
        }
    };
    Ok(respond(message, repeated))
}
