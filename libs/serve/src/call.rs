//! What is seen of every call: its span, its line in the log, and how long it took.
//!
//! There is a line for each call and none is left out by chance, so that "did it arrive" has an answer. Between services
//! the lines are for debugging, because the gateway has said the same; there, what workers and watchers ask again and
//! again is, too. What went wrong on our side is a warning everywhere.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use phasegate_principal::{Caller, Principal};
use phasegate_telemetry::metrics::{Histogram, SECONDS};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Code;
use tower::{Layer, Service};
use tracing::{Instrument as _, Level, Span};

/// Calls by method and outcome. Rate, errors and duration all come from here.
static DURATION: Histogram<3> = Histogram::new(
    "rpc_server_call_duration_seconds",
    "How long calls took until the last byte of the answer. Streams and long polls take as long as somebody listens.",
    ["service", "rpc_method", "rpc_response_status_code"],
    SECONDS,
);

/// What nobody serves is called this, so that callers do not invent labels.
const UNKNOWN: &str = "unknown";
/// Every service has it, and none of ours says so.
const HEALTH: &str = "grpc.health.v1.Health/Check";
const GRPC_STATUS: &str = "grpc-status";

/// A call that is being answered. One that is dropped without an outcome was given up by its caller.
#[derive(Debug)]
pub struct Call {
    service: &'static str,
    method: String,
    started: Instant,
    span: Span,
    /// Level of the line when nothing went wrong.
    level: Level,
    is_over: bool,
    /// Whoever stops waits for it.
    under_way: Option<TaskTrackerToken>,
}

impl Call {
    /// Begins. `method` is `package.Service/Method` or a template; `level` that of the line if all goes well.
    pub fn begin(service: &'static str, method: &str, headers: &HeaderMap, level: Level) -> Self {
        let span = phasegate_telemetry::server_span(service, method, headers);
        Self {
            service,
            method: method.to_owned(),
            started: Instant::now(),
            span,
            level,
            is_over: false,
            under_way: None,
        }
    }

    /// Counts it among those under way until its answer is out.
    #[must_use]
    pub fn among(mut self, calls: &TaskTracker) -> Self {
        self.under_way = Some(calls.token());
        self
    }

    /// What is done for the call is done in here.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Watches the answer to its end. The outcome is what its headers say, or else its trailers, or else `given`.
    pub fn watch<B>(self, answer: Response<B>, given: Option<Code>) -> Response<Watched<B>> {
        let code = code_in(answer.headers()).or(given);
        answer.map(|body| Watched { body, call: self, code })
    }

    fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let took = self.started.elapsed();
        let name = phasegate_rpc_error::code_name(code);
        DURATION.record_time(took, [self.service, &self.method, name]);
        self.span.record("rpc.response.status_code", name);
        let is_ours = matches!(code, Code::Unknown | Code::Internal | Code::DataLoss);
        let is_error = is_ours || matches!(code, Code::Unavailable | Code::DeadlineExceeded);
        if is_error {
            self.span.record("otel.status_code", "ERROR");
        }
        let _inside = self.span.enter();
        let duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        if is_ours {
            tracing::warn!(duration_ms, "answered");
        } else if self.level == Level::INFO {
            tracing::info!(duration_ms, "answered");
        } else {
            tracing::debug!(duration_ms, "answered");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
        // Its line is written, and its answer is out.
        self.under_way = None;
    }
}

/// The body of an answer on its way.
#[derive(Debug)]
pub struct Watched<B> {
    body: B,
    call: Call,
    code: Option<Code>,
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let frame = {
            let span = this.call.span.clone();
            let _inside = span.enter();
            ready!(Pin::new(&mut this.body).poll_frame(cx))
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    this.call.finish(code);
                } else if this.body.is_end_stream()
                    && let Some(code) = this.code
                {
                    this.call.finish(code);
                }
            }
            Some(Err(_)) => this.call.finish(Code::Cancelled),
            None => this.call.finish(this.code.unwrap_or(Code::Unknown)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        // A body without a frame is never asked for one.
        if let Some(code) = self.code {
            self.call.finish(code);
        }
    }
}

pub(crate) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// Has every call to a service seen.
#[derive(Debug, Clone)]
pub(crate) struct CallLayer {
    pub(crate) service: &'static str,
    /// Those that are under way.
    pub(crate) calls: TaskTracker,
}

/// What [`CallLayer`] makes.
#[derive(Debug, Clone)]
pub(crate) struct Seen<S> {
    inner: S,
    layer: CallLayer,
}

impl<S> Layer<S> for CallLayer {
    type Service = Seen<S>;

    fn layer(&self, inner: S) -> Seen<S> {
        Seen { inner, layer: self.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Seen<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    R: Send + 'static,
{
    type Response = Response<Watched<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let CallLayer { service, calls } = &self.layer;
        let call = Call::begin(service, method(request.uri().path()), request.headers(), Level::DEBUG);
        let call = call.among(calls);
        let span = call.span().clone();
        let answer = span.in_scope(|| self.inner.call(request)).instrument(span);
        Box::pin(async move { Ok(call.watch(answer.await?, None)) })
    }
}

/// The method of a path, if any service has it.
pub(crate) fn method(path: &str) -> &'static str {
    static KNOWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let services = phasegate_proto_json::pool().services();
        let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
        let names =
            methods.map(|method| format!("{}/{}", method.parent_service().full_name(), method.name()));
        names.chain([HEALTH.to_owned()]).collect()
    });
    let name = path.strip_prefix('/').unwrap_or(path);
    known.get(name).map_or(UNKNOWN, String::as_str)
}

/// Says in the log and in the trace of the call who makes it. Ids only, never a name or an address.
pub fn note_caller(caller: &Principal) {
    phasegate_telemetry::note("phasegate.tenant.id", &caller.tenant);
    phasegate_telemetry::note("phasegate.actor.kind", actor_kind(caller.kind));
    phasegate_telemetry::note("phasegate.actor.id", &caller.id);
    if let Some(participation) = &caller.participation {
        phasegate_telemetry::note("phasegate.instance.id", &participation.instance_id);
    }
}

const fn actor_kind(kind: Caller) -> &'static str {
    match kind {
        Caller::Operator => "operator",
        Caller::Service => "service",
        Caller::Participant => "participant",
        Caller::System => "system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_that_are_served_have_a_name() {
        let known = "phasegate.instance.v1.InstanceService/StartInstance";
        assert_eq!(method(&format!("/{known}")), known);
        assert_eq!(method("/grpc.health.v1.Health/Check"), HEALTH);
        for path in
            ["/x", "", "/phasegate.instance.v1.InstanceService/Start", "/grpc.health.v1.Health/Checks"]
        {
            assert_eq!(method(path), UNKNOWN, "{path}");
        }
    }

    #[tokio::test]
    async fn an_outcome_is_counted_once_when_the_answer_is_out() {
        use http_body_util::{BodyExt as _, Full};

        let call = Call::begin("test", "a.B/C", &HeaderMap::new(), Level::DEBUG);
        let answer = Response::new(Full::new(tonic::codegen::Bytes::from_static(b"x")));
        let answer = call.watch(answer, Some(Code::NotFound));
        assert!(!phasegate_telemetry::metrics::text().await.contains("service=\"test\""));
        assert!(answer.into_body().collect().await.is_ok());
        drop(Call::begin("test", "a.B/C", &HeaderMap::new(), Level::DEBUG));
        let text = phasegate_telemetry::metrics::text().await;
        for code in ["NOT_FOUND", "CANCELLED"] {
            let counted = format!(
                "rpc_server_call_duration_seconds_count{{rpc_method=\"a.B/C\",rpc_response_status_code=\"{code}\",\
                 service=\"test\"}} 1\n"
            );
            assert!(text.contains(&counted), "{text}");
        }
    }
}
