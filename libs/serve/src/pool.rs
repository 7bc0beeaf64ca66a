//! The copies of one service: which there are, which answer, and which one a call goes to.
//!
//! Names are looked up again and again, so that copies may come and go, and every copy says how it is, so that one that
//! stops gets no new calls while it finishes the old ones. Calls go to the copies in turn; those about one
//! instance go to the same copy while it lives, because that copy has the instance in memory. Nothing depends on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Endpoint;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::Tls;
use crate::server::STREAM_AGE_MAX;
use crate::way::Way;

/// Before a copy that is not well is asked for its health once more.
const LISTEN_AGAIN: Duration = Duration::from_millis(500);
/// A copy that does not answer by then is not well.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often copies are looked for.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);
/// A connection that cannot be made by then is tried anew.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a service is: `http://host:port` or `https://host:port`. A host with several addresses stands for a copy at each.
#[derive(Debug, Clone)]
pub struct Address {
    uri: http::Uri,
    /// Looked up; with the port.
    host: String,
}

/// An address that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} must look like http://host:port")]
pub struct InvalidAddress(String);

/// The copies of one service.
#[derive(Debug, Clone)]
pub(crate) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    addresses: Vec<Address>,
    tls: Option<Tls>,
    copies: RwLock<Arc<Vec<Copy>>>,
    next: AtomicUsize,
    /// Where each host was found the last time.
    places: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
}

#[derive(Debug, Clone)]
struct Copy {
    /// Names the copy for as long as it is where it is.
    id: String,
    /// Of the certificates that it is spoken to with.
    generation: u64,
    way: Way,
    is_well: Arc<AtomicBool>,
    _listener: Option<Arc<AbortOnDropHandle<()>>>,
}

/// A copy that is not well, or cannot be asked.
struct NotWell;

// === impl Address ===

impl std::str::FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.to_owned());
        let uri: http::Uri = text.trim_end_matches('/').parse().map_err(|_| invalid())?;
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().filter(|host| !host.is_empty());
        let (Some(host), Some(port), true) = (host, uri.port_u16(), is_known) else {
            return Err(invalid());
        };
        let host = format!("{host}:{port}");
        Ok(Self { uri, host })
    }
}

impl Address {
    /// Whether it is spoken to with TLS.
    pub fn is_secure(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.uri.scheme_str().unwrap_or("http"), self.host)
    }
}

// === impl Pool ===

impl Pool {
    /// A service that has one place, which is never asked for its health.
    pub(crate) fn fixed(way: Way) -> Self {
        Self::with(Vec::new(), None, vec![Copy::new(String::new(), 0, way)])
    }

    /// A service whose copies are to be found with [`Pool::watch`]. Until then, each address is one.
    pub(crate) fn of(addresses: Vec<Address>, tls: Option<Tls>) -> Self {
        let copies = addresses
            .iter()
            .filter_map(|address| {
                let (generation, way) = connect(address, None, tls.as_ref())?;
                Some(Copy::new(address.to_string(), generation, way))
            })
            .collect();
        Self::with(addresses, tls, copies)
    }

    fn with(addresses: Vec<Address>, tls: Option<Tls>, copies: Vec<Copy>) -> Self {
        let copies = RwLock::new(Arc::new(copies));
        Self(Arc::new(Inner { addresses, tls, copies, next: AtomicUsize::new(0), places: Mutex::default() }))
    }

    /// The copy whose turn it is, or of `key`, if there is one: among those that are well, or among all if none is.
    pub(crate) fn pick(&self, key: Option<&str>) -> Option<Way> {
        let copies = self.copies();
        let well: Vec<&Copy> = copies.iter().filter(|copy| copy.is_well.load(Ordering::Relaxed)).collect();
        let candidates = if well.is_empty() { copies.iter().collect() } else { well };
        let chosen = match key {
            // Highest random weight: a copy that goes takes its own keys with it and leaves the others where they are.
            Some(key) => candidates.into_iter().max_by_key(|copy| weight(&copy.id, key)),
            None if candidates.is_empty() => None,
            None => {
                let turn = self.0.next.fetch_add(1, Ordering::Relaxed) % candidates.len();
                candidates.into_iter().nth(turn)
            }
        };
        chosen.map(|copy| copy.way.clone())
    }

    /// Whether any copy is well.
    pub(crate) fn is_well(&self) -> bool {
        self.copies().iter().any(|copy| copy.is_well.load(Ordering::Relaxed))
    }

    /// Keeps looking for copies, and listening to how they are, until `shutdown`.
    pub(crate) async fn watch(&self, shutdown: CancellationToken) {
        if !self.0.addresses.is_empty() {
            // A copy that does not answer must not keep this process from stopping.
            shutdown.run_until_cancelled(self.keep_looking()).await;
        }
    }

    async fn keep_looking(&self) {
        loop {
            self.look_up().await;
            tokio::time::sleep(LOOK_UP_EVERY).await;
        }
    }

    /// Finds out where the copies are. What is known stays when nothing can be found out.
    async fn look_up(&self) {
        let mut found: BTreeMap<String, (&Address, SocketAddr)> = BTreeMap::new();
        for address in &self.0.addresses {
            let looked_up = tokio::net::lookup_host(&address.host);
            let places = match tokio::time::timeout(CONNECT_TIMEOUT, looked_up).await {
                Ok(Ok(places)) => places.collect(),
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "a peer cannot be found");
                    Vec::new()
                }
                Err(_) => {
                    tracing::debug!(%address, "a peer was not found in time");
                    Vec::new()
                }
            };
            let places = self.found_or_known(&address.host, places);
            found.extend(places.into_iter().map(|place| (place.to_string(), (address, place))));
        }
        if found.is_empty() {
            return;
        }
        let known = self.copies();
        // Calls that are under way stay on the connection that they are on.
        let generation = self.0.tls.as_ref().map_or(0, |tls| tls.client().0);
        let copies: Vec<Copy> = found
            .into_iter()
            .filter_map(|(id, (address, place))| {
                if let Some(copy) = known.iter().find(|copy| copy.id == id && copy.generation == generation) {
                    return Some(copy.clone());
                }
                let (generation, way) = connect(address, Some(place), self.0.tls.as_ref())?;
                Some(Copy::heard(id, generation, way))
            })
            .collect();
        *self.0.copies.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(copies);
    }

    /// Where a host is, or was when it was found the last time: one name that cannot be looked up takes no copies away.
    fn found_or_known(&self, host: &str, found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut places = self.0.places.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_empty() {
            return places.get(host).cloned().unwrap_or_default();
        }
        places.insert(host.to_owned(), found.clone());
        found
    }

    fn copies(&self) -> Arc<Vec<Copy>> {
        Arc::clone(&self.0.copies.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Copy {
    /// One that nobody listens to: it counts as well.
    fn new(id: String, generation: u64, way: Way) -> Self {
        Self { id, generation, way, is_well: Arc::new(AtomicBool::new(true)), _listener: None }
    }

    /// One that is listened to for as long as anybody holds it.
    fn heard(id: String, generation: u64, way: Way) -> Self {
        let copy = Self::new(id, generation, way);
        let listener = tokio::spawn(copy.clone().listen());
        Self { _listener: Some(Arc::new(AbortOnDropHandle::new(listener))), ..copy }
    }

    /// Hears how the copy is, for ever. A copy says at once that it is about to stop; that it has died, or does not answer
    /// at all, is seen by its connection.
    async fn listen(self) {
        loop {
            if self.listen_once().await.is_err() {
                self.note(false);
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
        }
    }

    /// Hears how the copy is until it is not well, or until it is time to ask anew.
    async fn listen_once(&self) -> Result<(), NotWell> {
        let mut client = HealthClient::new(self.way.clone());
        let asked = client.watch(HealthCheckRequest::default());
        let answered = tokio::time::timeout(HEALTH_TIMEOUT, asked).await;
        let mut heard = answered.map_err(|_| NotWell)?.map_err(|_| NotWell)?.into_inner();
        let until = tokio::time::Instant::now() + STREAM_AGE_MAX / 2;
        loop {
            match tokio::time::timeout_at(until, heard.message()).await {
                Ok(Ok(Some(answer))) if answer.status == ServingStatus::Serving as i32 => self.note(true),
                Ok(_) => return Err(NotWell),
                Err(_) => return Ok(()),
            }
        }
    }

    fn note(&self, is_well: bool) {
        if self.is_well.swap(is_well, Ordering::Relaxed) != is_well {
            tracing::info!(copy = self.id, is_well, "the health of a peer has changed");
        }
    }
}

/// A connection that is made when it is first needed, and made again when it breaks.
fn connect(address: &Address, place: Option<SocketAddr>, tls: Option<&Tls>) -> Option<(u64, Way)> {
    let scheme = address.uri.scheme_str().unwrap_or("http");
    let uri = place.map_or_else(|| address.to_string(), |place| format!("{scheme}://{place}"));
    let endpoint = Endpoint::from_shared(uri).ok()?;
    let mut endpoint = endpoint
        .origin(address.uri.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024);
    let mut generation = 0;
    if let Some(tls) = tls {
        // Brackets belong to the address of version 6 and not to its name.
        let name = address.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let client;
        (generation, client) = tls.client();
        endpoint = endpoint.tls_config(client.domain_name(name)).ok()?;
    }
    Some((generation, endpoint.connect_lazy().into()))
}

/// FNV-1a of both, mixed once more so that ids that differ in their last letters do not go together.
fn weight(copy: &str, key: &str) -> u64 {
    let hash = copy.bytes().chain([0]).chain(key.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["http://127.0.0.1:7462", "https://phasegate-instance:7462/", "http://[::1]:7462"] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:7462", "http://host", "ftp://host:1", "http://:1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_that_cannot_be_looked_up_stays_where_it_was() {
        let pool = Pool::of(Vec::new(), None);
        let place: SocketAddr = "10.0.0.1:7462".parse().unwrap();
        assert_eq!(pool.found_or_known("a:7462", Vec::new()), []);
        assert_eq!(pool.found_or_known("a:7462", vec![place]), [place]);
        assert_eq!(pool.found_or_known("a:7462", Vec::new()), [place]);
        assert_eq!(pool.found_or_known("b:7462", Vec::new()), []);
    }

    #[test]
    fn keys_are_shared_out_and_stay_where_they_are() {
        let copies = ["10.0.0.1:7462", "10.0.0.2:7462", "10.0.0.3:7462"];
        let place = |among: &[&'static str], key: &str| {
            among.iter().copied().max_by_key(|copy| weight(copy, key)).unwrap()
        };
        let mut counts = BTreeMap::new();
        for key in (0..3_000).map(|number| format!("proc-inst-{number}")) {
            let before = place(&copies, &key);
            *counts.entry(before).or_insert(0) += 1;
            if before != copies[2] {
                assert_eq!(place(&copies[..2], &key), before, "{key}");
            }
        }
        assert!(counts.values().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}
