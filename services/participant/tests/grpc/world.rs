//! The service over a pipe, beside an instance service that says what a test tells it to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use phasegate_bus::{Bus, HandleError, Handler};
use phasegate_clock::{Clock as _, ManualClock, Timestamp};
use phasegate_database::{Database, Settings, args};
use phasegate_participant::{Config, Service};
use phasegate_principal::{Participation, Permission, Principal, Signer};
use phasegate_proto::definition::v1::RaidRole;
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, InstanceEnded, InstanceStarted};
use phasegate_proto::internal::instance::v1 as instance;
use phasegate_proto::internal::instance::v1::instance_internal_service_server::{
    InstanceInternalService, InstanceInternalServiceServer,
};
use phasegate_proto::internal::participant::v1::participant_internal_service_client::ParticipantInternalServiceClient;
use phasegate_proto::participant::v1::link_service_client::LinkServiceClient;
use phasegate_proto::participant::v1::participant_service_client::ParticipantServiceClient;
use phasegate_proto::participant::v1::{CreateLinkRequest, CreateLinkResponse, Participant};
use phasegate_rpc_error::{Kind, Refusal, reason_of};
use phasegate_serve::{Channel, Context, Keys, Peers, Service as Name};
use phasegate_test_database::TestDatabase;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

/// An instance with people: the approver `it_admin`, the informed `sponsor`, both external; the delegator `lead`, who
/// is not; and `ghost`, an external approver without an address.
pub(crate) const INSTANCE: &str = "i-1";

/// Everything that a test needs.
pub(crate) struct World {
    /// The clock of both services.
    pub(crate) clock: Arc<ManualClock>,
    /// What the instance service says.
    pub(crate) instance: FakeInstance,
    /// What came over the bus.
    pub(crate) heard: Heard,
    bus: Bus,
    shutdown: CancellationToken,
    peers: Peers,
    settings: Settings,
}

/// Says what a test tells it to.
#[derive(Clone, Default)]
pub(crate) struct FakeInstance(Arc<Mutex<BTreeMap<String, InstanceStatus>>>);

/// Keeps what comes over the bus from the service.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<Event>>>);

#[derive(Debug, thiserror::Error)]
#[error("instance was not found")]
struct NotFound;

#[derive(Debug, thiserror::Error)]
#[error("instance does not answer")]
struct Away;

// === impl World ===

impl World {
    /// Starts the service on a fresh database, with an instance whose people have come.
    pub(crate) async fn start(database: &TestDatabase) -> anyhow::Result<Self> {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_731_510_000_123_456)));
        let keys = Keys::derive(&[1; 32]);
        let fake = FakeInstance::default();
        let (listener, channel) = phasegate_serve::pipe();
        let (instance_listener, instance_channel) = phasegate_serve::pipe();
        let channels = BTreeMap::from([(Name::Participant, channel), (Name::Instance, instance_channel)]);
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
            bus: context.bus.clone(),
            shutdown: context.shutdown.clone(),
            peers: context.peers.clone(),
            settings: database.settings(),
        };
        let peer = context.clone();
        tokio::spawn(async move {
            let routes = Routes::new(InstanceInternalServiceServer::new(fake));
            phasegate_serve::serve(Name::Instance, routes, &peer, instance_listener).await
        });
        let service = Service::open(Config::new(database.settings()), context).await?;
        tokio::spawn(service.run(listener));
        world.instance.set_status(INSTANCE, InstanceStatus::Running);
        world.publish(INSTANCE, "started", started()).await?;
        Ok(world)
    }

    /// Tells the service of something, as another service would.
    pub(crate) async fn publish(
        &self,
        instance: &str,
        event_id: &str,
        payload: Payload,
    ) -> anyhow::Result<()> {
        let event = Event {
            event_id: event_id.into(),
            tenant_id: "default".into(),
            instance_id: instance.into(),
            occurred_at: Some(self.clock.now().to_proto()),
            payload: Some(payload),
            ..Default::default()
        };
        Ok(self.bus.publish("instance", Arc::new(event)).await.map(drop)?)
    }

    /// An instance ends, and the service hears of it.
    pub(crate) async fn end(&self, status: InstanceStatus) -> anyhow::Result<()> {
        self.instance.set_status(INSTANCE, status);
        let ended = InstanceEnded { status: status.into(), reason: "no longer needed".into() };
        self.publish(INSTANCE, "ended", Payload::InstanceEnded(ended)).await
    }

    /// A client of `ParticipantService`.
    pub(crate) fn people(&self) -> ParticipantServiceClient<Channel> {
        ParticipantServiceClient::new(self.peers.channel(Name::Participant))
    }

    /// A client of `LinkService`.
    pub(crate) fn links(&self) -> LinkServiceClient<Channel> {
        LinkServiceClient::new(self.peers.channel(Name::Participant))
    }

    /// A client of `ParticipantInternalService`.
    pub(crate) fn internal(&self) -> ParticipantInternalServiceClient<Channel> {
        ParticipantInternalServiceClient::new(self.peers.channel(Name::Participant))
    }

    /// A call as somebody.
    pub(crate) fn call<T>(&self, principal: &Principal, message: T) -> Request<T> {
        self.peers.request(Name::Participant, principal, message)
    }

    /// A call as the gateway, which knows no tenant before a link or session has said which.
    pub(crate) fn gateway<T>(&self, message: T) -> Request<T> {
        self.call(&Principal::system("gateway", "nobody"), message)
    }

    /// Makes a link for `it_admin` and returns it with the token of its URL.
    pub(crate) async fn link(&self) -> anyhow::Result<(CreateLinkResponse, String)> {
        let request = wish("it_admin");
        let made = self.links().create_link(self.call(&operator(), request)).await?.into_inner();
        let token = token_of(&made.url)?;
        Ok((made, token))
    }

    /// Everything that a refused call must leave as it is: the number of rows of each table, and of events sent.
    pub(crate) async fn rows(&self) -> anyhow::Result<Vec<i64>> {
        let db =
            Database::open(&self.settings, &phasegate_participant::store::MIGRATIONS).await?.across_tenants();
        phasegate_test_database::sent(&db).await?;
        let mut counts = Vec::new();
        for table in ["participant", "link", "session", "nonce", "fresh_link", "idempotency"] {
            let row = db.fetch_optional(format!("select count(*) as n from {table}"), args![]).await?;
            counts.push(row.context("no count")?.get("n")?);
        }
        let sent = self.heard.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        counts.push(i64::try_from(sent)?);
        db.close().await;
        Ok(counts)
    }

    /// Everything that is stored, as one text, for looking for secrets in it.
    pub(crate) async fn dump(&self) -> anyhow::Result<String> {
        let db =
            Database::open(&self.settings, &phasegate_participant::store::MIGRATIONS).await?.across_tenants();
        let mut text = String::new();
        for table in ["participant", "link", "session", "nonce", "fresh_link", "inbox"] {
            for row in db.fetch_all(format!("select * from {table}"), args![]).await? {
                writeln!(text, "{row:?}")?;
            }
        }
        // What holds messages is read as text, so that a secret in it shows.
        for (table, column) in [("outbox", "payload"), ("idempotency", "answer"), ("link", "created_by")] {
            for row in db.fetch_all(format!("select {column} from {table}"), args![]).await? {
                writeln!(text, "{}", String::from_utf8_lossy(&row.get::<Vec<u8>>(column)?))?;
            }
        }
        db.close().await;
        Ok(text)
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
        self.says().insert(instance.to_owned(), status);
    }

    fn says(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, InstanceStatus>> {
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
        let status = self.says().get(&request.get_ref().instance_id).copied();
        match status {
            Some(status) if tenant == "default" => Ok(Response::new(instance::DescribeInstanceResponse {
                status: status.into(),
                ..Default::default()
            })),
            Some(_) | None => Err(phasegate_rpc_error::status(&NotFound)),
        }
    }

    async fn get_participants(
        &self,
        request: Request<instance::GetParticipantsRequest>,
    ) -> Result<Response<instance::GetParticipantsResponse>, Status> {
        let tenant = Principal::of(&request)?.tenant.clone();
        let status = self.says().get(&request.get_ref().instance_id).copied();
        match status {
            // It is there, and does not answer.
            Some(InstanceStatus::Unspecified) => Err(phasegate_rpc_error::status(&Away)),
            Some(_) if tenant == "default" => {
                Ok(Response::new(instance::GetParticipantsResponse { participants: everybody() }))
            }
            Some(_) | None => Err(phasegate_rpc_error::status(&NotFound)),
        }
    }

    async fn confirm_lease(
        &self,
        _: Request<instance::ConfirmLeaseRequest>,
    ) -> Result<Response<instance::ConfirmLeaseResponse>, Status> {
        Err(phasegate_rpc_error::status(&NotFound))
    }
}

// === impl Heard ===

impl Heard {
    /// Waits until so many events have come, and returns what they say.
    pub(crate) async fn events(&self, count: usize) -> anyhow::Result<Vec<Event>> {
        for _ in 0..500 {
            let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if heard.len() >= count {
                // A moment more, for one too many.
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("fewer than {count} events came")
    }
}

impl Handler for Heard {
    fn handle(&self, event: Arc<Event>) -> futures::future::BoxFuture<'_, Result<(), HandleError>> {
        let is_theirs =
            matches!(event.payload, Some(Payload::InstanceStarted(_) | Payload::InstanceEnded(_)));
        if !is_theirs {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((*event).clone());
        }
        Box::pin(async { Ok(()) })
    }
}

// === impl NotFound ===

impl Refusal for Away {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }

    fn reason(&self) -> &'static str {
        "STORE_UNAVAILABLE"
    }
}

impl Refusal for NotFound {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }

    fn reason(&self) -> &'static str {
        "INSTANCE_NOT_FOUND"
    }
}

/// The start of an instance with its people.
pub(crate) fn started() -> Payload {
    Payload::InstanceStarted(InstanceStarted { participants: everybody(), ..Default::default() })
}

fn everybody() -> Vec<Participant> {
    let person = |id: &str, email: &str, raid_role: RaidRole, external| Participant {
        id: id.into(),
        name: format!("Name of {id}"),
        email: email.into(),
        raid_role: raid_role.into(),
        external,
        ..Default::default()
    };
    vec![
        person("it_admin", "it-admin@acme.com", RaidRole::Approver, true),
        person("sponsor", "sponsor@acme.com", RaidRole::Informed, true),
        person("lead", "lead@phasegate.example", RaidRole::Delegator, false),
        person("ghost", "", RaidRole::Approver, true),
    ]
}

/// The usual link for a person.
pub(crate) fn wish(participant: &str) -> CreateLinkRequest {
    CreateLinkRequest {
        instance_id: INSTANCE.into(),
        participant_id: participant.into(),
        ..Default::default()
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
    Principal::participant("default", "Name of it_admin", participation)
}

/// The token of a URL.
pub(crate) fn token_of(url: &str) -> anyhow::Result<String> {
    let token = url.strip_prefix("http://127.0.0.1:7460/external/approve?token=");
    Ok(token.with_context(|| format!("not a link: {url}"))?.to_owned())
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

/// A value of a refusal's message.
pub(crate) fn metadata(status: &Status, key: &str) -> Option<String> {
    status.get_details_error_info().and_then(|info| info.metadata.get(key).cloned())
}

/// Whether an answer says that it is an earlier one.
pub(crate) fn is_repeated<T>(response: &Response<T>) -> bool {
    response.metadata().get("phasegate-repeated").is_some_and(|value| value == "1")
}
