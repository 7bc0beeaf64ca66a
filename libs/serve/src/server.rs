//! Serves routes until told to stop, and stops in bounded time: tonic alone waits for idle and deaf connections for ever.

use std::time::Duration;

use futures::StreamExt;
use phasegate_principal::Verifier;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::{Layer as _, ServiceBuilder};

use crate::call::CallLayer;
use crate::direct::End;
use crate::limit::LimitLayer;
use crate::{Context, Service, Tls, VerifyLayer};

/// After this long, what has not finished is dropped.
pub const DRAIN_SECONDS: u64 = 8;

/// The last answers are on their way for a moment after they were written.
const LINGER: Duration = Duration::from_millis(200);

/// How often a service that leans on something looks whether that is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What takes longer to answer is away.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// Largest message between services: the largest artifact, as JSON, with room for what goes with it. No answer is larger.
pub const MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// Largest request of a method that takes neither an artifact nor what is made of one. A server reserves what a message
/// announces before it has come.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Long polls and watches hold a stream each, and the gateway is one client with few connections: a copy of a service has
/// thousands of streams from it. What bounds the work is the number of places, see [`crate::Limits`].
const STREAMS_MAX: u32 = 4_096;
/// Bytes of headers of one call: those that the gateway takes, and what it adds.
const HEADER_BYTES_MAX: u32 = 32 * 1024;
/// Streams that are opened and reset at once are a known attack.
const RESETS_PENDING_MAX: usize = 20;
/// The other side of a silent connection is asked whether it is there, by HTTP/2 and by TCP.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);

/// A stream ends itself before the connection that it is on has to, and says where to go on.
pub const STREAM_AGE_MAX: Duration = Duration::from_mins(9);
/// A connection is given up after about this long, so that calls spread over copies that have come since.
const CONNECTION_AGE: Duration = Duration::from_mins(10);
/// How long what is under way on such a connection may still take: as long as any stream.
const CONNECTION_GRACE: Duration = Duration::from_mins(10);

/// Bounds the messages of a server: requests by the second argument, or [`REQUEST_BYTES_MAX`], answers by
/// [`MESSAGE_BYTES_MAX`], which has no bound by itself.
#[macro_export]
macro_rules! bounded {
    ($server:expr) => {
        $crate::bounded!($server, $crate::REQUEST_BYTES_MAX)
    };
    ($server:expr, $bytes_max:expr) => {
        $server.max_decoding_message_size($bytes_max).max_encoding_message_size($crate::MESSAGE_BYTES_MAX)
    };
}

/// Where a service listens.
#[derive(Debug)]
pub enum Listener {
    /// On a port, to whoever can reach it.
    Tcp(TcpListener),
    /// On a port, to those who show who they are.
    Tls(TcpListener, Tls),
    /// Within the process, see [`crate::pipe`].
    Pipe(mpsc::Receiver<DuplexStream>),
    /// Within the process and without a connection, see [`crate::direct`].
    Direct(End),
}

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
#[error("the server of the {service} service failed")]
pub struct Error {
    service: &'static str,
    source: tonic::transport::Error,
}

/// Serves `routes` as `service`: verifies the principal of every call, answers for health, and returns once `context`
/// says shutdown and the calls under way are done, at the latest [`DRAIN_SECONDS`] later.
pub async fn serve(
    service: Service,
    routes: Routes,
    context: &Context,
    listener: Listener,
) -> Result<(), Error> {
    serve_while(service, routes, context, listener, || std::future::ready(true)).await
}

/// The same for a service that is well only while what it leans on `answers`: where it does not, callers that have the
/// choice go to another copy.
pub async fn serve_while<F>(
    service: Service,
    routes: Routes,
    context: &Context,
    listener: Listener,
    answers: impl Fn() -> F + Send + 'static,
) -> Result<(), Error>
where
    F: Future<Output = bool> + Send,
{
    let _told = phasegate_telemetry::build_info(service.name());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_service_status(service.name(), ServingStatus::Serving).await;

    let verifier = Verifier::new(&context.keys.principal, service.name(), context.clock.clone());
    let calls = TaskTracker::new();
    let layers = ServiceBuilder::new()
        .layer(CallLayer { service: service.name(), calls: calls.clone() })
        .layer(VerifyLayer::new(verifier))
        .layer(LimitLayer::new(service.name(), context.limits))
        .into_inner();
    let routes = routes.add_service(health_service);
    let mut server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        // Copies that started together do not give their connections up together.
        .max_connection_age(CONNECTION_AGE.mul_f64(rand::random_range(0.8..1.2)))
        .max_connection_age_grace(CONNECTION_GRACE)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .layer(layers.clone());

    let (draining, shutdown) = (context.draining.clone(), context.shutdown.clone());
    let stop = async move {
        tokio::select! {
            () = draining.cancelled() => {}
            () = shutdown.cancelled() => {}
            () = tell_health(&health, service, answers) => {}
        }
        health.set_service_status("", ServingStatus::NotServing).await;
        health.set_service_status(service.name(), ServingStatus::NotServing).await;
        shutdown.cancelled().await;
    };
    let over = async {
        context.shutdown.cancelled().await;
        if tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS), drained(&calls)).await.is_err() {
            tracing::warn!(
                service = service.name(),
                "calls were still under way when the time to stop ran out"
            );
        }
    };
    let serving = Box::pin(async {
        match listener {
            Listener::Tcp(listener) => {
                // Small answers must not wait for the acknowledgement of earlier ones; and who is gone is noticed.
                let incoming = TcpIncoming::from(listener);
                let incoming = incoming.with_nodelay(Some(true)).with_keepalive(Some(TCP_KEEPALIVE));
                server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await
            }
            Listener::Tls(listener, tls) => {
                let incoming = tls.incoming(listener);
                server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await
            }
            Listener::Pipe(receiver) => {
                let incoming = ReceiverStream::new(receiver).map(Ok::<_, std::io::Error>);
                server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await
            }
            Listener::Direct(end) => {
                end.take(layers.layer(routes.prepare()), stop).await;
                drained(&calls).await;
                Ok(())
            }
        }
    });
    tokio::select! {
        done = serving => done.map_err(|source| Error { service: service.name(), source }),
        () = over => Ok(()),
    }
}

/// Tells whether the service is well, for as long as it is awaited.
async fn tell_health<F: Future<Output = bool>>(
    health: &HealthReporter,
    service: Service,
    answers: impl Fn() -> F,
) {
    let mut was_well = true;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let is_well = tokio::time::timeout(ANSWERED_WITHIN, answers()).await.unwrap_or(false);
        if is_well != was_well {
            let status = if is_well { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status("", status).await;
            health.set_service_status(service.name(), status).await;
        }
        was_well = is_well;
    }
}

/// Waits until no call is under way. Connections without a call are not waited for: tonic would, for ever, for one that is
/// idle or whose other side does not answer.
pub async fn drained(calls: &TaskTracker) {
    calls.close();
    calls.wait().await;
    tokio::time::sleep(LINGER).await;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use phasegate_bus::Bus;
    use phasegate_clock::SystemClock;
    use phasegate_principal::{Principal, Signer};
    use phasegate_proto::participant::v1::GetParticipantRequest;
    use phasegate_proto::participant::v1::participant_service_client::ParticipantServiceClient;
    use tokio::io::AsyncWriteExt as _;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;
    use crate::{Keys, Peers, pipe};

    fn context(channels: BTreeMap<Service, tonic::transport::Channel>) -> Context {
        let keys = Keys::derive(&[1; 32]);
        let clock = SystemClock::shared();
        Context {
            peers: Peers::new(channels, Signer::new(&keys.principal, clock.clone())),
            clock,
            bus: Bus::local(),
            keys,
            public_url: "http://127.0.0.1:7460".into(),
            limits: crate::Limits::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn nobody_is_heard_without_a_principal_for_this_service() -> anyhow::Result<()> {
        let (listener, channel) = pipe();
        let context = context(BTreeMap::from([(Service::Participant, channel.clone())]));
        let running = context.clone();
        let server = tokio::spawn(async move {
            serve(Service::Participant, Routes::builder().routes(), &running, listener).await
        });

        let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await?;
        assert_eq!(health.into_inner().status, 1);

        let mut client = ParticipantServiceClient::new(channel);
        let question = GetParticipantRequest::default();
        let missing = client.get_participant(question.clone()).await.unwrap_err();
        assert_eq!(missing.code(), Code::Unauthenticated);
        assert_eq!(phasegate_rpc_error::reason_of(&missing).as_deref(), Some("INTERNAL_AUTH"));

        let caller = Principal::dev_operator();
        let elsewhere = context.peers.request(Service::Approval, &caller, question.clone());
        assert_eq!(client.get_participant(elsewhere).await.unwrap_err().code(), Code::Unauthenticated);

        // Let through: there is no such service behind the door.
        let here = context.peers.request(Service::Participant, &caller, question);
        assert_eq!(client.get_participant(here).await.unwrap_err().code(), Code::Unimplemented);

        context.shutdown.cancel();
        server.await??;
        Ok(())
    }

    #[tokio::test]
    async fn a_service_is_well_while_what_it_leans_on_answers() -> anyhow::Result<()> {
        let (listener, channel) = pipe();
        let context = context(BTreeMap::new());
        let running = context.clone();
        let is_there = Arc::new(AtomicBool::new(true));
        let answers = {
            let is_there = Arc::clone(&is_there);
            move || {
                let is_there = is_there.load(Ordering::SeqCst);
                async move {
                    // What is away does not say so.
                    if !is_there {
                        std::future::pending::<()>().await;
                    }
                    true
                }
            }
        };
        let server = tokio::spawn(async move {
            serve_while(Service::Participant, Routes::builder().routes(), &running, listener, answers).await
        });
        let mut health = HealthClient::new(channel);
        for (there, expected) in [(false, ServingStatus::NotServing), (true, ServingStatus::Serving)] {
            is_there.store(there, Ordering::SeqCst);
            let told = async {
                loop {
                    let question = HealthCheckRequest { service: "participant".to_owned() };
                    if health.check(question).await?.into_inner().status == expected as i32 {
                        return anyhow::Ok(());
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), told).await??;
        }
        context.shutdown.cancel();
        server.await??;
        Ok(())
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_keep_a_server_up() -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let context = context(BTreeMap::new());
        let running = context.clone();
        let server = tokio::spawn(async move {
            serve(Service::Artifact, Routes::builder().routes(), &running, Listener::Tcp(listener)).await
        });
        // Connects, and never says a word.
        let _idle = tokio::net::TcpStream::connect(address).await?;
        // Says how it begins, and then does not answer any more.
        let mut deaf = tokio::net::TcpStream::connect(address).await?;
        deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        context.shutdown.cancel();
        // Without a call under way there is nothing to wait for.
        tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS / 2), server).await???;
        Ok(())
    }
}
