//! `InstanceInternalService`.

use phasegate_principal::Principal;
use phasegate_process::{self as process, RaidRole};
use phasegate_proto::internal::event::v1::Timing;
use phasegate_proto::internal::instance::v1::describe_instance_response::{Human, TaskDescription};
use phasegate_proto::internal::instance::v1::instance_internal_service_server::InstanceInternalService;
use phasegate_proto::internal::instance::v1::{
    ConfirmLeaseRequest, ConfirmLeaseResponse, DescribeInstanceRequest, DescribeInstanceResponse,
    GetParticipantsRequest, GetParticipantsResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::Api;
use super::convert::count;
use super::refusal::{refuse, refuse_about};
use super::view;
use crate::app::{Outcome, status_to_proto, timing};
use crate::domain;

fn human(id: &str, human: &process::Human) -> Human {
    let raid_role = match human.raid_role {
        RaidRole::Responsible => "responsible",
        RaidRole::Approver => "approver",
        RaidRole::Informed => "informed",
        RaidRole::Delegator => "delegator",
    };
    Human {
        id: id.to_owned(),
        raid_role: raid_role.to_owned(),
        required_approvals: human.required_approvals.clone(),
    }
}

fn task(outcome: &Outcome, id: &str) -> Option<TaskDescription> {
    let definition = &outcome.pinned.definition;
    let (phase, written) = view::written_tasks(definition).find(|(_, task)| task.id == id)?;
    let state = outcome.after.tasks.get(id)?;
    Some(TaskDescription {
        id: written.id.clone(),
        phase_id: phase.id.clone(),
        status: view::task_status(state.status).into(),
        round: count(state.round),
        required_approvals: written.required_approvals.clone(),
        assignee: state.assignee.clone(),
        timing: Some(limits(outcome, &written.timing)),
    })
}

/// How long a request may take, with whom it is escalated to.
fn limits(outcome: &Outcome, written: &process::Timing) -> Timing {
    timing(&domain::need_timing(&outcome.pinned.definition, written))
}

#[async_trait]
impl InstanceInternalService for Api {
    async fn describe_instance(
        &self,
        request: Request<DescribeInstanceRequest>,
    ) -> Result<Response<DescribeInstanceResponse>, Status> {
        let principal = Principal::of(&request)?;
        let wanted = request.get_ref();
        let id = &wanted.instance_id;
        if wanted.status_only {
            let status = self.app.instance_status(principal, id).await.map_err(refuse_about(id))?;
            let status = status_to_proto(status).into();
            return Ok(Response::new(DescribeInstanceResponse { status, ..Default::default() }));
        }
        let outcome = self.app.instance_bare(principal, id).await.map_err(refuse_about(id))?;
        let definition = &outcome.pinned.definition;
        let phase = domain::phase_under_way(definition, &outcome.after);
        let current_phase = phase.map(|phase| phase.to_string()).unwrap_or_default();
        let default_timing = limits(&outcome, &outcome.pinned.timing);
        Ok(Response::new(DescribeInstanceResponse {
            status: status_to_proto(outcome.after.status).into(),
            process_id: definition.id.clone(),
            process_name: definition.name.clone(),
            instance_name: outcome.after.name.clone(),
            current_phase,
            phase_ids: definition.phases.iter().map(|phase| phase.id.clone()).collect(),
            task_ids: view::written_tasks(definition).map(|(_, task)| task.id.clone()).collect(),
            task: task(&outcome, &wanted.task_id),
            humans: definition.humans.iter().map(|(id, one)| human(id, one)).collect(),
            default_timing: Some(default_timing),
        }))
    }

    async fn get_participants(
        &self,
        request: Request<GetParticipantsRequest>,
    ) -> Result<Response<GetParticipantsResponse>, Status> {
        let principal = Principal::of(&request)?;
        let id = &request.get_ref().instance_id;
        let participants = self.app.instance_participants(principal, id).await.map_err(refuse_about(id))?;
        Ok(Response::new(GetParticipantsResponse { participants }))
    }

    async fn confirm_lease(
        &self,
        request: Request<ConfirmLeaseRequest>,
    ) -> Result<Response<ConfirmLeaseResponse>, Status> {
        let principal = Principal::of(&request)?;
        let wanted = request.get_ref();
        let held = self.app.lease_confirm(principal, &wanted.task_token, &wanted.instance_id).await;
        let held = held.map_err(refuse)?;
        Ok(Response::new(ConfirmLeaseResponse {
            instance_id: held.lease.instance_id.to_string(),
            task_id: held.lease.task.to_string(),
            phase_id: held.phase.to_string(),
            agent_id: held.agent,
            hold_id: held.hold,
            fencing_token: i64::try_from(held.lease.fencing).unwrap_or(i64::MAX),
        }))
    }
}
