//! `DefinitionService`.

use phasegate_idempotency::Answer;
use phasegate_page_token::page_size;
use phasegate_principal::{Principal, Scope};
use phasegate_proto::definition::v1 as proto;
use phasegate_proto::definition::v1::definition_service_server::DefinitionService;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{Api, answer, convert, status};
use crate::app::definition::Kept;
use crate::app::{Error, Newest, Once};
use crate::domain::Version;

#[tonic::async_trait]
impl DefinitionService for Api {
    async fn list_process_definitions(
        &self,
        request: Request<proto::ListProcessDefinitionsRequest>,
    ) -> Result<Response<proto::ListProcessDefinitionsResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(status)?;
        let scope = format!("ListProcessDefinitions\n{}\n{}", principal.tenant, request.include_drafts);
        let after: Option<String> = self.pages.decode(&scope, &request.page_token).map_err(status)?;
        let newest = if request.include_drafts { Newest::Any } else { Newest::Published };
        let after = after.unwrap_or_default();
        let found = self.app.definition_list(&principal, newest, &after, size).await.map_err(status)?;
        // A page is cut by size, too: only an empty one is surely the last.
        let next_page_token = match found.last() {
            Some(last) if self.has_more(&principal, newest, last).await? => {
                self.pages.encode(&scope, &last.process_id)
            }
            Some(_) | None => String::new(),
        };
        let processes = definitions(&found)?;
        Ok(Response::new(proto::ListProcessDefinitionsResponse { processes, next_page_token }))
    }

    async fn get_process_definition(
        &self,
        request: Request<proto::GetProcessDefinitionRequest>,
    ) -> Result<Response<proto::GetProcessDefinitionResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let found = self
            .app
            .definition_get(&principal, &request.process_id, &request.version)
            .await
            .map_err(status)?;
        let process_definition = Some(convert::definition(&found).map_err(status)?);
        Ok(Response::new(proto::GetProcessDefinitionResponse { process_definition }))
    }

    async fn create_process_definition(
        &self,
        request: Request<proto::CreateProcessDefinitionRequest>,
    ) -> Result<Response<proto::CreateProcessDefinitionResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once =
            Once::of(&principal, "CreateProcessDefinition", &request.request_id, &request, created_bytes)
                .map_err(status)?;
        let definition = request.process_definition.unwrap_or_default();
        // What is no draft is let loose at once.
        if !definition.draft && !request.validate_only {
            principal.needs(Scope::DefinitionsPublish).map_err(|no| phasegate_rpc_error::status(&no))?;
        }
        let draft = convert::draft(definition).map_err(status)?;
        let done = if request.validate_only {
            self.app.definition_try(&principal, draft).await.map(Answer::First)
        } else {
            self.app.definition_create(&principal, draft, once).await
        };
        answer(done.map_err(status)?, created, |kept| kept.unchanged)
    }

    async fn publish_process_definition(
        &self,
        request: Request<proto::PublishProcessDefinitionRequest>,
    ) -> Result<Response<proto::PublishProcessDefinitionResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once =
            Once::of(&principal, "PublishProcessDefinition", &request.request_id, &request, published_bytes)
                .map_err(status)?;
        let done = self
            .app
            .definition_publish(&principal, &request.process_id, &request.version, once)
            .await
            .map_err(status)?;
        answer(done, published, |kept| kept.unchanged)
    }

    async fn list_process_definition_versions(
        &self,
        request: Request<proto::ListProcessDefinitionVersionsRequest>,
    ) -> Result<Response<proto::ListProcessDefinitionVersionsResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(status)?;
        let scope = format!("ListProcessDefinitionVersions\n{}\n{}", principal.tenant, request.process_id);
        let below: Option<String> = self.pages.decode(&scope, &request.page_token).map_err(status)?;
        let process_id = request.process_id;
        let found =
            self.app.version_list(&principal, &process_id, below.as_deref(), size).await.map_err(status)?;
        let next_page_token = match found.last() {
            Some(last) => {
                let more = self.app.version_list(&principal, &process_id, Some(&last.version), 1).await;
                if more.map_err(status)?.is_empty() {
                    String::new()
                } else {
                    self.pages.encode(&scope, &last.version)
                }
            }
            None => String::new(),
        };
        let versions = definitions(&found)?;
        Ok(Response::new(proto::ListProcessDefinitionVersionsResponse { versions, next_page_token }))
    }

    async fn validate_process_definition(
        &self,
        request: Request<proto::ValidateProcessDefinitionRequest>,
    ) -> Result<Response<proto::ValidateProcessDefinitionResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let draft = convert::draft(request.process_definition.unwrap_or_default()).map_err(status)?;
        let context =
            request.context.map(|context| convert::structure(&context)).transpose().map_err(status)?;
        let found = self.app.definition_check(&principal, draft, context).await.map_err(status)?;
        Ok(Response::new(convert::findings(found)))
    }
}

impl Api {
    async fn has_more(&self, principal: &Principal, newest: Newest, last: &Version) -> Result<bool, Status> {
        let more = self.app.definition_list(principal, newest, &last.process_id, 1).await;
        Ok(!more.map_err(status)?.is_empty())
    }
}

fn definitions(versions: &[Version]) -> Result<Vec<proto::ProcessDefinition>, Status> {
    versions.iter().map(convert::definition).collect::<Result<_, _>>().map_err(status)
}

fn created(kept: &Kept) -> Result<proto::CreateProcessDefinitionResponse, Error> {
    let process_definition = Some(convert::definition(&kept.version)?);
    Ok(proto::CreateProcessDefinitionResponse { process_definition })
}

fn created_bytes(kept: &Kept) -> Result<Vec<u8>, Error> {
    Ok(created(kept)?.encode_to_vec())
}

fn published(kept: &Kept) -> Result<proto::PublishProcessDefinitionResponse, Error> {
    let process_definition = Some(convert::definition(&kept.version)?);
    Ok(proto::PublishProcessDefinitionResponse { process_definition })
}

fn published_bytes(kept: &Kept) -> Result<Vec<u8>, Error> {
    Ok(published(kept)?.encode_to_vec())
}
