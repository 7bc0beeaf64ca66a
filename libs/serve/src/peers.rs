//! The other services: a channel to each, and calls that say who asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phasegate_principal::{HEADER, Principal, Signer};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport;

use crate::channel::Channel;
use crate::deadline::remaining;
use crate::pool::{Address, Pool};
use crate::way::Way;
use crate::{Service, Tls};

/// How long one service waits for another, where whoever it works for does not wait for less.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Channels to the services.
#[derive(Debug, Clone)]
pub struct Peers {
    pools: Arc<BTreeMap<Service, Pool>>,
    signer: Signer,
    nowhere: Way,
}

impl Peers {
    /// The services that can be reached, each at one place, and what signs the calls to them.
    pub fn new<W: Into<Way>>(ways: BTreeMap<Service, W>, signer: Signer) -> Self {
        let pools = ways.into_iter().map(|(service, way)| (service, Pool::fixed(way.into())));
        Self::with(pools.collect(), signer)
    }

    /// No services: for who only signs.
    pub fn none(signer: Signer) -> Self {
        Self::with(BTreeMap::new(), signer)
    }

    /// The services over the network, with all their copies, which [`Peers::watch`] keeps looking for; with `tls`, each
    /// side shows the other who it is.
    pub fn over_network(
        addresses: BTreeMap<Service, Vec<Address>>,
        tls: Option<&Tls>,
        signer: Signer,
    ) -> Self {
        let pools =
            addresses.into_iter().map(|(service, addresses)| (service, Pool::of(addresses, tls.cloned())));
        Self::with(pools.collect(), signer)
    }

    fn with(pools: BTreeMap<Service, Pool>, signer: Signer) -> Self {
        // A service that is not among them is UNAVAILABLE, like one that is down.
        let nowhere = transport::Endpoint::from_static("http://nowhere.invalid").connect_lazy();
        Self { pools: Arc::new(pools), signer, nowhere: nowhere.into() }
    }

    /// Keeps looking for the copies of each service, and for their health, until `shutdown`.
    pub async fn watch(&self, shutdown: CancellationToken) {
        futures::future::join_all(self.pools.values().map(|pool| pool.watch(shutdown.clone()))).await;
    }

    /// The channel to one service, for one call: copies take turns.
    pub fn channel(&self, service: Service) -> Channel {
        self.picked(service, None)
    }

    /// The channel to one service, for one call about `key`: always the same copy while it lives.
    pub fn channel_of(&self, service: Service, key: &str) -> Channel {
        self.picked(service, Some(key))
    }

    /// Whether any copy of a service answers.
    pub fn is_well(&self, service: Service) -> bool {
        self.pools.get(&service).is_some_and(Pool::is_well)
    }

    fn picked(&self, service: Service, key: Option<&str>) -> Channel {
        let channel = self.pools.get(&service).and_then(|pool| pool.pick(key));
        channel.unwrap_or_else(|| self.nowhere.clone()).into()
    }

    /// A request to one service on behalf of a principal. Its deadline is what is left of the time of the call that it is
    /// a part of, at most 10 s.
    pub fn request<T>(&self, to: Service, principal: &Principal, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(remaining().map_or(CALL_TIMEOUT, |left| left.min(CALL_TIMEOUT)));
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
