//! Portal sessions: a token becomes a session, a session says whom it stands for, and a form is sent once.

use phasegate_clock::Timestamp;
use phasegate_database::Reach;
use phasegate_id::{LinkId, TenantId};
use phasegate_proto::internal::event::v1::LinkOpened;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_rpc_error::Invalid;
use phasegate_telemetry::metrics::Counter;

use super::secret::{Hash, Secret};
use super::{App, Error, holder, tell_in};
use crate::domain::link::{Link, State, WRITERS_MAX};
use crate::domain::person::Person;
use crate::domain::session::{self as rules, Rejection, Session};
use crate::store::Place;
use crate::store::link as links;
use crate::store::session as rows;

/// A session that was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// What its holder shows from now on.
    pub token: Secret,
    /// Its end, used or not.
    pub ends_at: Timestamp,
    /// Whom it stands for.
    pub standing: Standing,
}

/// Whom a session stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The link.
    pub link: Link,
    /// The person.
    pub person: Person,
    /// As of when.
    pub now: Timestamp,
}

// === impl App ===

static EXCHANGES: Counter<1> = Counter::new(
    "phasegate_link_exchanges_total",
    "Links that were opened, by what they were: ok, expired, revoked or unknown.",
    ["result"],
);

impl App {
    /// Opens a session, and counts for those who watch the installation how that went.
    pub async fn link_exchange_counted(&self, token: &Secret) -> Result<Opened, Error> {
        let opened = self.link_exchange(token).await;
        let result = match &opened {
            Ok(_) => "ok",
            Err(error) => match phasegate_rpc_error::Refusal::reason(error) {
                "LINK_EXPIRED" => "expired",
                "LINK_REVOKED" => "revoked",
                "LINK_INVALID" => "unknown",
                _ => "failed",
            },
        };
        EXCHANGES.add(1, [result]);
        opened
    }

    /// Opens a session. Counts nothing and changes nothing else, because mail scanners do this, too.
    pub async fn link_exchange(&self, token: &Secret) -> Result<Opened, Error> {
        let id = self.tokens.verify(token).ok_or(Rejection::LinkInvalid)?;
        let link = self.store.link_find(&id).await?.ok_or(Rejection::LinkInvalid)?;
        Reach::of_tenant(link.tenant.as_str()).within(self.session_open(link)).await
    }

    async fn session_open(&self, link: Link) -> Result<Opened, Error> {
        let person = self.person_of(&link).await?;
        let now = self.clock.now();
        self.check_live(&link, &person, now).await?;

        // Always a new one: what the caller may have brought along is not looked at.
        let token = Secret::random::<32>()?;
        let hash = token.hash();
        let (ends_at, expires_at) = rules::open(now, link.expires_at);
        let session = Session {
            tenant: link.tenant.clone(),
            link: link.id.clone(),
            last_used_at: now,
            ends_at,
            expires_at,
            has_written: false,
        };
        self.store
            .db()
            .transaction(move |tx| {
                Box::pin(async move { rows::session_insert_in(tx, &session, &hash, now).await })
            })
            .await?;
        Ok(Opened { token, ends_at, standing: Standing { link, person, now } })
    }

    /// Says whom a session stands for, and notes its use.
    pub async fn session_verify(
        &self,
        token: &Secret,
        link_id: &str,
        writes: bool,
    ) -> Result<Standing, Error> {
        let hash = token.hash();
        let session = self.session_known(token, &hash).await?;
        if session.link.as_str() != link_id {
            return Err(Rejection::SessionExpired.into());
        }
        let reach = Reach::of_tenant(session.tenant.as_str());
        reach.within(self.session_use(&session, hash, writes)).await
    }

    async fn session_use(&self, session: &Session, hash: Hash, writes: bool) -> Result<Standing, Error> {
        let now = self.clock.now();
        let link = self.store.link_get(&session.tenant, &session.link).await?;
        let link = link.ok_or(Rejection::SessionExpired)?;
        let person = self.person_of(&link).await?;
        let used = match rules::decide(session, link.state(now), writes, now) {
            Ok(used) => used,
            Err(rejection @ (Rejection::LinkExpired | Rejection::LinkRevoked)) => {
                return Err(self.link_over(&link, &person, rejection).await?);
            }
            Err(rejection) => return Err(rejection.into()),
        };
        if used.first_write {
            self.count_writer(hash, &link, &person, now).await?;
        }
        if let Some(expires_at) = used.touch {
            let (tenant, id) = (link.tenant.clone(), link.id.clone());
            self.store
                .db()
                .transaction(move |tx| {
                    Box::pin(async move {
                        rows::session_touch_in(tx, &hash, expires_at, now).await?;
                        links::link_touch_in(tx, &tenant, &id, now).await
                    })
                })
                .await?;
        }
        Ok(Standing { link, person, now })
    }

    /// Makes a nonce for one form of a session.
    pub async fn nonce_issue(&self, token: &Secret, subject: &str) -> Result<Secret, Error> {
        if subject.is_empty() || subject.len() > rules::SUBJECT_BYTES_MAX {
            let message = format!("must have 1 to {} bytes", rules::SUBJECT_BYTES_MAX);
            return Err(Invalid::new("TEXT_INVALID", "subject", message).into());
        }
        let hash = token.hash();
        let session = self.session_known(token, &hash).await?;
        Reach::of_tenant(session.tenant.as_str()).within(self.nonce_make(session, hash, subject)).await
    }

    async fn nonce_make(&self, session: Session, hash: Hash, subject: &str) -> Result<Secret, Error> {
        let now = self.clock.now();
        let link = self.store.link_get(&session.tenant, &session.link).await?;
        let is_live = link.is_some_and(|link| rules::decide(&session, link.state(now), false, now).is_ok());
        if !is_live {
            return Err(Rejection::SessionExpired.into());
        }
        let nonce = Secret::random::<16>()?;
        let (nonce_hash, subject) = (nonce.hash(), subject.to_owned());
        let expires_at = rules::nonce_expires_at(now, session.ends_at);
        self.store
            .db()
            .transaction(move |tx| {
                Box::pin(async move {
                    rows::nonce_insert_in(tx, &session, &hash, &nonce_hash, &subject, expires_at, now).await
                })
            })
            .await?;
        Ok(nonce)
    }

    /// Uses a nonce up.
    pub async fn nonce_consume(&self, token: &Secret, subject: &str, nonce: &Secret) -> Result<(), Error> {
        let now = self.clock.now();
        let (hash, nonce_hash, subject) = (token.hash(), nonce.hash(), subject.to_owned());
        // Whoever's the form is.
        let was_good = self
            .store
            .db()
            .across_tenants()
            .transaction(move |tx| {
                Box::pin(async move { rows::nonce_use_in(tx, &hash, &nonce_hash, &subject, now).await })
            })
            .await?;
        if was_good { Ok(()) } else { Err(Rejection::Csrf.into()) }
    }

    /// Counts a session among those of its link that write, and tells of the first.
    async fn count_writer(
        &self,
        hash: Hash,
        link: &Link,
        person: &Person,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (tenant, id): (TenantId, LinkId) = (link.tenant.clone(), link.id.clone());
        let place = Place { tenant: link.tenant.clone(), instance: link.instance.clone() };
        let opened = Payload::LinkOpened(LinkOpened {
            link_id: id.as_str().to_owned(),
            participant_id: person.id.as_str().to_owned(),
        });
        let actor = holder(person);
        let counted = self.store.db().transaction(move |tx| {
            Box::pin(async move {
                if !rows::session_write_in(tx, &hash, now).await? {
                    // Another request of this session was faster: it is counted.
                    return Ok(());
                }
                match links::writer_add_in(tx, &tenant, &id, WRITERS_MAX, now).await? {
                    Some(1) => tell_in(tx, &place, actor, now, opened).await,
                    Some(_) => Ok(()),
                    None => {
                        let state = links::link_in(tx, &tenant, &id).await?.map(|link| link.state(now));
                        Err(why_not_counted(state).into())
                    }
                }
            })
        });
        let counted = counted.await;
        self.relay.wake();
        counted
    }

    async fn session_known(&self, token: &Secret, hash: &Hash) -> Result<Session, Error> {
        if !token.is_short() {
            return Err(Rejection::SessionExpired.into());
        }
        Ok(self.store.session_find(hash).await?.ok_or(Rejection::SessionExpired)?)
    }
}

/// A link that took no further session: it ended in between, or has had too many.
fn why_not_counted(state: Option<State>) -> Rejection {
    match state {
        Some(State::Active) => Rejection::LinkExhausted,
        Some(State::Expired) => Rejection::LinkExpired,
        Some(State::Revoked) => Rejection::LinkRevoked,
        None => Rejection::SessionExpired,
    }
}
