//! One instance service with its neighbours.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::future::BoxFuture;
use phasegate_bus::{Bus, HandleError, Handler};
use phasegate_clock::{Clock as _, ManualClock, Timestamp};
use phasegate_database::{Database, Settings};
use phasegate_principal::{Principal, Signer};
use phasegate_process::{Draft, canonical_json};
use phasegate_proto::instance::v1::event_service_client::EventServiceClient;
use phasegate_proto::instance::v1::instance_service_client::InstanceServiceClient;
use phasegate_proto::instance::v1::task_service_client::TaskServiceClient;
use phasegate_proto::instance::v1::{
    ExternalParticipant, GetInstanceRequest, GetTaskRequest, ProcessInstance, StartInstanceRequest, Task,
    VerifyAuditChainRequest, VerifyAuditChainResponse,
};
use phasegate_proto::internal::artifact::v1::artifact_internal_service_server::{
    ArtifactInternalService, ArtifactInternalServiceServer,
};
use phasegate_proto::internal::artifact::v1::get_current_versions_response::Current;
use phasegate_proto::internal::artifact::v1::{GetCurrentVersionsRequest, GetCurrentVersionsResponse};
use phasegate_proto::internal::definition::v1::definition_internal_service_server::{
    DefinitionInternalService, DefinitionInternalServiceServer,
};
use phasegate_proto::internal::definition::v1::{PinDefinitionRequest, PinDefinitionResponse};
use phasegate_proto::internal::event::v1::Event;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::instance::v1::instance_internal_service_client::InstanceInternalServiceClient;
use phasegate_proto::worker::v1::worker_service_client::WorkerServiceClient;
use phasegate_proto::worker::v1::{
    CompleteTaskRequest, CompleteTaskResponse, LeasedTask, PollTasksRequest, WorkerInfo,
};
use phasegate_rpc_error::Invalid;
use phasegate_serve::{Context, Keys, Peers, Service as Name, pipe};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::store::MIGRATIONS;
use crate::{Config, Service};

/// The time at which every test begins.
pub(super) const NOON: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

/// The services beside this one, played. Copies share what they know.
#[derive(Clone, Default)]
pub(super) struct Neighbours {
    definitions: Arc<Mutex<BTreeMap<String, Value>>>,
    artifacts: Arc<Mutex<BTreeMap<String, Current>>>,
    heard: Arc<Mutex<Vec<Event>>>,
}

/// One instance service with its neighbours.
pub(super) struct House {
    pub(super) clock: Arc<ManualClock>,
    pub(super) context: Context,
    pub(super) neighbours: Neighbours,
    pub(super) channel: Channel,
    pub(super) principal: Principal,
    /// The copies of the service from within.
    pub(super) apps: Vec<App>,
    settings: Settings,
    running: Vec<JoinHandle<Result<(), crate::Error>>>,
    neighbours_stop: CancellationToken,
}

impl Neighbours {
    fn definitions(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Value>> {
        self.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn artifacts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Current>> {
        self.artifacts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every event that the service has sent.
    pub(super) fn heard(&self) -> Vec<Event> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl DefinitionInternalService for Neighbours {
    async fn pin_definition(
        &self,
        request: Request<PinDefinitionRequest>,
    ) -> Result<Response<PinDefinitionResponse>, Status> {
        let wanted = request.get_ref();
        let found = self.definitions().get(&wanted.process_id).cloned();
        let not_found = || {
            let invalid = Invalid::new("PROCESS_NOT_FOUND", "process_id", "names no process");
            phasegate_rpc_error::status(&invalid)
        };
        let found = found.ok_or_else(not_found)?;
        let document = canonical_json(&found);
        Ok(Response::new(PinDefinitionResponse {
            version: found["version"].as_str().unwrap_or_default().to_owned(),
            content_digest: phasegate_process::digest(&document),
            definition_json: document,
        }))
    }
}

#[tonic::async_trait]
impl ArtifactInternalService for Neighbours {
    async fn get_current_versions(
        &self,
        request: Request<GetCurrentVersionsRequest>,
    ) -> Result<Response<GetCurrentVersionsResponse>, Status> {
        let keys = &request.get_ref().keys;
        let artifacts = self.artifacts();
        let wanted = artifacts.values().filter(|artifact| keys.is_empty() || keys.contains(&artifact.key));
        Ok(Response::new(GetCurrentVersionsResponse { artifacts: wanted.cloned().collect() }))
    }
}

impl Handler for Neighbours {
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(Event::clone(&event));
            Ok(())
        })
    }
}

impl House {
    /// A house on a database.
    pub(super) async fn new(settings: Settings) -> anyhow::Result<Self> {
        let clock = Arc::new(ManualClock::new(NOON));
        let neighbours = Neighbours::default();
        let neighbours_stop = CancellationToken::new();
        let keys = Keys::derive(&[1; 32]);
        let mut channels = BTreeMap::new();
        let mut listeners = Vec::new();
        for name in [Name::Definition, Name::Artifact, Name::Instance] {
            let (listener, channel) = pipe();
            channels.insert(name, channel);
            listeners.push((name, listener));
        }
        let channel = channels[&Name::Instance].clone();
        let context = Context {
            peers: Peers::new(channels, Signer::new(&keys.principal, clock.clone())),
            clock: clock.clone(),
            bus: Bus::local(),
            keys,
            public_url: "http://127.0.0.1:7460".into(),
            limits: phasegate_serve::Limits::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        };
        context.bus.overhear(Arc::new(neighbours.clone()));
        let mut house = Self {
            clock,
            context,
            neighbours,
            channel,
            principal: Principal::dev_operator(),
            apps: Vec::new(),
            settings,
            running: Vec::new(),
            neighbours_stop,
        };
        for (name, listener) in listeners {
            let stop = house.neighbours_stop.clone();
            let mut routes = Routes::builder();
            match name {
                Name::Definition => {
                    routes.add_service(DefinitionInternalServiceServer::new(house.neighbours.clone()));
                }
                Name::Artifact => {
                    routes.add_service(ArtifactInternalServiceServer::new(house.neighbours.clone()));
                }
                Name::Instance | Name::Approval | Name::Participant | Name::Notification => {
                    house.run(house.context.clone(), listener).await?;
                    continue;
                }
            }
            let context = Context { shutdown: stop, ..house.context.clone() };
            tokio::spawn(
                async move { phasegate_serve::serve(name, routes.routes(), &context, listener).await },
            );
        }
        Ok(house)
    }

    async fn run(&mut self, context: Context, listener: phasegate_serve::Listener) -> anyhow::Result<()> {
        let mut config = Config::new(self.settings.clone());
        config.lease_scan = Duration::from_millis(20);
        let service = Service::open(config, context).await?;
        self.apps.push(service.app.clone());
        self.running.push(tokio::spawn(service.run(listener)));
        Ok(())
    }

    /// Starts a second copy of the service on the same database, and returns the way to it.
    pub(super) async fn second(&mut self) -> anyhow::Result<Channel> {
        let (listener, channel) = pipe();
        // Events travel between processes through Redis; here the copies share one bus and hear them twice.
        self.run(self.context.clone(), listener).await?;
        Ok(channel)
    }

    /// Stops the service and waits for it.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.context.shutdown.cancel();
        for running in self.running {
            tokio::time::timeout(Duration::from_secs(15), running).await???;
        }
        self.neighbours_stop.cancel();
        Ok(())
    }

    /// The database, from outside.
    pub(super) async fn database(&self) -> anyhow::Result<Database> {
        Ok(Database::open(&self.settings, &MIGRATIONS).await?.across_tenants())
    }

    /// A signed call of the operator.
    pub(super) fn call<T>(&self, message: T) -> Request<T> {
        self.call_as(&self.principal, message)
    }

    /// A signed call of another service, which asks because of our caller.
    pub(super) fn call_between<T>(&self, message: T) -> Request<T> {
        self.call_as(&self.principal.asked_by("artifact"), message)
    }

    /// A signed call of somebody.
    pub(super) fn call_as<T>(&self, principal: &Principal, message: T) -> Request<T> {
        Self::sign(&self.context, principal, message)
    }

    /// A signed call, for tasks that cannot borrow the house.
    pub(super) fn sign<T>(context: &Context, principal: &Principal, message: T) -> Request<T> {
        let mut request = context.peers.request(Name::Instance, principal, message);
        // The deadline of calls between services is for others to test.
        request.set_timeout(Duration::from_mins(1));
        request
    }

    pub(super) fn instances(&self) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.channel.clone())
    }

    pub(super) fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone())
    }

    pub(super) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
    }

    pub(super) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }

    pub(super) fn internal(&self) -> InstanceInternalServiceClient<Channel> {
        InstanceInternalServiceClient::new(self.channel.clone())
    }

    /// Publishes a definition.
    pub(super) fn define(&self, written: Value) -> anyhow::Result<()> {
        let draft = Draft::from_json(written.clone())?;
        let checked = phasegate_process::validate(&draft);
        ensure!(checked.definition.is_some(), "{:?}", checked.faults().collect::<Vec<_>>());
        self.neighbours.definitions().insert(draft.id, written);
        Ok(())
    }

    /// Stores an artifact, as the artifact service would.
    pub(super) async fn store_artifact(
        &self,
        instance_id: &str,
        key: &str,
        task: &str,
    ) -> anyhow::Result<i32> {
        let version = self.neighbours.artifacts().get(key).map_or(0, |artifact| artifact.version) + 1;
        let artifact = Current {
            key: key.to_owned(),
            version,
            r#type: "document".to_owned(),
            digest: format!("sha256:{version:064}"),
            phase_id: String::new(),
            task_id: task.to_owned(),
        };
        self.neighbours.artifacts().insert(key.to_owned(), artifact.clone());
        let stored = phasegate_proto::internal::event::v1::ArtifactStored {
            key: artifact.key,
            version,
            r#type: artifact.r#type,
            digest: artifact.digest,
            size_bytes: 10,
            phase_id: artifact.phase_id,
            task_id: artifact.task_id,
            hold_id: String::new(),
        };
        self.tell(instance_id, Payload::ArtifactStored(stored)).await?;
        Ok(version)
    }

    /// Stores an artifact of which nobody is told.
    pub(super) fn store_artifact_quietly(&self, key: &str) {
        if let Some(artifact) = self.neighbours.artifacts().get_mut(key) {
            artifact.version += 1;
            artifact.digest = format!("sha256:{:064}", artifact.version);
        }
    }

    /// Waits until a task stands as wanted.
    pub(super) async fn heard_status(
        &self,
        instance_id: &str,
        task_id: &str,
        is_it: impl Fn(&Task) -> bool,
    ) -> anyhow::Result<Task> {
        for _ in 0..500 {
            let task = self.task(instance_id, task_id).await?;
            if is_it(&task) {
                return Ok(task);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("the task never stood as wanted")
    }

    /// Tells the service what has happened in another one.
    pub(super) async fn tell(&self, instance_id: &str, payload: Payload) -> anyhow::Result<Event> {
        let actor = self.principal.actor();
        let now = self.clock.now();
        let event = phasegate_outbox::event(&self.principal.tenant, instance_id, actor, now, payload);
        self.context.bus.publish("approval", Arc::new(event.clone())).await?;
        Ok(event)
    }

    /// What a start of a definition looks like.
    pub(super) fn start_request(process_id: &str) -> StartInstanceRequest {
        StartInstanceRequest {
            process_id: process_id.to_owned(),
            external_participants: vec![
                ExternalParticipant {
                    participant_id: "ann".to_owned(),
                    email: "ann@example.com".to_owned(),
                    name: "Ann Lee".to_owned(),
                },
                ExternalParticipant {
                    participant_id: "ben".to_owned(),
                    email: "ben@example.com".to_owned(),
                    name: "Ben Ode".to_owned(),
                },
            ],
            ..Default::default()
        }
    }

    /// A start of [`plain`], which has no people.
    pub(super) fn start_request_plain() -> StartInstanceRequest {
        StartInstanceRequest { process_id: "plain".to_owned(), ..Default::default() }
    }

    /// Starts an instance.
    pub(super) async fn start(&self, process_id: &str) -> anyhow::Result<String> {
        let mut request = Self::start_request(process_id);
        if self.neighbours.definitions().get(process_id).is_none_or(|written| written["humans"] == json!({}))
        {
            request.external_participants.clear();
        }
        let started = self.instances().start_instance(self.call(request)).await?;
        Ok(started.into_inner().instance.context("an instance")?.id)
    }

    pub(super) async fn get(&self, instance_id: &str) -> anyhow::Result<ProcessInstance> {
        let request = GetInstanceRequest { instance_id: instance_id.to_owned() };
        let found = self.instances().get_instance(self.call(request)).await?.into_inner();
        found.instance.context("an instance")
    }

    pub(super) async fn task(&self, instance_id: &str, task_id: &str) -> anyhow::Result<Task> {
        let request = GetTaskRequest { instance_id: instance_id.to_owned(), task_id: task_id.to_owned() };
        self.tasks().get_task(self.call(request)).await?.into_inner().task.context("a task")
    }

    /// What a poll looks like that answers at once.
    pub(super) fn poll_request(queue: &str) -> PollTasksRequest {
        PollTasksRequest {
            worker: Some(WorkerInfo { worker_id: "w-1".to_owned(), ..Default::default() }),
            queues: vec![queue.to_owned()],
            max_tasks: 1,
            wait: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
            lease_duration: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            instance_id: String::new(),
        }
    }

    /// Polls once.
    pub(super) async fn poll(&self, queue: &str) -> anyhow::Result<Option<LeasedTask>> {
        let polled = self.workers().poll_tasks(self.call(Self::poll_request(queue))).await?.into_inner();
        ensure!(polled.tasks.len() <= 1);
        Ok(polled.tasks.into_iter().next())
    }

    /// Polls, and expects a task.
    pub(super) async fn lease(&self, queue: &str, task_id: &str) -> anyhow::Result<(LeasedTask, String)> {
        let leased = self.poll(queue).await?.with_context(|| format!("no work on {queue}"))?;
        ensure!(leased.task_id == task_id, "got {} instead of {task_id}", leased.task_id);
        let token = leased.lease.as_ref().context("a lease")?.task_token.clone();
        Ok((leased, token))
    }

    pub(super) async fn complete(&self, token: &str) -> Result<CompleteTaskResponse, Status> {
        let request = CompleteTaskRequest {
            task_token: token.to_owned(),
            summary: "done".to_owned(),
            ..Default::default()
        };
        Ok(self.workers().complete_task(self.call(request)).await?.into_inner())
    }

    pub(super) async fn verify(&self, instance_id: &str) -> anyhow::Result<VerifyAuditChainResponse> {
        let request = VerifyAuditChainRequest { instance_id: instance_id.to_owned() };
        Ok(self.events().verify_audit_chain(self.call(request)).await?.into_inner())
    }

    /// Waits until the service has sent an event that `pick` takes.
    pub(super) async fn heard<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> anyhow::Result<T> {
        for _ in 0..500 {
            if let Some(found) = self.neighbours.heard().iter().rev().find_map(&pick) {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("the event never came; {:?}", self.neighbours.heard().len())
    }
}

/// Runs a test on a fresh house on each kind of database.
pub(super) async fn both<F>(test: F) -> anyhow::Result<()>
where
    F: AsyncFn(&mut House) -> anyhow::Result<()>,
{
    for fresh in [phasegate_test_database::sqlite().await?, phasegate_test_database::postgres().await?] {
        let dialect = fresh.dialect();
        let mut house = House::new(fresh.settings()).await?;
        Box::pin(test(&mut house)).await.with_context(|| format!("on {dialect:?}"))?;
        house.stop().await.with_context(|| format!("stopping on {dialect:?}"))?;
    }
    Ok(())
}

/// Two tasks one after another in one phase, no approval: the second needs an artifact.
pub(super) fn plain() -> Value {
    json!({
        "id": "plain", "name": "Plain", "version": "1.0.0",
        "agents": {"bot": {"templateId": "bot", "role": "worker"}},
        "humans": {},
        "phases": [{
            "id": "work", "name": "Work", "order": 1,
            "tasks": [
                {"id": "first", "name": "First", "assignee": "bot"},
                {"id": "second", "name": "Second", "assignee": "bot", "artifacts": ["report"]},
            ],
        }],
    })
}

/// A task whose work is approved, and a gate before the next phase.
pub(super) fn reviewed() -> Value {
    json!({
        "id": "reviewed", "name": "Reviewed", "version": "1.0.0",
        "agents": {"bot": {"templateId": "bot", "role": "worker"}},
        "humans": {
            "ann": {"name": "Ann", "role": "approver", "raidRole": "approver"},
            "ben": {"name": "Ben", "role": "approver", "raidRole": "approver"},
        },
        "phases": [
            {"id": "build", "name": "Build", "order": 1, "tasks": [
                {"id": "make", "name": "Make", "assignee": "bot", "requiredApprovals": ["ann"], "artifacts": ["report"]},
            ]},
            {"id": "ship", "name": "Ship", "order": 2, "tasks": [
                {"id": "send", "name": "Send", "assignee": "bot"},
            ]},
        ],
        "gates": [{"id": "go", "name": "Go", "beforePhase": "ship", "type": "approval", "approvers": ["ann", "ben"]}],
    })
}

/// The stable name of a refusal.
pub(super) fn reason(status: &Status) -> String {
    phasegate_rpc_error::reason_of(status).unwrap_or_else(|| format!("{status:?}"))
}
