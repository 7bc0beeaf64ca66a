//! `ParticipantService`.

use phasegate_page_token::page_size;
use phasegate_principal::Principal;
use phasegate_proto::participant::v1 as proto;
use phasegate_proto::participant::v1::participant_service_server::ParticipantService;
use tonic::{Request, Response, Status};

use super::{Api, convert, status};

#[tonic::async_trait]
impl ParticipantService for Api {
    async fn list_participants(
        &self,
        request: Request<proto::ListParticipantsRequest>,
    ) -> Result<Response<proto::ListParticipantsResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(status)?;
        let scope = format!("ListParticipants\n{}\n{}", principal.tenant, request.instance_id);
        let after: Option<String> = self.pages.decode(&scope, &request.page_token).map_err(status)?;
        let after = after.unwrap_or_default();
        let mut found =
            self.app.person_list(&principal, &request.instance_id, &after, size + 1).await.map_err(status)?;
        let is_last = found.len() <= size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(last) if !is_last => self.pages.encode(&scope, &last.id),
            Some(_) | None => String::new(),
        };
        let participants =
            found.into_iter().map(|person| convert::person(&request.instance_id, person)).collect();
        Ok(Response::new(proto::ListParticipantsResponse { participants, next_page_token }))
    }

    async fn get_participant(
        &self,
        request: Request<proto::GetParticipantRequest>,
    ) -> Result<Response<proto::GetParticipantResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let person = self
            .app
            .person_get(&principal, &request.instance_id, &request.participant_id)
            .await
            .map_err(status)?;
        let participant = convert::person(&request.instance_id, person);
        Ok(Response::new(proto::GetParticipantResponse { participant: Some(participant) }))
    }
}
