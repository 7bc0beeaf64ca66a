//! The other services: a channel to each, and calls that say who asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phasegate_principal::{HEADER, Principal, Signer};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use crate::Service;

/// How long one service waits for another.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Channels to the services.
#[derive(Debug, Clone)]
pub struct Peers {
    channels: Arc<BTreeMap<Service, Channel>>,
    signer: Signer,
    nowhere: Channel,
}

impl Peers {
    /// The services that can be reached, and what signs the calls to them.
    pub fn new(channels: BTreeMap<Service, Channel>, signer: Signer) -> Self {
        // A service that is not among them is UNAVAILABLE, like one that is down.
        let nowhere = tonic::transport::Endpoint::from_static("http://nowhere.invalid").connect_lazy();
        Self { channels: Arc::new(channels), signer, nowhere }
    }

    /// The channel to one service.
    pub fn channel(&self, service: Service) -> Channel {
        self.channels.get(&service).unwrap_or(&self.nowhere).clone()
    }

    /// A request to one service on behalf of a principal, with a deadline of 10 s.
    pub fn request<T>(&self, to: Service, principal: &Principal, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(CALL_TIMEOUT);
        self.sign(to, principal, request.metadata_mut());
        request
    }

    /// Says in the metadata of a call who asks, and which trace it belongs to.
    pub fn sign(&self, to: Service, principal: &Principal, metadata: &mut tonic::metadata::MetadataMap) {
        // Without a header the call is refused, which is what a failure to sign deserves.
        if let Ok(token) = self.signer.sign(principal, to.name())
            && let Ok(value) = MetadataValue::try_from(token)
        {
            metadata.insert(HEADER, value);
        }
        if let Some(parent) = phasegate_telemetry::trace_parent()
            && let Ok(value) = MetadataValue::try_from(parent)
        {
            metadata.insert("traceparent", value);
        }
    }
}
