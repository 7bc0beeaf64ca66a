//! Links that travel by mail: those of notifications, and fresh ones for people whose link is over.

use phasegate_clock::Timestamp;
use phasegate_database::Reach;
use phasegate_id::{LinkId, ParticipantId};
use phasegate_principal::Principal;
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::internal::event::v1::FreshLinkAsked;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_rpc_error::Invalid;

use super::link::{Held, called_off, create_in, created, lock_in, new_link, parse_participant, revoke_in};
use super::secret::Secret;
use super::{App, Error, holder, ourselves, parse_link};
use crate::domain::link::{self as rules, Link, Revoked, State};
use crate::domain::permission::Permissions;
use crate::domain::person::Person;
use crate::store::link as rows;
use crate::store::participant as people;
use crate::store::{Ensured, Place};

/// Longest purpose: that of a notification is its id.
const PURPOSE_BYTES_MAX: usize = 256;

// === impl App ===

impl App {
    /// Makes the link of a notification, once.
    pub async fn link_ensure(
        &self,
        principal: &Principal,
        instance_id: &str,
        participant_id: &str,
        purpose: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<Held, Error> {
        let place = self.manageable(principal, instance_id).await?;
        if purpose.is_empty() || purpose.len() > PURPOSE_BYTES_MAX {
            let message = format!("must have 1 to {PURPOSE_BYTES_MAX} bytes");
            return Err(Invalid::new("TEXT_INVALID", "purpose", message).into());
        }
        let participant = parse_participant(participant_id)?;
        let now = self.clock.now();
        let (actor, purpose) = (principal.actor(), purpose.to_owned());
        let ensured =
            match self.link_with_others(&place, &participant, &purpose, &actor, now, expires_at).await {
                Ok(Some(held)) => Ok(held),
                Ok(None) => self.link_alone(place, participant, purpose, actor, now, expires_at).await,
                Err(error) => Err(error),
            };
        self.relay.wake();
        ensured
    }

    /// The same, with its URL; none where it is not live.
    pub async fn link_ensure_signed(
        &self,
        principal: &Principal,
        instance_id: &str,
        participant_id: &str,
        purpose: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<(Held, Option<Secret>), Error> {
        let held = self.link_ensure(principal, instance_id, participant_id, purpose, expires_at).await?;
        let url = match held.link.state(held.now) {
            State::Active => Some(self.link_url(&held.link.id, held.link.expires_at)?),
            State::Expired | State::Revoked => None,
        };
        Ok((held, url))
    }

    /// Makes the link of a notification together with others. `None` where a transaction of its own has to look closer.
    async fn link_with_others(
        &self,
        place: &Place,
        participant: &ParticipantId,
        purpose: &str,
        actor: &Actor,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<Option<Held>, Error> {
        let people = self.people_known(place).await?;
        let Some(person) = people.get(participant) else { return Ok(None) };
        let link = notification_link(place, person, purpose.to_owned(), actor, now, expires_at);
        let event =
            phasegate_outbox::event(&place.tenant, &place.instance, actor.clone(), now, created(&link));
        let (link, unchanged) = match self.store.link_ensure(link.clone(), event).await? {
            Ensured::Made => (link, false),
            Ensured::There(link) => (*link, true),
            Ensured::Otherwise => return Ok(None),
        };
        Ok(Some(Held { link, person: person.clone(), now, unchanged }))
    }

    async fn link_alone(
        &self,
        place: Place,
        participant: ParticipantId,
        purpose: String,
        actor: Actor,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<Held, Error> {
        self.store
            .db()
            .transaction(move |tx| {
                Box::pin(async move {
                    tx.linger();
                    let known = people::instance_in(tx, &place).await?.unwrap_or_default();
                    let person = lock_in(tx, &place, &participant).await?;
                    if let Some(link) = rows::link_of_purpose_in(tx, &place, &participant, &purpose).await? {
                        return Ok(Held { link, person, now, unchanged: true });
                    }
                    let mut link = notification_link(&place, &person, purpose, &actor, now, expires_at);
                    create_in(tx, &place, &link, actor, now).await?;
                    if known.is_called_off() {
                        let reason = called_off(known);
                        revoke_in(tx, &link, &reason, ourselves(), now).await?;
                        link.revoked = Some(Revoked { at: now, reason });
                    }
                    Ok::<_, Error>(Held { link, person, now, unchanged: false })
                })
            })
            .await
    }

    /// The URL of a live link.
    pub async fn link_sign(&self, principal: &Principal, link_id: &str) -> Result<Secret, Error> {
        let id = parse_link(link_id)?;
        let (link, person) = self.link_of_tenant(principal, &id).await?;
        if principal.participation.is_some() {
            return Err(Error::ParticipantMayNotManage);
        }
        self.check_live(&link, &person, self.clock.now()).await?;
        self.link_url(&link.id, link.expires_at)
    }

    /// Has a fresh link mailed to the holder of one that is over, allowing what that one did. Says nothing, whatever
    /// comes of it.
    pub async fn link_renew(&self, token: &Secret) -> Result<(), Error> {
        let Some(id) = self.tokens.verify(token) else { return Ok(()) };
        self.renew(&id).await
    }

    /// The same for who came in by that link: the session, whether it has ended or not, shows that its holder had it.
    pub async fn link_renew_of_session(&self, token: &Secret, link_id: &str) -> Result<(), Error> {
        if !token.is_short() {
            return Ok(());
        }
        match self.store.session_find(&token.hash()).await? {
            Some(session) if session.link.as_str() == link_id => self.renew(&session.link).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn renew(&self, id: &LinkId) -> Result<(), Error> {
        let Some(link) = self.store.link_find(id).await? else { return Ok(()) };
        Reach::of_tenant(link.tenant.as_str()).within(self.link_replace(link)).await
    }

    async fn link_replace(&self, link: Link) -> Result<(), Error> {
        let now = self.clock.now();
        if link.state(now) == State::Active && !link.is_exhausted() {
            return Ok(());
        }
        let place = Place { tenant: link.tenant.clone(), instance: link.instance.clone() };
        let asked = self.store.db().transaction(move |tx| {
            Box::pin(async move {
                let known = people::instance_in(tx, &place).await?.unwrap_or_default();
                let person = lock_in(tx, &place, &link.participant).await?;
                let asked = rows::fresh_count_in(tx, &place, &person.id, now).await?;
                let permissions = link.allows(&person);
                let is_over = known.is_called_off() || person.email.is_empty() || permissions.is_empty();
                if is_over || asked >= rules::FRESH_MAX {
                    return Ok(());
                }
                let (actor, end) = (holder(&person), rules::expires_within(now, None));
                let mut fresh = new_link(&place, &person, None, permissions, &actor, now, end);
                // With a purpose of its own it is none of those that are counted and crowded out.
                fresh.purpose = Some(format!("fresh {}", fresh.id));
                create_in(tx, &place, &fresh, actor.clone(), now).await?;
                let payload = Payload::FreshLinkAsked(FreshLinkAsked {
                    participant_id: person.id.as_str().to_owned(),
                    old_link_id: link.id.as_str().to_owned(),
                    new_link_id: fresh.id.as_str().to_owned(),
                });
                let event = phasegate_outbox::event(&place.tenant, &place.instance, actor, now, payload);
                phasegate_outbox::append(tx, &event).await?;
                rows::fresh_insert_in(tx, &place, &person.id, &event.event_id, now).await?;
                Ok::<_, Error>(())
            })
        });
        let asked = asked.await;
        self.relay.wake();
        asked
    }
}

/// The link of a notification: what is usual, as far as the person's role goes.
fn notification_link(
    place: &Place,
    person: &Person,
    purpose: String,
    actor: &Actor,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Link {
    let permissions = Permissions::USUAL.and(Permissions::of_role(person));
    let expires_at = rules::expires_within(now, expires_at);
    new_link(place, person, Some(purpose), permissions, actor, now, expires_at)
}
