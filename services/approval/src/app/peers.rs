//! What this service asks the others, and what it makes of their answers.

use std::collections::BTreeMap;

use phasegate_id::{ArtifactKey, InstanceId, ParticipantId, TaskId, TenantId};
use phasegate_principal::Principal;
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::artifact::v1::GetCurrentVersionsRequest;
use phasegate_proto::internal::artifact::v1::artifact_internal_service_client::ArtifactInternalServiceClient;
use phasegate_proto::internal::instance::v1::instance_internal_service_client::InstanceInternalServiceClient;
use phasegate_proto::internal::instance::v1::{
    ConfirmLeaseRequest, ConfirmLeaseResponse, DescribeInstanceRequest, DescribeInstanceResponse,
};
use phasegate_proto::internal::participant::v1::GetPeopleRequest;
use phasegate_proto::internal::participant::v1::participant_internal_service_client::ParticipantInternalServiceClient;
use phasegate_rpc_error::relayed;
use phasegate_serve::{Peers, Service};

use super::{Caller, Error};
use crate::domain::CurrentArtifact;
use crate::store::Person;

/// Keys that artifact takes in one call.
const KEYS_MAX: usize = 1000;

/// The other services. Calls are made on this service's own account: what the caller may do was checked before.
#[derive(Debug, Clone)]
pub struct Neighbours {
    peers: Peers,
}

impl Neighbours {
    /// Reaches them through these channels.
    pub fn new(peers: Peers) -> Self {
        Self { peers }
    }

    /// What instance knows of an instance and, if one is given, of a task.
    pub(super) async fn describe(
        &self,
        tenant: &TenantId,
        instance: &str,
        task: Option<&TaskId>,
    ) -> Result<DescribeInstanceResponse, Error> {
        let task_id = task.map(ToString::to_string).unwrap_or_default();
        self.ask(
            tenant,
            DescribeInstanceRequest { instance_id: instance.to_owned(), task_id, status_only: false },
        )
        .await
    }

    /// How an instance stands.
    pub(super) async fn status(&self, tenant: &TenantId, instance: &str) -> Result<InstanceStatus, Error> {
        let (instance_id, task_id) = (instance.to_owned(), String::new());
        let message = DescribeInstanceRequest { instance_id, task_id, status_only: true };
        Ok(self.ask(tenant, message).await?.status())
    }

    async fn ask(
        &self,
        tenant: &TenantId,
        message: DescribeInstanceRequest,
    ) -> Result<DescribeInstanceResponse, Error> {
        let request = self.peers.request(Service::Instance, &own(tenant), message);
        let mut client = InstanceInternalServiceClient::new(self.peers.channel(Service::Instance));
        let answer = client.describe_instance(request).await;
        Ok(answer.map_err(|status| relayed(status, Service::Instance.name()))?.into_inner())
    }

    /// Whether a lease is the newest one of its task, and the caller's. If so, no other is granted for 5 s.
    pub(super) async fn confirm_lease(
        &self,
        caller: &Caller,
        instance: &InstanceId,
        task_token: &str,
    ) -> Result<ConfirmLeaseResponse, Error> {
        let message =
            ConfirmLeaseRequest { task_token: task_token.to_owned(), instance_id: instance.to_string() };
        let ourselves = caller.principal().asked_by(Service::Approval.name());
        let request = self.peers.request(Service::Instance, &ourselves, message);
        let mut client = InstanceInternalServiceClient::new(self.peers.channel(Service::Instance));
        let answer = client.confirm_lease(request).await;
        Ok(answer.map_err(|status| relayed(status, Service::Instance.name()))?.into_inner())
    }

    /// The newest version of each key that exists; nothing is asked where there are no keys.
    pub(super) async fn current_versions(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
        keys: impl IntoIterator<Item = &ArtifactKey>,
    ) -> Result<BTreeMap<ArtifactKey, CurrentArtifact>, Error> {
        let keys: Vec<String> = keys.into_iter().map(ToString::to_string).collect();
        let mut current = BTreeMap::new();
        let mut client = ArtifactInternalServiceClient::new(self.peers.channel(Service::Artifact));
        for keys in keys.chunks(KEYS_MAX) {
            let message =
                GetCurrentVersionsRequest { instance_id: instance.to_string(), keys: keys.to_vec() };
            let request = self.peers.request(Service::Artifact, &own(tenant), message);
            let answer = client.get_current_versions(request).await;
            let answer = answer.map_err(|status| relayed(status, Service::Artifact.name()))?.into_inner();
            current.extend(answer.artifacts.into_iter().map(|found| {
                let version = u32::try_from(found.version).unwrap_or_default();
                (ArtifactKey::trusted(found.key), CurrentArtifact { version, digest: found.digest })
            }));
        }
        Ok(current)
    }

    /// Names and addresses of those people that participant knows.
    pub(super) async fn people(
        &self,
        tenant: &TenantId,
        instance: &InstanceId,
        people: impl IntoIterator<Item = &ParticipantId>,
    ) -> Result<BTreeMap<ParticipantId, Person>, Error> {
        let participant_ids: Vec<String> = people.into_iter().map(ToString::to_string).collect();
        if participant_ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let message = GetPeopleRequest { instance_id: instance.to_string(), participant_ids };
        let request = self.peers.request(Service::Participant, &own(tenant), message);
        let mut client = ParticipantInternalServiceClient::new(self.peers.channel(Service::Participant));
        let answer = client.get_people(request).await;
        let answer = answer.map_err(|status| relayed(status, Service::Participant.name()))?.into_inner();
        let known = |found: phasegate_proto::participant::v1::Participant| {
            (ParticipantId::trusted(found.id), Person { name: found.name, email: found.email })
        };
        Ok(answer.participants.into_iter().map(known).collect())
    }
}

fn own(tenant: &TenantId) -> Principal {
    Principal::system(Service::Approval.name(), tenant.as_str())
}
