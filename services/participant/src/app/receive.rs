//! What other services tell: an instance that starts brings its people, one that is called off ends their links.

use std::sync::Arc;

use futures::future::BoxFuture;
use phasegate_bus::{HandleError, Handler};
use phasegate_clock::Timestamp;
use phasegate_id::{InstanceId, ParticipantId, TenantId};
use phasegate_outbox::inbox_receive;
use phasegate_proto::definition::v1::RaidRole as ProtoRole;
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, InstanceEnded, InstanceStarted};
use phasegate_proto::participant::v1::Participant;

use super::{App, Error, link};
use crate::domain::person::{Person, Preferences, RaidRole};
use crate::store::Place;
use crate::store::participant::{self as rows, End, Known};

/// Our name among the receivers.
pub const CONSUMER: &str = "participant";

impl Handler for App {
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move {
            match &event.payload {
                Some(Payload::InstanceStarted(started)) => self.instance_started(&event, started).await,
                Some(Payload::InstanceEnded(ended)) => self.instance_ended(&event, ended).await,
                _ => Ok(()),
            }
        })
    }
}

impl App {
    async fn instance_started(&self, event: &Event, started: &InstanceStarted) -> Result<(), HandleError> {
        let place = place(event)?;
        let happened = event.occurred_at.as_ref().and_then(Timestamp::from_proto);
        let now = self.clock.now();
        let people =
            started.participants.iter().map(|participant| person(participant, happened.unwrap_or(now)));
        let people: Vec<_> = people.collect::<Result<_, _>>().map_err(HandleError::Poison)?;
        let done = self.store.instance_started(place, CONSUMER, event.event_id.clone(), people, now).await;
        done.map_err(|error| handle_error(error.into()))
    }

    async fn instance_ended(&self, event: &Event, ended: &InstanceEnded) -> Result<(), HandleError> {
        let place = place(event)?;
        let end = match ended.status() {
            InstanceStatus::Completed => End::Completed,
            InstanceStatus::Cancelled => End::Cancelled,
            InstanceStatus::Failed => End::Failed,
            status @ (InstanceStatus::Unspecified | InstanceStatus::Running | InstanceStatus::Paused) => {
                return Err(HandleError::Poison(format!(
                    "an instance does not end as {}",
                    status.as_str_name()
                )));
            }
        };
        let now = self.clock.now();
        let event_id = event.event_id.clone();
        let known = Known { has_people: true, end: Some(end) };
        if !known.is_called_off() {
            let done = self.store.instance_ended(place, CONSUMER, event_id, end, now).await;
            return done.map_err(|error| handle_error(error.into()));
        }
        let done = self.store.db().transaction(move |tx| {
            Box::pin(async move {
                if inbox_receive(tx, &place.tenant, CONSUMER, &event_id, now).await? {
                    rows::instance_end_in(tx, &place, end, now).await?;
                    link::revoke_all_in(tx, &place, known, now).await?;
                }
                Ok::<_, Error>(())
            })
        });
        let done = done.await.map_err(handle_error);
        self.relay.wake();
        done
    }
}

fn place(event: &Event) -> Result<Place, HandleError> {
    let poison = |_| HandleError::Poison("the event names no tenant or instance".to_owned());
    Ok(Place {
        tenant: TenantId::parse(&event.tenant_id).map_err(poison)?,
        instance: InstanceId::parse(&event.instance_id).map_err(poison)?,
    })
}

/// A person as the instance service names it, or what is wrong.
pub(super) fn person(participant: &Participant, told_at: Timestamp) -> Result<Person, String> {
    let id = ParticipantId::parse(&participant.id).map_err(|_| "a person has no id".to_owned())?;
    let raid_role = match participant.raid_role() {
        ProtoRole::Responsible => RaidRole::Responsible,
        ProtoRole::Approver => RaidRole::Approver,
        ProtoRole::Informed => RaidRole::Informed,
        ProtoRole::Delegator => RaidRole::Delegator,
        ProtoRole::Unspecified => {
            return Err(format!("the person {id} has no role"));
        }
    };
    let preferences = participant.notification_preferences.unwrap_or_default();
    Ok(Person {
        id,
        name: participant.name.clone(),
        email: participant.email.clone(),
        role: participant.role.clone(),
        raid_role,
        external: participant.external,
        required_approvals: participant.required_approvals.clone(),
        preferences: Preferences {
            email: preferences.email,
            slack: preferences.slack,
            in_app: preferences.in_app,
        },
        can_delegate: participant.can_delegate,
        created_at: participant.created_at.as_ref().and_then(Timestamp::from_proto).unwrap_or(told_at),
    })
}

/// What passes is tried again for as long as it takes; what the database refuses, or makes no sense, never goes right.
fn handle_error(error: Error) -> HandleError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if matches!(&error, Error::Store(store) if store.is_transient()) {
        HandleError::Transient(text)
    } else {
        HandleError::Poison(text)
    }
}
