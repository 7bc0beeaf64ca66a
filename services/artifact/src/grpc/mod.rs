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
use phasegate_serve::MESSAGE_BYTES_MAX;
use tonic::service::Routes;
use tonic::{Response, Status};

use crate::app::{App, Error};

/// Largest page of a list, in bytes: a client that sets no limit of its own reads messages of 4 MiB.
const PAGE_BYTES_MAX: usize = 3 << 20;

/// The service as gRPC sees it.
#[derive(Debug, Clone)]
struct Api {
    app: App,
    pages: PageTokens,
}

/// All routes of the service.
pub(crate) fn routes(app: App, pages: PageTokens) -> Routes {
    let api = Api { app, pages };
    let artifacts = ArtifactServiceServer::new(api.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(artifacts)
        .add_service(CommentServiceServer::new(api.clone()))
        .add_service(ArtifactInternalServiceServer::new(api))
}

fn status(error: impl Into<Error>) -> Status {
    phasegate_rpc_error::status(&error.into())
}

/// Cuts a page to at most `most` entries, and to what fits; one there is always. Says whether nothing was cut off.
fn cut<M: prost::Message>(page: &mut Vec<M>, most: usize) -> bool {
    let mut bytes = 0_usize;
    let fitting = page.iter().take(most).take_while(|entry| {
        bytes = bytes.saturating_add(entry.encoded_len());
        bytes <= PAGE_BYTES_MAX
    });
    let kept = fitting.count().max(1);
    let is_last = page.len() <= kept;
    page.truncate(kept);
    is_last
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_at_least_one_and_fits() {
        let entry = |bytes: usize| "x".repeat(bytes);
        let half = PAGE_BYTES_MAX / 2 - 100;
        for (sizes, most, kept, is_last) in [
            (vec![], 9, 0, true),
            (vec![1, 2], 2, 2, true),
            (vec![1, 2, 3], 2, 2, false),
            (vec![half, half], 9, 2, true),
            (vec![half, half, 200], 9, 2, false),
            (vec![2 * PAGE_BYTES_MAX], 9, 1, true),
            (vec![2 * PAGE_BYTES_MAX, 1], 9, 1, false),
        ] {
            let mut page: Vec<String> = sizes.iter().map(|bytes| entry(*bytes)).collect();
            assert_eq!((cut(&mut page, most), page.len()), (is_last, kept), "{sizes:?} {most}");
        }
    }
}
