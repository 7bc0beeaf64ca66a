//! The peers, which say what a test wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use phasegate_proto::instance::v1::{InstanceStatus, TaskStatus};
use phasegate_proto::internal::artifact::v1 as artifact;
use phasegate_proto::internal::artifact::v1::artifact_internal_service_server as artifact_server;
use phasegate_proto::internal::instance::v1 as instance;
use phasegate_proto::internal::instance::v1::instance_internal_service_server as instance_server;
use phasegate_proto::internal::participant::v1 as participant;
use phasegate_proto::internal::participant::v1::participant_internal_service_server as participant_server;
use phasegate_proto::participant::v1::Participant;
use phasegate_rpc_error::{Kind, Refusal, status};
use phasegate_serve::Service as Name;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::world::{INSTANCE, OTHER, digest, timing};

/// What the peers say.
#[derive(Clone, Default)]
pub(crate) struct Fakes(Arc<Mutex<Says>>);

pub(crate) struct Says {
    pub(crate) instances: BTreeMap<String, InstanceStatus>,
    pub(crate) tasks: BTreeMap<String, instance::describe_instance_response::TaskDescription>,
    pub(crate) humans: Vec<(&'static str, &'static str, Vec<&'static str>)>,
    pub(crate) artifacts: BTreeMap<String, i32>,
    pub(crate) leases: BTreeMap<String, &'static str>,
    pub(crate) people_are_there: bool,
    pub(crate) instance_is_up: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct No(&'static str, Kind);

impl Default for Says {
    fn default() -> Self {
        let lists = vec!["sso_config_review"];
        let task = |id: &str, required: &[&str]| {
            let described = instance::describe_instance_response::TaskDescription {
                id: id.to_owned(),
                phase_id: "configuration".to_owned(),
                status: TaskStatus::Running.into(),
                round: 1,
                required_approvals: required.iter().map(ToString::to_string).collect(),
                assignee: "sso_agent".to_owned(),
                timing: Some(timing(48)),
            };
            (id.to_owned(), described)
        };
        Self {
            instances: BTreeMap::from([
                (INSTANCE.to_owned(), InstanceStatus::Running),
                (OTHER.to_owned(), InstanceStatus::Running),
            ]),
            tasks: BTreeMap::from([task("configure_idp", &["ada"]), task("test_login", &[])]),
            humans: vec![
                ("ada", "approver", lists.clone()),
                ("bob", "approver", lists),
                ("cy", "approver", vec![]),
                ("boss", "delegator", vec![]),
                ("ivy", "informed", vec!["sso_config_review"]),
                ("sso_agent", "responsible", vec![]),
            ],
            artifacts: BTreeMap::from([("design".to_owned(), 1), ("report".to_owned(), 1)]),
            leases: BTreeMap::from([("lease-1".to_owned(), "sso_agent")]),
            people_are_there: true,
            instance_is_up: true,
        }
    }
}

impl Fakes {
    pub(crate) fn says(&self) -> MutexGuard<'_, Says> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn routes(&self) -> [(Name, Routes); 3] {
        [
            (Name::Instance, Routes::new(instance_server::InstanceInternalServiceServer::new(self.clone()))),
            (Name::Artifact, Routes::new(artifact_server::ArtifactInternalServiceServer::new(self.clone()))),
            (
                Name::Participant,
                Routes::new(participant_server::ParticipantInternalServiceServer::new(self.clone())),
            ),
        ]
    }
}

#[tonic::async_trait]
impl instance_server::InstanceInternalService for Fakes {
    async fn describe_instance(
        &self,
        request: Request<instance::DescribeInstanceRequest>,
    ) -> Result<Response<instance::DescribeInstanceResponse>, Status> {
        let asked = request.into_inner();
        let says = self.says();
        if !says.instance_is_up {
            return Err(status(&No("STORE_UNAVAILABLE", Kind::Unavailable)));
        }
        let found = says.instances.get(&asked.instance_id);
        let status = *found.ok_or_else(|| status(&No("INSTANCE_NOT_FOUND", Kind::NotFound)))?;
        let human =
            |(id, role, lists): &(&str, &str, Vec<&str>)| instance::describe_instance_response::Human {
                id: (*id).to_owned(),
                raid_role: (*role).to_owned(),
                required_approvals: lists.iter().map(ToString::to_string).collect(),
            };
        Ok(Response::new(instance::DescribeInstanceResponse {
            status: status.into(),
            current_phase: "configuration".to_owned(),
            task: says.tasks.get(&asked.task_id).cloned(),
            humans: says.humans.iter().map(human).collect(),
            default_timing: Some(timing(72)),
            ..instance::DescribeInstanceResponse::default()
        }))
    }

    async fn get_participants(
        &self,
        _: Request<instance::GetParticipantsRequest>,
    ) -> Result<Response<instance::GetParticipantsResponse>, Status> {
        // Approval asks participant for people, never instance.
        Err(status(&No("INSTANCE_NOT_FOUND", Kind::NotFound)))
    }

    async fn confirm_lease(
        &self,
        request: Request<instance::ConfirmLeaseRequest>,
    ) -> Result<Response<instance::ConfirmLeaseResponse>, Status> {
        let asked = request.into_inner();
        let says = self.says();
        let agent = says.leases.get(&asked.task_token);
        let agent = agent.ok_or_else(|| status(&No("LEASE_LOST", Kind::Precondition)))?;
        Ok(Response::new(instance::ConfirmLeaseResponse {
            instance_id: asked.instance_id,
            task_id: "configure_idp".to_owned(),
            phase_id: "configuration".to_owned(),
            agent_id: (*agent).to_owned(),
            fencing_token: 1,
            hold_id: "hold-1".to_owned(),
        }))
    }
}

#[tonic::async_trait]
impl artifact_server::ArtifactInternalService for Fakes {
    async fn get_current_versions(
        &self,
        request: Request<artifact::GetCurrentVersionsRequest>,
    ) -> Result<Response<artifact::GetCurrentVersionsResponse>, Status> {
        let asked = request.into_inner();
        let says = self.says();
        let current = |key: &String| {
            let version = *says.artifacts.get(key)?;
            Some(artifact::get_current_versions_response::Current {
                key: key.clone(),
                version,
                digest: digest(version),
                ..artifact::get_current_versions_response::Current::default()
            })
        };
        let artifacts = asked.keys.iter().filter_map(current).collect();
        Ok(Response::new(artifact::GetCurrentVersionsResponse { artifacts }))
    }
}

#[tonic::async_trait]
impl participant_server::ParticipantInternalService for Fakes {
    async fn get_people(
        &self,
        request: Request<participant::GetPeopleRequest>,
    ) -> Result<Response<participant::GetPeopleResponse>, Status> {
        let asked = request.into_inner();
        let known = |id: &String| Participant {
            id: id.clone(),
            name: format!("{id} of Acme"),
            email: format!("{id}@acme.com"),
            ..Participant::default()
        };
        let ids = if self.says().people_are_there { asked.participant_ids } else { Vec::new() };
        Ok(Response::new(participant::GetPeopleResponse { participants: ids.iter().map(known).collect() }))
    }

    async fn ensure_link(
        &self,
        _: Request<participant::EnsureLinkRequest>,
    ) -> Result<Response<participant::EnsureLinkResponse>, Status> {
        Err(status(&No("NOT_ASKED", Kind::Unimplemented)))
    }

    async fn sign_link(
        &self,
        _: Request<participant::SignLinkRequest>,
    ) -> Result<Response<participant::SignLinkResponse>, Status> {
        Err(status(&No("NOT_ASKED", Kind::Unimplemented)))
    }

    async fn exchange_link(
        &self,
        _: Request<participant::ExchangeLinkRequest>,
    ) -> Result<Response<participant::ExchangeLinkResponse>, Status> {
        Err(status(&No("NOT_ASKED", Kind::Unimplemented)))
    }

    async fn verify_session(
        &self,
        _: Request<participant::VerifySessionRequest>,
    ) -> Result<Response<participant::VerifySessionResponse>, Status> {
        Err(status(&No("NOT_ASKED", Kind::Unimplemented)))
    }

    async fn issue_nonce(
        &self,
        _: Request<participant::IssueNonceRequest>,
    ) -> Result<Response<participant::IssueNonceResponse>, Status> {
        Err(status(&No("NOT_ASKED", Kind::Unimplemented)))
    }

    async fn consume_nonce(
        &self,
        _: Request<participant::ConsumeNonceRequest>,
    ) -> Result<Response<participant::ConsumeNonceResponse>, Status> {
        Err(status(&No("NOT_ASKED", Kind::Unimplemented)))
    }

    async fn renew_link(
        &self,
        _: Request<participant::RenewLinkRequest>,
    ) -> Result<Response<participant::RenewLinkResponse>, Status> {
        Err(status(&No("NOT_ASKED", Kind::Unimplemented)))
    }
}

impl Refusal for No {
    fn kind(&self) -> Kind {
        self.1
    }

    fn reason(&self) -> &'static str {
        self.0
    }
}
