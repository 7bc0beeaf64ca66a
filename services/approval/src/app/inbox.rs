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
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{
    ApprovalsMoot, ApprovalsNeeded, ArtifactStored, Event as Message, InstanceEnded, Timing as TimingMessage,
    approvals_needed::Need,
};

use super::check::bind;
use super::elapse::chain;
use super::request::opened;
use super::{App, Error, Wanted, message, tell};
use crate::domain::{
    Actor, Command, CurrentArtifact, InstanceCondition, OnTimeout, Request, Subject, SubjectKind, Timing,
    decide,
};
use crate::store::{self, Commit, InstanceChange, InstanceState, Key, Person, Receipt, Record};

/// The name under which this service takes events.
pub const CONSUMER: &str = "approval";

/// Takes events for this service.
#[derive(Debug, Clone)]
pub struct Inbox {
    app: App,
}

/// An event with what every event has, read.
struct Envelope {
    tenant: TenantId,
    instance: InstanceId,
    actor: ActorMessage,
    occurred_at: Timestamp,
    receipt: Receipt,
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
        let Some(payload) = &event.payload else { return Ok(()) };
        let envelope = || Envelope::read(event);
        let taken = match payload {
            Payload::ApprovalsNeeded(needed) => self.needed(&envelope()?, needed).await,
            Payload::ApprovalsMoot(moot) => self.moot(&envelope()?, moot).await,
            Payload::ArtifactStored(stored) => self.stored(&envelope()?, stored).await,
            Payload::InstancePaused(_) => self.paused(&envelope()?, true).await,
            Payload::InstanceResumed(_) => self.paused(&envelope()?, false).await,
            Payload::InstanceEnded(ended) => self.ended(&envelope()?, ended).await,
            Payload::InstanceStarted(_)
            | Payload::PhaseChanged(_)
            | Payload::TaskEscalated(_)
            | Payload::ApprovalsRequested(_)
            | Payload::ApprovalResponded(_)
            | Payload::ApprovalSettled(_)
            | Payload::ApprovalReminded(_)
            | Payload::ApprovalEscalated(_)
            | Payload::CommentCreated(_)
            | Payload::LinkCreated(_)
            | Payload::LinkRevoked(_)
            | Payload::LinkOpened(_)
            | Payload::FreshLinkAsked(_)
            | Payload::NotificationSettled(_) => return Ok(()),
        };
        taken.map_err(|error| failed(&error))
    }

    /// Stores the requests of a boundary in one transaction, so that they leave in one message.
    async fn needed(&self, event: &Envelope, needed: &ApprovalsNeeded) -> Result<(), Error> {
        let (tenant, instance) = (&event.tenant, &event.instance);
        let boundary = BoundaryId::trusted(needed.boundary_id.clone());
        let keys: BTreeSet<ArtifactKey> =
            needed.needs.iter().flat_map(|need| &need.artifact_keys).map(ArtifactKey::trusted).collect();
        let current = self.peers.current_versions(tenant, instance, &keys).await?;
        let requests: Vec<Request> =
            needed.needs.iter().map(|need| request_of(instance, &boundary, need, &current)).collect();
        let people = self.people_asked(tenant, instance, &requests).await?;
        for _ in 0..super::ATTEMPTS {
            let commit = self.needed_commit(event, &boundary, &requests, &people).await?;
            match self.commit(commit).await {
                Ok(()) | Err(store::Error::Taken) => return Ok(()),
                Err(store::Error::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    async fn needed_commit(
        &self,
        event: &Envelope,
        boundary: &BoundaryId,
        requests: &[Request],
        people: &BTreeMap<ParticipantId, Person>,
    ) -> Result<Commit, Error> {
        let (tenant, now) = (&event.tenant, self.now());
        let state = self.store.instance_load(tenant, &event.instance).await?;
        let state = state.unwrap_or(InstanceState::UNHEARD);
        let mut commit = Commit::new(tenant.clone(), event.instance.clone(), now);
        commit.at_revision = Some(state.revision);
        commit.receipt = Some(event.receipt.clone());
        if state.condition == InstanceCondition::Ended {
            return Ok(commit);
        }
        for request in requests {
            let key = Key { tenant: tenant.clone(), approval: request.id.clone() };
            if let Some(first) = self.store.approval_load(tenant, &key.approval).await? {
                // Somebody asked before the engine did, and the answer may have come before the engine waited for it. Who
                // hands in has not decided anything.
                if !first.approval.is_pending() {
                    let ourselves = message::bare_actor(&Actor::system("approval"));
                    tell::settled(&mut commit, &ourselves, &first, true);
                }
            } else if !self.store.approval_is_moot(&key).await? {
                let mut request = request.clone();
                self.follow_round(tenant, &mut request).await?;
                self.replace_round(event, &mut commit, &request).await?;
                let (record, events) = opened(tenant, request, people, state, now)?;
                tell::add(&mut commit, &event.actor, boundary, 0, &record, events);
            }
        }
        if !commit.changes.is_empty() {
            commit.people = people.clone().into_iter().collect();
        }
        Ok(commit)
    }

    /// The round before ends with the next one, if people still had to answer it.
    async fn replace_round(
        &self,
        event: &Envelope,
        commit: &mut Commit,
        request: &Request,
    ) -> Result<(), Error> {
        let Some(before) = &request.supersedes else { return Ok(()) };
        let Some(record) = self.store.approval_load(&event.tenant, before).await? else { return Ok(()) };
        let by = Some(request.id.clone());
        let command = Command::Supersede { by, reason: "another round took its place".to_owned() };
        let events = decide(&record.approval, &command, commit.now)
            .map_err(|rejection| Error::Rejected { approval: before.clone(), rejection })?;
        let after = record.after(&events);
        tell::add(commit, &event.actor, &request.boundary, record.version, &after, events);
        Ok(())
    }

    async fn moot(&self, event: &Envelope, moot: &ApprovalsMoot) -> Result<(), Error> {
        let ids: BTreeSet<&str> = moot.approval_ids.iter().map(String::as_str).collect();
        let mut wanted = event.wanted();
        for id in &ids {
            let approval = ApprovalId::trusted(*id);
            if self.store.approval_load(&event.tenant, &approval).await?.is_none() {
                wanted.moot.push((approval, moot.reason.clone()));
            }
        }
        let choose = |record: &Record| {
            let is_meant = ids.is_empty() || ids.contains(record.approval.request.id.as_str());
            is_meant.then(|| Command::Supersede { by: None, reason: moot.reason.clone() })
        };
        self.execute_pending(&wanted, choose).await
    }

    async fn stored(&self, event: &Envelope, stored: &ArtifactStored) -> Result<(), Error> {
        let version = u32::try_from(stored.version).unwrap_or_default();
        let newest = CurrentArtifact { version, digest: stored.digest.clone() };
        let current = BTreeMap::from([(ArtifactKey::trusted(stored.key.clone()), newest)]);
        let refresh = |_: &Record| Some(Command::Refresh { current: current.clone() });
        self.execute_pending(&event.wanted(), refresh).await
    }

    async fn paused(&self, event: &Envelope, paused: bool) -> Result<(), Error> {
        let mut wanted = event.wanted();
        wanted.instance_change = Some(InstanceChange::Paused { paused, at: event.occurred_at });
        self.execute_pending(&wanted, |_| None).await
    }

    async fn ended(&self, event: &Envelope, ended: &InstanceEnded) -> Result<(), Error> {
        let how = match ended.status() {
            InstanceStatus::Completed => "completed",
            InstanceStatus::Cancelled => "cancelled",
            InstanceStatus::Failed => "failed",
            InstanceStatus::Running | InstanceStatus::Paused | InstanceStatus::Unspecified => "over",
        };
        let reason = match ended.reason.as_str() {
            "" => format!("the instance is {how}"),
            why => format!("the instance is {how}: {why}"),
        };
        let mut wanted = event.wanted();
        wanted.instance_change = Some(InstanceChange::Ended);
        let by = Actor::system("instance");
        let withdraw = |_: &Record| Some(Command::Withdraw { by: by.clone(), reason: reason.clone() });
        self.execute_pending(&wanted, withdraw).await
    }
}

impl Envelope {
    fn read(event: &Message) -> Result<Self, HandleError> {
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

    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            tenant: self.tenant.clone(),
            instance: self.instance.clone(),
            actor: &self.actor,
            receipt: self.receipt.clone(),
            instance_change: None,
            moot: Vec::new(),
        }
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
fn request_of(
    instance: &InstanceId,
    boundary: &BoundaryId,
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
        subject: Subject { kind, id: need.subject_id.clone() },
        task: TaskId::parse(&need.task_id).ok(),
        phase: PhaseId::parse(&need.phase_id).ok(),
        gate: GateId::parse(&need.gate_id).ok(),
        round: u32::try_from(need.round).unwrap_or(1).max(1),
        key: None,
        boundary: boundary.clone(),
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
        | Error::RoleForbidden(_)
        | Error::Invalid(_)
        | Error::RequestIdReused(_)
        | Error::LeaseStale => HandleError::Poison(text),
    }
}
