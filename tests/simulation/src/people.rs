//! The participant service around its real rules: people come with an instance, links come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phasegate_id::{InstanceId, LinkId, ParticipantId, TenantId};
use phasegate_participant::domain::Author;
use phasegate_participant::domain::link::{Link, Revoked, State, crowded_out, decide, expires_at};
use phasegate_participant::domain::person::{Person, Preferences, RaidRole};
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{Event, InstanceStarted, LinkCreated, LinkRevoked};
use phasegate_proto::participant::v1::LinkPermission;

use crate::bug::Bug;
use crate::engine::{Prepared, variant};
use crate::kept::{Answer, Conflict, Kept, Once, Receipt};
use crate::world::{TENANT, World};

/// The tables of the service.
#[derive(Debug, Default)]
pub(crate) struct People {
    pub(crate) kept: Kept,
    instances: BTreeMap<InstanceId, Known>,
    pub(crate) links: BTreeMap<LinkId, Link>,
}

/// What is known of an instance.
#[derive(Debug, Default)]
struct Known {
    people: BTreeMap<ParticipantId, Person>,
    addresses: BTreeMap<ParticipantId, String>,
    end: Option<InstanceStatus>,
}

/// What is to be done with links or people.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Doing {
    Create(InstanceId, ParticipantId),
    Revoke(LinkId),
    Hear(Arc<Event>),
}

/// A write under way, with the positions of what it may tell.
#[derive(Debug)]
pub(crate) struct Changing {
    doing: Doing,
    once: Option<Once>,
    ids: Vec<(u64, Arc<Event>)>,
    fresh: LinkId,
}

impl People {
    /// The people of an instance, with their addresses.
    pub(crate) fn people(&self, instance: &InstanceId) -> BTreeMap<ParticipantId, String> {
        self.instances.get(instance).map(|known| known.addresses.clone()).unwrap_or_default()
    }

    /// Links of an instance that are not withdrawn.
    pub(crate) fn live(&self, instance: &InstanceId) -> usize {
        self.links.values().filter(|link| link.instance == *instance && link.revoked.is_none()).count()
    }
}

impl World {
    /// Asks whoever must be asked.
    pub(crate) fn people_prepare(&mut self, doing: &Doing, once: Option<&Once>) -> Prepared<Changing> {
        if let Some(once) = once
            && self.bug != Some(Bug::RequestRunsAgain)
        {
            match self.people.kept.answer(once) {
                Ok(None) => {}
                Ok(Some(answer)) | Err(answer) => return Prepared::Answered(answer),
            }
        }
        if let Doing::Create(instance, _) = doing {
            let state = self.engine.rows.get(instance).map(|row| row.state.status);
            if state.is_none_or(phasegate_instance::domain::Status::is_terminal) {
                return Prepared::Answered(Answer::Refused("InstanceTerminal".to_owned()));
            }
        }
        let events: Vec<Event> =
            (0..8).map(|_| Event { event_id: self.next_id("evt"), ..Event::default() }).collect();
        let ids = self.people.kept.place(events);
        let fresh = LinkId::trusted(self.next_id("lnk"));
        Prepared::Write(Box::new(Changing { doing: doing.clone(), once: once.cloned(), ids, fresh }))
    }

    /// Decides and writes, in one transaction.
    pub(crate) fn people_commit(&mut self, changing: Changing) -> Result<Answer, Conflict> {
        let Changing { doing, once, ids, fresh } = changing;
        let now = self.now;
        let mut receipt = Receipt::default();
        let mut told = Vec::new();
        let mut links = Vec::new();
        let answer = match &doing {
            Doing::Create(instance, person) => {
                let Some(known) = self.people.instances.get(instance) else {
                    return Ok(Answer::Refused("ParticipantUnknown".to_owned()));
                };
                if known.end.is_some() {
                    return Ok(Answer::Refused("InstanceTerminal".to_owned()));
                }
                let Some(person) = known.people.get(person) else {
                    return Ok(Answer::Refused("ParticipantUnknown".to_owned()));
                };
                let permissions = match decide(person, "", &[]) {
                    Ok(permissions) => permissions,
                    Err(rejection) => return Ok(Answer::Refused(variant(&rejection))),
                };
                let Ok(end) = expires_at(now, Duration::from_hours(24)) else {
                    return Ok(Answer::Refused("ExpiryInvalid".to_owned()));
                };
                let mut live: Vec<&Link> = self.people.links.values().collect();
                live.retain(|link| {
                    link.instance == *instance
                        && link.participant == person.id
                        && link.state(now) == State::Active
                });
                live.sort_by_key(|link| (link.created_at, link.id.clone()));
                let live: Vec<LinkId> = live.into_iter().map(|link| link.id.clone()).collect();
                for id in crowded_out(&live) {
                    links.extend(self.revoked(id, "another link took its place"));
                }
                let link = Link {
                    tenant: TenantId::trusted(TENANT),
                    id: fresh.clone(),
                    instance: instance.clone(),
                    participant: person.id.clone(),
                    purpose: None,
                    permissions,
                    created_by: Author(Vec::new()),
                    created_at: now,
                    expires_at: end,
                    last_used_at: None,
                    writers: 0,
                    revoked: None,
                };
                links.push(link);
                Answer::Done(format!("link {fresh}"))
            }
            Doing::Revoke(id) => {
                let Some(link) = self.people.links.get(id) else {
                    return Ok(Answer::Refused("LinkNotFound".to_owned()));
                };
                let was = link.revoked.is_some();
                links.extend(self.revoked(id, "no more"));
                Answer::Done(format!("revoked {id} {was}"))
            }
            Doing::Hear(event) => {
                receipt.inbox = Some(event.event_id.clone());
                let instance = InstanceId::trusted(event.instance_id.clone());
                if let Some(Payload::InstanceEnded(ended)) = &event.payload
                    && matches!(ended.status(), InstanceStatus::Cancelled | InstanceStatus::Failed)
                {
                    let live = self.people.links.values().filter(|link| link.instance == instance);
                    let live: Vec<LinkId> =
                        live.filter(|link| link.revoked.is_none()).map(|link| link.id.clone()).collect();
                    links
                        .extend(live.iter().filter_map(|id| self.revoked(id, "the instance was called off")));
                }
                Answer::Done(String::new())
            }
        };
        for (link, (position, id)) in links.iter().zip(&ids) {
            told.push((*position, Arc::new(tell(link, &id.event_id, now))));
        }
        let is_cut_short = links.len() > ids.len();
        receipt.outbox = told;
        if self.bug != Some(Bug::RequestRunsAgain) {
            receipt.answer = once.clone().map(|once| (once, answer.clone()));
        }
        let looks = !matches!(self.bug, Some(Bug::NoInbox | Bug::InboxApart));
        self.people.kept.check(&receipt, looks)?;
        if is_cut_short {
            return Err(Conflict::Stale);
        }
        self.people.kept.write(receipt, now);
        if let (Some(once), Doing::Create(..)) = (&once, &doing) {
            self.witness_marker(once, "a link");
        }
        for link in links {
            self.people.links.insert(link.id.clone(), link);
        }
        if let Doing::Hear(event) = &doing {
            self.people.hear(event, now);
        }
        Ok(answer)
    }

    /// A link as it is once it is withdrawn; nothing where it was.
    fn revoked(&self, id: &LinkId, reason: &str) -> Option<Link> {
        let link = self.people.links.get(id).filter(|link| link.revoked.is_none())?;
        Some(Link { revoked: Some(Revoked { at: self.now, reason: reason.to_owned() }), ..link.clone() })
    }
}

impl People {
    fn hear(&mut self, event: &Event, now: phasegate_clock::Timestamp) {
        let known = self.instances.entry(InstanceId::trusted(event.instance_id.clone())).or_default();
        match &event.payload {
            Some(Payload::InstanceStarted(InstanceStarted { participants, .. })) => {
                for one in participants {
                    let id = ParticipantId::trusted(one.id.clone());
                    let person = Person {
                        id: id.clone(),
                        name: one.name.clone(),
                        email: one.email.clone(),
                        role: one.role.clone(),
                        raid_role: RaidRole::Approver,
                        external: one.external,
                        required_approvals: Vec::new(),
                        preferences: Preferences::default(),
                        can_delegate: false,
                        created_at: now,
                    };
                    known.addresses.entry(id.clone()).or_insert_with(|| one.email.clone());
                    known.people.entry(id).or_insert(person);
                }
            }
            Some(Payload::InstanceEnded(ended)) => {
                known.end.get_or_insert(ended.status());
            }
            Some(_) | None => {}
        }
    }
}

fn tell(link: &Link, event_id: &str, now: phasegate_clock::Timestamp) -> Event {
    let (link_id, participant_id) = (link.id.to_string(), link.participant.to_string());
    let payload = match &link.revoked {
        None => Payload::LinkCreated(LinkCreated {
            link_id,
            participant_id,
            expires_at: Some(link.expires_at.to_proto()),
            permissions: vec![LinkPermission::View.into()],
        }),
        Some(revoked) => {
            Payload::LinkRevoked(LinkRevoked { link_id, participant_id, reason: revoked.reason.clone() })
        }
    };
    Event {
        event_id: event_id.to_owned(),
        tenant_id: TENANT.to_owned(),
        instance_id: link.instance.to_string(),
        occurred_at: Some(now.to_proto()),
        payload: Some(payload),
        ..Event::default()
    }
}
