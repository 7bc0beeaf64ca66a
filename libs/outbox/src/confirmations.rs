//! Where receivers confirm what they have taken.

use phasegate_bus::Receiver;
use phasegate_database::Database;
use phasegate_principal::{Caller, Principal};
use phasegate_proto::internal::event::v1::event_service_server::{EventService, EventServiceServer};
use phasegate_proto::internal::event::v1::{ConfirmEventsRequest, ConfirmEventsResponse};
use phasegate_rpc_error::{Kind, Refusal};
use tonic::{Request, Response, Status};

use crate::store;

/// Events that are confirmed at once.
const EVENTS_MAX: usize = 1_000;
/// Their names, and room to spare.
const BYTES_MAX: usize = 256 * 1024;

/// The service that a sender serves beside its own ones.
pub fn event_service(db: Database) -> EventServiceServer<impl EventService> {
    EventServiceServer::new(Confirmations(db))
        .max_decoding_message_size(BYTES_MAX)
        .max_encoding_message_size(BYTES_MAX)
}

struct Confirmations(Database);

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("only a receiver confirms what it has taken")]
    Role,
    #[error("at most {EVENTS_MAX} events are confirmed at once")]
    TooMany,
    #[error("the outbox cannot be written")]
    Store(#[from] phasegate_database::Error),
}

impl Refusal for Refused {
    fn kind(&self) -> Kind {
        match self {
            Self::Role => Kind::Forbidden,
            Self::TooMany => Kind::Exhausted,
            Self::Store(_) => Kind::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Role => "ROLE_FORBIDDEN",
            Self::TooMany => "MESSAGE_TOO_LARGE",
            Self::Store(_) => "STORE_UNAVAILABLE",
        }
    }
}

impl Confirmations {
    async fn confirm(&self, caller: &Principal, request: ConfirmEventsRequest) -> Result<(), Refused> {
        let receiver = Receiver::named(&request.receiver).ok_or(Refused::Role)?;
        if caller.kind != Caller::System || caller.id != receiver.name() {
            return Err(Refused::Role);
        }
        if request.events.len() > EVENTS_MAX {
            return Err(Refused::TooMany);
        }
        let events = request.events.into_iter().map(|event| (event.tenant_id, event.event_id)).collect();
        Ok(store::confirm(&self.0, receiver, events).await?)
    }
}

#[tonic::async_trait]
impl EventService for Confirmations {
    async fn confirm_events(
        &self,
        request: Request<ConfirmEventsRequest>,
    ) -> Result<Response<ConfirmEventsResponse>, Status> {
        let caller = Principal::of(&request)?.clone();
        let done = self.confirm(&caller, request.into_inner()).await;
        done.map_err(|refused| phasegate_rpc_error::status(&refused))?;
        Ok(Response::new(ConfirmEventsResponse {}))
    }
}
