//! Making, resolving, rotating and withdrawing API keys.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::Reach;
use phasegate_id::{KeyId, ParticipantId, TenantId, is_slug};
use phasegate_idempotency::{Answer, run};
use phasegate_principal::{ApiKey, Caller, Principal, Scope};
use phasegate_rpc_error::Invalid;
use subtle::ConstantTimeEq as _;

use super::{App, Error, Once, shortened};
use crate::domain::key::{GRACE_MAX, Key, LIFE_MAX, LIFE_MIN, Rejection, Secret, Status};
use crate::store::key as rows;

pub use crate::store::key::After;

/// Longest name, in characters.
const NAME_CHARS_MAX: usize = 100;
/// Queues of one key.
const QUEUES_MAX: usize = 20;

/// What a caller wants of a new key.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Name for people.
    pub name: String,
    /// What its holder may call.
    pub scopes: Vec<String>,
    /// The only queues whose work its holder gets.
    pub queues: Vec<String>,
    /// Whom its holder decides for; nobody when empty.
    pub participant: String,
    /// What the record names as the caller; the key when empty.
    pub service: String,
    /// How long it lasts; for ever when absent.
    pub life: Option<Duration>,
}

/// A key, and its new secret where it has just got one.
#[derive(Debug, Clone)]
pub struct Made {
    /// The key.
    pub key: Key,
    /// The secret, once.
    pub secret: Option<ApiKey>,
    /// As of when.
    pub now: Timestamp,
    /// Nothing was changed.
    pub unchanged: bool,
}

// === impl Wish ===

impl Wish {
    /// Refuses what makes no sense, and what is more than the caller has.
    fn check(&self, principal: &Principal) -> Result<(), Error> {
        let scopes = self.scopes()?;
        check_held(principal, &scopes)?;
        let has = |scope| scopes.contains(&scope);
        let is_name = (1..=NAME_CHARS_MAX).contains(&self.name.chars().count())
            && !self.name.chars().any(char::is_control);
        if !is_name {
            let message = format!("must be one line of 1 to {NAME_CHARS_MAX} characters");
            return Err(Invalid::new("TEXT_INVALID", "name", message).into());
        }
        let is_queue = |queue: &String| phasegate_id::AgentId::parse(queue).is_ok();
        if self.queues.len() > QUEUES_MAX || !self.queues.iter().all(is_queue) {
            let message = format!("must be at most {QUEUES_MAX} names of queues");
            return Err(Invalid::new("QUEUES_INVALID", "queues", message).into());
        }
        if has(Scope::WorkersPoll) == self.queues.is_empty() {
            let message = "must be given with the scope workers:poll, and with no other";
            return Err(Invalid::new("QUEUES_INVALID", "queues", message).into());
        }
        if !self.queues.is_empty() && (has(Scope::ApprovalsDecide) || has(Scope::Admin)) {
            let message = "must not let an agent decide: workers:poll goes neither with approvals:decide nor with admin";
            return Err(Rejection::Scope { scope: Scope::WorkersPoll.as_str().to_owned(), message }.into());
        }
        let decides = has(Scope::ApprovalsDecide) || (has(Scope::Admin) && !self.participant.is_empty());
        let is_somebody = ParticipantId::parse(&self.participant).is_ok();
        if decides != is_somebody || (!is_somebody && !self.participant.is_empty()) {
            let message = "must be given with the scope approvals:decide, and only with it or admin";
            return Err(Invalid::new("PARTICIPANT_INVALID", "participant_id", message).into());
        }
        if !self.service.is_empty() && !is_slug(&self.service) {
            let message = "must be lower-case letters, digits, - and _, beginning with a letter";
            return Err(Invalid::new("TEXT_INVALID", "service", message).into());
        }
        if self.life.is_some_and(|life| !(LIFE_MIN..=LIFE_MAX).contains(&life)) {
            return Err(Invalid::new("EXPIRY_INVALID", "expires_in", "must be 5 minutes to 366 days").into());
        }
        Ok(())
    }

    fn scopes(&self) -> Result<Vec<Scope>, Rejection> {
        let wrong = |scope: &str, message| Rejection::Scope { scope: scope.to_owned(), message };
        if self.scopes.is_empty() {
            return Err(wrong("", "must name at least one"));
        }
        let mut scopes = Vec::new();
        for text in &self.scopes {
            let known =
                Scope::parse(text).ok_or_else(|| wrong(&shortened(text), "must name known scopes"))?;
            if scopes.contains(&known) {
                return Err(wrong(text, "must name each scope once"));
            }
            scopes.push(known);
        }
        Ok(scopes)
    }
}

// === impl App ===

impl App {
    /// Makes a key.
    pub async fn key_create(
        &self,
        principal: &Principal,
        wish: &Wish,
        once: Option<Once<Made>>,
    ) -> Result<Answer<Made>, Error> {
        wish.check(principal)?;
        run(self.store.db(), once.as_ref(), || async {
            let now = self.clock.now();
            let secret = ApiKey::generate()?;
            let key = Key {
                tenant: TenantId::trusted(principal.tenant.clone()),
                id: KeyId::generate(),
                name: wish.name.clone(),
                scopes: wish.scopes.clone(),
                queues: wish.queues.clone(),
                participant: Some(wish.participant.clone()).filter(|id| !id.is_empty()),
                service: Some(wish.service.clone()).filter(|name| !name.is_empty()),
                created_by: maker(principal),
                created_at: now,
                expires_at: wish.life.map(|life| now + life),
                revoked_at: None,
                last_used_at: None,
                secrets: vec![secret_of(&secret, now)],
            };
            let once = once.clone();
            self.store
                .db()
                .transaction(move |tx| {
                    Box::pin(async move {
                        insert_in(tx, &key, &secret).await?;
                        let made = Made { key, secret: Some(secret), now, unchanged: false };
                        if let Some(once) = once {
                            once.keep_in(tx, &made, now).await?;
                        }
                        Ok(made)
                    })
                })
                .await
        })
        .await
    }

    /// Lists keys, newest first.
    pub async fn key_list(
        &self,
        principal: &Principal,
        all: bool,
        after: Option<&After>,
        limit: usize,
    ) -> Result<Vec<Made>, Error> {
        let now = self.clock.now();
        let tenant = TenantId::trusted(principal.tenant.clone());
        let keys = self.store.key_list(&tenant, (!all).then_some(now), after, limit).await?;
        Ok(keys.into_iter().map(|key| Made { key, secret: None, now, unchanged: true }).collect())
    }

    /// Withdraws a key, or one of its secrets.
    pub async fn key_revoke(
        &self,
        principal: &Principal,
        key_id: &str,
        prefix: &str,
        once: Option<Once<Made>>,
    ) -> Result<Answer<Made>, Error> {
        let (tenant, id) = (TenantId::trusted(principal.tenant.clone()), parse_key(key_id)?);
        run(self.store.db(), once.as_ref(), || {
            let now = self.clock.now();
            let (tenant, id, prefix, once) = (tenant.clone(), id.clone(), prefix.to_owned(), once.clone());
            self.store.db().transaction(move |tx| {
                Box::pin(async move {
                    let mut key = known_in(tx, &tenant, &id).await?;
                    let unchanged = if prefix.is_empty() {
                        let unchanged = key.status(now) == Status::Revoked;
                        rows::key_revoke_in(tx, &key, now).await?;
                        key.revoked_at = key.revoked_at.or(Some(now));
                        unchanged
                    } else {
                        let secret = key.secrets.iter_mut().find(|secret| secret.prefix == prefix);
                        let secret = secret.ok_or_else(|| not_found(&shortened(&prefix)))?;
                        let unchanged = !secret.is_live(now);
                        secret.ends_at = Some(secret.ends_at.map_or(now, |end| end.min(now)));
                        rows::secret_end_in(tx, &key, &prefix, now).await?;
                        unchanged
                    };
                    let made = Made { key, secret: None, now, unchanged };
                    if let Some(once) = once {
                        once.keep_in(tx, &made, now).await?;
                    }
                    Ok(made)
                })
            })
        })
        .await
    }

    /// Gives a key a second secret.
    pub async fn key_rotate(
        &self,
        principal: &Principal,
        key_id: &str,
        grace: Duration,
        once: Option<Once<Made>>,
    ) -> Result<Answer<Made>, Error> {
        let (tenant, id) = (TenantId::trusted(principal.tenant.clone()), parse_key(key_id)?);
        if grace > GRACE_MAX {
            return Err(Invalid::new("EXPIRY_INVALID", "grace", "must be at most 30 days").into());
        }
        run(self.store.db(), once.as_ref(), || async {
            let now = self.clock.now();
            let secret = ApiKey::generate()?;
            let (tenant, id, once, principal) = (tenant.clone(), id.clone(), once.clone(), principal.clone());
            self.store
                .db()
                .transaction(move |tx| {
                    Box::pin(async move {
                        let mut key = known_in(tx, &tenant, &id).await?;
                        // Whoever gets the secret could do with it what the key may.
                        let scopes: Vec<Scope> =
                            key.scopes.iter().filter_map(|one| Scope::parse(one)).collect();
                        check_held(&principal, &scopes)?;
                        key.check_rotation(now)?;
                        let ends_at = now + grace;
                        for old in key.secrets.iter().filter(|secret| secret.is_live(now)) {
                            rows::secret_end_in(tx, &key, &old.prefix, ends_at).await?;
                        }
                        for old in key.secrets.iter_mut().filter(|secret| secret.is_live(now)) {
                            old.ends_at = Some(old.ends_at.map_or(ends_at, |end| end.min(ends_at)));
                        }
                        let new = secret_of(&secret, now);
                        rows::secret_insert_in(tx, &key, &new, &secret.digest()).await?;
                        key.secrets.insert(0, new);
                        let made = Made { key, secret: Some(secret), now, unchanged: false };
                        if let Some(once) = once {
                            once.keep_in(tx, &made, now).await?;
                        }
                        Ok(made)
                    })
                })
                .await
        })
        .await
    }

    /// Says whose a secret is. Everything that is wrong with one reads the same, and takes the same way: one look into the
    /// table and one comparison.
    pub async fn key_resolve(&self, prefix: &str, digest: &[u8]) -> Result<Key, Error> {
        let now = self.clock.now();
        // PostgreSQL cannot even be told of a NUL.
        let is_text = prefix.len() < 64 && prefix.bytes().all(|byte| byte.is_ascii_graphic());
        let found = if is_text { self.store.key_find(prefix).await? } else { None };
        let kept = found.as_ref().map_or([0; 32].as_slice(), |found| found.digest.as_slice());
        let is_same = bool::from(kept.ct_eq(digest));
        let good = found.filter(|found| is_same && found.key.live_secrets(now).count() == 1);
        let key = good.ok_or(Rejection::Unknown)?.key;
        if key.use_is_news(now) {
            // Nobody waits for this, and nothing depends on it.
            let (store, used) = (self.store.clone(), key.clone());
            tokio::spawn(Reach::of_tenant(key.tenant.as_str()).within(async move {
                if let Err(error) = store.key_touch(&used, now).await {
                    tracing::debug!(%error, "the use of a key was not noted");
                }
            }));
        }
        Ok(key)
    }
}

/// Writes a key with its first secret.
pub(super) async fn insert_in(
    tx: &mut phasegate_database::Transaction,
    key: &Key,
    secret: &ApiKey,
) -> Result<(), crate::store::Error> {
    rows::key_insert_in(tx, key).await?;
    for known in &key.secrets {
        rows::secret_insert_in(tx, key, known, &secret.digest()).await?;
    }
    Ok(())
}

/// A secret as far as it may be shown.
pub(super) fn secret_of(secret: &ApiKey, now: Timestamp) -> Secret {
    Secret { prefix: secret.prefix().to_owned(), created_at: now, ends_at: None }
}

async fn known_in(
    tx: &mut phasegate_database::Transaction,
    tenant: &TenantId,
    id: &KeyId,
) -> Result<Key, Error> {
    Ok(rows::key_lock_in(tx, tenant, id).await?.ok_or_else(|| not_found(id.as_str()))?)
}

/// Refuses scopes that the caller does not have.
fn check_held(principal: &Principal, scopes: &[Scope]) -> Result<(), Rejection> {
    let wider = scopes.iter().find(|scope| !principal.has(**scope));
    wider.map_or(Ok(()), |scope| Err(Rejection::ScopeWider { scope: scope.as_str().to_owned() }))
}

fn parse_key(id: &str) -> Result<KeyId, Rejection> {
    KeyId::parse(id).map_err(|_| not_found(&shortened(id)))
}

fn not_found(id: &str) -> Rejection {
    Rejection::NotFound { key: id.to_owned() }
}

fn maker(principal: &Principal) -> String {
    let kind = match principal.kind {
        Caller::Operator => "operator",
        Caller::Service => "service",
        Caller::Participant => "participant",
        Caller::System => "system",
    };
    format!("{kind}:{}", principal.id)
}

#[cfg(test)]
mod tests {
    use phasegate_rpc_error::Refusal as _;

    use super::*;

    fn refused(scopes: &[&str], queues: &[&str], participant: &str) -> Option<&'static str> {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let wish = Wish {
            name: "ci".to_owned(),
            scopes: texts(scopes),
            queues: texts(queues),
            participant: participant.to_owned(),
            service: String::new(),
            life: None,
        };
        wish.check(&Principal::dev_operator()).err().map(|error| error.reason())
    }

    #[test]
    fn scopes_queues_and_people_belong_together() {
        let scope = Some("SCOPE_INVALID");
        for (scopes, queues, participant, reason) in [
            (["instances:read"].as_slice(), [].as_slice(), "", None),
            (&["admin"], &[], "", None),
            (&["admin"], &[], "ciso", None),
            (&["workers:poll", "artifacts:write"], &["architect"], "", None),
            (&["approvals:decide"], &[], "ciso", None),
            (&[], &[], "", scope),
            (&["everything"], &[], "", scope),
            (&["tasks:read", "tasks:read"], &[], "", scope),
            (&["workers:poll", "approvals:decide"], &["architect"], "ciso", scope),
            (&["workers:poll", "admin"], &["architect"], "", scope),
            (&["workers:poll"], &[], "", Some("QUEUES_INVALID")),
            (&["tasks:read"], &["architect"], "", Some("QUEUES_INVALID")),
            (&["workers:poll"], &["two words"], "", Some("QUEUES_INVALID")),
            (&["approvals:decide"], &[], "", Some("PARTICIPANT_INVALID")),
            (&["tasks:read"], &[], "ciso", Some("PARTICIPANT_INVALID")),
            (&["approvals:decide"], &[], "\0", Some("PARTICIPANT_INVALID")),
        ] {
            assert_eq!(refused(scopes, queues, participant), reason, "{scopes:?} {queues:?} {participant:?}");
        }
    }

    #[test]
    fn nobody_gives_away_what_is_not_their_own() {
        let clerk = Principal { scopes: vec![Scope::TasksRead], ..Principal::dev_operator() };
        assert_eq!(check_held(&clerk, &[Scope::TasksRead]), Ok(()));
        let wider = Rejection::ScopeWider { scope: "admin".to_owned() };
        assert_eq!(check_held(&clerk, &[Scope::TasksRead, Scope::Admin]), Err(wider));
    }
}
