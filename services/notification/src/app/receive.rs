//! Hears what happened and prepares the messages about it: one for each person, with everything but the link.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use phasegate_bus::{HandleError, Handler};
use phasegate_clock::{SharedClock, Timestamp};
use phasegate_id::{ApprovalId, EventId, InstanceId, NotificationId, ParticipantId, TenantId};
use phasegate_proto::definition::v1::RaidRole;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, InstanceStarted};
use tokio::sync::Notify;

use super::cache::{Cache, Key, People};
use super::directory::Directory;
use super::occasion::occasion;
use super::render::render;
use crate::domain::{
    Letter, MailLink, Notification, Occasion, Person, Process, Status, addressees, letter, one_line,
};
use crate::store::{self, Store};

/// Instances whose names and people are kept in memory: those that are in motion, at about a kilobyte each.
const INSTANCES_KEPT: usize = 4_096;

/// For so long the start of an instance is looked for that another service has already acted upon: it is on its way, too.
const START_AWAITED: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
];

/// Hears events.
pub(crate) struct Receiver {
    store: Store,
    directory: Arc<dyn Directory>,
    clock: SharedClock,
    /// What the sender's address ends with; makes Message-IDs unique in the world.
    mail_domain: String,
    wake: Arc<Notify>,
    known: Cache,
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
        Receiver { store, directory, clock, mail_domain, wake, known: Cache::new(INSTANCES_KEPT) }
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
            let settle =
                self.store.approval_settle(heard.tenant, heard.instance, heard.id, id, self.clock.now());
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
        let people: Vec<(ParticipantId, bool)> = started
            .participants
            .iter()
            .filter_map(|person| {
                let id = ParticipantId::parse(&person.id).ok()?;
                Some((id, person.raid_role() == RaidRole::Informed))
            })
            .collect();
        let names = (one_line(&started.instance_name), one_line(&started.process_name));
        let process = process(&names, &people);
        let key = (heard.tenant.clone(), heard.instance.clone());
        let remember =
            self.store.instance_remember(heard.tenant, heard.instance, names, people, self.clock.now());
        // What was there before stays, whatever this event says.
        if remember.await.map_err(refused)? {
            self.known.put(key, Arc::new(process));
        }
        Ok(())
    }

    /// What messages call an instance.
    async fn process(&self, key: &Key) -> Result<Arc<Process>, HandleError> {
        if let Some(process) = self.known.process(key) {
            return Ok(process);
        }
        for pause in START_AWAITED {
            if let Some(process) = self.store.instance_find(&key.0, &key.1).await.map_err(refused)? {
                let process = Arc::new(process);
                self.known.put(key.clone(), Arc::clone(&process));
                return Ok(process);
            }
            tokio::time::sleep(pause).await;
        }
        Err(transient("the start of the instance has not been heard of"))
    }

    /// Those who are wanted, by id. All of the instance are asked for at once, because the others are wanted soon.
    async fn people(
        &self,
        key: &Key,
        process: &Process,
        wanted: &BTreeSet<ParticipantId>,
    ) -> Result<Arc<People>, HandleError> {
        let now = self.clock.now();
        if let Some(people) = self.known.people(key, now)
            && wanted.iter().all(|id| people.contains_key(id))
        {
            return Ok(people);
        }
        let ids: Vec<ParticipantId> = process.people.iter().cloned().collect();
        let found = self.directory.people(&key.0, &key.1, ids).await;
        let found = found.map_err(|error| transient(&error.to_string()))?;
        let people: Arc<People> =
            Arc::new(found.into_iter().map(|person| (person.id.clone(), person)).collect());
        if let Some(missing) = wanted.iter().find(|id| !people.contains_key(*id)) {
            return Err(transient(&format!("participant {missing} has not been stored")));
        }
        self.known.put_people(key, Arc::clone(&people), now);
        Ok(people)
    }

    /// Prepares the messages of an occasion.
    async fn tell(&self, heard: Heard, occasion: &Occasion) -> Result<(), HandleError> {
        let key = (heard.tenant.clone(), heard.instance.clone());
        let process = self.process(&key).await?;
        let mut wanted = addressees(occasion, &process.informed);
        // Ids that the instance does not have are nobody's; waiting for them would be for ever.
        wanted.retain(|id| process.people.contains(id));
        if wanted.is_empty() {
            return Ok(());
        }
        let people = self.people(&key, &process, &wanted).await?;
        let mut asked = self.asked_before(&heard.tenant, occasion).await?;
        let mut notifications = Vec::new();
        for person in wanted.iter().filter_map(|id| people.get(id)) {
            let asked = asked.remove(&person.id).unwrap_or_default();
            if let Some(letter) = letter(occasion, person, &process, &asked, heard.at) {
                notifications.push(self.notification(&heard, occasion, person, letter)?);
            }
        }
        let Heard { tenant, instance, id, .. } = heard;
        let add = self.store.notifications_add(tenant, instance, id, notifications, self.clock.now());
        add.await.map_err(refused)?;
        self.wake.notify_one();
        Ok(())
    }

    /// The requests of an occasion that each person has had a message about.
    async fn asked_before(
        &self,
        tenant: &TenantId,
        occasion: &Occasion,
    ) -> Result<BTreeMap<ParticipantId, BTreeSet<ApprovalId>>, HandleError> {
        let mut before = BTreeMap::<ParticipantId, BTreeSet<ApprovalId>>::new();
        match occasion {
            Occasion::Requested(requests) => {
                let ids = requests.iter().map(|request| request.id.clone()).collect();
                for (person, request) in self.store.approvals_asked(tenant, &ids).await.map_err(refused)? {
                    before.entry(person).or_default().insert(request);
                }
            }
            Occasion::Reminded { .. }
            | Occasion::Escalated { .. }
            | Occasion::Answered { .. }
            | Occasion::PhaseChanged { .. }
            | Occasion::TaskEscalated { .. }
            | Occasion::Ended { .. }
            | Occasion::FreshLinkAsked { .. } => {}
        }
        Ok(before)
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

/// What messages call an instance that starts.
fn process((name, process_name): &(String, String), people: &[(ParticipantId, bool)]) -> Process {
    // As they are read back: in order, each once, and the first one counts.
    let mut roles = BTreeMap::new();
    for (id, is_informed) in people {
        roles.entry(id.clone()).or_insert(*is_informed);
    }
    Process {
        instance_name: name.clone(),
        definition_name: process_name.clone(),
        informed: roles.iter().filter(|(_, informed)| **informed).map(|(id, _)| id.clone()).collect(),
        people: roles.into_keys().collect(),
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
