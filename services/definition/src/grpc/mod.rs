//! The doors: one method for each rpc, which converts, asks `app`, and converts back.

mod convert;
mod definition;
mod internal;
mod refusal;
mod template;

use phasegate_idempotency::{Answer, respond};
use phasegate_page_token::PageTokens;
use phasegate_proto::definition::v1::definition_service_server::DefinitionServiceServer;
use phasegate_proto::definition::v1::team_template_service_server::TeamTemplateServiceServer;
use phasegate_proto::internal::definition::v1::definition_internal_service_server::DefinitionInternalServiceServer;
use phasegate_serve::{MESSAGE_BYTES_MAX, bounded};
use tonic::service::Routes;
use tonic::{Response, Status};

use crate::app::StoreError;
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
    let definitions = bounded!(DefinitionServiceServer::new(api.clone()), MESSAGE_BYTES_MAX);
    let templates = bounded!(TeamTemplateServiceServer::new(api.clone()), MESSAGE_BYTES_MAX);
    Routes::new(definitions)
        .add_service(templates)
        .add_service(bounded!(DefinitionInternalServiceServer::new(api)))
}

fn status(error: impl Into<Error>) -> Status {
    phasegate_rpc_error::status(&error.into())
}

/// The answer to a change: made now by `make`, or kept from the first time.
fn answer<T, M: prost::Message + Default>(
    answer: Answer<T>,
    make: impl FnOnce(&T) -> Result<M, Error>,
    unchanged: impl FnOnce(&T) -> bool,
) -> Result<Response<M>, Status> {
    let (message, repeated) = match answer {
        Answer::First(done) => (make(&done).map_err(status)?, unchanged(&done)),
        Answer::Repeated(bytes) => {
            let message = M::decode(bytes.as_slice()).map_err(|_| {
                status(StoreError::Inconsistent { table: "idempotency", row: "answer".to_owned() })
            })?;
            (message, true)
        }
    };
    Ok(respond(message, repeated))
}
