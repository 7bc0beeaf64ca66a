//! `TeamTemplateService`.

use phasegate_idempotency::Answer;
use phasegate_page_token::page_size;
use phasegate_principal::Principal;
use phasegate_proto::definition::v1 as proto;
use phasegate_proto::definition::v1::team_template_service_server::TeamTemplateService;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{Api, answer, convert, status};
use crate::app::template::{Kept, Made, Wanted};
use crate::app::{Error, Once};

#[tonic::async_trait]
impl TeamTemplateService for Api {
    async fn list_team_templates(
        &self,
        request: Request<proto::ListTeamTemplatesRequest>,
    ) -> Result<Response<proto::ListTeamTemplatesResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(status)?;
        let scope = format!("ListTeamTemplates\n{}", principal.tenant);
        let after: Option<String> = self.pages.decode(&scope, &request.page_token).map_err(status)?;
        let after = after.unwrap_or_default();
        let found = self.app.template_list(&principal, &after, size).await.map_err(status)?;
        // A page is cut by size, too: whether it is the last one is asked.
        let next_page_token = match found.last() {
            Some(last) => {
                let more = self.app.template_list(&principal, &last.id, 1).await.map_err(status)?;
                if more.is_empty() { String::new() } else { self.pages.encode(&scope, &last.id) }
            }
            None => String::new(),
        };
        let team_templates = found.iter().map(convert::template).collect::<Result<_, _>>().map_err(status)?;
        Ok(Response::new(proto::ListTeamTemplatesResponse { team_templates, next_page_token }))
    }

    async fn get_team_template(
        &self,
        request: Request<proto::GetTeamTemplateRequest>,
    ) -> Result<Response<proto::GetTeamTemplateResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let found = self
            .app
            .template_get(&principal, &request.into_inner().team_template_id)
            .await
            .map_err(status)?;
        let team_template = Some(convert::template(&found).map_err(status)?);
        Ok(Response::new(proto::GetTeamTemplateResponse { team_template }))
    }

    async fn create_team_template(
        &self,
        request: Request<proto::CreateTeamTemplateRequest>,
    ) -> Result<Response<proto::CreateTeamTemplateResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = Once::of(&principal, "CreateTeamTemplate", &request.request_id, &request, created_bytes)
            .map_err(status)?;
        let draft = convert::team_draft(request.team_template.unwrap_or_default()).map_err(status)?;
        let done = if request.validate_only {
            self.app.template_try(&principal, draft).await.map(Answer::First)
        } else {
            self.app.template_create(&principal, draft, once).await
        };
        answer(done.map_err(status)?, created, |kept| kept.unchanged)
    }

    async fn instantiate_team_template(
        &self,
        request: Request<proto::InstantiateTeamTemplateRequest>,
    ) -> Result<Response<proto::InstantiateTeamTemplateResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = Once::of(&principal, "InstantiateTeamTemplate", &request.request_id, &request, made_bytes)
            .map_err(status)?;
        let onboarding = convert::structure(&request.onboarding.unwrap_or_default()).map_err(status)?;
        let wanted = Wanted { template_id: request.team_template_id, name: request.name, onboarding };
        let done = self.app.team_make(&principal, wanted, team_bytes, once).await.map_err(status)?;
        answer(done, made, |_| false)
    }

    async fn get_team(
        &self,
        request: Request<proto::GetTeamRequest>,
    ) -> Result<Response<proto::GetTeamResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let id = request.into_inner().team_id;
        let bytes = self.app.team_get(&principal, &id).await.map_err(status)?;
        let team = proto::Team::decode(bytes.as_slice())
            .map_err(|_| status(crate::app::StoreError::Inconsistent { table: "team", row: id }))?;
        Ok(Response::new(proto::GetTeamResponse { team: Some(team) }))
    }
}

fn created(kept: &Kept) -> Result<proto::CreateTeamTemplateResponse, Error> {
    Ok(proto::CreateTeamTemplateResponse { team_template: Some(convert::template(&kept.template)?) })
}

fn created_bytes(kept: &Kept) -> Result<Vec<u8>, Error> {
    Ok(created(kept)?.encode_to_vec())
}

fn made(made: &Made) -> Result<proto::InstantiateTeamTemplateResponse, Error> {
    Ok(proto::InstantiateTeamTemplateResponse { team: Some(convert::team(made)?) })
}

fn made_bytes(team: &Made) -> Result<Vec<u8>, Error> {
    Ok(made(team)?.encode_to_vec())
}

fn team_bytes(made: &Made) -> Result<Vec<u8>, Error> {
    Ok(convert::team(made)?.encode_to_vec())
}
