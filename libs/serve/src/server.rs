//! Serves routes until told to stop, and stops in bounded time: tonic alone waits for idle and deaf connections for ever.

use std::time::Duration;

use futures::StreamExt;
use phasegate_principal::Verifier;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::service::Routes;
use tonic::transport::Server;

use crate::call::CallLayer;
use crate::{Context, Service, Tls, VerifyLayer};

/// After this long, what has not finished is dropped.
pub const DRAIN_SECONDS: u64 = 8;

/// Largest message between services: the largest artifact, as JSON, with room for what goes with it.
pub const MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// Long polls and watches hold a stream each, and the gateway is one client.
const STREAMS_MAX: u32 = 4_096;
/// Bytes of headers of one call.
const HEADER_BYTES_MAX: u32 = 32 * 1024;

/// A stream ends itself before the connection that it is on has to, and says where to go on.
pub const STREAM_AGE_MAX: Duration = Duration::from_mins(9);
/// A connection is given up after about this long, so that calls spread over copies that have come since.
const CONNECTION_AGE: Duration = Duration::from_mins(10);
/// How long what is under way on such a connection may still take: as long as any stream.
const CONNECTION_GRACE: Duration = Duration::from_mins(10);

/// Where a service listens.
#[derive(Debug)]
pub enum Listener {
    /// On a port, to whoever can reach it.
    Tcp(TcpListener),
    /// On a port, to those who show who they are.
    Tls(TcpListener, Tls),
    /// Within the process, see [`crate::pipe`].
    Pipe(mpsc::Receiver<DuplexStream>),
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
    let _told = phasegate_telemetry::build_info(service.name());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    health.set_service_status(service.name(), tonic_health::ServingStatus::Serving).await;

    let verifier = Verifier::new(&context.keys.principal, service.name(), context.clock.clone());
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(20))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        // Copies that started together do not give their connections up together.
        .max_connection_age(CONNECTION_AGE.mul_f64(rand::random_range(0.8..1.2)))
        .max_connection_age_grace(CONNECTION_GRACE)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .layer(CallLayer(service.name()))
        .layer(VerifyLayer::new(verifier))
        .add_routes(routes.add_service(health_service));

    let (draining, shutdown) = (context.draining.clone(), context.shutdown.clone());
    let stop = async move {
        tokio::select! {
            () = draining.cancelled() => {}
            () = shutdown.cancelled() => {}
        }
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        health.set_service_status(service.name(), tonic_health::ServingStatus::NotServing).await;
        shutdown.cancelled().await;
    };
    let deadline = async {
        context.shutdown.cancelled().await;
        tokio::time::sleep(Duration::from_secs(DRAIN_SECONDS)).await;
    };
    let serving = async {
        match listener {
            Listener::Tcp(listener) => {
                server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop).await
            }
            Listener::Tls(listener, tls) => {
                server.serve_with_incoming_shutdown(tls.incoming(listener), stop).await
            }
            Listener::Pipe(receiver) => {
                let incoming = ReceiverStream::new(receiver).map(Ok::<_, std::io::Error>);
                server.serve_with_incoming_shutdown(incoming, stop).await
            }
        }
    };
    tokio::select! {
        done = serving => done.map_err(|source| Error { service: service.name(), source }),
        () = deadline => {
            tracing::warn!(service = service.name(), "calls were still under way when the time to stop ran out");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use phasegate_bus::Bus;
    use phasegate_clock::SystemClock;
    use phasegate_principal::{Principal, Signer};
    use phasegate_proto::participant::v1::GetParticipantRequest;
    use phasegate_proto::participant::v1::participant_service_client::ParticipantServiceClient;
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
        tokio::time::sleep(Duration::from_millis(100)).await;
        context.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS + 2), server).await???;
        Ok(())
    }
}
