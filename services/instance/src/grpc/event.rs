//! `EventService`.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use phasegate_page_token::{cut, page_size};
use phasegate_principal::Principal;
use phasegate_proto::instance::v1::event_service_server::EventService;
use phasegate_proto::instance::v1::{
    ListAuditEntriesRequest, ListAuditEntriesResponse, VerifyAuditChainRequest, VerifyAuditChainResponse,
    WatchEventsRequest, WatchEventsResponse,
};
use phasegate_rpc_error::Invalid;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::Api;
use super::convert::{count, time};
use super::record::{Reader, audit_entries, events};
use super::refusal::{refuse, refuse_about};
use crate::app::{AuditFilter, FeedFilter, Piece};
use crate::domain::AUDIT_TYPES;

/// Types that one feed may name.
const TYPES_MAX: usize = 100;

fn response(piece: Piece, reader: Reader) -> WatchEventsResponse {
    let at = |position: u64| WatchEventsResponse { resume_token: position.to_string(), ..Default::default() };
    match piece {
        Piece::Entries(page, position) => {
            WatchEventsResponse { events: events(&page, reader), ..at(position) }
        }
        Piece::Checkpoint(position) => WatchEventsResponse { checkpoint: true, ..at(position) },
        Piece::GoingAway(position) => WatchEventsResponse { going_away: true, ..at(position) },
    }
}

#[async_trait]
impl EventService for Api {
    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<WatchEventsResponse, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let id = request.instance_id.clone();
        if request.types.len() > TYPES_MAX {
            let message = format!("must be at most {TYPES_MAX}");
            return Err(refuse(Invalid::new("FILTER_INVALID", "types", message).into()));
        }
        let filter = FeedFilter { types: request.types, until_terminal: request.until_terminal };
        let pieces = self.app.watch(&principal, &id, &request.resume_token, filter).await;
        let pieces = pieces.map_err(refuse_about(&id))?;
        let reader = Reader::of(&principal);
        let stream = ReceiverStream::new(pieces)
            .map(move |piece| piece.map(|piece| response(piece, reader)).map_err(refuse_about(&id)));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_audit_entries(
        &self,
        request: Request<ListAuditEntriesRequest>,
    ) -> Result<Response<ListAuditEntriesResponse>, Status> {
        let principal = Principal::of(&request)?;
        let wanted = request.get_ref();
        let id = &wanted.instance_id;
        let size = page_size(wanted.page_size).map_err(|invalid| refuse(invalid.into()))?;
        let unknown = wanted.types.iter().find(|kind| !AUDIT_TYPES.contains(&kind.as_str()));
        if unknown.is_some() || wanted.types.len() > AUDIT_TYPES.len() {
            let message = format!("must be among {}", AUDIT_TYPES.join(", "));
            return Err(refuse(Invalid::new("FILTER_INVALID", "types", message).into()));
        }
        let filter = AuditFilter {
            types: wanted.types.clone(),
            since: time("since", wanted.since.as_ref())?,
            until: time("until", wanted.until.as_ref())?,
        };
        if filter.since.zip(filter.until).is_some_and(|(since, until)| until < since) {
            return Err(refuse(Invalid::new("FILTER_INVALID", "until", "must not be before since").into()));
        }
        let scope = format!("ListAuditEntries\n{}\n{id}\n{filter:?}", principal.tenant);
        let after: Option<u64> =
            self.pages.decode(&scope, &wanted.page_token).map_err(|invalid| refuse(invalid.into()))?;
        let listed = self.app.audit_list(principal, id, after.unwrap_or(0), &filter, size + 1).await;
        let page = listed.map_err(refuse_about(id))?;
        let mut entries = audit_entries(&page, Reader::of(principal));
        let is_last = cut(&mut entries, size);
        let last = page.entries.get(entries.len().saturating_sub(1)).filter(|_| !is_last);
        let next_page_token =
            last.map(|(entry, _)| self.pages.encode(&scope, &entry.sequence)).unwrap_or_default();
        Ok(Response::new(ListAuditEntriesResponse { entries, next_page_token }))
    }

    async fn verify_audit_chain(
        &self,
        request: Request<VerifyAuditChainRequest>,
    ) -> Result<Response<VerifyAuditChainResponse>, Status> {
        let principal = Principal::of(&request)?;
        let id = &request.get_ref().instance_id;
        let verdict = self.app.audit_verify(principal, id).await.map_err(refuse_about(id))?;
        let (first_bad_entry_id, message) = verdict.broken.clone().unwrap_or_default();
        Ok(Response::new(VerifyAuditChainResponse {
            intact: verdict.broken.is_none(),
            entries: count(verdict.entries),
            first_bad_entry_id,
            head_hash: hex::encode(verdict.head),
            message,
        }))
    }
}
