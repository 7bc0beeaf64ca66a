//! One function through which every change of an instance goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phasegate_id::{ArtifactKey, InstanceId, TaskId};
use phasegate_principal::Principal;
use phasegate_proto::internal::artifact::v1::GetCurrentVersionsRequest;
use phasegate_proto::internal::artifact::v1::artifact_internal_service_client::ArtifactInternalServiceClient;
use phasegate_rpc_error::relayed;
use phasegate_serve::Service;
use prost::Message;
use rand::Rng as _;

use super::cache::Key;
use super::feeds::Added;
use super::follow::{Follows, entries};
use super::offers::Offer;
pub(crate) use super::order::{Answered, Once, Outcome};
use super::order::{Answering, First, Shows};
pub(super) use super::order::{By, Order, Origin, Step, Wish};
use super::{App, Around, Error, effects, seen};
use crate::domain::{
    self, Action, Actor, ActorKind, Channel, Command, CurrentVersion, Instance, ReadyWork, Rejection,
};
use crate::store::{self, Answer, Candidate, Entry, Guard, NO_HASH, Pinned, Receipt, Snapshot, Transition};

/// How often a transition is tried again because another process was faster. Within a process they take turns, so two
/// processes that are busy with the same instance each win every second time; after so many it is left to the caller.
const RETRIES: u32 = 5;

/// Entries of its history that a row's state may lack: whoever reads it reads so many more rows, in one more statement, and
/// whoever writes leaves several kilobytes away most of the time.
const STATE_LAG_MAX: u64 = 32;

impl App {
    /// Executes an order and answers it, once for each request id. Nothing is looked up first: the answer is written with
    /// the effect, and what was answered before fails there, or has become wrong meanwhile.
    pub(super) async fn answer<M: Message + Default>(
        &self,
        tenant: &str,
        instance_id: &InstanceId,
        order: Order,
        once: Option<Once>,
        make: impl Fn(&Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        let encode = |outcome: &Outcome| Ok(make(outcome)?.encode_to_vec());
        let answering: Answering<'_> = once.as_ref().map(|once| (once, &encode as _));
        match self.execute(tenant, instance_id, &order, answering).await {
            Ok(outcome) => Ok(Answered { message: make(&outcome)?, is_repeated: false }),
            // The same request was faster, or it changed what this one was decided on.
            Err(error) => match self.repeated(once.as_ref()).await? {
                Some(message) => Ok(Answered { message, is_repeated: true }),
                None => Err(match (error, once) {
                    (Error::Store(store::Error::Raced), Some(once)) => {
                        Error::RequestInProgress(once.key.request_id)
                    }
                    (error, _) => error,
                }),
            },
        }
    }

    /// The first answer to a request.
    pub(super) async fn repeated<M: Message + Default>(
        &self,
        once: Option<&Once>,
    ) -> Result<Option<M>, Error> {
        let Some(once) = once else { return Ok(None) };
        let found = phasegate_idempotency::lookup(self.store().database(), &once.key, once.fingerprint).await;
        let bytes = found.map_err(|error| match error {
            phasegate_idempotency::Error::Reused => Error::RequestIdReused(once.key.request_id.clone()),
            phasegate_idempotency::Error::Raced => Error::RequestInProgress(once.key.request_id.clone()),
            phasegate_idempotency::Error::Database(source) => {
                Error::Store(store::Error::Database { doing: "look the answer up", source })
            }
        })?;
        let decode = |bytes: Vec<u8>| {
            M::decode(bytes.as_slice()).map_err(|error| Error::Broken(format!("a kept answer: {error}")))
        };
        bytes.map(decode).transpose()
    }

    /// Loads, decides, appends; and again, a few times, when somebody was faster.
    pub(super) async fn execute(
        &self,
        tenant: &str,
        instance_id: &InstanceId,
        order: &Order,
        answering: Answering<'_>,
    ) -> Result<Outcome, Error> {
        phasegate_telemetry::note("phasegate.instance.id", instance_id.as_str());
        let key = (tenant.to_owned(), instance_id.to_string());
        let _turn = self.0.locks.lock(&key).await;
        for tried in 0..=RETRIES {
            if tried > 0 {
                let pause = Duration::from_millis(2 << tried).mul_f64(rand::rng().random_range(0.5..1.5));
                tokio::time::sleep(pause).await;
            }
            let (snapshot, is_fresh) = self.begin(&key, order).await?;
            let outcome = match self.decide(tenant, instance_id, &snapshot, order).await {
                Ok(outcome) => outcome,
                Err(error @ Error::Rejected(_)) if !order.is_start() => {
                    // A refusal, too, must not rest on a state that another process has made old.
                    if is_fresh || self.is_current(&key, &snapshot).await? {
                        return Err(self.refusal(&key, order, error, &snapshot.instance).await?);
                    }
                    self.0.cache.forget(&key);
                    continue;
                }
                Err(error) => return Err(error),
            };
            phasegate_telemetry::note("phasegate.process.id", outcome.after.process_id.as_str());
            if outcome.events.is_empty() || order.is_dry {
                // "Already so" must not rest on an old state either.
                if !is_fresh && !self.is_current(&key, &snapshot).await? {
                    self.0.cache.forget(&key);
                    continue;
                }
                if order.is_dry || (order.inbox.is_empty() && answering.is_none()) {
                    return Ok(outcome);
                }
            }
            match self.write(&key, &snapshot, order, outcome, answering).await {
                Err(Error::Store(store::Error::Stale) | Error::Busy) => self.0.cache.forget(&key),
                Err(Error::Store(store::Error::Lease)) => {
                    self.0.cache.forget(&key);
                    let fresh = self.snapshot(tenant, instance_id.as_str()).await?;
                    return Err(lease_lost(order, &fresh.instance));
                }
                done => return done,
            }
        }
        Err(Error::Busy)
    }

    /// The state to decide on, and whether it comes from the database.
    async fn begin(&self, key: &Key, order: &Order) -> Result<(Snapshot, bool), Error> {
        if order.is_start() {
            return Ok((
                Snapshot { instance: Arc::new(Instance::unstarted()), head: NO_HASH, state_lag: 0 },
                true,
            ));
        }
        if let Some(known) = self.0.cache.get(key) {
            return Ok((known, false));
        }
        let found = self.store().instance_load(&key.0, &key.1).await?;
        let found = found.ok_or_else(|| Error::NotFound(key.1.clone()))?;
        self.0.cache.put(key, found.clone());
        Ok((found, true))
    }

    /// Whether no other process has made a state old that this one keeps in memory.
    pub(super) async fn is_current(&self, key: &Key, snapshot: &Snapshot) -> Result<bool, Error> {
        Ok(self.store().instance_version(&key.0, &key.1).await? == Some(snapshot.instance.version))
    }

    /// What a caller is told who may not do what it wanted. Whoever holds no lease any more learns that first: nothing
    /// else that it could mend would help.
    async fn refusal(
        &self,
        key: &Key,
        order: &Order,
        error: Error,
        instance: &Instance,
    ) -> Result<Error, Error> {
        if let Some(Guard::Holds { task, fencing }) = &order.guard
            && !self.store().lease_holds(&key.0, &instance.id, task, *fencing, self.now()).await?
        {
            return Ok(lease_lost(order, instance));
        }
        Ok(explain(error, instance))
    }

    async fn decide(
        &self,
        tenant: &str,
        instance_id: &InstanceId,
        snapshot: &Snapshot,
        order: &Order,
    ) -> Result<Outcome, Error> {
        let pinned = match &order.start {
            Some(origin) => Arc::clone(&origin.pinned),
            None => self.pinned(tenant, &snapshot.instance.definition_digest).await?,
        };
        let now = self.now();
        let mut state = Instance::clone(&snapshot.instance);
        let mut events = Vec::new();
        let mut firsts = Vec::new();
        let mut known = BTreeMap::new();
        for step in &order.steps {
            let action = match &step.action {
                Wish::Fixed(action) => Action::clone(action),
                Wish::Made(make) => make(&state, &pinned, now)?,
            };
            let actor = match (&step.actor, &order.by) {
                (Some(actor), _) | (None, By::Somebody(actor)) => actor.clone(),
                (None, By::AgentOf(task)) => agent_of(&state, task),
            };
            let mut command = Command::new(actor, action);
            let keys = domain::content_keys(&pinned.definition, &state, &command.action);
            for (key, version) in self.current_versions(tenant, instance_id, keys, &mut known).await? {
                command.current.insert(key, version);
            }
            let new = domain::decide(&pinned.definition, &state, &command, now)?;
            if !new.is_empty() {
                let (personal, event_id) = (step.personal.clone(), step.event_id.clone());
                firsts.push(First { position: events.len(), personal, event_id });
            }
            for event in new {
                state = domain::evolve(state, &event);
                events.push(event);
            }
        }
        let around = match &order.shows {
            Shows::Nothing => Around::default(),
            Shows::Task(task) => self.around_task(tenant, &state, task).await?,
            Shows::Instance => self.around(tenant, &state, &pinned.definition).await?,
        };
        let before = Arc::clone(&snapshot.instance);
        Ok(Outcome { before, after: Arc::new(state), events, pinned, around, now, firsts })
    }

    /// Asks the artifact service for the newest versions of some keys, once each.
    async fn current_versions(
        &self,
        tenant: &str,
        instance_id: &InstanceId,
        keys: impl IntoIterator<Item = ArtifactKey>,
        known: &mut BTreeMap<ArtifactKey, Option<CurrentVersion>>,
    ) -> Result<Vec<(ArtifactKey, CurrentVersion)>, Error> {
        let keys: Vec<ArtifactKey> = keys.into_iter().collect();
        let unknown: Vec<String> =
            keys.iter().filter(|key| !known.contains_key(*key)).map(ToString::to_string).collect();
        if !unknown.is_empty() {
            let peers = &self.0.context.peers;
            let mut client = ArtifactInternalServiceClient::new(peers.channel(Service::Artifact));
            let principal = Principal::system("instance", tenant);
            let message =
                GetCurrentVersionsRequest { instance_id: instance_id.to_string(), keys: unknown.clone() };
            let answer = client
                .get_current_versions(peers.request(Service::Artifact, &principal, message))
                .await
                .map_err(|status| relayed(status, Service::Artifact.name()))?;
            known.extend(unknown.into_iter().map(|key| (ArtifactKey::trusted(key), None)));
            for found in answer.into_inner().artifacts {
                let version = CurrentVersion {
                    version: u32::try_from(found.version).unwrap_or(0),
                    kind: found.r#type,
                    digest: found.digest,
                    phase: found.phase_id,
                    task: found.task_id,
                };
                known.insert(ArtifactKey::trusted(found.key), Some(version));
            }
        }
        Ok(keys.into_iter().filter_map(|key| Some((key.clone(), known.get(&key)?.clone()?))).collect())
    }

    /// Writes what was decided, and lets everybody know who waits for it.
    async fn write(
        &self,
        key: &Key,
        snapshot: &Snapshot,
        order: &Order,
        outcome: Outcome,
        answering: Answering<'_>,
    ) -> Result<Outcome, Error> {
        let (entries, personal) = entries(&outcome, snapshot)?;
        let head = entries.last().map_or(snapshot.head, |entry| entry.hash);
        let follows = Follows::of(&outcome, order);
        let actor = match &order.by {
            By::Somebody(actor) => actor.clone(),
            By::AgentOf(_) => outcome.events.first().map_or_else(Actor::engine, |event| event.actor.clone()),
        };
        let effects =
            domain::react(&outcome.pinned.definition, &outcome.before, &outcome.after, &outcome.events);
        let people = order.start.as_ref().map(|_| outcome.people()).unwrap_or_default();
        let outbox = effects::to_bus(&key.0, &outcome, &people, &actor, effects);
        let answer = answering
            .map(|(once, make)| {
                let message = make(&outcome)?;
                Ok::<_, Error>(Answer { key: once.key.clone(), fingerprint: once.fingerprint, message })
            })
            .transpose()?;
        let pinned = order
            .start
            .as_ref()
            .map(|origin| Pinned { digest: origin.pinned.digest.clone(), document: origin.document.clone() });
        let ready = follows.queued.iter().filter(|work| work.ready_at <= outcome.now);
        let ready: Vec<Offer> = ready.map(|work| offer(&outcome.after.id, work)).collect();
        let entries: Arc<[Entry]> = entries.into();
        let sends = !outbox.is_empty();
        let (health, overdue_at) = seen::standing(&outcome);
        let state_lag = state_lag(&outcome, snapshot);
        let transition = Transition {
            tenant: key.0.clone(),
            after: Arc::clone(&outcome.after),
            before: outcome.before.version,
            state_lag,
            guard: order.guard.clone().filter(|_| !entries.is_empty()),
            written: order.written.clone(),
            entries: Arc::clone(&entries),
            personal,
            unqueued: follows.unqueued,
            queued: follows.queued,
            ended: follows.ended,
            granted: follows.granted,
            health,
            overdue_at,
            outbox,
            receipt: Receipt { inbox: order.inbox.clone(), answer },
            pinned,
            now: outcome.now,
        };
        self.store().instance_append(transition).await?;
        if outcome.events.is_empty() {
            return Ok(outcome);
        }
        seen::count(&outcome);
        self.0.cache.put(key, Snapshot { instance: Arc::clone(&outcome.after), head, state_lag });
        if sends {
            self.0.relay.wake();
        }
        for offer in ready {
            self.0.offers.offer(&key.0, offer);
        }
        self.0.feeds.tell(key, || Added { entries, personal: outcome.personal() });
        Ok(outcome)
    }
}

/// How many entries the row's state lacks after this: none where it is time to write it, or nothing will follow.
fn state_lag(outcome: &Outcome, snapshot: &Snapshot) -> u64 {
    let lag = snapshot.state_lag + outcome.after.version.saturating_sub(outcome.before.version);
    let is_written =
        outcome.before.version == 0 || outcome.after.status.is_terminal() || lag >= STATE_LAG_MAX;
    if is_written { 0 } else { lag }
}

fn offer(instance: &InstanceId, work: &ReadyWork) -> Offer {
    let candidate = Candidate {
        instance_id: instance.clone(),
        task_id: work.task.clone(),
        priority: store::rank(work.priority),
        ready_at: work.ready_at,
        tools: work.tools.clone(),
    };
    Offer { queue: work.queue.clone(), candidate }
}

/// A worker acts as the agent whose work the task is.
fn agent_of(instance: &Instance, task: &TaskId) -> Actor {
    let id = instance.tasks.get(task).map_or_else(String::new, |task| task.assignee.clone());
    Actor { kind: ActorKind::Agent, id, on_behalf_of: None, channel: Channel::Api }
}

/// A lost lease says what it was lost to.
fn explain(error: Error, instance: &Instance) -> Error {
    if let Error::Rejected(Rejection::LeaseLost(task)) = error { lost(task, instance) } else { error }
}

fn lost(task: TaskId, instance: &Instance) -> Error {
    match instance.tasks.get(&task) {
        Some(state) => Error::LeaseLost { task, current: state.fencing, status: state.status },
        None => Error::Rejected(Rejection::TaskNotFound(task)),
    }
}

/// The store found that the lease does not hold.
fn lease_lost(order: &Order, instance: &Instance) -> Error {
    match &order.guard {
        Some(Guard::Holds { task, .. } | Guard::Over { task, .. }) => lost(task.clone(), instance),
        // A lease that could not be granted: the task is held for a moment.
        None => Error::Busy,
    }
}
