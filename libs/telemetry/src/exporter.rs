//! Sends spans to a collector, those of each service in its name: several services may run in one process, and whoever
//! looks at a trace must see which did what.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry::Value;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter as Otlp, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// What belongs to no service of its own.
const PROCESS: &str = "phasegate";
/// The attribute that says which service a span is of.
const SERVICE: &str = "phasegate.service";

/// An exporter for each service, and one for the rest.
#[derive(Debug)]
pub(crate) struct Exporter(BTreeMap<String, Otlp>);

impl Exporter {
    /// To a collector, for the services of this process.
    pub(crate) fn new(endpoint: &str, services: &[String]) -> Result<Self, ExporterBuildError> {
        let names = services.iter().map(String::as_str).chain([PROCESS]);
        let exporters = names.map(|name| {
            let exporter = Otlp::builder().with_tonic().with_endpoint(endpoint).build()?;
            Ok((name.to_owned(), exporter))
        });
        Ok(Self(exporters.collect::<Result<_, ExporterBuildError>>()?))
    }

    /// The name of the exporter for a span.
    fn of(&self, span: &SpanData) -> &str {
        let service = span.attributes.iter().find(|attribute| attribute.key.as_str() == SERVICE);
        let named = service.and_then(|service| {
            let Value::String(name) = &service.value else { return None };
            self.0.get_key_value(name.as_str())
        });
        named.map_or(PROCESS, |(name, _)| name)
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut parts: BTreeMap<&str, Vec<SpanData>> = BTreeMap::new();
        for span in batch {
            parts.entry(self.of(&span)).or_default().push(span);
        }
        let mut outcome = Ok(());
        for (name, part) in parts {
            if let Some(exporter) = self.0.get(name) {
                outcome = exporter.export(part).await.and(outcome);
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let ended = self.0.values().map(|exporter| exporter.shutdown_with_timeout(timeout));
        ended.fold(Ok(()), OTelSdkResult::and)
    }

    fn set_resource(&mut self, resource: &Resource) {
        for (name, exporter) in &mut self.0 {
            let service = if name == PROCESS { PROCESS.to_owned() } else { format!("{PROCESS}-{name}") };
            let attributes =
                resource.iter().map(|(key, value)| opentelemetry::KeyValue::new(key.clone(), value.clone()));
            let own =
                Resource::builder_empty().with_attributes(attributes).with_service_name(service).build();
            exporter.set_resource(&own);
        }
    }
}
