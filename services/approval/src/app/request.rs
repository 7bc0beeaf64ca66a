//! An agent or an operator asks for a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{
    ApprovalId, ArtifactKey, BoundaryId, InstanceId, ParticipantId, PhaseId, TaskId, TenantId,
};
use phasegate_proto::actor::v1::{Actor as ActorMessage, ActorKind as ActorKindMessage};
use phasegate_proto::internal::instance::v1::DescribeInstanceResponse;
use phasegate_proto::internal::instance::v1::describe_instance_response::TaskDescription;

use super::{App, Call, Caller, Done, Error, check, inbox, plan, tell};
use crate::domain::{
    ActorKind, Approval, Event, InstanceCondition, Outcome, Request, ReviewedArtifact, Subject, SubjectKind,
    content, request as put, substance,
};
use crate::store::{self, Commit, InstanceState, Person, Record};

/// What somebody asks.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Instance, as the caller names it.
    pub instance: String,
    /// Task that it is about.
    pub task: Option<TaskId>,
    /// Who answers; nobody for everybody who lists `key`.
    pub approvers: Vec<ParticipantId>,
    /// One line.
    pub title: String,
    /// What the approvers should know.
    pub description: String,
    /// Artifacts under review.
    pub artifacts: Vec<ArtifactKey>,
    /// How long it may take; nothing for what the definition says.
    pub timeout: Option<Duration>,
    /// Approval key.
    pub key: Option<String>,
    /// An agent's lease.
    pub task_token: Option<String>,
}

/// Instance grants no other lease for 5 s after it confirmed one; the rest is for the commit.
const LEASE_CONFIRMED: Duration = Duration::from_secs(3);

/// What is known once everybody was asked.
struct Prepared {
    request: Request,
    people: BTreeMap<ParticipantId, Person>,
    actor: ActorMessage,
    lease: Option<Confirmed>,
}

/// A lease that instance has confirmed.
struct Confirmed {
    at: tokio::time::Instant,
    task: String,
    hold: String,
}

impl App {
    /// Asks people for a decision, or finds that they are asked already.
    pub async fn request(&self, caller: &Caller, ask: Ask, call: Option<&Call>) -> Result<Done, Error> {
        let done = self.request_once(caller, ask, call).await;
        self.unless_repeated(call, done).await
    }

    async fn request_once(&self, caller: &Caller, ask: Ask, call: Option<&Call>) -> Result<Done, Error> {
        let missing = || Error::InstanceNotFound(ask.instance.clone());
        let instance = InstanceId::parse(&ask.instance).map_err(|_| missing())?;
        if !caller.sees_instance(&ask.instance) {
            return Err(missing());
        }
        let tenant = caller.tenant();
        let described = self.peers.describe(&tenant, &ask.instance, ask.task.as_ref()).await?;
        if caller.person().is_some() {
            return Err(Error::RoleForbidden("participant"));
        }
        caller.needs_lease(ask.task_token.as_deref().unwrap_or_default())?;
        if let Some(done) = self.answered_before(call).await? {
            return Ok(done);
        }
        let prepared = self.prepare_request(caller, &tenant, instance, ask, &described).await?;
        self.open(&tenant, prepared, call).await
    }

    /// Asks the others, and checks everything that does not depend on what else is asked of the instance.
    async fn prepare_request(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        instance: InstanceId,
        ask: Ask,
        described: &DescribeInstanceResponse,
    ) -> Result<Prepared, Error> {
        check::running(&instance, described)?;
        let task = check::task(&ask, described)?;
        let approvers = check::approvers(&ask, described)?;
        let current = self.peers.current_versions(tenant, &instance, &ask.artifacts).await?;
        let artifacts = check::artifacts(&ask.artifacts, &current)?;
        let token = ask.task_token.clone();
        let mut request = request_of(caller, instance, ask, approvers, artifacts, task, described);
        let people = self.people_asked(tenant, &request.instance, std::slice::from_ref(&request)).await?;
        let mut actor = caller.message();
        let mut confirmed = None;
        // Last, because a confirmation holds for a short time only.
        if let Some(token) = token {
            let lease = self.peers.confirm_lease(caller, &request.instance, &token).await?;
            let at = tokio::time::Instant::now();
            check::own_task(&request, &lease.task_id)?;
            confirmed = Some(Confirmed { at, task: lease.task_id, hold: lease.hold_id });
            asked_by_agent(&mut request, &mut actor, lease.agent_id);
        }
        check::own_work(&request)?;
        Ok(Prepared { request, people, actor, lease: confirmed })
    }

    /// Names of those who are asked, and of those who may be added.
    pub(super) async fn people_asked(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
        requests: &[Request],
    ) -> Result<BTreeMap<ParticipantId, Person>, Error> {
        let approvers: BTreeSet<_> = requests.iter().flat_map(|request| &request.approvers).collect();
        let targets = requests.iter().flat_map(|request| &request.timing.escalate_to);
        let wanted: BTreeSet<_> = approvers.iter().copied().chain(targets).collect();
        let people = self.peers.people(tenant, instance, wanted).await?;
        match approvers.into_iter().find(|one| !people.contains_key(*one)) {
            Some(unknown) => Err(Error::PersonUnknown(unknown.to_string())),
            None => Ok(people),
        }
    }

    /// Stores the request unless the same is asked, or was rejected; again when something else was asked meanwhile.
    async fn open(&self, tenant: &TenantId, prepared: Prepared, call: Option<&Call>) -> Result<Done, Error> {
        let Prepared { mut request, people, actor, lease } = prepared;
        for _ in 0..super::ATTEMPTS {
            let now = self.now();
            let instance = request.instance.clone();
            let (state, pending) = self.store.pending_load(tenant, &instance).await?;
            if state.condition == InstanceCondition::Ended {
                return Err(Error::InstanceTerminal { instance, status: "ended" });
            }
            let found = self.find_asked(tenant, &mut request, pending).await?;
            let repeated = found.is_some();
            let (record, mut commit) = if let Some(record) = found {
                (record, Commit::new(tenant.clone(), instance, now))
            } else {
                let before = match round_before(&request) {
                    Some(before) => self.store.approval_load(tenant, &before).await?,
                    None => None,
                };
                let (record, mut commit) =
                    plan::open(tenant, &request, before.as_ref(), &people, state, &actor, now)?;
                if let Some(lease) = &lease {
                    tell::under_lease(&mut commit, &lease.task, &lease.hold);
                }
                (record, commit)
            };
            commit.repeat = call.map(|call| call.answer(&record));
            if lease.as_ref().is_some_and(|lease| lease.at.elapsed() > LEASE_CONFIRMED) {
                return Err(Error::LeaseStale);
            }
            if repeated && commit.repeat.is_none() {
                return Ok(Done::Now { record: Box::new(record), repeated });
            }
            match self.commit(commit).await {
                Ok(()) => return Ok(Done::Now { record: Box::new(record), repeated }),
                Err(store::Error::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    /// The request that asks the same already. Refuses what was rejected and has not changed since.
    ///
    /// The round's request of a task that ended without an approval makes room for an ad-hoc one, because its id is
    /// taken: what it asks must have changed.
    async fn find_asked(
        &self,
        tenant: &TenantId,
        request: &mut Request,
        pending: Vec<Record>,
    ) -> Result<Option<Record>, Error> {
        if request.subject.kind == SubjectKind::Task
            && let Some(first) = self.store.approval_load(tenant, &request.id).await?
        {
            match first.approval.settlement().map(|end| end.outcome) {
                None | Some(Outcome::Approved) => return Ok(Some(first)),
                Some(
                    Outcome::Rejected
                    | Outcome::ChangesRequested
                    | Outcome::Expired
                    | Outcome::Withdrawn
                    | Outcome::Superseded,
                ) => {
                    request.id = ApprovalId::generate();
                    request.subject = ad_hoc(request.key.as_deref());
                }
            }
        }
        let rejected =
            self.store.approval_find_rejected(tenant, &request.instance, &substance(request)).await?;
        if let Some(rejected) = rejected {
            return Err(Error::ContentRejected(rejected));
        }
        let digest = content(request);
        let is_twin = |record: &Record| {
            let asked = &record.approval.request;
            asked.subject.kind == request.subject.kind
                && (&asked.task, &asked.key) == (&request.task, &request.key)
                && record.approval.digest == digest
        };
        Ok(pending.into_iter().find(is_twin))
    }
}

/// The request of the round before, where there may be one.
pub(super) fn round_before(request: &Request) -> Option<ApprovalId> {
    if request.subject.kind == SubjectKind::AdHoc || request.round < 2 {
        return None;
    }
    let (kind, id) = (request.subject.kind.as_str(), request.subject.id.as_str());
    Some(ApprovalId::derive(&request.instance, kind, id, request.round - 1))
}

/// Names the request of the round before, and shows which versions were reviewed then.
pub(super) fn follow(request: &mut Request, before: Option<&Record>) {
    let Some(before) = before else { return };
    for artifact in &mut request.artifacts {
        let reviewed = before.approval.request.artifacts.iter().find(|one| one.key == artifact.key);
        artifact.previous_version = reviewed.map_or(0, |one| one.version);
    }
    request.supersedes = Some(before.approval.request.id.clone());
}

/// The events that put a request to people, and what it is right after them.
pub(super) fn opened(
    tenant: &TenantId,
    request: Request,
    people: &BTreeMap<ParticipantId, Person>,
    state: InstanceState,
    now: Timestamp,
) -> Result<(Record, Vec<Event>), Error> {
    let approval = request.id.clone();
    let events = put(request.clone(), now).map_err(|rejection| Error::Rejected { approval, rejection })?;
    let record = Record {
        tenant: tenant.clone(),
        version: 0,
        approval: Approval::asked(request, now),
        people: people.clone(),
        instance: state.condition,
        revision: state.revision,
    };
    Ok((record.after(&events), events))
}

/// The request that an operator's or an agent's wish amounts to, before it is known which agent asks.
fn request_of(
    caller: &Caller,
    instance: InstanceId,
    ask: Ask,
    approvers: Vec<ParticipantId>,
    artifacts: Vec<ReviewedArtifact>,
    task: Option<&TaskDescription>,
    described: &DescribeInstanceResponse,
) -> Request {
    let says = task.map_or(described.default_timing.as_ref(), |task| task.timing.as_ref());
    let timing = inbox::timing(says);
    let phase = task.map_or(described.current_phase.as_str(), |task| task.phase_id.as_str());
    let round = task.map_or(1, |task| u32::try_from(task.round).unwrap_or(1).max(1));
    let of_round = task.filter(|task| check::is_for_round(task, &approvers));
    let (id, subject) = match of_round {
        Some(task) => {
            let kind = SubjectKind::Task;
            let id = ApprovalId::derive(&instance, kind.as_str(), &task.id, round);
            (id, Subject { kind, id: task.id.clone() })
        }
        None => (ApprovalId::generate(), ad_hoc(ask.key.as_deref())),
    };
    Request {
        id,
        instance,
        process: described.process_id.clone(),
        subject,
        task: ask.task,
        phase: PhaseId::parse(phase).ok(),
        gate: None,
        round,
        key: ask.key,
        boundary: BoundaryId::generate(),
        title: ask.title,
        description: ask.description,
        artifacts,
        approvers,
        produced_by: task.map(|task| task.assignee.clone()).filter(|id| !id.is_empty()).into_iter().collect(),
        requested_by: caller.actor(),
        timing: match ask.timeout {
            Some(timeout) => timing.with_timeout(timeout),
            None => timing,
        },
        supersedes: None,
    }
}

/// An agent under its lease asks in its own name, through whoever called, about its own work.
fn asked_by_agent(request: &mut Request, actor: &mut ActorMessage, agent: String) {
    request.requested_by.kind = ActorKind::Agent;
    request.requested_by.id.clone_from(&agent);
    actor.set_kind(ActorKindMessage::Agent);
    actor.id.clone_from(&agent);
    actor.name.clear();
    if !request.produced_by.contains(&agent) {
        request.produced_by.push(agent);
    }
}

fn ad_hoc(key: Option<&str>) -> Subject {
    Subject { kind: SubjectKind::AdHoc, id: key.unwrap_or_default().to_owned() }
}
