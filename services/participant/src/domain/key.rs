//! API keys: how long they are good, and how one secret takes over from another.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{KeyId, TenantId};

/// Shortest life.
pub const LIFE_MIN: Duration = Duration::from_mins(5);
/// Longest life that can be asked for. A key without end has none.
pub const LIFE_MAX: Duration = Duration::from_hours(366 * 24);
/// How long the secret before stays good, unless something else is said.
pub const GRACE_DEFAULT: Duration = Duration::from_hours(24);
/// The longest that it does.
pub const GRACE_MAX: Duration = Duration::from_hours(30 * 24);
/// Secrets of a key that are good at a time.
const SECRETS_MAX: usize = 2;
/// How exactly the last use is known: what is written on every call would be the slowest part of it.
const USE_KNOWN_TO: Duration = Duration::from_mins(5);

/// A key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Tenant.
    pub tenant: TenantId,
    /// Id.
    pub id: KeyId,
    /// Name for people.
    pub name: String,
    /// What its holder may call.
    pub scopes: Vec<String>,
    /// The only queues whose work its holder gets.
    pub queues: Vec<String>,
    /// Whom its holder decides for.
    pub participant: Option<String>,
    /// What the record names as the caller.
    pub service: Option<String>,
    /// Who made it: kind and id.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Its end.
    pub expires_at: Option<Timestamp>,
    /// When it was withdrawn.
    pub revoked_at: Option<Timestamp>,
    /// When it was used last, roughly.
    pub last_used_at: Option<Timestamp>,
    /// Its secrets, the newest first.
    pub secrets: Vec<Secret>,
}

/// A secret of a key, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// How it begins.
    pub prefix: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends before its key does.
    pub ends_at: Option<Timestamp>,
}

/// A customer of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Name.
    pub id: TenantId,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is good.
    Active,
    /// Its time is over.
    Expired,
    /// It was withdrawn.
    Revoked,
}

/// Why something is not done with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Nobody's, withdrawn or over: whoever shows it does not learn which.
    #[error("the credential of the call is not valid")]
    Unknown,
    /// No such key of the tenant.
    #[error("key {key} was not found")]
    NotFound {
        /// What was asked for.
        key: String,
    },
    /// It is withdrawn or over.
    #[error("key {key} is no longer good")]
    Over {
        /// Key.
        key: KeyId,
    },
    /// It has two secrets already.
    #[error("key {key} has two secrets; revoke the older one first")]
    RotationPending {
        /// Key.
        key: KeyId,
    },
    /// The scopes make no sense.
    #[error("scopes {message}")]
    Scope {
        /// The first one that does not; empty where none is given.
        scope: String,
        /// What is allowed.
        message: &'static str,
    },
    /// The scopes are more than those of who asks.
    #[error("the scope {scope} is more than the caller has")]
    ScopeWider {
        /// The first one.
        scope: String,
    },
}

// === impl Key ===

impl Key {
    /// How it stands at a time.
    pub fn status(&self, now: Timestamp) -> Status {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => Status::Revoked,
            (None, Some(end)) if end <= now => Status::Expired,
            (None, _) => Status::Active,
        }
    }

    /// The secrets that are good at a time, the newest first.
    pub fn live_secrets(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        let is_active = self.status(now) == Status::Active;
        self.secrets.iter().filter(move |secret| is_active && secret.is_live(now))
    }

    /// Refuses a second secret where there cannot be one.
    pub fn check_rotation(&self, now: Timestamp) -> Result<(), Rejection> {
        if self.status(now) != Status::Active {
            return Err(Rejection::Over { key: self.id.clone() });
        }
        if self.live_secrets(now).count() >= SECRETS_MAX {
            return Err(Rejection::RotationPending { key: self.id.clone() });
        }
        Ok(())
    }

    /// Whether a use at a time is worth writing down.
    pub fn use_is_news(&self, now: Timestamp) -> bool {
        self.last_used_at.is_none_or(|last| last + USE_KNOWN_TO <= now)
    }
}

impl Secret {
    /// Whether its own time is not over.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ends_at.is_none_or(|end| end > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn key(secrets: &[Option<Duration>]) -> Key {
        let secret = |ends: &Option<Duration>| Secret {
            prefix: "phasegate_sk_00000000".to_owned(),
            created_at: NOW,
            ends_at: ends.map(|ends| NOW + ends),
        };
        Key {
            tenant: TenantId::trusted("acme"),
            id: KeyId::trusted("key-1"),
            name: "ci".to_owned(),
            scopes: vec!["instances:read".to_owned()],
            queues: Vec::new(),
            participant: None,
            service: None,
            created_by: "operator:dev".to_owned(),
            created_at: NOW,
            expires_at: Some(NOW + LIFE_MIN),
            revoked_at: None,
            last_used_at: None,
            secrets: secrets.iter().map(secret).collect(),
        }
    }

    #[test]
    fn a_key_is_good_until_its_end_or_its_revocation() {
        let mut key = key(&[None]);
        assert_eq!(key.status(NOW), Status::Active);
        assert_eq!(key.status(NOW + LIFE_MIN), Status::Expired);
        assert_eq!(key.live_secrets(NOW).count(), 1);
        assert_eq!(key.live_secrets(NOW + LIFE_MIN).count(), 0);
        key.revoked_at = Some(NOW);
        assert_eq!(key.status(NOW), Status::Revoked);
        assert_eq!(key.live_secrets(NOW).count(), 0);
        assert_eq!(key.check_rotation(NOW), Err(Rejection::Over { key: key.id }));
    }

    #[test]
    fn a_key_has_two_secrets_at_most() {
        let grace = Duration::from_mins(1);
        assert_eq!(key(&[None]).check_rotation(NOW), Ok(()));
        let rotated = key(&[None, Some(grace)]);
        assert_eq!(rotated.check_rotation(NOW), Err(Rejection::RotationPending { key: rotated.id.clone() }));
        assert_eq!(rotated.check_rotation(NOW + grace), Ok(()));
    }

    #[test]
    fn a_use_is_written_down_now_and_then() {
        let mut key = key(&[None]);
        assert!(key.use_is_news(NOW));
        key.last_used_at = Some(NOW);
        assert!(!key.use_is_news(NOW + Duration::from_mins(4)));
        assert!(key.use_is_news(NOW + Duration::from_mins(5)));
    }
}
