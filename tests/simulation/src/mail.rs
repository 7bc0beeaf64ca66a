//! The notification service: who hears of what is its real rule, and so is when a message is tried again. What a message
//! says is left out; a mail server takes it, refuses it, or takes it and dies before it says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, InstanceId, ParticipantId};
use phasegate_notification::RetryPolicy;
use phasegate_notification::unwired::messages;
use phasegate_proto::definition::v1::RaidRole;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, NotificationSettled};

use crate::bug::Bug;
use crate::engine::Prepared;
use crate::kept::{Answer, Conflict, Kept, Receipt};
use crate::world::{TENANT, World};

/// The tables of the service.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) kept: Kept,
    /// People of an instance, and whether it is their role to be told.
    instances: BTreeMap<InstanceId, BTreeMap<ParticipantId, bool>>,
    settled: BTreeSet<ApprovalId>,
    pub(crate) messages: BTreeMap<String, Message>,
}

/// One message to one person.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) event: String,
    pub(crate) instance: InstanceId,
    pub(crate) person: ParticipantId,
    template: &'static str,
    pub(crate) approvals: BTreeSet<ApprovalId>,
    pub(crate) state: State,
    attempts: u32,
    /// How often the mail server took it.
    pub(crate) taken: u32,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Due(Timestamp),
    Sent,
    Failed,
    Pointless,
}

/// What one try came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Try {
    Taken,
    Refused,
    Pointless,
}

/// A write under way.
#[derive(Debug)]
pub(crate) enum Noting {
    Hear { event: Arc<Event>, rows: Vec<(String, Message)> },
    Settle { id: String, outcome: Try, told: (u64, Arc<Event>) },
}

impl World {
    /// Says which messages an event leads to.
    pub(crate) fn mail_hear(&mut self, event: &Arc<Event>) -> Prepared<Noting> {
        let Some(payload) = &event.payload else { return Prepared::Poison("no payload".to_owned()) };
        let instance = InstanceId::trusted(event.instance_id.clone());
        let mut rows = Vec::new();
        if !matches!(payload, Payload::InstanceStarted(_) | Payload::ApprovalSettled(_)) {
            let Some(known) = self.mail.instances.get(&instance) else {
                // Somebody has to hear of it, as far as can be told before it is known who.
                let nobody = messages(payload, self.now, &[]).is_none();
                return if nobody {
                    Prepared::Answered(Answer::Done(String::new()))
                } else {
                    Prepared::NotYet
                };
            };
            let informed: Vec<ParticipantId> =
                known.iter().filter(|(_, informed)| **informed).map(|(id, _)| id.clone()).collect();
            let Some(found) = messages(payload, self.now, &informed) else {
                return Prepared::Answered(Answer::Done(String::new()));
            };
            let wanted: Vec<_> =
                found.people.into_iter().filter(|(person, _)| known.contains_key(person)).collect();
            if wanted.is_empty() {
                return Prepared::Answered(Answer::Done(String::new()));
            }
            let addresses = self.people.people(&instance);
            if wanted.iter().any(|(person, _)| !addresses.contains_key(person)) {
                return Prepared::NotYet;
            }
            for (person, approvals) in wanted {
                let message = Message {
                    event: event.event_id.clone(),
                    instance: instance.clone(),
                    person,
                    template: found.template,
                    approvals,
                    state: State::Due(self.now),
                    attempts: 0,
                    taken: 0,
                };
                rows.push((self.next_id("ntf"), message));
            }
        }
        Prepared::Write(Box::new(Noting::Hear { event: Arc::clone(event), rows }))
    }

    /// Hands one message to the mail server, outside any transaction, and says what is to be written.
    pub(crate) fn mail_try(&mut self, id: &str) -> Prepared<Noting> {
        let Some(message) = self.mail.messages.get(id) else {
            return Prepared::Answered(Answer::Done(String::new()));
        };
        let is_moot = !message.approvals.is_empty()
            && message.template == "approval_requested"
            && message.approvals.iter().all(|approval| self.mail.settled.contains(approval));
        let outcome = match self.storm() {
            _ if is_moot => Try::Pointless,
            Some(plan) if self.chance.below(1_000) < plan.mail_refused => {
                self.cover.fault("the mail server refuses");
                Try::Refused
            }
            Some(_) | None => Try::Taken,
        };
        let told = Event {
            event_id: self.next_id("evt"),
            tenant_id: TENANT.to_owned(),
            instance_id: message_instance(&self.mail, id),
            occurred_at: Some(self.now.to_proto()),
            payload: Some(Payload::NotificationSettled(settled(&self.mail, id))),
            ..Event::default()
        };
        if outcome == Try::Taken
            && let Some(message) = self.mail.messages.get_mut(id)
        {
            message.taken += 1;
        }
        let Some(told) = self.mail.kept.place(vec![told]).pop() else {
            return Prepared::Poison("no position".to_owned());
        };
        Prepared::Write(Box::new(Noting::Settle { id: id.to_owned(), outcome, told }))
    }

    /// Writes it.
    pub(crate) fn mail_commit(&mut self, noting: Noting) -> Result<Answer, Conflict> {
        let now = self.now;
        match noting {
            Noting::Hear { event, rows } => {
                let mut receipt = Receipt { inbox: Some(event.event_id.clone()), ..Receipt::default() };
                // Remembering the same twice changes nothing, and needs no note.
                let is_start = matches!(event.payload, Some(Payload::InstanceStarted(_)));
                if is_start && self.mail.kept.inbox.contains(&event.event_id) {
                    receipt.inbox = None;
                }
                let looks = !matches!(self.bug, Some(Bug::NoInbox | Bug::InboxApart));
                self.mail.kept.check(&receipt, looks)?;
                self.mail.kept.write(receipt, now);
                match &event.payload {
                    Some(Payload::InstanceStarted(started)) => {
                        let people = started.participants.iter().map(|one| {
                            let informed = one.raid_role() == RaidRole::Informed;
                            (ParticipantId::trusted(one.id.clone()), informed)
                        });
                        let instance = InstanceId::trusted(event.instance_id.clone());
                        self.mail.instances.entry(instance).or_insert_with(|| people.collect());
                    }
                    Some(Payload::ApprovalSettled(settled)) => {
                        let id = settled.approval.as_ref().map(|one| ApprovalId::trusted(one.id.clone()));
                        self.mail.settled.extend(id);
                    }
                    Some(_) | None => {}
                }
                self.mail.messages.extend(rows);
            }
            Noting::Settle { id, outcome, told } => {
                let mut receipt = Receipt::default();
                let Some(message) = self.mail.messages.get_mut(&id) else { return Err(Conflict::Stale) };
                if !matches!(message.state, State::Due(_)) {
                    return Err(Conflict::Stale);
                }
                message.state = match outcome {
                    Try::Taken => State::Sent,
                    Try::Pointless => State::Pointless,
                    Try::Refused => {
                        message.attempts += 1;
                        let wait = RetryPolicy::default().wait_after(message.attempts, 0);
                        wait.map_or(State::Failed, |wait| State::Due(now + wait))
                    }
                };
                if matches!(message.state, State::Sent | State::Failed) {
                    receipt.outbox.push(told);
                }
                self.mail.kept.write(receipt, now);
            }
        }
        Ok(Answer::Done(String::new()))
    }

    /// A message that is due.
    pub(crate) fn mail_due(&self) -> Vec<String> {
        let due = self.mail.messages.iter().filter(|(_, message)| match message.state {
            State::Due(at) => at <= self.now,
            State::Sent | State::Failed | State::Pointless => false,
        });
        due.map(|(id, _)| id.clone()).collect()
    }
}

impl Noting {
    /// Whether it is about this message.
    pub(crate) fn is_about(&self, message: &str) -> bool {
        match self {
            Self::Hear { .. } => false,
            Self::Settle { id, .. } => id == message,
        }
    }
}

fn message_instance(mail: &Mail, id: &str) -> String {
    mail.messages.get(id).map(|message| message.instance.to_string()).unwrap_or_default()
}

fn settled(mail: &Mail, id: &str) -> NotificationSettled {
    let message = mail.messages.get(id);
    NotificationSettled {
        notification_id: id.to_owned(),
        participant_id: message.map(|message| message.person.to_string()).unwrap_or_default(),
        template: message.map(|message| message.template.to_owned()).unwrap_or_default(),
        sent: true,
        approval_ids: message
            .map(|message| message.approvals.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        ..NotificationSettled::default()
    }
}
