//! Spans: of calls, and of work that follows from an event. What is done at once belongs to the trace of what caused it;
//! what is done later has a trace of its own that is linked to it, because a process takes days and a trace must not.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Dispatch, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Registry;
use tracing_subscriber::registry::LookupSpan as _;

/// What follows within this time belongs to the same trace.
const AT_ONCE: Duration = Duration::from_mins(1);

/// What logs call the trace and the span.
#[derive(Debug)]
pub(crate) struct Ids {
    pub(crate) trace: String,
    pub(crate) span: String,
}

/// The span of one call that comes in, under the trace of its caller. `method` is one of the contracts' or a template,
/// never a path as it came.
pub fn server_span(service: &'static str, method: &str, headers: &http::HeaderMap) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "call",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        phasegate.service = service,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
        phasegate.request.id = tracing::field::Empty,
        phasegate.tenant.id = tracing::field::Empty,
        phasegate.actor.kind = tracing::field::Empty,
        phasegate.actor.id = tracing::field::Empty,
        phasegate.process.id = tracing::field::Empty,
        phasegate.instance.id = tracing::field::Empty,
        phasegate.task.id = tracing::field::Empty,
        phasegate.approval.id = tracing::field::Empty,
    );
    continue_trace(&span, headers.get("traceparent").and_then(|value| value.to_str().ok()));
    span
}

/// What work is done because of: where its cause was traced, and how long ago that was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cause<'a> {
    /// The cause's `traceparent`; empty where it had none.
    pub trace_parent: &'a str,
    /// How long ago it happened.
    pub age: Duration,
}

/// The span of work that a service does because of an event, a message or a timer. `what` is one of few words.
pub fn work_span(
    service: &'static str,
    kind: WorkKind,
    what: &str,
    cause: Cause<'_>,
    subject: Subject<'_>,
) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "work",
        otel.name = what,
        otel.kind = kind.name(),
        otel.status_code = tracing::field::Empty,
        phasegate.service = service,
        messaging.message.id = tracing::field::Empty,
        error.type = tracing::field::Empty,
        phasegate.tenant.id = subject.tenant_id,
        phasegate.process.id = tracing::field::Empty,
        phasegate.instance.id = subject.instance_id,
        phasegate.task.id = tracing::field::Empty,
        phasegate.approval.id = tracing::field::Empty,
    );
    if !subject.event_id.is_empty() {
        span.record("messaging.message.id", subject.event_id);
    }
    let parent = Some(cause.trace_parent).filter(|parent| !parent.is_empty());
    if cause.age < AT_ONCE {
        continue_trace(&span, parent);
    } else {
        if let Some(context) = parent.and_then(context_of) {
            span.add_link(context);
        }
        note_ids(&span);
    }
    span
}

/// What a piece of work is about.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_field_names, reason = "they are called so everywhere else, too")]
pub struct Subject<'a> {
    /// Tenant.
    pub tenant_id: &'a str,
    /// Instance.
    pub instance_id: &'a str,
    /// Event that is carried or taken; empty for other work.
    pub event_id: &'a str,
}

/// Which part of the way a piece of work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkKind {
    /// Giving an event to the bus.
    Send,
    /// Taking an event.
    Receive,
    /// Handing something to a server outside.
    HandOver,
    /// What falls due.
    Timer,
}

impl WorkKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Send => "producer",
            Self::Receive => "consumer",
            Self::HandOver => "client",
            Self::Timer => "internal",
        }
    }
}

/// Says something of the call that is being answered, or of the work that is being done: one of the fields above.
pub fn note(field: &'static str, value: &str) {
    let span = Span::current();
    if !span.is_disabled() {
        span.record(field, value);
    }
}

/// The `traceparent` of the span that runs, where traces are kept.
pub fn trace_parent() -> Option<String> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove("traceparent")
}

/// Puts a span under the trace that a `traceparent` names, where it names one.
fn continue_trace(span: &Span, trace_parent: Option<&str>) {
    if span.is_disabled() {
        return;
    }
    if let Some(parent) = trace_parent {
        let context = TraceContextPropagator::new().extract(&One(parent));
        // Without a collector there is nobody to tell.
        let _ = span.set_parent(context);
    }
    note_ids(span);
}

/// Where a `traceparent` points.
fn context_of(trace_parent: &str) -> Option<SpanContext> {
    let context = TraceContextPropagator::new().extract(&One(trace_parent));
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

/// Keeps what logs call the span beside it. The span begins with this: its parent is settled.
fn note_ids(span: &Span) {
    let context = span.context();
    let context = context.span().span_context().clone();
    if !context.is_valid() {
        return;
    }
    let ids = Ids { trace: context.trace_id().to_string(), span: context.span_id().to_string() };
    span.with_subscriber(|(id, dispatch): (&tracing::Id, &Dispatch)| {
        if let Some(span) = dispatch.downcast_ref::<Registry>().and_then(|registry| registry.span(id)) {
            span.extensions_mut().replace(ids);
        }
    });
}

/// The one header of a trace.
struct One<'a>(&'a str);

impl Extractor for One<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::{SpanId, TracerProvider as _};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    fn spans(make: impl FnOnce()) -> Vec<SpanData> {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), make);
        kept.0.lock().unwrap().clone()
    }

    fn receive(age: Duration, trace_parent: &str) -> Span {
        let subject = Subject { tenant_id: "acme", instance_id: "i", event_id: "e" };
        work_span("approval", WorkKind::Receive, "receive x", Cause { trace_parent, age }, subject)
    }

    #[test]
    fn what_follows_at_once_is_in_the_same_trace_and_later_work_is_linked_to_it() {
        let made = spans(|| {
            drop(receive(Duration::from_secs(59), PARENT));
            drop(receive(Duration::from_mins(1), PARENT));
            drop(receive(Duration::from_mins(1), "nonsense"));
        });
        let [soon, late, unknown] = made.as_slice() else { panic!("{made:?}") };
        assert_eq!(soon.name, "receive x");
        assert_eq!(soon.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(soon.parent_span_id.to_string(), "b7ad6b7169203331");
        assert!(soon.links.is_empty());

        assert_ne!(late.span_context.trace_id(), soon.span_context.trace_id());
        assert_eq!(late.parent_span_id, SpanId::INVALID);
        assert_eq!(late.links.len(), 1);
        assert_eq!(late.links[0].span_context.span_id().to_string(), "b7ad6b7169203331");
        assert!(unknown.links.is_empty() && unknown.span_context.is_valid());
    }

    #[test]
    fn a_call_is_under_its_caller_and_says_so_to_those_it_calls() {
        let mut said = None;
        let made = spans(|| {
            let headers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("traceparent"),
                http::HeaderValue::from_static(PARENT),
            )]);
            let span = server_span("instance", "a.B/C", &headers);
            span.in_scope(|| {
                note("phasegate.tenant.id", "acme");
                note("not.a.field", "x");
                said = trace_parent();
            });
        });
        let [call] = made.as_slice() else { panic!("{made:?}") };
        assert_eq!(call.parent_span_id.to_string(), "b7ad6b7169203331");
        let id = call.span_context.span_id();
        assert_eq!(said, Some(format!("00-0af7651916cd43dd8448eb211c80319c-{id}-01")));
        let tenant = call.attributes.iter().find(|attribute| attribute.key.as_str() == "phasegate.tenant.id");
        assert_eq!(tenant.map(|tenant| tenant.value.to_string()), Some("acme".to_owned()));
    }

    #[test]
    fn without_anybody_who_listens_there_is_no_trace() {
        // Nothing is asked of the span itself: whether `tracing` makes one for nobody depends on who listens elsewhere in
        // this process at the moment.
        assert_eq!(trace_parent(), None);
        let headers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("traceparent"),
            http::HeaderValue::from_static(PARENT),
        )]);
        let span = server_span("instance", "a.B/C", &headers);
        assert_eq!(span.in_scope(trace_parent), None);
    }
}
