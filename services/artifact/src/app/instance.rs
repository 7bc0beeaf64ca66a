//! What this service must know of an instance, asked of those who know. That an instance exists and what it is
//! made of never changes, so it is remembered; whether it has ended is asked every time, because an event about it
//! may still be on its way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use phasegate_id::ApprovalId;
use phasegate_principal::Principal;
use phasegate_proto::approval::v1::GetApprovalRequest;
use phasegate_proto::approval::v1::approval_service_client::ApprovalServiceClient;
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::instance::v1::instance_internal_service_client::InstanceInternalServiceClient;
use phasegate_proto::internal::instance::v1::{
    ConfirmLeaseRequest, ConfirmLeaseResponse, DescribeInstanceRequest,
};
use phasegate_rpc_error::relayed;
use phasegate_serve::{Channel, Peers, Service};
use tokio::time::Instant;
use tonic::Code;

use super::Error;
use crate::store::Place;

/// How long a confirmed lease is relied upon. The instance service promises two seconds more.
const LEASE_SURE: Duration = Duration::from_secs(3);
/// Instances that are remembered. A small price to ask again.
const KNOWN_MAX: usize = 10_000;
/// The service that is asked.
const INSTANCE: &str = "instance";

/// Asks about instances.
#[derive(Debug, Clone)]
pub(super) struct Instances {
    peers: Peers,
    known: Arc<Mutex<BTreeMap<Place, Arc<Parts>>>>,
}

/// What an instance is made of.
#[derive(Debug)]
pub(super) struct Parts {
    /// Ids of its phases.
    pub(super) phases: Vec<String>,
    /// Ids of its tasks.
    pub(super) tasks: Vec<String>,
}

/// A lease that holds.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    /// Task, phase and agent.
    pub(super) holder: ConfirmLeaseResponse,
    sure_until: Instant,
}

// === impl Instances ===

impl Instances {
    pub(super) fn new(peers: Peers) -> Self {
        Self { peers, known: Arc::default() }
    }

    /// Refuses an instance that does not exist.
    pub(super) async fn exists(&self, place: &Place) -> Result<(), Error> {
        self.parts(place).await.map(drop)
    }

    /// What an instance is made of.
    pub(super) async fn parts(&self, place: &Place) -> Result<Arc<Parts>, Error> {
        let known = self.known().get(place).cloned();
        match known {
            Some(parts) => Ok(parts),
            None => Ok(self.describe(place).await?.0),
        }
    }

    /// Refuses an instance that has ended.
    pub(super) async fn going_on(&self, place: &Place) -> Result<(), Error> {
        let status = match self.describe(place).await?.1 {
            InstanceStatus::Completed => "completed",
            InstanceStatus::Cancelled => "cancelled",
            InstanceStatus::Failed => "failed",
            InstanceStatus::Unspecified | InstanceStatus::Running | InstanceStatus::Paused => return Ok(()),
        };
        Err(Error::InstanceTerminal { instance: place.instance.clone(), status })
    }

    /// Refuses a lease that does not hold, or is not the caller's.
    pub(super) async fn lease(
        &self,
        principal: &Principal,
        place: &Place,
        task_token: &str,
    ) -> Result<Lease, Error> {
        // Counted from before the question: the promise is no older than that.
        let sure_until = Instant::now() + LEASE_SURE;
        let question = ConfirmLeaseRequest {
            task_token: task_token.to_owned(),
            instance_id: place.instance.as_str().to_owned(),
        };
        let ourselves = principal.asked_by("artifact");
        let request = self.peers.request(Service::Instance, &ourselves, question);
        let answer = self.client().confirm_lease(request).await;
        let holder = answer.map_err(|status| Error::Peer(relayed(status, INSTANCE)))?.into_inner();
        Ok(Lease { holder, sure_until })
    }

    /// Whether a request for approval is one of an instance, and the caller's to see: not every request is everybody's.
    pub(super) async fn has_approval(
        &self,
        principal: &Principal,
        place: &Place,
        approval: &ApprovalId,
    ) -> Result<bool, Error> {
        let question = GetApprovalRequest { approval_id: approval.as_str().to_owned() };
        let request = self.peers.request(Service::Approval, principal, question);
        let mut client = ApprovalServiceClient::new(self.peers.channel(Service::Approval));
        match client.get_approval(request).await {
            Ok(answer) => Ok(answer
                .into_inner()
                .approval
                .is_some_and(|approval| approval.instance_id == place.instance.as_str())),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(Error::Peer(relayed(status, Service::Approval.name()))),
        }
    }

    async fn describe(&self, place: &Place) -> Result<(Arc<Parts>, InstanceStatus), Error> {
        let question = DescribeInstanceRequest {
            instance_id: place.instance.as_str().to_owned(),
            task_id: String::new(),
            status_only: false,
        };
        let request = self.peers.request(Service::Instance, &Self::as_ourselves(place), question);
        let answer = self.client().describe_instance(request).await;
        let described = answer.map_err(|status| Error::Peer(relayed(status, INSTANCE)))?.into_inner();
        let status = described.status();
        let parts = Arc::new(Parts { phases: described.phase_ids, tasks: described.task_ids });
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(place.clone(), Arc::clone(&parts));
        Ok((parts, status))
    }

    /// The caller's right to see the instance has been looked at; the question is our own.
    fn as_ourselves(place: &Place) -> Principal {
        Principal::system("artifact", place.tenant.as_str())
    }

    fn client(&self) -> InstanceInternalServiceClient<Channel> {
        InstanceInternalServiceClient::new(self.peers.channel(Service::Instance))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, Arc<Parts>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lease ===

impl Lease {
    /// Gives a write up that could come after somebody else's lease. The last thing before a commit.
    pub(super) fn check(&self) -> Result<(), Error> {
        if Instant::now() < self.sure_until { Ok(()) } else { Err(Error::LeaseUnsure) }
    }
}
