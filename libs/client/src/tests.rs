//! The client against a server that refuses and is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use phasegate_proto::instance::v1::instance_service_server::{InstanceService, InstanceServiceServer};
use phasegate_proto::instance::v1::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;

/// Refuses to advance, and is away for the first calls about an instance.
#[derive(Clone, Default)]
struct Server {
    away: Arc<AtomicU32>,
    calls: Arc<AtomicU32>,
}

macro_rules! unused {
    ($($name:ident($request:ident) -> $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl InstanceService for Server {
            async fn get_instance(
                &self,
                request: Request<GetInstanceRequest>,
            ) -> Result<Response<GetInstanceResponse>, Status> {
                self.calls.fetch_add(1, Ordering::SeqCst);
                assert!(request.metadata().contains_key("grpc-timeout"));
                if self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                    return Err(Status::from_error(Box::new(std::io::Error::other("away")))).or_else(unavailable);
                }
                Ok(Response::new(GetInstanceResponse::default()))
            }

            async fn advance_phase(
                &self,
                _: Request<AdvancePhaseRequest>,
            ) -> Result<Response<AdvancePhaseResponse>, Status> {
                let mut details = ErrorDetails::with_error_info(
                    "PHASE_BLOCKED",
                    "phasegate",
                    [("phase".to_owned(), "discovery".to_owned())],
                );
                details.add_precondition_failure_violation("APPROVAL", "apr-1", "It waits for John.");
                details.add_bad_request_violation("reason", "must be given");
                details.set_retry_info(Some(Duration::from_secs(2)));
                Err(Status::with_error_details(Code::FailedPrecondition, "the phase is blocked", details))
            }

            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                self.calls.fetch_add(1, Ordering::SeqCst);
                Ok(Response::new($response::default()))
            })*
        }
    };
}

unused! {
    start_instance(StartInstanceRequest) -> StartInstanceResponse,
    list_instances(ListInstancesRequest) -> ListInstancesResponse,
    update_instance_context(UpdateInstanceContextRequest) -> UpdateInstanceContextResponse,
    set_facts(SetFactsRequest) -> SetFactsResponse,
    reopen_phase(ReopenPhaseRequest) -> ReopenPhaseResponse,
    pause_instance(PauseInstanceRequest) -> PauseInstanceResponse,
    resume_instance(ResumeInstanceRequest) -> ResumeInstanceResponse,
    cancel_instance(CancelInstanceRequest) -> CancelInstanceResponse,
    get_timeline(GetTimelineRequest) -> GetTimelineResponse,
}

fn unavailable<T>(_: Status) -> Result<T, Status> {
    Err(Status::with_error_details(Code::Unavailable, "away", ErrorDetails::new()))
}

async fn start(server: Server) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let router = tonic::transport::Server::builder().add_service(InstanceServiceServer::new(server));
    tokio::spawn(router.serve_with_incoming(incoming));
    Client::connect(&address.to_string()).await.unwrap()
}

async fn get(client: &Client) -> Result<GetInstanceResponse, Error> {
    let request = GetInstanceRequest { instance_id: "i".to_owned() };
    client.call(request, async |client, request| client.instances().get_instance(request).await).await
}

#[tokio::test]
async fn a_refusal_keeps_what_the_server_said() {
    let client = start(Server::default()).await;
    let request = AdvancePhaseRequest::default();
    let call = client.call(request, async |client, request| client.instances().advance_phase(request).await);
    let error = call.await.unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(error.is("PHASE_BLOCKED"));
    assert_eq!(error.to_string(), "the phase is blocked (PHASE_BLOCKED)");
    assert_eq!(error.metadata["phase"], "discovery");
    assert_eq!(error.preconditions[0].subject, "apr-1");
    assert_eq!(error.violations[0].field, "reason");
    assert_eq!(error.retry_after, Some(Duration::from_secs(2)));
}

#[tokio::test]
async fn a_server_that_is_away_for_a_moment_is_asked_again() {
    let server = Server::default();
    let client = start(server.clone()).await;
    for (away, answered, calls) in [(0, true, 1), (3, true, 4), (4, false, 4)] {
        server.away.store(away, Ordering::SeqCst);
        server.calls.store(0, Ordering::SeqCst);
        assert_eq!(get(&client).await.is_ok(), answered, "away {away} times");
        assert_eq!(server.calls.load(Ordering::SeqCst), calls);
        server.away.store(0, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_connection_that_ends_in_the_middle_of_a_call_is_a_server_that_is_away() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Settings, and the last word of a server that stops and has looked at no call.
    let (settings, last) = ([0, 0, 0, 4, 0, 0, 0, 0, 0], [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let connections = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            connection.write_all(&settings).await.unwrap();
            // The call follows upon the greeting at once.
            let _ = connection.read(&mut [0; 24]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            connection.write_all(&last).await.unwrap();
        }
    });
    let client = Client::connect_lazy(&address).unwrap();
    let error = get(&client).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    assert_eq!(connections.load(Ordering::SeqCst), TRIES, "it is asked again");
}

#[tokio::test]
async fn a_deadline_that_passes_here_is_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = Client::connect_lazy(&address).unwrap().with_deadline(Duration::from_millis(100));
    let error = get(&client).await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
}

#[tokio::test]
async fn nobody_at_the_address_is_said_with_the_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Client::connect(&address).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains(&address), "{error}");
    let error = Client::connect("not an address").await.unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
}
