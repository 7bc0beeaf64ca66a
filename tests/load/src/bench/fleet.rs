//! Whole instances of the page's process: services that start them and wait for their end, agents by the worker protocol,
//! and people's decisions by the API.

mod people;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use phasegate_client::{Client, Credential, request_id};
use phasegate_proto::artifact::v1::StoreArtifactRequest;
use phasegate_proto::instance::v1::{ExternalParticipant, StartInstanceRequest, WatchEventsRequest};
use phasegate_proto::worker::v1::{CompleteTaskRequest, LeasedTask, PollTasksRequest, WorkerInfo};
use prost_types::value::Kind;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::place::{PARKED_PEOPLE, PEOPLE, Place};
use super::record::Recorder;

/// Connections of each kind of client.
const CONNECTIONS: usize = 8;
/// Workers, each of which polls all queues.
const WORKERS: usize = 4;
/// Tasks that one poll may take.
const TASKS_MAX: i32 = 16;
/// How long a poll waits for work.
const POLL: i64 = 10;
/// An instance that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(2);

/// From a decision to the next task in the hands of an agent.
pub(super) const ONWARD: &str = "decision -> next task";
/// From the moment at which an instance was due to its end.
pub(super) const WHOLE: &str = "whole instance";
/// A decision.
pub(super) const DECIDE: &str = "DecideApproval";

/// All clients of a run.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) recorder: Recorder,
    process: String,
    queues: Vec<String>,
    operators: Vec<Client>,
    agents: Vec<Client>,
    people: HashMap<String, Vec<Client>>,
    /// Whose requests are looked for; an empty name for everybody's at once.
    looks_for: Vec<String>,
    next: AtomicUsize,
    started: AtomicU64,
    /// When the last decision about an instance that runs was sent.
    decided: Mutex<HashMap<String, Option<Instant>>>,
    /// Something may be asked of people.
    asked: Notify,
    /// What went wrong.
    faults: Mutex<Vec<String>>,
    over: CancellationToken,
    name: String,
}

impl Fleet {
    /// Connects. The people look at the requests of everybody at once.
    pub(super) async fn connect(place: &Place, name: &str) -> anyhow::Result<Arc<Self>> {
        Self::connect_with(place, name, vec![String::new()]).await
    }

    /// Connects. The people look at their own requests only, as somebody has to whose tenant has many that wait.
    pub(super) async fn connect_each(place: &Place, name: &str) -> anyhow::Result<Arc<Self>> {
        Self::connect_with(place, name, PEOPLE.map(str::to_owned).to_vec()).await
    }

    async fn connect_with(place: &Place, name: &str, looks_for: Vec<String>) -> anyhow::Result<Arc<Self>> {
        let (process, queues) = Place::process()?;
        let keys = place.keys.as_ref();
        let operators = connections(place, keys.map(|keys| keys.operator.as_str())).await?;
        let agents = connections(place, keys.map(|keys| keys.agent.as_str())).await?;
        let mut people = HashMap::new();
        for person in PEOPLE.into_iter().chain(PARKED_PEOPLE) {
            let key = keys.and_then(|keys| keys.people.get(person)).map(String::as_str);
            people.insert(person.to_owned(), connections(place, key).await?);
        }
        Ok(Arc::new(Self {
            recorder: Recorder::default(),
            process,
            queues,
            operators,
            agents,
            people,
            looks_for,
            next: AtomicUsize::new(0),
            started: AtomicU64::new(0),
            decided: Mutex::default(),
            asked: Notify::new(),
            faults: Mutex::default(),
            over: CancellationToken::new(),
            name: name.to_owned(),
        }))
    }

    /// Agents and people begin to work.
    pub(super) fn begin(self: &Arc<Self>) {
        for number in 0..WORKERS {
            self.spawn(self.clone().polls(number));
        }
        self.spawn(self.clone().looks());
    }

    /// They go home.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    /// What went wrong.
    pub(super) fn faults(&self) -> MutexGuard<'_, Vec<String>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Instances that run.
    pub(super) fn under_way(&self) -> usize {
        self.decided().len()
    }

    /// Keeps so many instances under way until `until`, and returns when the last one has ended.
    pub(super) async fn closed_loop(self: &Arc<Self>, in_flight: usize, until: CancellationToken) {
        let mut slots = JoinSet::new();
        for _ in 0..in_flight {
            let (fleet, until) = (self.clone(), until.clone());
            slots.spawn(async move {
                while !until.is_cancelled() && fleet.faults().is_empty() {
                    fleet.instance(Instant::now()).await;
                }
            });
        }
        while slots.join_next().await.is_some() {}
    }

    /// Starts so many instances a second, whatever becomes of those before, until `until`; returns when the last one has
    /// ended. An instance that has to wait for its turn waits from when it was due.
    pub(super) async fn open_loop(self: &Arc<Self>, per_second: f64, until: CancellationToken) {
        let every = Duration::from_secs_f64(1.0 / per_second.max(0.001));
        let mut due = Instant::now();
        let places = Arc::new(Semaphore::new(10_000));
        let mut running = JoinSet::new();
        while !until.is_cancelled() && self.faults().is_empty() {
            tokio::time::sleep_until(due).await;
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let (fleet, began) = (self.clone(), due);
            running.spawn(async move {
                fleet.instance(began).await;
                drop(place);
            });
            while running.try_join_next().is_some() {}
            due += every;
        }
        while running.join_next().await.is_some() {}
    }

    fn spawn(self: &Arc<Self>, work: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let fleet = self.clone();
        tokio::spawn(async move {
            if let Some(Err(error)) = fleet.over.clone().run_until_cancelled(work).await {
                fleet.faults().push(format!("{error:#}"));
            }
        });
    }

    fn decided(&self) -> MutexGuard<'_, HashMap<String, Option<Instant>>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_of<'a>(&self, clients: &'a [Client]) -> anyhow::Result<&'a Client> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        clients.get(next % clients.len().max(1)).context("a connection")
    }

    /// A call is answered.
    fn answered(&self, what: &'static str, due: Instant) {
        self.recorder.took(what, due);
        self.recorder.counts.calls.fetch_add(1, Ordering::Relaxed);
    }

    // --- Services that have instances ---

    /// Starts an instance and waits for its end.
    async fn instance(&self, due: Instant) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let id = format!("load-{}-{number}", self.name);
        self.decided().insert(id.clone(), None);
        let outcome = tokio::time::timeout(PATIENCE, self.life(&id, due)).await;
        self.decided().remove(&id);
        match outcome {
            Ok(Ok(())) => {
                self.recorder.took(WHOLE, due);
                self.recorder.counts.ended.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Err(error)) => self.faults().push(format!("{id}: {error:#}")),
            Err(_) => self.faults().push(format!("{id} has not ended after {} s", PATIENCE.as_secs())),
        }
    }

    async fn life(&self, id: &str, due: Instant) -> anyhow::Result<()> {
        self.start(&self.process, id, &PEOPLE).await?;
        self.answered("StartInstance", due);
        let request = WatchEventsRequest {
            instance_id: id.to_owned(),
            types: vec!["instance.completed".to_owned()],
            resume_token: "0".to_owned(),
            until_terminal: true,
        };
        let client = self.one_of(&self.operators)?;
        let watched = client.events().watch_events(Request::new(request)).await.context("WatchEvents")?;
        self.recorder.counts.calls.fetch_add(1, Ordering::Relaxed);
        let mut stream = watched.into_inner();
        let mut is_complete = false;
        while let Some(message) = stream.message().await.context("WatchEvents")? {
            is_complete |= !message.events.is_empty();
        }
        anyhow::ensure!(is_complete, "it did not complete");
        Ok(())
    }

    /// Starts an instance of a process that these people have a part in.
    pub(super) async fn start(&self, process: &str, id: &str, people: &[&str]) -> anyhow::Result<()> {
        let participants = people.iter().map(|person| ExternalParticipant {
            participant_id: (*person).to_owned(),
            email: format!("{person}@acme.com"),
            name: (*person).to_owned(),
        });
        let request = StartInstanceRequest {
            process_id: process.to_owned(),
            name: "Acme Corp SSO Deployment".to_owned(),
            context: Some(context()),
            external_participants: participants.collect(),
            instance_id: id.to_owned(),
            request_id: request_id(),
            ..StartInstanceRequest::default()
        };
        self.one_of(&self.operators)?
            .call(request, async |client, request| client.instances().start_instance(request).await)
            .await
            .context("StartInstance")?;
        Ok(())
    }

    // --- Agents ---

    async fn polls(self: Arc<Self>, number: usize) -> anyhow::Result<()> {
        loop {
            let request = PollTasksRequest {
                worker: Some(WorkerInfo {
                    worker_id: format!("load-{number}"),
                    identity: "load".to_owned(),
                    tools: Vec::new(),
                }),
                queues: self.queues.clone(),
                max_tasks: TASKS_MAX,
                wait: Some(prost_types::Duration { seconds: POLL, nanos: 0 }),
                ..PollTasksRequest::default()
            };
            let client = self.one_of(&self.agents)?;
            let answer = client
                .call_once(request, async |client, request| client.workers().poll_tasks(request).await)
                .await
                .context("PollTasks")?;
            let tasks = answer.tasks;
            self.recorder.counts.calls.fetch_add(1, Ordering::Relaxed);
            self.recorder.counts.handed_out.fetch_add(tasks.len() as u64, Ordering::Relaxed);
            for task in tasks {
                let decided = self.decided().get_mut(&task.instance_id).and_then(Option::take);
                if let Some(decided) = decided {
                    self.recorder.took(ONWARD, decided);
                }
                self.spawn(self.clone().performs(task));
            }
        }
    }

    async fn performs(self: Arc<Self>, task: LeasedTask) -> anyhow::Result<()> {
        let client = self.one_of(&self.agents)?;
        let token = task.lease.as_ref().context("a lease")?.task_token.clone();
        for key in &task.expected_artifacts {
            let request = StoreArtifactRequest {
                instance_id: task.instance_id.clone(),
                key: key.clone(),
                r#type: "document".to_owned(),
                content: Some(document(&task.task_id)),
                task_token: token.clone(),
                request_id: request_id(),
                ..StoreArtifactRequest::default()
            };
            let due = Instant::now();
            client
                .call(request, async |client, request| client.artifacts().store_artifact(request).await)
                .await
                .context("StoreArtifact")?;
            self.answered("StoreArtifact", due);
        }
        let request = CompleteTaskRequest {
            task_token: token,
            output: Some(context()),
            summary: format!("{} is done.", task.name),
            request_id: request_id(),
        };
        let due = Instant::now();
        client
            .call(request, async |client, request| client.workers().complete_task(request).await)
            .await
            .context("CompleteTask")?;
        self.answered("CompleteTask", due);
        self.recorder.counts.completed.fetch_add(1, Ordering::Relaxed);
        self.asked.notify_one();
        Ok(())
    }
}

async fn connections(place: &Place, key: Option<&str>) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = Client::connect(&place.address).await?;
        clients.push(match key {
            Some(key) => client.with_credential(Credential::new(key)?),
            None => client,
        });
    }
    Ok(clients)
}

fn text(text: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// What the page's instance is started with.
fn context() -> prost_types::Struct {
    let fields = [("customerName", "Acme Corporation"), ("customerDomain", "acme.com"), ("idpType", "okta")];
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
    prost_types::Struct { fields }
}

/// What an agent makes.
fn document(task: &str) -> prost_types::Value {
    let mut document = context();
    document.fields.insert("madeIn".to_owned(), text(task));
    prost_types::Value { kind: Some(Kind::StructValue(document)) }
}
