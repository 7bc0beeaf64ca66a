//! What this service must know of an instance. Its people come by event; a caller who starts an instance and at once
//! asks for its people may be faster than the event, or the bus may be away: then the instance service is asked for them.

use std::sync::Arc;

use phasegate_principal::Principal;
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::instance::v1::instance_internal_service_client::InstanceInternalServiceClient;
use phasegate_proto::internal::instance::v1::{DescribeInstanceRequest, GetParticipantsRequest};
use phasegate_rpc_error::relayed;
use phasegate_serve::{Channel, Service};
use tonic::Request;

use super::cache::People;
use super::receive::person;
use super::{App, Error};
use crate::store::Place;
use crate::store::participant::people_insert_in;

impl App {
    /// Sees to it that the people of an instance are there. Refuses an instance that does not exist.
    pub(super) async fn people_are_there(&self, place: &Place) -> Result<(), Error> {
        if self.has_people(place).await? {
            return Ok(());
        }
        let question = GetParticipantsRequest { instance_id: place.instance.as_str().to_owned() };
        let answer = self.instances().get_participants(self.question(place, question)).await;
        let answer = answer.map_err(|status| Error::Peer(relayed(status, "instance")))?.into_inner();
        let now = self.clock.now();
        let people = answer.participants.iter().map(|participant| person(participant, now));
        let people: Vec<_> = people.collect::<Result<_, _>>().map_err(|problem| {
            Error::inconsistent("participant", format!("{}: {problem}", place.instance))
        })?;
        let place = place.clone();
        let done = self.store.db().transaction(move |tx| {
            Box::pin(async move { people_insert_in(tx, &place, &people, now).await.map_err(Error::from) })
        });
        done.await
    }

    /// All people of an instance; nobody where they are not there yet. They come in together, so that whoever sees one of
    /// them sees all.
    pub(super) async fn people_known(&self, place: &Place) -> Result<Arc<People>, Error> {
        if let Some(people) = self.people.get(place) {
            return Ok(people);
        }
        let found = self.store.people(place, &[]).await?;
        let people: Arc<People> =
            Arc::new(found.into_iter().map(|person| (person.id.clone(), person)).collect());
        if !people.is_empty() {
            self.people.put(place, Arc::clone(&people));
        }
        Ok(people)
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
        if self.people.get(place).is_some() {
            return Ok(true);
        }
        Ok(self.store.instance(place).await?.is_some_and(|known| known.has_people))
    }

    async fn status(&self, place: &Place) -> Result<InstanceStatus, Error> {
        let question = DescribeInstanceRequest {
            instance_id: place.instance.as_str().to_owned(),
            task_id: String::new(),
            status_only: true,
        };
        let answer = self.instances().describe_instance(self.question(place, question)).await;
        Ok(answer.map_err(|status| Error::Peer(relayed(status, "instance")))?.into_inner().status())
    }

    fn instances(&self) -> InstanceInternalServiceClient<Channel> {
        InstanceInternalServiceClient::new(self.peers.channel(Service::Instance))
    }

    /// The caller's right to see the instance has been looked at; the question is our own.
    fn question<T>(&self, place: &Place, message: T) -> Request<T> {
        let ourselves = Principal::system("participant", place.tenant.as_str());
        self.peers.request(Service::Instance, &ourselves, message)
    }
}
