//! `InstanceService`.

use std::collections::BTreeSet;

use phasegate_id::{PhaseId, TaskId};
use phasegate_page_token::{cut, page_size};
use phasegate_principal::{Principal, Scope};
use phasegate_proto::instance::v1::instance_service_server::InstanceService;
use phasegate_proto::instance::v1::{
    AdvancePhaseRequest, AdvancePhaseResponse, CancelInstanceRequest, CancelInstanceResponse,
    GetInstanceRequest, GetInstanceResponse, GetTimelineRequest, GetTimelineResponse, InstanceStatus,
    ListInstancesRequest, ListInstancesResponse, PauseInstanceRequest, PauseInstanceResponse,
    ReopenPhaseRequest, ReopenPhaseResponse, ResumeInstanceRequest, ResumeInstanceResponse, SetFactsRequest,
    SetFactsResponse, StartInstanceRequest, StartInstanceResponse, UpdateInstanceContextRequest,
    UpdateInstanceContextResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::Api;
use super::convert::{not_a_state, once, respond, shortened};
use super::refusal::{refuse, refuse_about};
use super::view;
use crate::app::{
    ContextChange, Error, ExternalPerson, FactsWish, ListFilter, ListPosition, Outcome, StartWish,
    struct_to_json,
};
use crate::domain::{self, Action, Rejection};

/// The current phase of an instance; empty once it has ended.
fn current_phase(definition: &phasegate_process::Definition, instance: &domain::Instance) -> String {
    if instance.status.is_terminal() {
        return String::new();
    }
    let is_left = |phase: &&phasegate_process::Phase| {
        instance.phases.get(phase.id.as_str()).is_some_and(|state| !state.status.is_over())
    };
    definition.phases.iter().find(is_left).map(|phase| phase.id.clone()).unwrap_or_default()
}

fn needs(principal: &Principal, scope: Scope) -> Result<(), Status> {
    principal.needs(scope).map_err(|forbidden| phasegate_rpc_error::status(&forbidden))
}

/// Agents change an instance under the lease of a task of it; without one that is for operators.
fn needs_lease_or(principal: &Principal, task_token: &str) -> Result<(), Status> {
    if task_token.is_empty() { needs(principal, Scope::InstancesOperate) } else { Ok(()) }
}

fn advanced(outcome: &Outcome) -> AdvancePhaseResponse {
    let definition = &outcome.pinned.definition;
    AdvancePhaseResponse {
        instance: Some(view::instance(outcome)),
        previous_phase: current_phase(definition, &outcome.before),
        current_phase: current_phase(definition, &outcome.after),
        blockers: Vec::new(),
    }
}

/// A phase that a caller names. One that cannot be an id is one that the instance does not have.
fn phase_id(text: &str) -> Result<Option<PhaseId>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let not_found =
        || Error::Rejected(Rejection::PhaseNotFound(PhaseId::trusted(phasegate_id::shortened(text))));
    PhaseId::parse(text).map(Some).map_err(|_| not_found())
}

/// A task that a caller names, likewise.
pub(super) fn task_id(text: &str) -> Result<TaskId, Error> {
    let not_found =
        || Error::Rejected(Rejection::TaskNotFound(TaskId::trusted(phasegate_id::shortened(text))));
    TaskId::parse(text).map_err(|_| not_found())
}

#[async_trait]
impl InstanceService for Api {
    async fn start_instance(
        &self,
        request: Request<StartInstanceRequest>,
    ) -> Result<Response<StartInstanceResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "StartInstance", &request.request_id, &request)?;
        let people = request.external_participants.into_iter();
        let wish = StartWish {
            process_id: request.process_id,
            version: request.version,
            instance_id: request.instance_id,
            name: request.name,
            context: request.context.as_ref().map(struct_to_json).unwrap_or_default(),
            people: people
                .map(|one| ExternalPerson {
                    participant_id: one.participant_id,
                    email: one.email,
                    name: one.name,
                })
                .collect(),
            team_id: request.team_id,
            labels: request.labels.into_iter().collect(),
            validate_only: request.validate_only,
        };
        let make = |outcome: &Outcome| Ok(StartInstanceResponse { instance: Some(view::instance(outcome)) });
        Ok(respond(self.app.instance_start(&principal, wish, once, make).await.map_err(refuse)?))
    }

    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<GetInstanceResponse>, Status> {
        let principal = Principal::of(&request)?;
        let id = &request.get_ref().instance_id;
        let outcome = self.app.instance_get(principal, id).await.map_err(refuse_about(id))?;
        Ok(Response::new(GetInstanceResponse { instance: Some(view::instance(&outcome)) }))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let principal = Principal::of(&request)?;
        let wanted = request.get_ref();
        let size = page_size(wanted.page_size).map_err(|invalid| refuse(invalid.into()))?;
        let status = match wanted.status() {
            InstanceStatus::Unspecified if wanted.status != 0 => {
                let allowed = "running, paused, completed, cancelled, failed";
                return Err(refuse(not_a_state(allowed).into()));
            }
            InstanceStatus::Unspecified => None,
            InstanceStatus::Running => Some(domain::Status::Running),
            InstanceStatus::Paused => Some(domain::Status::Paused),
            InstanceStatus::Completed => Some(domain::Status::Completed),
            InstanceStatus::Cancelled => Some(domain::Status::Cancelled),
            InstanceStatus::Failed => Some(domain::Status::Failed),
        };
        let seen = principal.participation.as_ref().map_or("", |own| own.instance_id.as_str());
        let (tenant, process) = (&principal.tenant, &wanted.process_id);
        let scope = format!("ListInstances\n{tenant}\n{seen}\n{process}\n{}", wanted.status);
        let after: Option<ListPosition> =
            self.pages.decode(&scope, &wanted.page_token).map_err(|invalid| refuse(invalid.into()))?;
        let process_id = Some(wanted.process_id.clone()).filter(|id| !id.is_empty());
        let filter = ListFilter { process_id, status, only: None };
        let found =
            self.app.instance_list(principal, filter, after.as_ref(), size + 1).await.map_err(refuse)?;
        let mut instances = found.iter().map(|(outcome, _)| view::instance(outcome)).collect();
        let is_last = cut(&mut instances, size);
        let last = found.get(instances.len().saturating_sub(1)).filter(|_| !is_last);
        let next_page_token =
            last.map(|(_, position)| self.pages.encode(&scope, position)).unwrap_or_default();
        Ok(Response::new(ListInstancesResponse { instances, next_page_token }))
    }

    async fn update_instance_context(
        &self,
        request: Request<UpdateInstanceContextRequest>,
    ) -> Result<Response<UpdateInstanceContextResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        needs_lease_or(&principal, &request.task_token)?;
        let once = once(&principal, "UpdateInstanceContext", &request.request_id, &request)?;
        // A negative version was never reached.
        let expected_version = match request.expected_version {
            0 => None,
            version => Some(u64::try_from(version).unwrap_or(0)),
        };
        let change = ContextChange {
            patch: request.patch.as_ref().map(struct_to_json).unwrap_or_default(),
            expected_version,
            reason: request.reason,
        };
        let (id, token) = (&request.instance_id, &request.task_token);
        let make =
            |outcome: &Outcome| Ok(UpdateInstanceContextResponse { instance: Some(view::instance(outcome)) });
        let done = self.app.context_change(&principal, id, change, token, once, make).await;
        Ok(respond(done.map_err(refuse_about(id))?))
    }

    async fn set_facts(
        &self,
        request: Request<SetFactsRequest>,
    ) -> Result<Response<SetFactsResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        needs_lease_or(&principal, &request.task_token)?;
        let once = once(&principal, "SetFacts", &request.request_id, &request)?;
        let (id, token) = (&request.instance_id, &request.task_token);
        let facts = request.facts.clone().into_iter().collect();
        let wish = FactsWish { facts, reason: request.reason.clone() };
        let make = |outcome: &Outcome| Ok(SetFactsResponse { instance: Some(view::instance(outcome)) });
        let done = self.app.facts_set(&principal, id, wish, token, once, make).await;
        Ok(respond(done.map_err(refuse_about(id))?))
    }

    async fn advance_phase(
        &self,
        request: Request<AdvancePhaseRequest>,
    ) -> Result<Response<AdvancePhaseResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        if request.force {
            needs(&principal, Scope::InstancesForce)?;
        }
        let once = once(&principal, "AdvancePhase", &request.request_id, &request)?;
        let id = &request.instance_id;
        // What cannot be an id is not the current phase.
        let from_phase = Some(&request.from_phase).filter(|from| !from.is_empty());
        let from_phase = from_phase.map(|from| PhaseId::trusted(shortened(from, phasegate_id::LENGTH_MAX)));
        let action = Action::Advance { from_phase, force: request.force, reason: request.reason };
        if request.validate_only {
            let (outcome, blockers) =
                self.app.blockers(&principal, id, action).await.map_err(refuse_about(id))?;
            let blockers = blockers.iter().map(view::blocked).collect();
            return Ok(Response::new(AdvancePhaseResponse { blockers, ..advanced(&outcome) }));
        }
        let done = self.app.operate(&principal, id, action, once, |outcome| Ok(advanced(outcome))).await;
        Ok(respond(done.map_err(refuse_about(id))?))
    }

    async fn reopen_phase(
        &self,
        request: Request<ReopenPhaseRequest>,
    ) -> Result<Response<ReopenPhaseResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "ReopenPhase", &request.request_id, &request)?;
        let id = &request.instance_id;
        let phase = phase_id(&request.phase_id).map_err(refuse_about(id))?;
        let tasks: Result<BTreeSet<TaskId>, Error> =
            request.task_ids.iter().map(|task| task_id(task)).collect();
        let tasks = tasks.map_err(refuse_about(id))?;
        let action = Action::Reopen { phase, tasks, reason: request.reason };
        let make = |outcome: &Outcome| Ok(ReopenPhaseResponse { instance: Some(view::instance(outcome)) });
        let done = self.app.operate(&principal, id, action, once, make).await;
        Ok(respond(done.map_err(refuse_about(id))?))
    }

    async fn pause_instance(
        &self,
        request: Request<PauseInstanceRequest>,
    ) -> Result<Response<PauseInstanceResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "PauseInstance", &request.request_id, &request)?;
        let id = &request.instance_id;
        let action = Action::Pause { reason: request.reason };
        let make = |outcome: &Outcome| Ok(PauseInstanceResponse { instance: Some(view::instance(outcome)) });
        let done = self.app.operate(&principal, id, action, once, make).await;
        Ok(respond(done.map_err(refuse_about(id))?))
    }

    async fn resume_instance(
        &self,
        request: Request<ResumeInstanceRequest>,
    ) -> Result<Response<ResumeInstanceResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "ResumeInstance", &request.request_id, &request)?;
        let id = &request.instance_id;
        let action = Action::Resume { reason: request.reason };
        let make = |outcome: &Outcome| Ok(ResumeInstanceResponse { instance: Some(view::instance(outcome)) });
        let done = self.app.operate(&principal, id, action, once, make).await;
        Ok(respond(done.map_err(refuse_about(id))?))
    }

    async fn cancel_instance(
        &self,
        request: Request<CancelInstanceRequest>,
    ) -> Result<Response<CancelInstanceResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "CancelInstance", &request.request_id, &request)?;
        let id = &request.instance_id;
        let action = Action::Cancel { reason: request.reason };
        let make = |outcome: &Outcome| Ok(CancelInstanceResponse { instance: Some(view::instance(outcome)) });
        let done = self.app.operate(&principal, id, action, once, make).await;
        Ok(respond(done.map_err(refuse_about(id))?))
    }

    async fn get_timeline(
        &self,
        request: Request<GetTimelineRequest>,
    ) -> Result<Response<GetTimelineResponse>, Status> {
        let principal = Principal::of(&request)?;
        let id = &request.get_ref().instance_id;
        let outcome = self.app.instance_get(principal, id).await.map_err(refuse_about(id))?;
        Ok(Response::new(GetTimelineResponse {
            instance_id: outcome.after.id.to_string(),
            phases: view::timeline(&outcome),
            as_of: outcome.after.version.to_string(),
        }))
    }
}
