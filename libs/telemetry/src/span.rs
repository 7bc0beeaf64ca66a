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
