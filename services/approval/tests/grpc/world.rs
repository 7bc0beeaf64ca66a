//! The service and its peers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use phasegate_approval::app::App;
use phasegate_approval::store::Store;
use phasegate_approval::{Config, Service};
use phasegate_bus::{Bus, HandleError, Handler};
use phasegate_clock::{ManualClock, Timestamp};
use phasegate_database::{Reach, args};
use phasegate_id::{ApprovalId, InstanceId};
use phasegate_principal::{Participation, Permission, Principal, Signer};
use phasegate_proto::approval::v1 as approval_v1;
use phasegate_proto::approval::v1::approval_service_client::ApprovalServiceClient;
use phasegate_proto::definition::v1::TimeoutAction;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{ApprovalsNeeded, Event, Timing, approvals_needed::Need};
use phasegate_rpc_error::reason_of;
use phasegate_serve::{Channel, Context, Keys, Peers, Service as Name};
use phasegate_test_database::TestDatabase;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::fakes::Fakes;

/// The instance of the tests.
pub(crate) const INSTANCE: &str = "proc-inst-1";
/// Another one of the same tenant.
pub(crate) const OTHER: &str = "proc-inst-2";
/// When everything begins.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_731_510_000_000_000);

/// Everything that a test needs.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) fakes: Fakes,
    pub(crate) heard: Heard,
    pub(crate) bus: Bus,
    pub(crate) app: App,
    pub(crate) shutdown: CancellationToken,
    pub(crate) peers: Peers,
}

/// Keeps what comes over the bus.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<Event>>>);

impl World {
    /// Starts the service on a fresh database. No timer fires by itself: a test calls [`App::elapse`].
    pub(crate) async fn start(database: &TestDatabase) -> anyhow::Result<Self> {
        let mut config = Config::new(database.settings());
        config.timer_interval = Duration::from_hours(1);
        Self::start_with(config).await
    }

    /// Starts the service with other settings.
    pub(crate) async fn start_with(config: Config) -> anyhow::Result<Self> {
        let clock = Arc::new(ManualClock::new(START));
        let keys = Keys::derive(&[1; 32]);
        let fakes = Fakes::default();
        let mut channels = BTreeMap::new();
        let mut listeners = BTreeMap::new();
        for name in [Name::Approval, Name::Instance, Name::Artifact, Name::Participant] {
            let (listener, channel) = phasegate_serve::pipe();
            listeners.insert(name, listener);
            channels.insert(name, channel);
        }
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
        for (name, routes) in fakes.routes() {
            let (context, listener) = (context.clone(), listeners.remove(&name).context("a listener")?);
            tokio::spawn(async move { phasegate_serve::serve(name, routes, &context, listener).await });
        }
        let service = Service::open(config, context.clone()).await?;
        let heard = Heard::default();
        context.bus.overhear(Arc::new(heard.clone()));
        let app = service.app().clone();
        tokio::spawn(service.run(listeners.remove(&Name::Approval).context("a listener")?));
        let Context { peers, bus, shutdown, .. } = context;
        Ok(Self { clock, fakes, heard, bus, app, shutdown, peers })
    }

    pub(crate) fn store(&self) -> &Store {
        self.app.store()
    }

    pub(crate) fn client(&self) -> ApprovalServiceClient<Channel> {
        ApprovalServiceClient::new(self.peers.channel(Name::Approval))
    }

    /// A call as somebody.
    pub(crate) fn call<T>(&self, principal: &Principal, message: T) -> Request<T> {
        let mut request = self.peers.request(Name::Approval, principal, message);
        request.set_timeout(Duration::from_mins(1));
        request
    }

    pub(crate) async fn ask(
        &self,
        message: approval_v1::RequestApprovalRequest,
    ) -> Result<approval_v1::Approval, Status> {
        Ok(self.ask_as(&operator(), message).await?.0)
    }

    /// Asks, and tells whether the answer says that it was there already.
    pub(crate) async fn ask_as(
        &self,
        who: &Principal,
        message: approval_v1::RequestApprovalRequest,
    ) -> Result<(approval_v1::Approval, bool), Status> {
        let response = self.client().request_approval(self.call(who, message)).await?;
        let repeated = is_repeated(&response);
        Ok((response.into_inner().approval.unwrap_or_default(), repeated))
    }

    pub(crate) async fn decide_as(
        &self,
        who: &Principal,
        message: approval_v1::DecideApprovalRequest,
    ) -> Result<(approval_v1::Approval, bool), Status> {
        let response = self.client().decide_approval(self.call(who, message)).await?;
        let repeated = is_repeated(&response);
        Ok((response.into_inner().approval.unwrap_or_default(), repeated))
    }

    pub(crate) async fn withdraw_as(
        &self,
        who: &Principal,
        message: approval_v1::WithdrawApprovalRequest,
    ) -> Result<(approval_v1::Approval, bool), Status> {
        let response = self.client().withdraw_approval(self.call(who, message)).await?;
        let repeated = is_repeated(&response);
        Ok((response.into_inner().approval.unwrap_or_default(), repeated))
    }

    pub(crate) async fn get(&self, id: &str) -> Result<approval_v1::Approval, Status> {
        self.get_as(&operator(), id).await
    }

    pub(crate) async fn get_as(&self, who: &Principal, id: &str) -> Result<approval_v1::Approval, Status> {
        let message = approval_v1::GetApprovalRequest { approval_id: id.to_owned() };
        let response = self.client().get_approval(self.call(who, message)).await?;
        Ok(response.into_inner().approval.unwrap_or_default())
    }

    /// The engine needs these; returns them as they are stored.
    pub(crate) async fn need(&self, needs: Vec<Need>) -> anyhow::Result<Vec<approval_v1::Approval>> {
        let ids: Vec<String> = needs.iter().map(|need| need.approval_id.clone()).collect();
        self.tell(Payload::ApprovalsNeeded(ApprovalsNeeded {
            boundary_id: "bnd-1".to_owned(),
            needs,
            process_id: "sso-deployment".to_owned(),
        }))
        .await?;
        let mut stored = Vec::new();
        for id in ids {
            stored.push(self.get(&id).await?);
        }
        Ok(stored)
    }

    /// Something happened in another service.
    pub(crate) async fn tell(&self, payload: Payload) -> Result<Event, HandleError> {
        let actor = Principal::system("instance", "default").actor();
        let event = phasegate_outbox::event("default", INSTANCE, actor, self.app_now(), payload);
        self.bus.publish("instance", Arc::new(event.clone())).await?;
        Ok(event)
    }

    pub(crate) fn app_now(&self) -> Timestamp {
        use phasegate_clock::Clock as _;
        self.clock.now()
    }

    /// Lets time pass, and all that is due happen.
    pub(crate) async fn pass(&self, time: Duration) -> anyhow::Result<()> {
        self.clock.advance(time);
        while self.app.elapse().await? > 0 {}
        Ok(())
    }

    /// The number of rows of each table, and of events sent: what a refused call must leave as it is.
    pub(crate) async fn rows(&self) -> anyhow::Result<Vec<(&'static str, i64)>> {
        let tables = [
            "instance",
            "approval",
            "approval_event",
            "approver",
            "person",
            "approval_timer",
            "approval_response",
            "approval_moot",
            "idempotency",
            "inbox",
        ];
        let db = self.store().database().across_tenants();
        phasegate_test_database::sent(&db).await?;
        let sent = self.heard.all().iter().filter(|event| is_own(event)).count();
        let mut counts = vec![("events sent", i64::try_from(sent)?)];
        for table in tables {
            let row = db.fetch_optional(format!("select count(*) as n from {table}"), args![]).await?;
            counts.push((table, row.context("a count")?.get("n")?));
        }
        Ok(counts)
    }

    /// Checks that every request's row is what its history tells.
    pub(crate) async fn verify(&self) -> anyhow::Result<()> {
        let tenant = phasegate_id::TenantId::trusted("default");
        let db = self.store().database().across_tenants();
        for row in db.fetch_all("select approval_id from approval", args![]).await? {
            let approval = ApprovalId::trusted(row.get::<String>("approval_id")?);
            let key = phasegate_approval::store::Key { tenant: tenant.clone(), approval };
            Reach::of_tenant("default").within(self.store().approval_verify(&key)).await?;
        }
        Ok(())
    }

    /// Waits until that many events of a kind were sent, and returns them.
    pub(crate) async fn sent<T>(
        &self,
        count: usize,
        kind: impl Fn(&Payload) -> Option<T>,
    ) -> anyhow::Result<Vec<T>> {
        for _ in 0..1000 {
            let heard: Vec<T> =
                self.heard.all().iter().filter_map(|event| kind(event.payload.as_ref()?)).collect();
            if heard.len() >= count {
                // What is sent twice would come now.
                tokio::time::sleep(Duration::from_millis(30)).await;
                let heard: Vec<T> =
                    self.heard.all().iter().filter_map(|event| kind(event.payload.as_ref()?)).collect();
                anyhow::ensure!(heard.len() == count, "{} events instead of {count}", heard.len());
                return Ok(heard);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let waiting = self
            .store()
            .database()
            .across_tenants()
            .fetch_all(
                "select position, due_at, claimed_until, failures, last_error from outbox where sent_at is null
                  order by position",
                args![],
            )
            .await?;
        let now = self.app_now().as_micros();
        anyhow::bail!("only {} events were sent at {now}; {waiting:?} wait", self.heard.all().len())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Heard {
    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Handler for Heard {
    fn handle(&self, event: Arc<Event>) -> futures::future::BoxFuture<'_, Result<(), HandleError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((*event).clone());
        Box::pin(async { Ok(()) })
    }
}

/// Whether the service sent it, and not a test in the name of another one.
fn is_own(event: &Event) -> bool {
    matches!(
        &event.payload,
        Some(
            Payload::ApprovalsRequested(_)
                | Payload::ApprovalResponded(_)
                | Payload::ApprovalSettled(_)
                | Payload::ApprovalReminded(_)
                | Payload::ApprovalEscalated(_)
        )
    )
}

pub(crate) fn operator() -> Principal {
    Principal::dev_operator()
}

/// A person of the instance through a link that allows to view and to approve.
pub(crate) fn visitor(who: &str) -> Principal {
    visitor_of(INSTANCE, who, &[Permission::View, Permission::Approve])
}

pub(crate) fn visitor_of(instance: &str, who: &str, permissions: &[Permission]) -> Principal {
    let participation = Participation {
        instance_id: instance.to_owned(),
        participant_id: who.to_owned(),
        link_id: "lnk-1".to_owned(),
        permissions: permissions.to_vec(),
    };
    Principal::participant("default", who, participation)
}

pub(crate) fn stranger() -> Principal {
    Principal { tenant: "other".to_owned(), ..Principal::dev_operator() }
}

/// Asks ada and bob about version 1 of the design.
pub(crate) fn asking() -> approval_v1::RequestApprovalRequest {
    approval_v1::RequestApprovalRequest {
        instance_id: INSTANCE.to_owned(),
        approver_ids: vec!["ada".to_owned(), "bob".to_owned()],
        title: "SSO Configuration Review".to_owned(),
        description: "Please check the claims.".to_owned(),
        artifacts: vec!["design".to_owned()],
        ..approval_v1::RequestApprovalRequest::default()
    }
}

/// Asks about another artifact.
pub(crate) fn asking_about(key: &str) -> approval_v1::RequestApprovalRequest {
    approval_v1::RequestApprovalRequest {
        title: format!("Review {key}"),
        artifacts: vec![key.to_owned()],
        ..asking()
    }
}

/// An answer of one person to what the request shows.
pub(crate) fn answer(
    asked: &approval_v1::Approval,
    who: &str,
    decision: approval_v1::Decision,
) -> approval_v1::DecideApprovalRequest {
    approval_v1::DecideApprovalRequest {
        approval_id: asked.id.clone(),
        approver_id: who.to_owned(),
        decision: decision.into(),
        comment: "because".to_owned(),
        content_digest: asked.content_digest.clone(),
        ..approval_v1::DecideApprovalRequest::default()
    }
}

/// A need of the engine: the work of a task, to be approved by these people.
pub(crate) fn need(task: &str, round: u32, people: &[&str]) -> Need {
    let instance = InstanceId::trusted(INSTANCE);
    Need {
        approval_id: ApprovalId::derive(&instance, "task", task, round).into_string(),
        subject_kind: approval_v1::SubjectKind::Task.into(),
        subject_id: task.to_owned(),
        task_id: task.to_owned(),
        phase_id: "configuration".to_owned(),
        gate_id: String::new(),
        round: i32::try_from(round).unwrap_or(i32::MAX),
        approver_ids: people.iter().map(ToString::to_string).collect(),
        title: format!("Review {task}"),
        description: "Is it as agreed?".to_owned(),
        artifact_keys: vec!["design".to_owned(), "missing".to_owned()],
        timing: Some(timing(48)),
        produced_by: vec!["sso_agent".to_owned()],
    }
}

/// So many hours, escalated to boss half-way, reminded after a quarter.
pub(crate) fn timing(hours: i64) -> Timing {
    let hour = 3_600_000;
    Timing {
        timeout_ms: hours * hour,
        escalate_after_ms: hours * hour / 2,
        escalate_to: vec!["boss".to_owned()],
        reminders_ms: vec![hours * hour / 4],
        on_timeout: TimeoutAction::Escalate.into(),
    }
}

pub(crate) fn digest(version: i32) -> String {
    format!("sha256:{version:064x}")
}

/// Reason and metadata of a refusal.
pub(crate) fn refusal<T>(answer: Result<T, Status>) -> (String, BTreeMap<String, String>) {
    match answer {
        Ok(_) => ("OK".to_owned(), BTreeMap::new()),
        Err(status) => {
            let reason = reason_of(&status).unwrap_or_else(|| format!("{:?}", status.code()));
            let metadata = status.get_details_error_info().map(|info| info.metadata).unwrap_or_default();
            (reason, metadata.into_iter().collect())
        }
    }
}

/// The reason of a refusal.
pub(crate) fn reason<T>(answer: Result<T, Status>) -> String {
    refusal(answer).0
}

fn is_repeated<T>(response: &Response<T>) -> bool {
    response.metadata().get("phasegate-repeated").is_some_and(|value| value == "1")
}
