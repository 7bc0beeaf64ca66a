//! The methods that the gateway serves itself: about the installation and the caller, health, and reflection.

use std::collections::BTreeMap;

use phasegate_principal::Principal;
use phasegate_proto::gateway::v1::gateway_service_server::{GatewayService, GatewayServiceServer};
use phasegate_proto::gateway::v1::{
    GetCallerRequest, GetCallerResponse, GetServerInfoRequest, GetServerInfoResponse,
};
use phasegate_proto_json::pool;
use prost_types::FileDescriptorSet;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::server::HealthReporter;

use crate::config::Limits;
use crate::error::Error;
use crate::method::is_public;

/// What clients may rely upon, by name.
const CAPABILITIES: [&str; 6] = [
    "approval.content_bound",
    "audit.hash_chain",
    "portal.magic_link",
    "rest.event_stream",
    "rest.openapi",
    "worker.fencing",
];

#[derive(Debug)]
struct Api {
    public_url: String,
    limits: BTreeMap<String, i64>,
}

/// The routes of what the gateway serves itself, and what tells of its health.
pub(crate) fn routes(public_url: &str, limits: &Limits) -> Result<(Routes, HealthReporter), Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection =
        || tonic_reflection::server::Builder::configure().register_file_descriptor_set(public_files());
    let api = Api { public_url: public_url.to_owned(), limits: named(limits) };
    let routes = Routes::new(GatewayServiceServer::new(api))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(Error::Reflection)?)
        .add_service(reflection().build_v1alpha().map_err(Error::Reflection)?);
    Ok((routes, reporter))
}

#[tonic::async_trait]
impl GatewayService for Api {
    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        Ok(Response::new(GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            limits: self.limits.clone(),
            public_url: self.public_url.clone(),
        }))
    }

    async fn get_caller(
        &self,
        request: Request<GetCallerRequest>,
    ) -> Result<Response<GetCallerResponse>, Status> {
        let principal = Principal::of(&request)?;
        Ok(Response::new(GetCallerResponse {
            actor: Some(principal.actor()),
            tenant_id: principal.tenant.clone(),
            scopes: principal.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
            queues: principal.queues.clone(),
        }))
    }
}

/// Everything in `proto/` but what services say among themselves.
fn public_files() -> FileDescriptorSet {
    let files = pool()
        .files()
        .filter(|file| !file.package_name().starts_with("phasegate.") || is_public(file.package_name()));
    FileDescriptorSet { file: files.map(|file| file.file_descriptor_proto().clone()).collect() }
}

fn named(limits: &Limits) -> BTreeMap<String, i64> {
    let bytes = [
        ("rest_body_bytes", limits.body_bytes_max),
        ("rest_artifact_body_bytes", limits.store_body_bytes_max),
        ("grpc_message_bytes", limits.message_bytes_max),
        ("header_bytes", limits.header_bytes_max),
        ("streams", limits.streams_max),
    ];
    bytes
        .into_iter()
        .map(|(name, limit)| (name.to_owned(), i64::try_from(limit).unwrap_or(i64::MAX)))
        .collect()
}
