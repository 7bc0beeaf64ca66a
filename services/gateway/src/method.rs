//! The public methods of all services, from the descriptors: what they take, and who serves them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use phasegate_proto_json::pool;
use phasegate_serve::Service;
use prost_reflect::MethodDescriptor;

use crate::affinity;
use crate::config::Limits;
use crate::error::Error;

/// Packages that are for services among themselves.
const INTERNAL_PACKAGES: &str = "phasegate.internal.";
/// The one method with large requests.
const STORE_ARTIFACT: &str = "phasegate.artifact.v1.ArtifactService.StoreArtifact";
/// The one method that waits by itself.
const POLL_TASKS: &str = "phasegate.worker.v1.WorkerService.PollTasks";

/// Who serves a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// A service behind the gateway.
    Peer(Service),
    /// The gateway itself.
    Gateway,
}

/// A method that can be called from outside.
#[derive(Debug)]
pub(crate) struct PublicMethod {
    pub(crate) descriptor: MethodDescriptor,
    /// Path on the wire: /package.Service/Method.
    pub(crate) path: PathAndQuery,
    pub(crate) home: Home,
    /// Largest gRPC message.
    pub(crate) message_bytes_max: usize,
    /// Largest REST body.
    pub(crate) body_bytes_max: usize,
    /// Number of the field that names an instance, where the engine keeps what the call is about.
    pub(crate) instance_field: Option<u32>,
    /// How long an answer may take; a stream has no limit.
    pub(crate) time_max: Option<Duration>,
    /// Whether it waits for something to happen before it answers.
    pub(crate) waits: bool,
}

/// All of them, by path.
#[derive(Debug)]
pub(crate) struct Methods(BTreeMap<String, Arc<PublicMethod>>);

impl Home {
    /// The name of the service.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Peer(service) => service.name(),
            Self::Gateway => "gateway",
        }
    }
}

impl PublicMethod {
    /// Whether it answers with a stream.
    pub(crate) fn streams(&self) -> bool {
        self.descriptor.is_server_streaming()
    }
}

impl Methods {
    /// Reads the descriptors.
    pub(crate) fn read(limits: &Limits) -> Result<Self, Error> {
        let mut methods = BTreeMap::new();
        for service in pool().services().filter(|service| is_public(service.package_name())) {
            let home = home(service.package_name())?;
            for descriptor in service.methods() {
                let method = public_method(descriptor, home, limits)?;
                methods.insert(method.path.path().to_owned(), Arc::new(method));
            }
        }
        Ok(Self(methods))
    }

    /// Finds a method by its path on the wire.
    pub(crate) fn find(&self, path: &str) -> Option<&Arc<PublicMethod>> {
        self.0.get(path)
    }

    /// Goes through all of them, by path.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PublicMethod>> {
        self.0.values()
    }
}

/// Whether the methods of a package can be called from outside.
pub(crate) fn is_public(package: &str) -> bool {
    package.starts_with("phasegate.") && !package.starts_with(INTERNAL_PACKAGES)
}

fn home(package: &str) -> Result<Home, Error> {
    let context = package.split('.').nth(1).unwrap_or_default();
    if context == "gateway" {
        return Ok(Home::Gateway);
    }
    // Workers talk to the engine.
    let name = if context == "worker" { "instance" } else { context };
    let service = Service::ALL.into_iter().find(|service| service.name() == name);
    service.map(Home::Peer).ok_or_else(|| Error::Homeless(package.to_owned()))
}

fn public_method(descriptor: MethodDescriptor, home: Home, limits: &Limits) -> Result<PublicMethod, Error> {
    let name = descriptor.full_name().to_owned();
    if descriptor.is_client_streaming() {
        return Err(Error::ClientStreaming(name));
    }
    let path = format!("/{}/{}", descriptor.parent_service().full_name(), descriptor.name());
    let (message_bytes_max, body_bytes_max) = match name.as_str() {
        STORE_ARTIFACT => (phasegate_serve::MESSAGE_BYTES_MAX, limits.store_body_bytes_max),
        _ => (limits.message_bytes_max, limits.body_bytes_max),
    };
    let time_max = match name.as_str() {
        _ if descriptor.is_server_streaming() => None,
        POLL_TASKS => Some(limits.poll_time_max),
        _ => Some(limits.answer_time_max),
    };
    let path = path.parse().map_err(|_| Error::Path(path))?;
    let is_engine = home == Home::Peer(Service::Instance);
    let instance_field = affinity::instance_field(&descriptor.input()).filter(|_| is_engine);
    let waits = name == POLL_TASKS;
    Ok(PublicMethod {
        descriptor,
        path,
        home,
        message_bytes_max,
        body_bytes_max,
        instance_field,
        time_max,
        waits,
    })
}
