//! Making, listing and withdrawing links.

use std::sync::Arc;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::Transaction;
use phasegate_id::{LinkId, ParticipantId, TenantId};
use phasegate_idempotency::{Answer, run};
use phasegate_principal::Principal;
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{LinkCreated, LinkRevoked};
use phasegate_proto::participant::v1::LinkPermission;
use prost::Message as _;

use super::secret::Secret;
use super::{App, Error, Once, link_not_found, ourselves, parse_link, shortened, tell_in};
use crate::domain::Author;
use crate::domain::link::{self as rules, Link, Revoked};
use crate::domain::permission::{Permission, Permissions};
use crate::domain::person::Person;
use crate::domain::session::{Rejection, check_link};
use crate::store::Place;
use crate::store::link as rows;
use crate::store::participant as people;

pub use crate::store::link::After;

/// Why a link ends when another one is made.
const CROWDED_OUT: &str = "replaced by a newer link";

/// What a caller wants of a new link, its form already checked.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Person.
    pub participant: String,
    /// Must be the person's address, when given.
    pub email: String,
    /// How long it lasts.
    pub life: Duration,
    /// What it allows; the usual when empty.
    pub permissions: Vec<Permission>,
}

/// A link with its person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The link.
    pub link: Link,
    /// The person.
    pub person: Person,
    /// As of when.
    pub now: Timestamp,
    /// Nothing was changed.
    pub unchanged: bool,
}

// === impl App ===

impl App {
    /// Makes a link for an external person.
    pub async fn link_create(
        &self,
        principal: &Principal,
        instance_id: &str,
        wish: Wish,
        once: Option<Once<Held>>,
    ) -> Result<Answer<Held>, Error> {
        let place = self.manageable(principal, instance_id).await?;
        let wish = Arc::new(wish);
        let done = run(self.store.db(), once.as_ref(), || {
            self.link_create_once(principal, &place, Arc::clone(&wish), once.clone())
        })
        .await;
        self.relay.wake();
        done
    }

    /// Where a link leads.
    pub fn link_url(&self, id: &LinkId, expires_at: Timestamp) -> Result<Secret, Error> {
        Ok(self.tokens.url(id, expires_at)?)
    }

    /// Lists links, newest first, each with its person.
    pub async fn link_list(
        &self,
        principal: &Principal,
        instance_id: &str,
        participant_id: &str,
        after: Option<&After>,
        limit: usize,
    ) -> Result<Vec<Held>, Error> {
        let place = self.manageable(principal, instance_id).await?;
        let now = self.clock.now();
        // What is no id is nobody's. PostgreSQL cannot even be told of a NUL.
        if !participant_id.is_empty() && ParticipantId::parse(participant_id).is_err() {
            return Ok(Vec::new());
        }
        let links = self.store.link_list(&place, participant_id, after, limit).await?;
        let mut ids: Vec<String> = links.iter().map(|link| link.participant.to_string()).collect();
        ids.sort_unstable();
        ids.dedup();
        let people = if ids.is_empty() { Vec::new() } else { self.store.people(&place, &ids).await? };
        let held = links.into_iter().filter_map(|link| {
            // Every link has its person: the schema says so.
            let person = people.iter().find(|person| person.id == link.participant)?.clone();
            Some(Held { link, person, now, unchanged: true })
        });
        Ok(held.collect())
    }

    /// Withdraws a link.
    pub async fn link_revoke(
        &self,
        principal: &Principal,
        link_id: &str,
        reason: &str,
        once: Option<Once<Held>>,
    ) -> Result<Answer<Held>, Error> {
        let id = parse_link(link_id)?;
        let (link, person) = self.link_of_tenant(principal, &id).await?;
        if principal.participation.is_some() {
            return Err(Error::ParticipantMayNotManage);
        }
        let actor = principal.actor();
        let done = run(self.store.db(), once.as_ref(), || {
            let now = self.clock.now();
            let (id, tenant, person) = (link.id.clone(), link.tenant.clone(), person.clone());
            let (reason, actor, once) = (reason.to_owned(), actor.clone(), once.clone());
            self.store.db().transaction(move |tx| {
                Box::pin(async move {
                    let link = rows::link_in(tx, &tenant, &id).await?;
                    let mut link = link.ok_or_else(|| link_not_found(id.as_str()))?;
                    let revoked = revoke_in(tx, &link, &reason, actor, now).await?;
                    if revoked {
                        link.revoked = Some(Revoked { at: now, reason });
                    } else {
                        // Somebody was faster: what they wrote stands.
                        link = rows::link_in(tx, &tenant, &id).await?.unwrap_or(link);
                    }
                    let held = Held { link, person, now, unchanged: !revoked };
                    if let Some(once) = once {
                        once.keep_in(tx, &held, now).await?;
                    }
                    Ok(held)
                })
            })
        })
        .await;
        self.relay.wake();
        done
    }

    /// Refuses a link that is over, and tells its holder whether there can be a fresh one.
    pub(super) async fn check_live(&self, link: &Link, person: &Person, now: Timestamp) -> Result<(), Error> {
        match check_link(link.state(now)) {
            Ok(()) => Ok(()),
            Err(rejection) => Err(self.link_over(link, person, rejection).await?),
        }
    }

    /// What the holder of a genuine token or session is told of a link that is over.
    pub(super) async fn link_over(
        &self,
        link: &Link,
        person: &Person,
        rejection: Rejection,
    ) -> Result<Error, Error> {
        let place = Place { tenant: link.tenant.clone(), instance: link.instance.clone() };
        let known = self.store.instance(&place).await?.unwrap_or_default();
        let renewable = !known.is_called_off() && !person.email.is_empty();
        Ok(Error::LinkOver { rejection, renewable, address: person.masked_address() })
    }

    async fn link_create_once(
        &self,
        principal: &Principal,
        place: &Place,
        wish: Arc<Wish>,
        once: Option<Once<Held>>,
    ) -> Result<Held, Error> {
        self.goes_on(place).await?;
        let now = self.clock.now();
        let (place, actor) = (place.clone(), principal.actor());
        self.store
            .db()
            .transaction(move |tx| {
                Box::pin(async move {
                    let known = people::instance_in(tx, &place).await?.unwrap_or_default();
                    if let Some(end) = known.end {
                        let instance = place.instance.clone();
                        return Err(Error::InstanceTerminal { instance, status: end.as_str() });
                    }
                    let person = lock_in(tx, &place, &parse_participant(&wish.participant)?).await?;
                    let permissions = rules::decide(&person, &wish.email, &wish.permissions)?;
                    let expires_at = rules::expires_at(now, wish.life)?;
                    let live = rows::live_of_person_in(tx, &place, &person.id, now).await?;
                    for id in rules::crowded_out(&live) {
                        if let Some(old) = rows::link_in(tx, &place.tenant, id).await? {
                            revoke_in(tx, &old, CROWDED_OUT, actor.clone(), now).await?;
                        }
                    }
                    let link = new_link(&place, &person, None, permissions, &actor, now, expires_at);
                    create_in(tx, &place, &link, actor, now).await?;
                    let held = Held { link, person, now, unchanged: false };
                    if let Some(once) = once {
                        once.keep_in(tx, &held, now).await?;
                    }
                    Ok(held)
                })
            })
            .await
    }

    /// A link that the caller may see, with its person.
    pub(super) async fn link_of_tenant(
        &self,
        principal: &Principal,
        id: &LinkId,
    ) -> Result<(Link, Person), Error> {
        let not_found = || link_not_found(id.as_str());
        let tenant = TenantId::trusted(principal.tenant.clone());
        let link = self.store.link_get(&tenant, id).await?.ok_or_else(not_found)?;
        if !principal.sees_instance(link.instance.as_str()) {
            return Err(not_found());
        }
        let person = self.person_of(&link).await?;
        Ok((link, person))
    }

    /// The person of a link: the schema says that there is one.
    pub(super) async fn person_of(&self, link: &Link) -> Result<Person, Error> {
        let place = Place { tenant: link.tenant.clone(), instance: link.instance.clone() };
        let person = self.store.person_get(&place, &link.participant).await?;
        person.ok_or_else(|| Error::inconsistent("link", link.id.as_str()))
    }
}

/// Withdraws a link and tells of it. False when it was withdrawn before.
pub(super) async fn revoke_in(
    tx: &mut Transaction,
    link: &Link,
    reason: &str,
    actor: Actor,
    now: Timestamp,
) -> Result<bool, Error> {
    let revoked = rows::link_revoke_in(tx, &link.tenant, &link.id, reason, now).await?;
    if revoked {
        let place = Place { tenant: link.tenant.clone(), instance: link.instance.clone() };
        tell_in(tx, &place, actor, now, revoked_payload(&link.id, &link.participant, reason)).await?;
    }
    Ok(revoked)
}

/// Withdraws the live links of an instance that was called off, and tells of each.
pub(super) async fn revoke_all_in(
    tx: &mut Transaction,
    place: &Place,
    known: people::Known,
    now: Timestamp,
) -> Result<(), Error> {
    let reason = called_off(known);
    for (link, participant) in rows::live_of_instance_in(tx, place, now).await? {
        if rows::link_revoke_in(tx, &place.tenant, &link, &reason, now).await? {
            tell_in(tx, place, ourselves(), now, revoked_payload(&link, &participant, &reason)).await?;
        }
    }
    Ok(())
}

pub(super) async fn create_in(
    tx: &mut Transaction,
    place: &Place,
    link: &Link,
    actor: Actor,
    now: Timestamp,
) -> Result<(), Error> {
    rows::link_insert_in(tx, link).await?;
    tell_in(tx, place, actor, now, created(link)).await
}

/// What the others hear of a new link.
pub(super) fn created(link: &Link) -> Payload {
    let permissions = link.permissions.iter().map(|permission| proto_permission(permission).into()).collect();
    Payload::LinkCreated(LinkCreated {
        link_id: link.id.as_str().to_owned(),
        participant_id: link.participant.as_str().to_owned(),
        expires_at: Some(link.expires_at.to_proto()),
        permissions,
    })
}

/// The contract's word for a permission.
pub fn proto_permission(permission: Permission) -> LinkPermission {
    match permission {
        Permission::View => LinkPermission::View,
        Permission::Approve => LinkPermission::Approve,
        Permission::Comment => LinkPermission::Comment,
        Permission::Delegate => LinkPermission::Delegate,
    }
}

fn revoked_payload(link: &LinkId, participant: &ParticipantId, reason: &str) -> Payload {
    Payload::LinkRevoked(LinkRevoked {
        link_id: link.as_str().to_owned(),
        participant_id: participant.as_str().to_owned(),
        reason: reason.to_owned(),
    })
}

pub(super) fn new_link(
    place: &Place,
    person: &Person,
    purpose: Option<String>,
    permissions: Permissions,
    actor: &Actor,
    now: Timestamp,
    expires_at: Timestamp,
) -> Link {
    Link {
        tenant: place.tenant.clone(),
        id: LinkId::generate(),
        instance: place.instance.clone(),
        participant: person.id.clone(),
        purpose,
        permissions,
        created_by: Author(actor.encode_to_vec()),
        created_at: now,
        expires_at,
        last_used_at: None,
        writers: 0,
        revoked: None,
    }
}

pub(super) async fn lock_in(
    tx: &mut Transaction,
    place: &Place,
    id: &ParticipantId,
) -> Result<Person, Error> {
    let person = people::person_lock_in(tx, place, id).await?;
    person.ok_or_else(|| Error::ParticipantNotFound { participant: id.to_string() })
}

pub(super) fn parse_participant(id: &str) -> Result<ParticipantId, Error> {
    ParticipantId::parse(id).map_err(|_| Error::ParticipantNotFound { participant: shortened(id) })
}

pub(super) fn called_off(known: people::Known) -> String {
    format!("the instance is {}", known.end.map_or("over", people::End::as_str))
}
