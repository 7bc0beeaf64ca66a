//! A collector of traces, as small as it gets: it takes what it is sent and keeps it.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What was sent.
type Kept = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// A collector that runs.
pub(crate) struct Collector {
    address: String,
    kept: Kept,
}

struct Service(Kept);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let kept = Kept::default();
        let service = TraceServiceServer::new(Service(kept.clone()));
        tokio::spawn(
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Self { address, kept })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// All spans, with the name of the service that sent them.
    pub(crate) fn spans(&self) -> Vec<(String, Span)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans = Vec::new();
        for sent in kept.iter().flat_map(|request| &request.resource_spans) {
            let attributes = sent.resource.as_ref().map(|resource| resource.attributes.as_slice());
            let name = text(attributes.unwrap_or_default(), "service.name").unwrap_or_default();
            let of_name = |span: &Span| (name.to_owned(), span.clone());
            spans.extend(sent.scope_spans.iter().flat_map(|scope| &scope.spans).map(of_name));
        }
        spans
    }

    /// Everything that was sent, as text.
    pub(crate) fn text(&self) -> String {
        format!("{:?}", self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A text attribute of a span.
pub(crate) fn attribute<'a>(span: &'a Span, name: &str) -> Option<&'a str> {
    text(&span.attributes, name)
}

fn text<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    if let Value::StringValue(text) = found.value.as_ref()?.value.as_ref()? { Some(text) } else { None }
}
