//! Logs and traces. One call sets them up and returns a guard that flushes; the rest carries a trace from call to call
//! in the W3C `traceparent` header. Metrics of single services are never here.

use std::collections::HashMap;
use std::io::IsTerminal as _;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// What to log, and where traces go.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Filter in the syntax of `tracing-subscriber`, such as `info,phasegate_instance=debug`.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
    /// Collector that takes traces over OTLP/gRPC, such as `http://127.0.0.1:4317`; none are sent without it.
    pub otlp_endpoint: Option<String>,
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter cannot be read.
    #[error("the log filter {filter:?} cannot be read")]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The exporter cannot be made.
    #[error("traces cannot be sent to {endpoint}")]
    Exporter {
        /// As given.
        endpoint: String,
        /// Why.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// Somebody has set it up already.
    #[error("telemetry runs already")]
    Twice,
}

/// Sends what is left when it is dropped.
#[derive(Debug, Default)]
pub struct Guard(Option<SdkTracerProvider>);

/// Sets logs and traces up for the process. Logs go to standard error, so that standard output is for data.
/// Inside a tokio runtime only.
pub fn start(settings: &Settings) -> Result<Guard, Error> {
    // A collector that is away must not flood the log: `opentelemetry` is off unless the filter names it.
    let filter = EnvFilter::try_new(format!("opentelemetry=off,{}", settings.filter))
        .map_err(|source| Error::Filter { filter: settings.filter.clone(), source })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // In colour on a terminal only, and not there either where NO_COLOR is set.
    let lines = if std::io::stderr().is_terminal() { lines } else { lines.with_ansi(false) };
    let lines = if settings.json { lines.json().boxed() } else { lines.boxed() };
    let provider = settings.otlp_endpoint.as_deref().map(exporter).transpose()?;
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer("phasegate")).with_filter(
            tracing_subscriber::filter::filter_fn(|metadata| metadata.target().starts_with("phasegate")),
        )
    });
    tracing_subscriber::registry()
        .with(traces)
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|_| Error::Twice)?;
    Ok(Guard(provider))
}

fn exporter(endpoint: &str) -> Result<SdkTracerProvider, Error> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|source| Error::Exporter { endpoint: endpoint.to_owned(), source })?;
    let resource = Resource::builder().with_service_name("phasegate").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// The span of one call that comes in, under the trace of its caller.
pub fn server_span(service: &'static str, path: &str, headers: &http::HeaderMap) -> Span {
    let span = tracing::info_span!("call", service, method = path);
    set_parent(&span, headers.get("traceparent").and_then(|value| value.to_str().ok()));
    span
}

/// Puts a span under the trace that a `traceparent` names, where it names one.
pub fn set_parent(span: &Span, trace_parent: Option<&str>) {
    if let Some(parent) = trace_parent {
        let context = TraceContextPropagator::new().extract(&One(parent));
        // Without a collector there is nobody to tell.
        let _ = span.set_parent(context);
    }
}

/// The `traceparent` of the span that runs, where traces are kept.
pub fn trace_parent() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove("traceparent")
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
