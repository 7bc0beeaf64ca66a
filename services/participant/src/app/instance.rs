//! What this service must know of an instance. Its people come by event; a caller who starts an instance and at once
//! asks for its people may be faster than the event, and waits for it here rather than hear that nobody is there.

use std::time::Duration;

use phasegate_principal::Principal;
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::instance::v1::DescribeInstanceRequest;
use phasegate_proto::internal::instance::v1::instance_internal_service_client::InstanceInternalServiceClient;
use phasegate_rpc_error::relayed;
use phasegate_serve::Service;

use super::{App, Error};
use crate::store::Place;

/// How long a caller waits for the people of an instance that exists.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether they have come.
const LOOK: Duration = Duration::from_millis(25);

impl App {
    /// Refuses an instance that does not exist, or whose people do not come.
    pub(super) async fn people_are_there(&self, place: &Place) -> Result<(), Error> {
        if self.has_people(place).await? {
            return Ok(());
        }
        self.status(place).await?;
        let patience = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < patience {
            tokio::time::sleep(LOOK).await;
            if self.has_people(place).await? {
                return Ok(());
            }
        }
        Err(Error::PeopleUnknown { instance: place.instance.clone() })
    }

    /// Refuses an instance that has ended, as the instance service knows it: the event may still be on its way.
    pub(super) async fn goes_on(&self, place: &Place) -> Result<(), Error> {
        let status = match self.status(place).await? {
            InstanceStatus::Completed => "completed",
            InstanceStatus::Cancelled => "cancelled",
            InstanceStatus::Failed => "failed",
            InstanceStatus::Unspecified | InstanceStatus::Running | InstanceStatus::Paused => return Ok(()),
        };
        Err(Error::InstanceTerminal { instance: place.instance.clone(), status })
    }

    async fn has_people(&self, place: &Place) -> Result<bool, Error> {
        Ok(self.store.instance(place).await?.is_some_and(|known| known.has_people))
    }

    async fn status(&self, place: &Place) -> Result<InstanceStatus, Error> {
        let question = DescribeInstanceRequest {
            instance_id: place.instance.as_str().to_owned(),
            task_id: String::new(),
        };
        // The caller's right to see the instance has been looked at; the question is our own.
        let ourselves = Principal::system("participant", place.tenant.as_str());
        let request = self.peers.request(Service::Instance, &ourselves, question);
        let mut client = InstanceInternalServiceClient::new(self.peers.channel(Service::Instance));
        let answer = client.describe_instance(request).await;
        Ok(answer.map_err(|status| Error::Peer(relayed(status, "instance")))?.into_inner().status())
    }
}
