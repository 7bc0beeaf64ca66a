//! The service over a pipe, beside an instance service that says what a test tells it to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use phasegate_artifact::{Config, Service};
use phasegate_bus::{Bus, HandleError, Handler};
use phasegate_clock::{ManualClock, Timestamp};
use phasegate_database::{Database, Settings, args};
use phasegate_principal::{Participation, Permission, Principal, Signer};
use phasegate_proto::approval::v1::approval_service_server::ApprovalServiceServer;
use phasegate_proto::artifact::v1::artifact_service_client::ArtifactServiceClient;
use phasegate_proto::artifact::v1::comment_service_client::CommentServiceClient;
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::artifact::v1::artifact_internal_service_client::ArtifactInternalServiceClient;
use phasegate_proto::internal::event::v1::Event;
use phasegate_proto::internal::instance::v1 as instance;
use phasegate_proto::internal::instance::v1::instance_internal_service_server::{
    InstanceInternalService, InstanceInternalServiceServer,
};
use phasegate_rpc_error::{Invalid, Kind, Refusal, reason_of};
use phasegate_serve::{Channel, Context, Keys, MESSAGE_BYTES_MAX, Peers, Service as Name};
use phasegate_test_database::TestDatabase;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use crate::approval::FakeApproval;

/// A tenant with one instance, `i-1`, of the phases discovery and build and the task gather.
pub(crate) const INSTANCE: &str = "i-1";

/// Everything that a test needs.
pub(crate) struct World {
    /// The clock of both services.
    pub(crate) clock: Arc<ManualClock>,
    /// What the instance service says.
    pub(crate) instance: FakeInstance,
    /// What came over the bus.
    pub(crate) heard: Heard,
    /// Ends everything.
    pub(crate) shutdown: CancellationToken,
    peers: Peers,
    settings: Settings,
}

/// Says what a test tells it to.
#[derive(Clone, Default)]
pub(crate) struct FakeInstance(Arc<Mutex<Says>>);

#[derive(Default)]
struct Says {
    statuses: BTreeMap<String, InstanceStatus>,
    leases: BTreeMap<String, instance::ConfirmLeaseResponse>,
    delay: Duration,
    asked: usize,
}

/// Keeps what comes over the bus.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<Event>>>);

#[derive(Debug, thiserror::Error)]
#[error("the lease on task gather was lost")]
struct LeaseLost;

#[derive(Debug, thiserror::Error)]
#[error("instance was not found")]
struct NotFound;

// === impl World ===

impl World {
    /// Starts the service on a fresh database.
    pub(crate) async fn start(database: &TestDatabase) -> anyhow::Result<Self> {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_731_510_000_000_000)));
        let keys = Keys::derive(&[1; 32]);
        let fake = FakeInstance::default();
        fake.set_status(INSTANCE, InstanceStatus::Running);
        let (listener, channel) = phasegate_serve::pipe();
        let (instance_listener, instance_channel) = phasegate_serve::pipe();
        let (approval_listener, approval_channel) = phasegate_serve::pipe();
        let channels = BTreeMap::from([
            (Name::Artifact, channel),
            (Name::Instance, instance_channel),
            (Name::Approval, approval_channel),
        ]);
        let context = Context {
            clock: clock.clone(),
            peers: Peers::new(channels, Signer::new(&keys.principal, clock.clone())),
            bus: Bus::local(),
            keys,
            public_url: "http://127.0.0.1:7460".into(),
            limits: phasegate_serve::Limits::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        };
        let heard = Heard::default();
        context.bus.overhear(Arc::new(heard.clone()));
        let world = Self {
            clock,
            instance: fake.clone(),
            heard,
            shutdown: context.shutdown.clone(),
            peers: context.peers.clone(),
            settings: database.settings(),
        };
        let peer = context.clone();
        tokio::spawn(async move {
            let routes = Routes::new(InstanceInternalServiceServer::new(fake));
            phasegate_serve::serve(Name::Instance, routes, &peer, instance_listener).await
        });
        let peer = context.clone();
        tokio::spawn(async move {
            let routes = Routes::new(ApprovalServiceServer::new(FakeApproval));
            phasegate_serve::serve(Name::Approval, routes, &peer, approval_listener).await
        });
        let service = Service::open(Config::new(database.settings()), context).await?;
        tokio::spawn(service.run(listener));
        Ok(world)
    }

    /// A client of `ArtifactService`.
    pub(crate) fn artifacts(&self) -> ArtifactServiceClient<Channel> {
        ArtifactServiceClient::new(self.peers.channel(Name::Artifact))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(2 * MESSAGE_BYTES_MAX)
    }

    /// A client of `CommentService`.
    pub(crate) fn comments(&self) -> CommentServiceClient<Channel> {
        CommentServiceClient::new(self.peers.channel(Name::Artifact))
    }

    /// A client of `ArtifactInternalService`.
    pub(crate) fn internal(&self) -> ArtifactInternalServiceClient<Channel> {
        ArtifactInternalServiceClient::new(self.peers.channel(Name::Artifact))
    }

    /// A call as somebody.
    pub(crate) fn call<T>(&self, principal: &Principal, message: T) -> Request<T> {
        let mut request = self.peers.request(Name::Artifact, principal, message);
        request.set_timeout(Duration::from_mins(1));
        request
    }

    /// Everything that a refused call must leave as it is: the number of rows of each table, and of events sent.
    pub(crate) async fn rows(&self) -> anyhow::Result<Vec<i64>> {
        let db =
            Database::open(&self.settings, &phasegate_artifact::store::MIGRATIONS).await?.across_tenants();
        phasegate_test_database::sent(&db).await?;
        let mut counts = Vec::new();
        for table in ["artifact", "artifact_version", "comment", "idempotency"] {
            let row = db.fetch_optional(format!("select count(*) as n from {table}"), args![]).await?;
            counts.push(row.context("no count")?.get("n")?);
        }
        let sent = self.heard.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        counts.push(i64::try_from(sent)?);
        db.close().await;
        Ok(counts)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

// === impl FakeInstance ===

impl FakeInstance {
    /// An instance stands so.
    pub(crate) fn set_status(&self, instance: &str, status: InstanceStatus) {
        self.says().statuses.insert(instance.to_owned(), status);
    }

    /// A token is the lease of an agent on the task gather of phase discovery.
    pub(crate) fn grant(&self, token: &str, agent: &str) {
        let lease = instance::ConfirmLeaseResponse {
            instance_id: INSTANCE.into(),
            task_id: "gather".into(),
            phase_id: "discovery".into(),
            agent_id: agent.into(),
            fencing_token: 1,
            hold_id: "hold-1".into(),
        };
        self.says().leases.insert(token.to_owned(), lease);
    }

    /// A lease was given to somebody else.
    pub(crate) fn withdraw(&self, token: &str) {
        self.says().leases.remove(token);
    }

    /// Confirming a lease takes this long.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.says().delay = delay;
    }

    /// How often it was asked about an instance.
    pub(crate) fn asked(&self) -> usize {
        self.says().asked
    }

    fn says(&self) -> std::sync::MutexGuard<'_, Says> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl InstanceInternalService for FakeInstance {
    async fn describe_instance(
        &self,
        request: Request<instance::DescribeInstanceRequest>,
    ) -> Result<Response<instance::DescribeInstanceResponse>, Status> {
        let tenant = Principal::of(&request)?.tenant.clone();
        let mut says = self.says();
        says.asked += 1;
        let status = says.statuses.get(&request.get_ref().instance_id).copied();
        match status {
            Some(status) if tenant == "default" => Ok(Response::new(instance::DescribeInstanceResponse {
                status: status.into(),
                phase_ids: vec!["discovery".into(), "build".into()],
                task_ids: vec!["gather".into()],
                ..Default::default()
            })),
            Some(_) | None => Err(phasegate_rpc_error::status(&NotFound)),
        }
    }

    async fn get_participants(
        &self,
        _: Request<instance::GetParticipantsRequest>,
    ) -> Result<Response<instance::GetParticipantsResponse>, Status> {
        Err(phasegate_rpc_error::status(&NotFound))
    }

    async fn confirm_lease(
        &self,
        request: Request<instance::ConfirmLeaseRequest>,
    ) -> Result<Response<instance::ConfirmLeaseResponse>, Status> {
        let delay = self.says().delay;
        tokio::time::sleep(delay).await;
        let asked = request.get_ref();
        if asked.task_token == "garbage" {
            let malformed = Invalid::new("TOKEN_MALFORMED", "task_token", "is not one of ours");
            return Err(phasegate_rpc_error::status(&malformed));
        }
        let lease = self.says().leases.get(&asked.task_token).cloned();
        let lease = lease.filter(|lease| lease.instance_id == asked.instance_id);
        lease.map(Response::new).ok_or_else(|| phasegate_rpc_error::status(&LeaseLost))
    }
}

// === impl Heard ===

impl Heard {
    /// Waits until so many events have come, and returns them.
    pub(crate) async fn events(&self, count: usize) -> anyhow::Result<Vec<Event>> {
        for _ in 0..500 {
            let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if heard.len() >= count {
                return Ok(heard);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("fewer than {count} events came")
    }
}

impl Handler for Heard {
    fn handle(&self, event: Arc<Event>) -> futures::future::BoxFuture<'_, Result<(), HandleError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((*event).clone());
        Box::pin(async { Ok(()) })
    }
}

// === impl LeaseLost ===

impl Refusal for LeaseLost {
    fn kind(&self) -> Kind {
        Kind::Precondition
    }

    fn reason(&self) -> &'static str {
        "LEASE_LOST"
    }
}

// === impl NotFound ===

impl Refusal for NotFound {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }

    fn reason(&self) -> &'static str {
        "INSTANCE_NOT_FOUND"
    }
}

/// The operator of the tenant that has the instance.
pub(crate) fn operator() -> Principal {
    Principal::dev_operator()
}

/// A person of an instance with a link.
pub(crate) fn participant(instance: &str, permissions: &[Permission]) -> Principal {
    let participation = Participation {
        instance_id: instance.into(),
        participant_id: "it_admin".into(),
        link_id: "lnk-1".into(),
        permissions: permissions.to_vec(),
    };
    Principal::participant("default", "John Smith", participation)
}

/// Fails unless a call was refused with this code and reason.
pub(crate) fn refused<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    reason: &str,
    what: &str,
) -> anyhow::Result<Status> {
    let Err(status) = answer else { anyhow::bail!("{what}: not refused: {answer:?}") };
    anyhow::ensure!(
        status.code() == code && reason_of(&status).as_deref() == Some(reason),
        "{what}: {status:?} instead of {code:?} {reason}"
    );
    Ok(status)
}

/// Whether an answer says that it is an earlier one.
pub(crate) fn is_repeated<T>(response: &Response<T>) -> bool {
    response.metadata().get("phasegate-repeated").is_some_and(|value| value == "1")
}
