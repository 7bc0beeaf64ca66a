//! Hears what happened and prepares the messages about it: one for each person, with everything but the link.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use phasegate_bus::{HandleError, Handler};
use phasegate_clock::{SharedClock, Timestamp};
use phasegate_id::{ApprovalId, EventId, InstanceId, NotificationId, ParticipantId, TenantId};
use phasegate_proto::definition::v1::RaidRole;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, InstanceStarted};
use tokio::sync::Notify;

use super::directory::Directory;
use super::occasion::occasion;
use super::render::render;
use crate::domain::{Letter, MailLink, Notification, Occasion, Person, Status, addressees, letter, one_line};
use crate::store::{self, Store};

/// Hears events.
pub(crate) struct Receiver {
    store: Store,
    directory: Arc<dyn Directory>,
    clock: SharedClock,
    /// What the sender's address ends with; makes Message-IDs unique in the world.
    mail_domain: String,
    wake: Arc<Notify>,
}

/// The event, read.
struct Heard {
    tenant: TenantId,
    instance: InstanceId,
    id: EventId,
    at: Timestamp,
}

impl Receiver {
    /// Prepares messages in `store`, and rings `wake` when there are some.
    pub(crate) fn new(
        store: Store,
        directory: Arc<dyn Directory>,
        clock: SharedClock,
        mail_domain: String,
        wake: Arc<Notify>,
    ) -> Receiver {
        Receiver { store, directory, clock, mail_domain, wake }
    }

    async fn receive(&self, event: &Event) -> Result<(), HandleError> {
        let Some(payload) = &event.payload else { return Ok(()) };
        let heard = self.heard(event)?;
        if let Payload::InstanceStarted(started) = payload {
            return self.remember(heard, started).await;
        }
        if let Payload::ApprovalSettled(settled) = payload {
            let Some(approval) = &settled.approval else { return Ok(()) };
            let id = ApprovalId::parse(&approval.id).map_err(|error| poison(&error))?;
            let settle = self.store.approval_settle(heard.tenant, heard.id, id, self.clock.now());
            return settle.await.map_err(refused);
        }
        match occasion(payload, heard.at) {
            Some(occasion) => self.tell(heard, &occasion).await,
            None => Ok(()),
        }
    }

    fn heard(&self, event: &Event) -> Result<Heard, HandleError> {
        Ok(Heard {
            tenant: TenantId::parse(&event.tenant_id).map_err(|error| poison(&error))?,
            instance: InstanceId::parse(&event.instance_id).map_err(|error| poison(&error))?,
            id: EventId::parse(&event.event_id).map_err(|error| poison(&error))?,
            at: event
                .occurred_at
                .as_ref()
                .and_then(Timestamp::from_proto)
                .unwrap_or_else(|| self.clock.now()),
        })
    }

    /// Keeps what messages call the instance, and who is told of its progress. Names and addresses of people are not kept.
    async fn remember(&self, heard: Heard, started: &InstanceStarted) -> Result<(), HandleError> {
        let people = started
            .participants
            .iter()
            .filter_map(|person| {
                let id = ParticipantId::parse(&person.id).ok()?;
                Some((id, person.raid_role() == RaidRole::Informed))
            })
            .collect();
        let names = (one_line(&started.instance_name), one_line(&started.process_name));
        let remember = self.store.instance_remember(heard.tenant, heard.instance, names, people);
        remember.await.map_err(refused)
    }

    /// Prepares the messages of an occasion.
    async fn tell(&self, heard: Heard, occasion: &Occasion) -> Result<(), HandleError> {
        let Some(process) =
            self.store.instance_find(&heard.tenant, &heard.instance).await.map_err(refused)?
        else {
            return Err(transient("the start of the instance has not been heard of"));
        };
        let mut wanted = addressees(occasion, &process.informed);
        // Ids that the instance does not have are nobody's; waiting for them would be for ever.
        wanted.retain(|id| process.people.contains(id));
        if wanted.is_empty() {
            return Ok(());
        }
        let ids: Vec<ParticipantId> = wanted.iter().cloned().collect();
        let people = self.directory.people(&heard.tenant, &heard.instance, ids).await;
        let people = people.map_err(|error| transient(&error.to_string()))?;
        if let Some(missing) = wanted.iter().find(|id| !people.iter().any(|person| person.id == **id)) {
            return Err(transient(&format!("participant {missing} has not been stored")));
        }
        let mut notifications = Vec::new();
        for person in &people {
            let asked = self.asked_before(&heard.tenant, occasion, person).await?;
            if let Some(letter) = letter(occasion, person, &process, &asked, heard.at) {
                notifications.push(self.notification(&heard, occasion, person, letter)?);
            }
        }
        let add = self.store.notifications_add(heard.tenant, heard.id, notifications, self.clock.now());
        add.await.map_err(refused)?;
        self.wake.notify_one();
        Ok(())
    }

    /// The requests of an occasion that the person has had a message about.
    async fn asked_before(
        &self,
        tenant: &TenantId,
        occasion: &Occasion,
        person: &Person,
    ) -> Result<BTreeSet<ApprovalId>, HandleError> {
        match occasion {
            Occasion::Requested(_) => {
                let ids =
                    occasion.requests_for(&person.id).iter().map(|request| request.id.clone()).collect();
                self.store.approvals_asked(tenant, &person.id, ids).await.map_err(refused)
            }
            Occasion::Reminded { .. }
            | Occasion::Escalated { .. }
            | Occasion::Answered { .. }
            | Occasion::PhaseChanged { .. }
            | Occasion::TaskEscalated { .. }
            | Occasion::Ended { .. }
            | Occasion::FreshLinkAsked { .. } => Ok(BTreeSet::new()),
        }
    }

    fn notification(
        &self,
        heard: &Heard,
        occasion: &Occasion,
        person: &Person,
        letter: Letter,
    ) -> Result<Notification, HandleError> {
        let now = self.clock.now();
        let template = occasion.template();
        let id = NotificationId::generate();
        // Nobody can have written this before the id was made.
        let placeholder = format!("[[link:{id}]]");
        let rendered = render(&letter, &placeholder).map_err(|error| poison(&error))?;
        let unwanted = if person.email.is_empty() {
            Some("the person has no address")
        } else if !person.wants_mail && !template.is_due_whatever_is_preferred() {
            Some("the person does not want mail")
        } else {
            None
        };
        Ok(Notification {
            tenant_id: heard.tenant.clone(),
            message_id: format!("<{id}@{}>", self.mail_domain),
            id,
            instance_id: heard.instance.clone(),
            participant_id: person.id.clone(),
            template,
            recipient: person.email.clone(),
            recipient_name: one_line(&person.name),
            subject: letter.subject,
            body_text: rendered.text,
            body_html: rendered.html,
            link: letter.link.map(|link| MailLink {
                placeholder,
                expires_at: link.expires_at,
                link_id: occasion.link().cloned(),
            }),
            status: match unwanted {
                Some(_) => Status::Suppressed,
                None => Status::Queued { next_attempt_at: now },
            },
            attempts: 0,
            last_error: unwanted.unwrap_or_default().to_owned(),
            approval_ids: letter.approval_ids,
            created_at: now,
        })
    }
}

impl Handler for Receiver {
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        Box::pin(async move { self.receive(&event).await })
    }
}

fn transient(why: &str) -> HandleError {
    HandleError::Transient(why.to_owned())
}

fn poison(error: &dyn std::error::Error) -> HandleError {
    HandleError::Poison(error.to_string())
}

fn refused(error: store::Error) -> HandleError {
    if error.is_transient() {
        HandleError::Transient(error.to_string())
    } else {
        HandleError::Poison(format!("{error}: {:?}", std::error::Error::source(&error)))
    }
}
