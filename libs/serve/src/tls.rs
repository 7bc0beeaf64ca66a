//! Mutual TLS between services: each side shows a certificate that the installation's own authority has signed, and
//! speaks to nobody without one. Certificates can be replaced while they are in use.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use phasegate_telemetry::metrics::{Gauge, Sample, Source};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use x509_cert::der::Decode as _;

/// A peer that has not shown who it is by then is hung up on.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Peers that are showing who they are at once; more wait.
const HANDSHAKES_MAX: usize = 512;
/// Connections that wait to be served.
const BACKLOG: usize = 16;
/// After a failed accept, mostly for want of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a service shows and whom it believes, in PEM. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificates {
    /// Whoever shows a certificate that one of these has signed is believed.
    pub authorities: Vec<u8>,
    /// The certificate of this process, then those between it and the authority. It is good for the names that peers
    /// call the services of this process by, and for both sides of a connection.
    pub chain: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be used: {why}")]
pub struct InvalidCertificates {
    what: &'static str,
    why: String,
}

/// Certificates in use. Copies share them.
#[derive(Clone)]
pub struct Tls(Arc<RwLock<Arc<Current>>>);

struct Current {
    /// Grows with every replacement.
    generation: u64,
    server: Arc<ServerConfig>,
    client: ClientTlsConfig,
    /// When the first of the own ones ends to be good, and the first of the authorities, in seconds since 1970.
    expires: [(&'static str, u64); 2],
}

static EXPIRES: Gauge<1> = Gauge::new(
    "phasegate_certificate_expires_timestamp_seconds",
    "When the first certificate between services ends to be good: of this process, or of an authority.",
    ["certificate"],
);

impl Tls {
    /// With these certificates at first.
    pub fn new(certificates: &Certificates) -> Result<Self, InvalidCertificates> {
        Ok(Self(Arc::new(RwLock::new(Arc::new(current(0, certificates)?)))))
    }

    /// Puts certificates in the place of those before, for connections that begin from now on. Those that cannot be used
    /// change nothing.
    pub fn replace(&self, certificates: &Certificates) -> Result<(), InvalidCertificates> {
        let next = current(self.current().generation + 1, certificates)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(())
    }

    /// What clients connect with, and its number.
    pub(crate) fn client(&self) -> (u64, ClientTlsConfig) {
        let current = self.current();
        (current.generation, current.client.clone())
    }

    /// The connections of a port whose other side has shown who it is.
    pub(crate) fn incoming(
        &self,
        listener: TcpListener,
    ) -> ReceiverStream<std::io::Result<TlsStream<TcpStream>>> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(self.clone().accept(listener, sender));
        ReceiverStream::new(receiver)
    }

    async fn accept(
        self,
        listener: TcpListener,
        sender: mpsc::Sender<std::io::Result<TlsStream<TcpStream>>>,
    ) {
        let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (acceptor, sender) = (TlsAcceptor::from(Arc::clone(&self.current().server)), sender.clone());
            tokio::spawn(async move {
                let _place = place;
                let shaking = async {
                    stream.set_nodelay(true)?;
                    acceptor.accept(stream).await
                };
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking).await {
                    // Where the server has ended, nobody is there to take it.
                    Ok(Ok(stream)) => drop(sender.send(Ok(stream)).await),
                    Ok(Err(error)) => tracing::warn!(%error, "a peer did not show who it is"),
                    Err(_) => tracing::warn!("a peer did not show who it is in time"),
                }
            });
        }
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn current(generation: u64, certificates: &Certificates) -> Result<Current, InvalidCertificates> {
    let Certificates { authorities, chain, key } = certificates;
    let invalid = |what| move |error: &dyn fmt::Display| InvalidCertificates { what, why: error.to_string() };
    let of_authority = invalid("the certificate of the authority");
    let of_chain = invalid("the certificate");
    let of_key = invalid("the private key");

    let mut roots = RootCertStore::empty();
    let parsed_authorities = parsed(authorities).map_err(|error| of_authority(&error))?;
    let authorities_expire = first_end(&parsed_authorities).map_err(|error| of_authority(&error))?;
    for authority in parsed_authorities {
        roots.add(authority).map_err(|error| of_authority(&error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = verifier.build().map_err(|error| of_authority(&error))?;
    let parsed_chain = parsed(chain).map_err(|error| of_chain(&error))?;
    let chain_expires = first_end(&parsed_chain).map_err(|error| of_chain(&error))?;
    let parsed_key = PrivateKeyDer::from_pem_slice(key).map_err(|error| of_key(&error))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| of_chain(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(parsed_chain, parsed_key)
        .map_err(|error| of_chain(&error))?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let client = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authorities))
        .identity(Identity::from_pem(chain, key));
    let expires = [("own", chain_expires), ("authority", authorities_expire)];
    Ok(Current { generation, server: Arc::new(server), client, expires })
}

/// When the first of them ends to be good, in seconds since 1970.
fn first_end(certificates: &[CertificateDer<'_>]) -> Result<u64, x509_cert::der::Error> {
    let mut first = u64::MAX;
    for certificate in certificates {
        let read = x509_cert::Certificate::from_der(certificate)?;
        first = first.min(read.tbs_certificate.validity.not_after.to_unix_duration().as_secs());
    }
    Ok(first)
}

impl Source for Tls {
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
    fn read(&self) -> BoxFuture<'_, Vec<Sample>> {
        let expires = self.current().expires;
        Box::pin(async move { expires.map(|(whose, end)| EXPIRES.sample([whose], end as f64)).to_vec() })
    }
}

/// The certificates of a text: one at least.
fn parsed(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| error.to_string())?;
    if found.is_empty() { Err("there is none in it".to_owned()) } else { Ok(found) }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates(..)")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}
