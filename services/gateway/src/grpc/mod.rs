//! gRPC, passed on as it comes: the message is measured, not read. Who calls is said anew, and nothing that a service
//! believes from the gateway gets in from outside.

pub(crate) mod local;
mod passing;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tonic::Status;

use crate::caller::Callers;
use crate::config::Config;
use crate::foreign;
use crate::method::{Methods, PublicMethod};
use crate::refusal::Refused;
use crate::rest::drop_rest;
use crate::room::Room;
use crate::stream::Streams;
use crate::upstream::Upstream;

/// A flag for compression, and the length of the message.
const PREFIX_BYTES: usize = 5;
/// Longest deadline of a call with one answer.
const DEADLINE_MAX: Duration = Duration::from_mins(5);
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Open to everybody: they say nothing about anybody.
const OPEN_PREFIXES: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static(phasegate_serve::TIMEOUT_HEADER);
/// What a service gets to see of the headers of a call.
const PASSED_HEADERS: [HeaderName; 5] = [
    CONTENT_TYPE,
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("tracestate"),
    http::header::USER_AGENT,
];
/// What belongs to one connection only.
const HOP_HEADERS: [HeaderName; 4] = [
    http::header::CONNECTION,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Answers gRPC calls.
#[derive(Debug)]
pub(crate) struct Grpc {
    pub(crate) methods: Arc<Methods>,
    pub(crate) upstream: Upstream,
    pub(crate) callers: Arc<Callers>,
    pub(crate) config: Config,
    pub(crate) streams: Streams,
    pub(crate) room: Room,
}

/// Whether a call is gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+proto") || rest.starts_with(b";"))
}

/// Refuses a call before anybody has looked at it.
pub(crate) fn refused(refused: &Refused) -> Response<Body> {
    phasegate_rpc_error::status(refused).into_http()
}

impl Grpc {
    /// Answers a call. Whatever is refused becomes the answer.
    pub(crate) async fn answer(&self, parts: Parts, body: Body) -> Response<Body> {
        let path = parts.uri.path();
        let answer = if OPEN_PREFIXES.iter().any(|prefix| path.starts_with(prefix)) {
            self.tell(Request::from_parts(parts, tonic::body::Body::new(body))).await
        } else if let Some(method) = self.methods.find(path) {
            let method = method.clone();
            Box::pin(self.pass_on(&method, &parts, body)).await
        } else {
            Err(phasegate_rpc_error::status(&Refused::NoMethod { path: path.to_owned() }))
        };
        match answer {
            Ok(response) => response.map(Body::new),
            Err(status) => status.into_http(),
        }
    }

    /// Answers what everybody may ask, which may be a stream that never ends. Whether we are well is answered even while
    /// strangers have taken all places for such streams: who balances loads asks that.
    async fn tell(&self, request: Request<tonic::body::Body>) -> Result<Response<tonic::body::Body>, Status> {
        if request.uri().path() == HEALTH_CHECK {
            let answer = self.upstream.local(request);
            let answer = tokio::time::timeout(self.config.limits.arrival_time_max, answer).await;
            return answer.unwrap_or_else(|_| Err(phasegate_rpc_error::status(&Refused::Deadline)));
        }
        let place = self.streams.visit().map_err(Refused::into_status)?;
        let answer = self.upstream.local(request).await?;
        Ok(answer.map(|body| {
            // Held until the last frame has gone.
            tonic::body::Body::new(body.map_frame(move |frame| {
                let _held = &place;
                frame
            }))
        }))
    }

    async fn pass_on(
        &self,
        method: &Arc<PublicMethod>,
        parts: &Parts,
        mut body: Body,
    ) -> Result<Response<tonic::body::Body>, Status> {
        let limits = &self.config.limits;
        let arrived = Instant::now();
        // What a stranger sends is not kept.
        let principal = match self.callers.identify(parts).await {
            Ok(principal) => principal,
            Err(refused) => {
                drop_rest(&mut body).await;
                return Err(refused.into_status());
            }
        };
        let message = read(body, method.message_bytes_max, limits.arrival_time_max).await?;
        phasegate_serve::note_caller(&principal);
        let asked = deadline(&parts.headers).map_err(Refused::into_status)?;
        // A stream may run for hours; only its client knows when it has had enough.
        let time_max = if method.streams() {
            asked
        } else {
            asked.map(|asked| asked.min(DEADLINE_MAX)).or(method.time_max)
        };
        // What it took to arrive is gone.
        let time_max = time_max.map(|time_max| time_max.saturating_sub(arrived.elapsed()));
        if time_max.is_some_and(|time_max| time_max.is_zero()) {
            return Err(Refused::Deadline.into_status());
        }
        let _place = self.room.enter(method, &principal.tenant).map_err(Refused::into_status)?;

        let mut request = Request::new(tonic::body::Body::new(http_body_util::Full::new(message)));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from(method.path.clone());
        for name in &PASSED_HEADERS {
            for value in parts.headers.get_all(name) {
                request.headers_mut().append(name, value.clone());
            }
        }
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        if let Some(limit) = time_max {
            request.headers_mut().insert(GRPC_TIMEOUT, timeout_header(limit));
        }

        let open = if method.streams() {
            Some(self.streams.open(parts, &principal).map_err(Refused::into_status)?)
        } else {
            None
        };
        let call = Box::pin(self.upstream.forward(method, &principal, request));
        let answer = tokio::time::timeout(time_max.unwrap_or(Duration::MAX), call).await;
        let mut answer = answer.map_err(|_| Refused::Deadline.into_status())??;
        for name in &HOP_HEADERS {
            answer.headers_mut().remove(name);
        }
        // A call that fails at once has its status among the headers.
        if let Some(status) =
            Status::from_header_map(answer.headers()).filter(|status| status.code() != tonic::Code::Ok)
        {
            return Err(foreign::translate(status, method));
        }
        Ok(passing::pass(answer, method, open))
    }
}

/// Reads the one message of a call, with its prefix. What the prefix announces is believed only to refuse it.
async fn read(mut body: Body, bytes_max: usize, time_max: Duration) -> Result<Bytes, Status> {
    let collected = tokio::time::timeout(time_max, collect(&mut body, bytes_max)).await;
    let refused = match collected {
        Ok(Ok(message)) => return Ok(message),
        Ok(Err(refused)) => {
            drop_rest(&mut body).await;
            refused
        }
        Err(_) => Refused::BodyTooSlow(time_max),
    };
    Err(refused.into_status())
}

async fn collect(body: &mut Body, bytes_max: usize) -> Result<Bytes, Refused> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Refused::BodyCut) };
        let Some(data) = frame.data_ref() else { continue };
        bytes.extend_from_slice(data);
        let announced = match bytes.get(1..PREFIX_BYTES) {
            Some(mut length) => length.get_u32() as usize,
            None => 0,
        };
        if announced > bytes_max || bytes.len() > bytes_max + PREFIX_BYTES {
            return Err(Refused::MessageTooLarge { bytes_max });
        }
    }
    Ok(bytes.freeze())
}

/// The deadline that a caller gives: up to eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Refused> {
    let Some(value) = headers.get(&GRPC_TIMEOUT) else { return Ok(None) };
    let malformed = || {
        let message = "must be up to eight digits and one of H, M, S, m, u, n";
        Refused::parameter("DURATION_INVALID", GRPC_TIMEOUT.as_str(), message)
    };
    value.to_str().ok().and_then(phasegate_serve::timeout).map(Some).ok_or_else(malformed)
}

/// Writes a deadline in the finest unit that its eight digits allow.
fn timeout_header(limit: Duration) -> HeaderValue {
    let text = match (limit.as_millis(), limit.as_secs()) {
        (millis @ 0..=99_999_999, _) => format!("{millis}m"),
        (_, seconds @ 0..=99_999_999) => format!("{seconds}S"),
        _ => "99999999S".to_owned(),
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("99999999S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, text.parse().unwrap());
            deadline(&headers)
        };
        for (text, millis) in
            [("10S", 10_000), ("1500m", 1500), ("2M", 120_000), ("99999999H", 359_999_996_400_000), ("0n", 0)]
        {
            assert_eq!(read(text).unwrap(), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "S", "10", "10X", "-1S", "+1S", "1.5S", "123456789S", "１S"] {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            assert!(deadline(&headers).is_err(), "{text}");
        }
        assert_eq!(deadline(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn only_grpc_is_grpc() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().unwrap());
            is_grpc(&headers)
        };
        assert!(read("application/grpc") && read("application/grpc+proto") && read("application/grpc;x=y"));
        assert!(
            !read("application/json") && !read("application/grpc-web") && !read("application/grpc-web+proto")
        );
        assert!(!read("application/grpc+json") && !is_grpc(&HeaderMap::new()));
    }
}
