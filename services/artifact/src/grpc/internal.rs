//! `ArtifactInternalService`.

use phasegate_principal::Principal;
use phasegate_proto::internal::artifact::v1 as proto;
use phasegate_proto::internal::artifact::v1::artifact_internal_service_server::ArtifactInternalService;
use tonic::{Request, Response, Status};

use super::{Api, convert, status};

#[tonic::async_trait]
impl ArtifactInternalService for Api {
    async fn get_current_versions(
        &self,
        request: Request<proto::GetCurrentVersionsRequest>,
    ) -> Result<Response<proto::GetCurrentVersionsResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let found = self
            .app
            .artifact_current(&principal, &request.instance_id, &request.keys)
            .await
            .map_err(status)?;
        let artifacts = found.into_iter().map(convert::current).collect();
        Ok(Response::new(proto::GetCurrentVersionsResponse { artifacts }))
    }
}
