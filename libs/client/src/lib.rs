//! The Rust client: one connection to a Phasegate, typed clients for every public service, and errors that keep what the server
//! said.
//!
//! ```no_run
//! # async fn example() -> Result<(), phasegate_client::Error> {
//! use phasegate_client::Client;
//! use phasegate_proto::instance::v1::GetInstanceRequest;
//!
//! let client = Client::connect("http://127.0.0.1:7460").await?;
//! let request = GetInstanceRequest { instance_id: "proc-inst-123".to_owned() };
//! let answer = client.call(request, async |client, request| client.instances().get_instance(request).await).await?;
//! # let _ = answer; Ok(()) }
//! ```
//!
//! It holds no rule of any service and prints nothing.

mod error;
mod retry;

use std::time::{Duration, Instant};

use phasegate_proto::approval::v1::approval_service_client::ApprovalServiceClient;
use phasegate_proto::artifact::v1::artifact_service_client::ArtifactServiceClient;
use phasegate_proto::artifact::v1::comment_service_client::CommentServiceClient;
use phasegate_proto::definition::v1::definition_service_client::DefinitionServiceClient;
use phasegate_proto::definition::v1::team_template_service_client::TeamTemplateServiceClient;
use phasegate_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use phasegate_proto::instance::v1::event_service_client::EventServiceClient;
use phasegate_proto::instance::v1::instance_service_client::InstanceServiceClient;
use phasegate_proto::instance::v1::task_service_client::TaskServiceClient;
use phasegate_proto::notification::v1::notification_service_client::NotificationServiceClient;
use phasegate_proto::participant::v1::key_service_client::KeyServiceClient;
use phasegate_proto::participant::v1::link_service_client::LinkServiceClient;
use phasegate_proto::participant::v1::participant_service_client::ParticipantServiceClient;
use phasegate_proto::worker::v1::worker_service_client::WorkerServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use self::retry::{Budget, TRIES};

pub use error::{Details, Error, Precondition, Violation};

/// How long one call may take unless it says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Largest message: an artifact of 8 MiB as JSON, with room for what goes with it.
const MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// A connection to a Phasegate. Copies share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    deadline: Duration,
    credential: Credential,
    budget: Budget,
}

/// A connection whose calls say who calls.
pub type Connection = InterceptedService<Channel, Credential>;

/// What calls bring along to say who calls: an API key or an access token, or nothing. Never printed.
#[derive(Clone, Debug, Default)]
pub struct Credential(Option<MetadataValue<Ascii>>);

impl Credential {
    /// An API key or an access token.
    pub fn new(token: &str) -> Result<Credential, Error> {
        let value = MetadataValue::try_from(format!("Bearer {}", token.trim()));
        let mut value = value.map_err(|_| Error::credential())?;
        value.set_sensitive(true);
        Ok(Credential(Some(value)))
    }

    /// What a call over HTTP brings along as `Authorization`.
    pub fn header(&self) -> Option<&str> {
        self.0.as_ref().and_then(|value| value.to_str().ok())
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident => $client:ident),+ $(,)?) => {
        impl Client {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> $client<Connection> {
                    $client::new(self.connection())
                        .max_decoding_message_size(MESSAGE_BYTES_MAX)
                        .max_encoding_message_size(MESSAGE_BYTES_MAX)
                }
            )+
        }
    };
}

services! {
    /// Process definitions.
    definitions => DefinitionServiceClient,
    /// Team templates and teams.
    team_templates => TeamTemplateServiceClient,
    /// Running processes.
    instances => InstanceServiceClient,
    /// Their tasks, as operators see them.
    tasks => TaskServiceClient,
    /// What has happened: the feed and the audit log.
    events => EventServiceClient,
    /// Work for agents.
    workers => WorkerServiceClient,
    /// Requests for a decision.
    approvals => ApprovalServiceClient,
    /// Shared storage.
    artifacts => ArtifactServiceClient,
    /// Comments.
    comments => CommentServiceClient,
    /// People.
    participants => ParticipantServiceClient,
    /// Magic links.
    links => LinkServiceClient,
    /// API keys.
    keys => KeyServiceClient,
    /// Messages to people.
    notifications => NotificationServiceClient,
    /// The installation.
    gateway => GatewayServiceClient,
}

impl Client {
    /// Connects to a Phasegate, such as `http://127.0.0.1:7460`. Fails where nobody answers.
    pub async fn connect(address: &str) -> Result<Client, Error> {
        let endpoint = endpoint(address)?;
        let channel = endpoint.connect().await.map_err(|source| Error::unreachable(address, &source))?;
        Ok(Client::over(channel))
    }

    /// Prepares a connection that is made with the first call.
    pub fn connect_lazy(address: &str) -> Result<Client, Error> {
        Ok(Client::over(endpoint(address)?.connect_lazy()))
    }

    /// Uses a connection that exists, such as one within the process.
    pub fn over(channel: Channel) -> Client {
        Client { channel, deadline: DEADLINE, credential: Credential::default(), budget: Budget::default() }
    }

    /// Gives every call this long, with all its tries.
    pub fn with_deadline(mut self, deadline: Duration) -> Client {
        self.deadline = deadline;
        self
    }

    /// Calls with this credential from now on.
    pub fn with_credential(mut self, credential: Credential) -> Client {
        self.credential = credential;
        self
    }

    /// The connection, without what says who calls.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The connection, with what says who calls.
    pub fn connection(&self) -> Connection {
        InterceptedService::new(self.channel.clone(), self.credential.clone())
    }

    /// Calls a method and, where the server was not there for it or had too much to do, calls it again: at most three times,
    /// within the deadline, and of many calls only one in ten. For calls that may be repeated: those that only read, and
    /// those whose request has a `request_id`.
    pub async fn call<M, R>(
        &self,
        message: M,
        send: impl AsyncFn(&Client, Request<M>) -> Result<Response<R>, Status>,
    ) -> Result<R, Error>
    where
        M: Clone,
    {
        self.budget.earn();
        let started = Instant::now();
        let mut again = 0;
        loop {
            let left = self.deadline.saturating_sub(started.elapsed());
            let mut request = Request::new(message.clone());
            request.set_timeout(left);
            let status = match send(self, request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let wait = retry::wait(&status, again).filter(|wait| *wait < left && again + 1 < TRIES);
            let Some(wait) = wait.filter(|_| self.budget.spend()) else { return Err(status.into()) };
            tokio::time::sleep(wait).await;
            again += 1;
        }
    }

    /// Calls a method once.
    pub async fn call_once<M, R>(
        &self,
        message: M,
        send: impl AsyncFn(&Client, Request<M>) -> Result<Response<R>, Status>,
    ) -> Result<R, Error> {
        Ok(send(self, self.request(message)).await?.into_inner())
    }

    /// Wraps a message with the deadline of a call.
    pub fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        request
    }
}

/// An id for one change, so that repeating the call repeats nothing else.
pub fn request_id() -> String {
    phasegate_id::EventId::generate().into_string()
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint =
        Endpoint::from_shared(address.clone()).map_err(|source| Error::address(&address, &source))?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    endpoint
        .user_agent(concat!("phasegate/", env!("CARGO_PKG_VERSION")))
        .map_err(|source| Error::address(&address, &source))
}

#[cfg(test)]
mod tests;
