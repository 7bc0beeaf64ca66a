//! Any method, by its name, with its message as JSON.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use phasegate_proto_json::{Style, decode, encode, pool};
use phasegate_serve::{Channel, Raw};
use prost_reflect::MethodDescriptor;
use serde_json::Value;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

/// How long any call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The public methods, in the order of the contracts.
pub fn public_methods() -> Vec<MethodDescriptor> {
    methods(|package| package.starts_with("phasegate.") && !package.starts_with("phasegate.internal."))
}

/// All of our methods, those between services, too.
pub fn all_methods() -> Vec<MethodDescriptor> {
    methods(|package| package.starts_with("phasegate."))
}

fn methods(wanted: impl Fn(&str) -> bool) -> Vec<MethodDescriptor> {
    let services = pool().services().filter(|service| wanted(service.package_name()));
    services.flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// A public method by its name, such as `StartInstance`; no two have the same.
pub fn named(name: &str) -> anyhow::Result<MethodDescriptor> {
    let found = public_methods().into_iter().find(|method| method.name() == name);
    found.with_context(|| format!("there is no method {name}"))
}

/// Calls a method. One with a stream of answers gives the first, or nothing when none comes soon.
pub async fn call(
    channel: impl Into<Channel>,
    method: &MethodDescriptor,
    message: &Value,
    metadata: MetadataMap,
) -> anyhow::Result<Result<Value, Status>> {
    let bytes = encode(&method.input(), message);
    let bytes = bytes.map_err(|faults| anyhow::anyhow!("{}: {message}: {faults:?}", method.name()))?;
    let path: PathAndQuery = format!("/{}/{}", method.parent_service().full_name(), method.name()).parse()?;
    let mut request = Request::from_parts(metadata, tonic::Extensions::new(), Bytes::from(bytes));
    let patience = if method.is_server_streaming() { Duration::from_secs(5) } else { PATIENCE };
    request.set_timeout(PATIENCE);
    let mut client = Grpc::new(channel.into());
    let answer = async {
        client.ready().await.map_err(Status::from_error)?;
        client.server_streaming(request, path, Raw).await?.into_inner().message().await
    };
    Ok(match tokio::time::timeout(patience, answer).await {
        Ok(Ok(Some(bytes))) => Ok(decode(&method.output(), &bytes, Style::Full)?),
        Ok(Ok(None)) | Err(_) => Ok(Value::Null),
        Ok(Err(status)) => Err(status),
    })
}
