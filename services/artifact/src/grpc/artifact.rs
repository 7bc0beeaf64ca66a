//! `ArtifactService`.

use phasegate_page_token::{cut, page_size};
use phasegate_principal::Principal;
use phasegate_proto::artifact::v1 as proto;
use phasegate_proto::artifact::v1::artifact_service_server::ArtifactService;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{Api, answer, convert, status};
use crate::app::artifact::{Filter, Stored};
use crate::app::{Error, Once};
use crate::domain::artifact::Version;

#[tonic::async_trait]
impl ArtifactService for Api {
    async fn store_artifact(
        &self,
        request: Request<proto::StoreArtifactRequest>,
    ) -> Result<Response<proto::StoreArtifactResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once =
            Once::of(&principal, "StoreArtifact", &request.request_id, &request, encode).map_err(status)?;
        let instance_id = request.instance_id.clone();
        let put = convert::put(request).map_err(status)?;
        let done = self.app.artifact_store(&principal, &instance_id, put, once).await.map_err(status)?;
        answer(done, convert::stored, |stored| stored.unchanged)
    }

    async fn list_artifacts(
        &self,
        request: Request<proto::ListArtifactsRequest>,
    ) -> Result<Response<proto::ListArtifactsResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(status)?;
        let scope = format!(
            "ListArtifacts\n{}\n{}\n{}\n{}",
            principal.tenant, request.instance_id, request.phase, request.r#type
        );
        let after: Option<String> = self.pages.decode(&scope, &request.page_token).map_err(status)?;
        let filter = Filter { phase: request.phase, kind: request.r#type };
        let instance_id = request.instance_id;
        let after = after.unwrap_or_default();
        let found = self
            .app
            .artifact_list(&principal, &instance_id, &filter, &after, size + 1)
            .await
            .map_err(status)?;
        let mut artifacts = shown(&instance_id, &found)?;
        let is_last = cut(&mut artifacts, size);
        let next_page_token = match artifacts.last() {
            Some(last) if !is_last => self.pages.encode(&scope, &last.key),
            Some(_) | None => String::new(),
        };
        Ok(Response::new(proto::ListArtifactsResponse { artifacts, next_page_token }))
    }

    async fn get_artifact(
        &self,
        request: Request<proto::GetArtifactRequest>,
    ) -> Result<Response<proto::GetArtifactResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let (version, content) = self
            .app
            .artifact_get(&principal, &request.instance_id, &request.key, request.version)
            .await
            .map_err(status)?;
        let artifact =
            convert::artifact_with_content(&request.instance_id, &version, content).map_err(status)?;
        Ok(Response::new(proto::GetArtifactResponse { artifact: Some(artifact) }))
    }

    async fn list_artifact_versions(
        &self,
        request: Request<proto::ListArtifactVersionsRequest>,
    ) -> Result<Response<proto::ListArtifactVersionsResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(status)?;
        let scope =
            format!("ListArtifactVersions\n{}\n{}\n{}", principal.tenant, request.instance_id, request.key);
        let below: Option<i32> = self.pages.decode(&scope, &request.page_token).map_err(status)?;
        let found = self
            .app
            .version_list(&principal, &request.instance_id, &request.key, below, size + 1)
            .await
            .map_err(status)?;
        let mut artifacts = shown(&request.instance_id, &found)?;
        let is_last = cut(&mut artifacts, size);
        let next_page_token = match artifacts.last() {
            Some(last) if !is_last => self.pages.encode(&scope, &last.version),
            Some(_) | None => String::new(),
        };
        Ok(Response::new(proto::ListArtifactVersionsResponse { artifacts, next_page_token }))
    }
}

fn shown(instance_id: &str, versions: &[Version]) -> Result<Vec<proto::Artifact>, Status> {
    let shown = versions.iter().map(|version| convert::artifact(instance_id, version));
    shown.collect::<Result<_, _>>().map_err(status)
}

fn encode(stored: &Stored) -> Result<Vec<u8>, Error> {
    Ok(convert::stored(stored)?.encode_to_vec())
}
