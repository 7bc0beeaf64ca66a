//! What the other services tell: requests that the engine needs or needs no more, artifacts with newer versions, and
//! instances that are put on hold, taken up again, or over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use phasegate_bus::{HandleError, Handler};
use phasegate_clock::Timestamp;
use phasegate_id::{
    ApprovalId, ArtifactKey, BoundaryId, GateId, InstanceId, ParticipantId, PhaseId, TaskId, TenantId,
};
use phasegate_proto::actor::v1::Actor as ActorMessage;
use phasegate_proto::approval::v1::SubjectKind as SubjectKindMessage;
use phasegate_proto::definition::v1::TimeoutAction;
use phasegate_proto::internal::event::v1::{
    ApprovalsNeeded, Event as Message, Timing as TimingMessage, approvals_needed::Need,
};

use super::check::bind;
use super::elapse::chain;
use super::plan::{self, Found, Taken};
use super::{App, Error, Wanted, message};
use crate::domain::{Actor, CurrentArtifact, OnTimeout, Request, Subject, SubjectKind, Timing};
use crate::store::{self, Asked, InstanceChange, Known, KnownRequest, Person, Receipt};

/// The name under which this service takes events.
pub const CONSUMER: &str = "approval";

/// Takes events for this service.
#[derive(Debug, Clone)]
pub struct Inbox {
    app: App,
}

/// An event with what every event has, read.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Tenant.
    pub tenant: TenantId,
    /// Instance.
    pub instance: InstanceId,
    /// Who did it.
    pub actor: ActorMessage,
    /// When, by the clock of its sender.
    pub occurred_at: Timestamp,
    /// What names it.
    pub receipt: Receipt,
}

impl Inbox {
    /// An inbox of the service.
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

impl Handler for Inbox {
    fn handle(&self, event: Arc<Message>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move { self.app.take(&event).await })
    }
}

impl App {
    async fn take(&self, event: &Message) -> Result<(), HandleError> {
        let Some(taken) = event.payload.as_ref().and_then(plan::taken) else { return Ok(()) };
        let envelope = Envelope::read(event)?;
        let done = match &taken {
            Taken::Needed(needed) => self.needed(&envelope, needed).await,
            Taken::Moot(_) | Taken::Refresh(_) | Taken::Paused { .. } | Taken::Ended(_) => {
                self.told(&envelope, &taken).await
            }
        };
        done.map_err(|error| failed(&error))
    }

    /// Stores the requests of a boundary in one transaction, so that they leave in one message.
    async fn needed(&self, event: &Envelope, needed: &ApprovalsNeeded) -> Result<(), Error> {
        let (tenant, instance) = (&event.tenant, &event.instance);
        let boundary = BoundaryId::trusted(needed.boundary_id.clone());
        let keys: BTreeSet<ArtifactKey> =
            needed.needs.iter().flat_map(|need| &need.artifact_keys).map(ArtifactKey::trusted).collect();
        let current = self.peers.current_versions(tenant, instance, &keys).await?;
        let requests = plan::requests(instance, needed, &current);
        let asked: Vec<Asked> = requests.iter().map(asked).collect();
        let mut learned = None;
        for _ in 0..super::ATTEMPTS {
            let known = self.store.needed_load(tenant, instance, &asked).await?;
            let people = match &learned {
                Some(people) => people,
                None => learned.insert(self.people_needed(event, &requests, &known).await?),
            };
            let (state, found) = (known.state, known.requests.into_iter().map(Found::from));
            let all: Vec<_> = requests.iter().cloned().zip(found).collect();
            let mut commit = plan::needed(event, &boundary, &all, people, state, self.now())?;
            commit.people.retain(|(id, person)| known.people.get(id) != Some(person));
            match self.commit(commit).await {
                Ok(()) | Err(store::Error::Taken) => return Ok(()),
                Err(store::Error::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    /// Names of those who are asked. A name and an address never change: only who is not known here is asked about.
    async fn people_needed(
        &self,
        event: &Envelope,
        requests: &[Request],
        known: &Known,
    ) -> Result<BTreeMap<ParticipantId, Person>, Error> {
        let is_known = |id: &ParticipantId| known.people.contains_key(id);
        let named =
            |request: &Request| request.approvers.iter().chain(&request.timing.escalate_to).all(is_known);
        if requests.iter().all(named) {
            return Ok(known.people.clone());
        }
        self.people_asked(&event.tenant, &event.instance, requests).await
    }

    /// Gives what an event says to the requests that wait.
    async fn told(&self, event: &Envelope, taken: &Taken) -> Result<(), Error> {
        let mut wanted = event.wanted(taken.instance_change());
        let (ids, reason) = taken.called_off();
        let ids: BTreeSet<ApprovalId> = ids.into_iter().map(ApprovalId::trusted).collect();
        let arrived = self.store.approval_arrived(&event.tenant, &ids).await?;
        wanted.moot = ids.difference(&arrived).map(|id| (id.clone(), reason.clone())).collect();
        self.execute_pending(&wanted, |record| taken.command(record)).await
    }
}

impl Envelope {
    /// Reads it; an event that is not whole can never be taken.
    pub fn read(event: &Message) -> Result<Self, HandleError> {
        let wrong = |what: &str| HandleError::Poison(format!("event {} has no {what}", event.event_id));
        let system = || message::bare_actor(&Actor::system("instance"));
        Ok(Self {
            tenant: TenantId::parse(&event.tenant_id).map_err(|_| wrong("tenant"))?,
            instance: InstanceId::parse(&event.instance_id).map_err(|_| wrong("instance"))?,
            actor: event.actor.clone().unwrap_or_else(system),
            occurred_at: event
                .occurred_at
                .as_ref()
                .and_then(Timestamp::from_proto)
                .ok_or_else(|| wrong("time"))?,
            receipt: Receipt { consumer: CONSUMER, event_id: event.event_id.clone() },
        })
    }

    /// What it wants of the requests that wait.
    pub fn wanted(&self, instance_change: Option<InstanceChange>) -> Wanted<'_> {
        Wanted {
            tenant: self.tenant.clone(),
            instance: self.instance.clone(),
            actor: &self.actor,
            receipt: self.receipt.clone(),
            instance_change,
            moot: Vec::new(),
        }
    }
}

/// A request that the engine needs, as it is looked up.
fn asked(request: &Request) -> Asked {
    Asked { approval: request.id.clone(), before: super::request::round_before(request) }
}

impl From<KnownRequest> for Found {
    fn from(known: KnownRequest) -> Self {
        let KnownRequest { first, is_moot, before } = known;
        Self { first, is_moot, before }
    }
}

/// How long a request may take, as messages say it: zero means none.
pub(super) fn timing(message: Option<&TimingMessage>) -> Timing {
    let Some(message) = message else { return Timing::default() };
    let duration = |millis: i64| {
        let millis = u64::try_from(millis).ok().filter(|millis| *millis > 0);
        millis.map(Duration::from_millis)
    };
    let person = |id: &String| ParticipantId::parse(id).ok();
    Timing {
        timeout: duration(message.timeout_ms),
        escalate_after: duration(message.escalate_after_ms),
        escalate_to: message.escalate_to.iter().filter_map(person).collect(),
        reminders: message.reminders_ms.iter().copied().filter_map(duration).collect(),
        on_timeout: match message.on_timeout() {
            TimeoutAction::Escalate | TimeoutAction::Unspecified => OnTimeout::Escalate,
            TimeoutAction::Reject => OnTimeout::Reject,
            TimeoutAction::Block => OnTimeout::Block,
        },
    }
}

/// The engine asks on its own account, whoever set it in motion: who approved the phase before may approve this one.
pub(super) fn request_of(
    instance: &InstanceId,
    needed: &ApprovalsNeeded,
    need: &Need,
    current: &BTreeMap<ArtifactKey, CurrentArtifact>,
) -> Request {
    let kind = match need.subject_kind() {
        SubjectKindMessage::Task => SubjectKind::Task,
        SubjectKindMessage::Phase => SubjectKind::Phase,
        SubjectKindMessage::Gate => SubjectKind::Gate,
        SubjectKindMessage::AdHoc | SubjectKindMessage::Unspecified => SubjectKind::AdHoc,
    };
    let keys: Vec<ArtifactKey> = need.artifact_keys.iter().map(ArtifactKey::trusted).collect();
    Request {
        id: ApprovalId::trusted(need.approval_id.clone()),
        instance: instance.clone(),
        process: needed.process_id.clone(),
        subject: Subject { kind, id: need.subject_id.clone() },
        task: TaskId::parse(&need.task_id).ok(),
        phase: PhaseId::parse(&need.phase_id).ok(),
        gate: GateId::parse(&need.gate_id).ok(),
        round: u32::try_from(need.round).unwrap_or(1).max(1),
        key: None,
        boundary: BoundaryId::trusted(needed.boundary_id.clone()),
        title: need.title.clone(),
        description: need.description.clone(),
        artifacts: bind(&keys, current),
        approvers: need.approver_ids.iter().map(ParticipantId::trusted).collect(),
        produced_by: need.produced_by.clone(),
        requested_by: Actor::system("instance"),
        timing: timing(need.timing.as_ref()),
        supersedes: None,
    }
}

/// What passes is tried again for as long as it takes; what cannot be taken is set aside.
fn failed(error: &Error) -> HandleError {
    let text = chain(error);
    match error {
        Error::Store(store) if store.is_transient() => HandleError::Transient(text),
        Error::Peer(relayed) if relayed.refusal().is_none() => HandleError::Transient(text),
        Error::PersonUnknown(_) | Error::Busy => HandleError::Transient(text),
        Error::Store(_)
        | Error::Peer(_)
        | Error::Rejected { .. }
        | Error::NotFound(_)
        | Error::InstanceNotFound(_)
        | Error::InstanceTerminal { .. }
        | Error::TaskClosed { .. }
        | Error::ContentRejected(_)
        | Error::PermissionMissing(_)
        | Error::Forbidden(_)
        | Error::RoleForbidden(_)
        | Error::Invalid(_)
        | Error::RequestIdReused(_)
        | Error::LeaseStale => HandleError::Poison(text),
    }
}
