//! `CommentService`.

use phasegate_page_token::{cut, page_size};
use phasegate_principal::Principal;
use phasegate_proto::artifact::v1 as proto;
use phasegate_proto::artifact::v1::comment_service_server::CommentService;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{Api, answer, convert, status};
use crate::app::Once;
use crate::app::comment::{After, Written};
use crate::domain::comment::Subject;

#[tonic::async_trait]
impl CommentService for Api {
    async fn create_comment(
        &self,
        request: Request<proto::CreateCommentRequest>,
    ) -> Result<Response<proto::CreateCommentResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once =
            Once::of(&principal, "CreateComment", &request.request_id, &request, |written: &Written| {
                Ok(convert::written(written).encode_to_vec())
            })
            .map_err(status)?;
        let instance_id = request.instance_id.clone();
        let draft = convert::draft(request).map_err(status)?;
        let done = self.app.comment_create(&principal, &instance_id, draft, once).await.map_err(status)?;
        answer(done, |written| Ok(convert::written(written)), |_| false)
    }

    async fn list_comments(
        &self,
        request: Request<proto::ListCommentsRequest>,
    ) -> Result<Response<proto::ListCommentsResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(status)?;
        let scope =
            format!("ListComments\n{}\n{}\n{}", principal.tenant, request.instance_id, request.subject);
        let after: Option<After> = self.pages.decode(&scope, &request.page_token).map_err(status)?;
        let subject = match request.subject.as_str() {
            "" => None,
            text => Some(Subject::parse(text).map_err(status)?),
        };
        let found = self
            .app
            .comment_list(&principal, &request.instance_id, subject, after.as_ref(), size + 1)
            .await
            .map_err(status)?;
        let mut comments: Vec<_> =
            found.iter().map(|comment| convert::comment(&request.instance_id, comment)).collect();
        let is_last = cut(&mut comments, size);
        let next_page_token = match comments.len().checked_sub(1).and_then(|last| found.get(last)) {
            Some(last) if !is_last => {
                self.pages.encode(&scope, &After { created_at: last.created_at, id: last.id.clone() })
            }
            Some(_) | None => String::new(),
        };
        Ok(Response::new(proto::ListCommentsResponse { comments, next_page_token }))
    }
}
