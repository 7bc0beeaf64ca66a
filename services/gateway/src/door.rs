//! The way of one call: guard, then gRPC, a page, REST or one of the pages that were brought along.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use futures::FutureExt;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use phasegate_serve::{Call, Place};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tower::ServiceExt;
use tracing::{Instrument, Level};

use crate::grpc::{self, Grpc};
use crate::guard::Guard;
use crate::page::Pages;
use crate::portal;
use crate::rate::{Ledger, Peer};
use crate::refusal::Refused;
use crate::rest::{Rest, answer};
use crate::room::Room;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_LENGTH_MAX: usize = 128;
/// A browser that has been here once by TLS does not come without it for a year.
const BY_TLS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");
/// What every worker asks all the time.
const FREQUENT: [&str; 2] = ["WorkerService/PollTasks", "WorkerService/HeartbeatTasks"];

/// Everything that answers.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) guard: Guard,
    pub(crate) grpc: Grpc,
    pub(crate) rest: Rest,
    pub(crate) pages: Pages,
    /// Pages that were brought along: the portal, caught mail.
    pub(crate) extra: Router,
    /// Calls under way.
    pub(crate) calls: TaskTracker,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) room: Room,
    /// Whether people come here by TLS, by the address that links begin with.
    pub(crate) is_https: bool,
}

impl Door {
    /// Answers one call, whatever happens on the way.
    pub(crate) async fn enter(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let is_grpc = grpc::is_grpc(&parts.headers);
        let is_head = parts.method == Method::HEAD;
        let is_portal = is_portal(parts.uri.path());
        let request_id = request_id(&parts);
        let (method, level) = self.seen_as(&parts, is_grpc);
        let seen = Call::begin("gateway", method, &parts.headers, level).among(&self.calls);
        let span = seen.span().clone();
        span.record("phasegate.request.id", request_id.to_str().unwrap_or_default());
        let call = self.call(parts, body, is_grpc);
        let answer = async {
            let answer = AssertUnwindSafe(call).catch_unwind().await;
            let answer = answer.unwrap_or_else(|_| {
                // The hook has logged where; the caller learns that it was us.
                let refused = Refused::Internal("an answer panicked".to_owned());
                if is_grpc { grpc::refused(&refused) } else { answer::refused(&refused) }
            });
            // Whoever follows a magic link reads no JSON.
            if is_portal && !is_grpc { portal::readable(answer) } else { answer }
        };
        let mut answer = Box::pin(answer).instrument(span).await;
        answer.headers_mut().insert(REQUEST_ID, request_id);
        if self.is_https && !is_grpc {
            answer.headers_mut().insert(STRICT_TRANSPORT_SECURITY, BY_TLS_ONLY);
        }
        let answer = if is_head { without_body(answer) } else { answer };
        let code = (!is_grpc).then(|| code_of(answer.status()));
        seen.watch(answer, code).map(Body::new)
    }

    /// What logs, traces and metrics call this call, and the level of its line: a method, or a path as it is written,
    /// never with its values or its query. What is asked again and again, or by nobody we know, is for debugging.
    fn seen_as(&self, parts: &Parts, is_grpc: bool) -> (&str, Level) {
        let path = parts.uri.path();
        let method = match path {
            _ if is_grpc => self.grpc.methods.find(path),
            path if is_rest(path) => self.rest.method(&parts.method, path),
            path if is_portal(path) => return (portal::template(path), Level::INFO),
            path if path.starts_with("/dev/") => return ("/dev", Level::DEBUG),
            _ => return ("page", Level::DEBUG),
        };
        let Some(method) = method else { return ("unknown", Level::DEBUG) };
        let name = method.path.path().trim_start_matches('/');
        let is_frequent = FREQUENT.iter().any(|frequent| name.ends_with(frequent));
        (name, if is_frequent { Level::DEBUG } else { Level::INFO })
    }

    async fn call(&self, parts: Parts, body: Body, is_grpc: bool) -> Response<Body> {
        if let Err(refused) = self.guard.admit(&parts) {
            return if is_grpc { grpc::refused(&refused) } else { answer::refused(&refused) };
        }
        let path = parts.uri.path();
        if !is_grpc && self.pages.has(path) {
            return self.pages.answer(&parts.method, path).await;
        }
        // The connection is still there for calls under way; a further one is for another server.
        if self.rest.streams.are_ending() {
            return if is_grpc {
                grpc::refused(&Refused::Draining)
            } else {
                answer::refused(&Refused::Draining)
            };
        }
        if is_grpc {
            return self.grpc.answer(parts, body).await;
        }
        if is_rest(path) {
            return self.rest.answer(parts, body).await;
        }
        let _place = match self.visited(&parts).await {
            Ok(place) => place,
            Err(refused) => return answer::refused(&refused),
        };
        let page = self.extra.clone().oneshot(Request::from_parts(parts, body));
        let until = Instant::now() + self.rest.config.limits.answer_time_max;
        match tokio::time::timeout_at(until, phasegate_serve::within(until, page)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(never)) => match never {},
            Err(_) => answer::refused(&Refused::Deadline),
        }
    }

    /// Counts whoever opens a page of the portal by address: a credential is not known here. Other pages are open to the
    /// developer only.
    async fn visited(&self, parts: &Parts) -> Result<Option<Place>, Refused> {
        if !is_portal(parts.uri.path()) {
            return Ok(None);
        }
        let address = self.ledger.address(parts.extensions.get::<Peer>(), &parts.headers);
        self.ledger.knocked(address).await?;
        self.room.visit().map(Some)
    }
}

fn is_rest(path: &str) -> bool {
    path == "/api" || path.starts_with("/api/")
}

fn is_portal(path: &str) -> bool {
    path == "/external" || path.starts_with("/external/")
}

/// Answers where nothing is, for the router that is asked last.
pub(crate) async fn nowhere(request: Request<Body>) -> Response<Body> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    answer::refused(&Refused::NoRoute { method, path })
}

/// The name that a caller gave its call, or a fresh one: what people report when something went wrong.
fn request_id(parts: &Parts) -> HeaderValue {
    let given = parts.headers.get(&REQUEST_ID).filter(|id| {
        (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        let fresh = hex::encode(rand::random::<[u8; 16]>());
        HeaderValue::from_str(&fresh).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// The code of gRPC that an answer over HTTP comes closest to.
fn code_of(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNPROCESSABLE_ENTITY => {
            Code::InvalidArgument
        }
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND | StatusCode::GONE => Code::NotFound,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Code::FailedPrecondition,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        status if status.is_client_error() => Code::InvalidArgument,
        status if status.is_server_error() => Code::Internal,
        _ => Code::Ok,
    }
}

/// Drops the body and keeps what is said about it.
fn without_body(answer: Response<Body>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    if let Some(length) = body.size_hint().exact()
        && !parts.headers.contains_key(CONTENT_LENGTH)
    {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(parts, Body::empty())
}
