//! `DefinitionInternalService`.

use phasegate_principal::Principal;
use phasegate_proto::internal::definition::v1 as proto;
use phasegate_proto::internal::definition::v1::definition_internal_service_server::DefinitionInternalService;
use tonic::{Request, Response, Status};

use super::{Api, status};

#[tonic::async_trait]
impl DefinitionInternalService for Api {
    async fn pin_definition(
        &self,
        request: Request<proto::PinDefinitionRequest>,
    ) -> Result<Response<proto::PinDefinitionResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let found = self
            .app
            .definition_pin(&principal, &request.process_id, &request.version)
            .await
            .map_err(status)?;
        Ok(Response::new(proto::PinDefinitionResponse {
            version: found.version,
            content_digest: found.digest,
            definition_json: found.content,
        }))
    }
}
