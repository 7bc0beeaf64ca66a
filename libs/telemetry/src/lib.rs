//! Logs, traces and metrics. One call sets logs and traces up and returns a guard that flushes; the rest carries a trace
//! from call to call in the W3C `traceparent` header, and tells Prometheus what was counted. What is counted is declared
//! where it happens, never here.

mod exporter;
mod lines;
pub mod metrics;
mod outage;
mod span;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub use outage::Outage;
pub use span::{Cause, Subject, WorkKind, note, server_span, trace_parent, work_span};

/// What to log, and where traces go.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Filter in the syntax of `tracing-subscriber`, such as `info,phasegate_instance=debug`.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
    /// Collector that takes traces over OTLP/gRPC, such as `http://127.0.0.1:4317`; none are sent without it.
    pub otlp_endpoint: Option<String>,
    /// Services of this process; in traces each has its name, behind `phasegate-`.
    pub services: Vec<String>,
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

/// How long a collector is waited for in the end.
const FLUSHED_WITHIN: Duration = Duration::from_secs(2);

/// Sends what is left when it is dropped.
#[derive(Debug, Default)]
pub struct Guard(Option<SdkTracerProvider>);

/// Sets logs and traces up for the process. Logs go to standard error, so that standard output is for data.
/// Inside a tokio runtime only.
pub fn start(settings: &Settings) -> Result<Guard, Error> {
    // A collector that is away must not flood the log: `opentelemetry` is off unless the filter names it.
    // What the pool of connections says of a database that is away is told once by whoever uses it.
    let filter =
        EnvFilter::try_new(format!("opentelemetry=off,sqlx=error,sqlx_core=error,{}", settings.filter))
            .map_err(|source| Error::Filter { filter: settings.filter.clone(), source })?;
    let lines = if settings.json {
        lines::Lines::new(std::io::stderr).boxed()
    } else {
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        // In colour on a terminal only, and not there either where NO_COLOR is set.
        if std::io::stderr().is_terminal() { lines.boxed() } else { lines.with_ansi(false).boxed() }
    };
    // Spans are `info`. Where no line says what they say and nobody collects them, none are made: they would cost every call
    // a tenth.
    let shows_spans = filter.max_level_hint().is_none_or(|finest| finest >= LevelFilter::INFO);
    let provider = provider(settings, shows_spans)?;
    let traces = provider.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("phasegate"))
            // Lines are for the log, which names the trace; a trace is what was done and how long it took.
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        let ours = tracing_subscriber::filter::filter_fn(|metadata| {
            metadata.is_span() && metadata.target().starts_with("phasegate")
        });
        layer.with_filter(ours.with_max_level_hint(LevelFilter::INFO))
    });
    // What the mail client says of its dialogue are whole messages, with their links: nobody may turn that on.
    let finest = filter.max_level_hint().unwrap_or(LevelFilter::TRACE);
    let harmless = tracing_subscriber::filter::filter_fn(|metadata| {
        !metadata.target().starts_with("lettre") || *metadata.level() <= Level::INFO
    });
    // With its hint, what is finer is left out where it is said, without anybody being asked.
    let filter = filter.and(harmless.with_max_level_hint(finest));
    tracing_subscriber::registry()
        .with(traces)
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|_| Error::Twice)?;
    Ok(Guard(provider))
}

/// Which build a service of this process is, told until what is returned is dropped.
pub fn build_info(service: &'static str) -> metrics::Observed {
    metrics::observe(Arc::new(Build(service)))
}

static BUILD: metrics::Gauge<3> = metrics::Gauge::new(
    "phasegate_build_info",
    "Which build runs; always 1.",
    ["version", "commit", "service"],
);

struct Build(&'static str);

impl metrics::Source for Build {
    fn read(&self) -> BoxFuture<'_, Vec<metrics::Sample>> {
        let commit = option_env!("PHASEGATE_COMMIT").unwrap_or("unknown");
        let sample = BUILD.sample([env!("CARGO_PKG_VERSION"), commit, self.0], 1.0);
        Box::pin(std::future::ready(vec![sample]))
    }
}

/// With a collector, everything is sent that the sampler of `OTEL_TRACES_SAMPLER` keeps. Without one, traces only have
/// names, for JSON logs that show spans; lines for people go without.
fn provider(settings: &Settings, shows_spans: bool) -> Result<Option<SdkTracerProvider>, Error> {
    let builder = SdkTracerProvider::builder().with_resource(Resource::builder().build());
    let Some(endpoint) = settings.otlp_endpoint.as_deref() else {
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        return Ok((settings.json && shows_spans).then(|| builder.with_sampler(sampler).build()));
    };
    let exporter = exporter::Exporter::new(endpoint, &settings.services)
        .map_err(|source| Error::Exporter { endpoint: endpoint.to_owned(), source })?;
    Ok(Some(builder.with_batch_exporter(exporter).build()))
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take()
            && let Err(error) = provider.shutdown_with_timeout(FLUSHED_WITHIN)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}
