//! An agent or an operator asks for a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_id::{
    ApprovalId, ArtifactKey, BoundaryId, InstanceId, ParticipantId, PhaseId, TaskId, TenantId,
};
use phasegate_proto::actor::v1::{Actor as ActorMessage, ActorKind as ActorKindMessage};
use phasegate_proto::instance::v1::{InstanceStatus, TaskStatus};
use phasegate_proto::internal::instance::v1::DescribeInstanceResponse;
use phasegate_proto::internal::instance::v1::describe_instance_response::TaskDescription;
use phasegate_rpc_error::Invalid;

use super::{App, Call, Caller, Done, Error, inbox, tell};
use crate::domain::{
    APPROVERS_MAX, Actor, ActorKind, Approval, CurrentArtifact, InstanceCondition, Outcome, Request,
    ReviewedArtifact, Subject, SubjectKind, Timing, content, fold, request as put, substance,
};
use crate::store::{self, Commit, InstanceState, Key, Person, Record};

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

/// The RAID role that decides.
const APPROVER: &str = "approver";
/// Instance grants no other lease for 5 s after it confirmed one; the rest is for the commit.
const LEASE_CONFIRMED: Duration = Duration::from_secs(3);

/// What is known once everybody was asked.
struct Prepared {
    request: Request,
    people: BTreeMap<ParticipantId, Person>,
    actor: ActorMessage,
    lease_confirmed: Option<tokio::time::Instant>,
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
        check_running(&instance, described)?;
        let task = check_task(&ask, described)?;
        let approvers = check_approvers(&ask, described)?;
        let current = self.peers.current_versions(tenant, &instance, &ask.artifacts).await?;
        let artifacts = pin(&ask.artifacts, &current)?;
        let mut timing =
            inbox::timing(task.map_or(described.default_timing.as_ref(), |task| task.timing.as_ref()));
        if let Some(timeout) = ask.timeout {
            timing = timing.with_timeout(timeout);
        }
        let people = self.people_asked(tenant, &instance, &approvers, &timing).await?;
        // Last, because a confirmation holds for a short time only.
        let lease = match &ask.task_token {
            Some(token) => Some(self.peers.confirm_lease(tenant, &instance, token).await?),
            None => None,
        };
        let lease_confirmed = lease.is_some().then(tokio::time::Instant::now);
        let agent = lease.map(|lease| lease.agent_id);
        let (requested_by, actor) = who_asks(caller, agent.as_deref());
        let mut produced_by: BTreeSet<String> = agent.into_iter().collect();
        produced_by.extend(task.map(|task| task.assignee.clone()).filter(|assignee| !assignee.is_empty()));
        let phase = task.map_or(described.current_phase.as_str(), |task| task.phase_id.as_str());
        let is_rounds = task.is_some_and(|task| covers(&approvers, &task.required_approvals));
        let round = task.map_or(1, |task| u32::try_from(task.round).unwrap_or(1).max(1));
        let subject = subject(&ask, is_rounds);
        let request = Request {
            id: match (is_rounds, &ask.task) {
                (true, Some(task)) => {
                    ApprovalId::derive(&instance, SubjectKind::Task.as_str(), task.as_str(), round)
                }
                (true | false, _) => ApprovalId::generate(),
            },
            instance,
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
            produced_by: produced_by.into_iter().collect(),
            requested_by,
            timing,
            supersedes: None,
        };
        check_own_work(&request)?;
        Ok(Prepared { request, people, actor, lease_confirmed })
    }

    /// Names of those who are asked, and of those who may be added.
    pub(super) async fn people_asked(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
        approvers: &[ParticipantId],
        timing: &Timing,
    ) -> Result<BTreeMap<ParticipantId, Person>, Error> {
        let wanted: BTreeSet<&ParticipantId> = approvers.iter().chain(&timing.escalate_to).collect();
        let people = self.peers.people(tenant, instance, wanted).await?;
        match approvers.iter().find(|one| !people.contains_key(*one)) {
            Some(unknown) => Err(Error::PersonUnknown(unknown.to_string())),
            None => Ok(people),
        }
    }

    /// Stores the request unless the same is asked, or was rejected; again when something else was asked meanwhile.
    async fn open(&self, tenant: &TenantId, prepared: Prepared, call: Option<&Call>) -> Result<Done, Error> {
        let Prepared { mut request, people, actor, lease_confirmed } = prepared;
        for _ in 0..super::ATTEMPTS {
            let now = self.now();
            let instance = request.instance.clone();
            let state = self.store.instance_load(tenant, &instance).await?;
            let state = state.unwrap_or(InstanceState::UNHEARD);
            if state.condition == InstanceCondition::Ended {
                return Err(Error::InstanceTerminal { instance, status: "ended" });
            }
            let found = self.find_asked(tenant, &mut request).await?;
            let repeated = found.is_some();
            let mut commit = Commit::new(tenant.clone(), instance, now);
            let record = if let Some(record) = found {
                record
            } else {
                self.follow_round(tenant, &mut request).await?;
                let record = first_record(tenant, &request, &people, state, now)?;
                let events = put(request.clone(), now)
                    .map_err(|rejection| Error::Rejected { approval: request.id.clone(), rejection })?;
                commit.at_revision = Some(state.revision);
                commit.people = people.clone().into_iter().collect();
                tell::add(&mut commit, &actor, &request.boundary, 0, &record, events);
                record
            };
            commit.repeat = call.map(|call| call.answer(&record));
            if lease_confirmed.is_some_and(|at| at.elapsed() > LEASE_CONFIRMED) {
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
    async fn find_asked(&self, tenant: &TenantId, request: &mut Request) -> Result<Option<Record>, Error> {
        let key = Key { tenant: tenant.clone(), approval: request.id.clone() };
        if request.subject.kind == SubjectKind::Task
            && let Some(first) = self.store.approval_load(tenant, &key.approval).await?
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
                    let id = request.key.clone().unwrap_or_default();
                    request.subject = Subject { kind: SubjectKind::AdHoc, id };
                }
            }
        }
        let rejected =
            self.store.approval_find_rejected(tenant, &request.instance, &substance(request)).await?;
        if let Some(rejected) = rejected {
            return Err(Error::ContentRejected(rejected));
        }
        let pending = self.store.approval_list_pending(tenant, &request.instance).await?;
        let digest = content(request);
        let is_twin = |record: &Record| {
            let asked = &record.approval.request;
            asked.subject.kind == request.subject.kind
                && (&asked.task, &asked.key) == (&request.task, &request.key)
                && record.approval.digest == digest
        };
        Ok(pending.into_iter().find(is_twin))
    }

    /// Names the request of the round before, and shows which versions were reviewed then.
    pub(super) async fn follow_round(&self, tenant: &TenantId, request: &mut Request) -> Result<(), Error> {
        if request.subject.kind == SubjectKind::AdHoc || request.round < 2 {
            return Ok(());
        }
        let (kind, id) = (request.subject.kind.as_str(), request.subject.id.as_str());
        let before = ApprovalId::derive(&request.instance, kind, id, request.round - 1);
        let Some(before) = self.store.approval_load(tenant, &before).await? else { return Ok(()) };
        for artifact in &mut request.artifacts {
            let reviewed = before.approval.request.artifacts.iter().find(|one| one.key == artifact.key);
            artifact.previous_version = reviewed.map_or(0, |one| one.version);
        }
        request.supersedes = Some(before.approval.request.id);
        Ok(())
    }
}

/// A request as it is right after it was put to people.
pub(super) fn first_record(
    tenant: &TenantId,
    request: &Request,
    people: &BTreeMap<ParticipantId, Person>,
    state: InstanceState,
    now: phasegate_clock::Timestamp,
) -> Result<Record, Error> {
    let rejected = |rejection| Error::Rejected { approval: request.id.clone(), rejection };
    let events = put(request.clone(), now).map_err(rejected)?;
    let approval = fold(&events).unwrap_or_else(|| Approval::asked(request.clone(), now));
    Ok(Record {
        tenant: tenant.clone(),
        version: i64::try_from(events.len()).unwrap_or(i64::MAX),
        approval,
        people: people.clone(),
        instance: state.condition,
        revision: state.revision,
    })
}

fn check_running(instance: &InstanceId, described: &DescribeInstanceResponse) -> Result<(), Error> {
    let status = match described.status() {
        InstanceStatus::Completed => "completed",
        InstanceStatus::Cancelled => "cancelled",
        InstanceStatus::Failed => "failed",
        InstanceStatus::Running | InstanceStatus::Paused | InstanceStatus::Unspecified => return Ok(()),
    };
    Err(Error::InstanceTerminal { instance: instance.clone(), status })
}

fn check_task<'d>(
    ask: &Ask,
    described: &'d DescribeInstanceResponse,
) -> Result<Option<&'d TaskDescription>, Error> {
    if ask.task.is_none() {
        return Ok(None);
    }
    let Some(task) = &described.task else {
        return Err(Invalid::new("TASK_UNKNOWN", "task_id", "names no task of the instance").into());
    };
    let status = match task.status() {
        TaskStatus::Completed => "completed",
        TaskStatus::Skipped => "skipped",
        TaskStatus::Failed => "failed",
        TaskStatus::Cancelled => "cancelled",
        TaskStatus::Pending
        | TaskStatus::Ready
        | TaskStatus::Running
        | TaskStatus::AwaitingApproval
        | TaskStatus::Blocked
        | TaskStatus::Escalated
        | TaskStatus::Unspecified => return Ok(Some(task)),
    };
    Err(Error::TaskClosed { status })
}

/// Those who are named, or everybody who lists the key: people of the definition whose role is to decide.
fn check_approvers(ask: &Ask, described: &DescribeInstanceResponse) -> Result<Vec<ParticipantId>, Error> {
    let wrong = |field: String, message: &str| Error::from(Invalid::new("APPROVER_INVALID", field, message));
    let may_approve =
        |id: &str| described.humans.iter().any(|human| human.id == id && human.raid_role == APPROVER);
    if ask.approvers.is_empty() {
        let lists = |key: &String| {
            let listing = described.humans.iter().filter(|human| human.required_approvals.contains(key));
            let listing = listing.filter(|human| human.raid_role == APPROVER);
            listing.filter_map(|human| ParticipantId::parse(&human.id).ok()).collect::<Vec<_>>()
        };
        let listed = ask.key.as_ref().map(lists).unwrap_or_default();
        return match listed.len() {
            0 => Err(wrong(
                "approver_ids".to_owned(),
                "must name an approver, or the key must be one that a person of the definition lists",
            )),
            1..=APPROVERS_MAX => Ok(listed),
            _ => Err(wrong("key".to_owned(), "is listed by more than 20 people")),
        };
    }
    for (index, approver) in ask.approvers.iter().enumerate() {
        let field = || format!("approver_ids[{index}]");
        if ask.approvers[..index].contains(approver) {
            return Err(wrong(field(), "is named twice"));
        }
        if !may_approve(approver.as_str()) {
            return Err(wrong(field(), "must be a person of the definition whose role is approver"));
        }
    }
    Ok(ask.approvers.clone())
}

/// Nobody is asked about the own work.
fn check_own_work(request: &Request) -> Result<(), Error> {
    match request.approvers.iter().position(|one| request.is_own_work_of(one)) {
        None => Ok(()),
        Some(index) => {
            let message = "asked for this or does the work that it is about";
            Err(Invalid::new("APPROVER_INVALID", format!("approver_ids[{index}]"), message).into())
        }
    }
}

fn pin(
    keys: &[ArtifactKey],
    current: &BTreeMap<ArtifactKey, CurrentArtifact>,
) -> Result<Vec<ReviewedArtifact>, Error> {
    let bound = bind(keys, current);
    match keys.iter().position(|key| !current.contains_key(key)) {
        None => Ok(bound),
        Some(index) => {
            let message = "names no artifact of the instance";
            Err(Invalid::new("ARTIFACT_UNKNOWN", format!("artifacts[{index}]"), message).into())
        }
    }
}

/// The newest version of each key that exists, once.
pub(super) fn bind(
    keys: &[ArtifactKey],
    current: &BTreeMap<ArtifactKey, CurrentArtifact>,
) -> Vec<ReviewedArtifact> {
    let mut seen = BTreeSet::new();
    let distinct = keys.iter().filter(|key| seen.insert(*key));
    let found = distinct.filter_map(|key| Some((key, current.get(key)?)));
    let bound = found.map(|(key, newest)| ReviewedArtifact {
        key: key.clone(),
        version: newest.version,
        digest: newest.digest.clone(),
        previous_version: 0,
    });
    bound.collect()
}

fn subject(ask: &Ask, is_rounds: bool) -> Subject {
    match (is_rounds, &ask.task) {
        (true, Some(task)) => Subject { kind: SubjectKind::Task, id: task.to_string() },
        (true | false, _) => Subject { kind: SubjectKind::AdHoc, id: ask.key.clone().unwrap_or_default() },
    }
}

/// Whether a request is the one that a task needs: it has to be approved, and all who have to are asked.
fn covers(approvers: &[ParticipantId], required: &[String]) -> bool {
    let asked = |id: &String| approvers.iter().any(|one| one.as_str() == id);
    !required.is_empty() && required.iter().all(asked)
}

/// An agent under its lease asks in its own name, through whoever called.
fn who_asks(caller: &Caller, agent: Option<&str>) -> (Actor, ActorMessage) {
    let (mut actor, mut message) = (caller.actor(), caller.message());
    if let Some(agent) = agent {
        actor.kind = ActorKind::Agent;
        agent.clone_into(&mut actor.id);
        message.set_kind(ActorKindMessage::Agent);
        agent.clone_into(&mut message.id);
        message.name.clear();
    }
    (actor, message)
}
