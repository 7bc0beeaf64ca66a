//! `LinkService`.

use phasegate_clock::Timestamp;
use phasegate_id::LinkId;
use phasegate_idempotency::{Answer, respond};
use phasegate_page_token::page_size;
use phasegate_principal::Principal;
use phasegate_proto::participant::v1 as proto;
use phasegate_proto::participant::v1::link_service_server::LinkService;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{Api, convert, kept, status};
use crate::app::Once;
use crate::app::link::{After, Held};
use crate::app::secret::Secret;

#[tonic::async_trait]
impl LinkService for Api {
    async fn create_link(
        &self,
        request: Request<proto::CreateLinkRequest>,
    ) -> Result<Response<proto::CreateLinkResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        // The kept answer has no URL, because a token is never stored: it is signed anew, the same every time.
        let once = Once::of(&principal, "CreateLink", &request.request_id, &request, |held: &Held| {
            let link = Some(convert::held(held));
            Ok(proto::CreateLinkResponse { link, url: String::new() }.encode_to_vec())
        })
        .map_err(status)?;
        let wish = convert::wish(&request).map_err(status)?;
        let done =
            self.app.link_create(&principal, &request.instance_id, wish, once).await.map_err(status)?;
        let (link, repeated) = match done {
            Answer::First(held) => (convert::held(&held), false),
            Answer::Repeated(bytes) => {
                (kept::<proto::CreateLinkResponse>(&bytes)?.link.unwrap_or_default(), true)
            }
        };
        let expires_at = link.expires_at.as_ref().and_then(Timestamp::from_proto).unwrap_or_default();
        let url = self.app.link_url(&LinkId::trusted(link.id.as_str()), expires_at).map_err(status)?;
        let response = proto::CreateLinkResponse { link: Some(link), url: url.expose().to_owned() };
        Ok(respond(response, repeated))
    }

    async fn list_links(
        &self,
        request: Request<proto::ListLinksRequest>,
    ) -> Result<Response<proto::ListLinksResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(status)?;
        let scope =
            format!("ListLinks\n{}\n{}\n{}", principal.tenant, request.instance_id, request.participant_id);
        let after: Option<After> = self.pages.decode(&scope, &request.page_token).map_err(status)?;
        let mut found = self
            .app
            .link_list(&principal, &request.instance_id, &request.participant_id, after.as_ref(), size + 1)
            .await
            .map_err(status)?;
        let is_last = found.len() <= size;
        found.truncate(size);
        let next_page_token = match found.last() {
            Some(Held { link, .. }) if !is_last => {
                self.pages.encode(&scope, &After { created_at: link.created_at, id: link.id.clone() })
            }
            Some(_) | None => String::new(),
        };
        let links = found.iter().map(convert::held).collect();
        Ok(Response::new(proto::ListLinksResponse { links, next_page_token }))
    }

    async fn revoke_link(
        &self,
        request: Request<proto::RevokeLinkRequest>,
    ) -> Result<Response<proto::RevokeLinkResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = Once::of(&principal, "RevokeLink", &request.request_id, &request, |held: &Held| {
            Ok(proto::RevokeLinkResponse { link: Some(convert::held(held)) }.encode_to_vec())
        })
        .map_err(status)?;
        convert::reason(&request.reason).map_err(status)?;
        let done = self
            .app
            .link_revoke(&principal, &request.link_id, &request.reason, once)
            .await
            .map_err(status)?;
        match done {
            Answer::First(held) => {
                let response = proto::RevokeLinkResponse { link: Some(convert::held(&held)) };
                Ok(respond(response, held.unchanged))
            }
            Answer::Repeated(bytes) => Ok(respond(kept(&bytes)?, true)),
        }
    }

    async fn request_new_link(
        &self,
        request: Request<proto::RequestNewLinkRequest>,
    ) -> Result<Response<proto::RequestNewLinkResponse>, Status> {
        Principal::of(&request)?;
        let token = Secret::new(request.into_inner().token);
        self.app.link_renew(&token).await.map_err(status)?;
        Ok(Response::new(proto::RequestNewLinkResponse {}))
    }
}
