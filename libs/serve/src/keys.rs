//! Signing keys, for each purpose its own, derived from the secrets of an installation: so it keeps one list of secrets.

use std::fmt;

use hmac::{Hmac, Mac};
use phasegate_keyring::{Key, KeyRing};
use sha2::Sha256;

/// The keys of an installation, which can be replaced while they are in use. Copies share them. Never printed.
#[derive(Clone)]
pub struct Keys {
    /// Signs principals between services.
    pub principal: KeyRing,
    /// Signs page tokens.
    pub page: KeyRing,
    /// Signs magic links.
    pub link: KeyRing,
    /// Signs task tokens.
    pub task_token: KeyRing,
    /// Seals events between services.
    pub event: KeyRing,
}

impl Keys {
    /// Derives the keys from a secret: HMAC-SHA-256 of each purpose's name.
    pub fn derive(secret: &[u8; 32]) -> Self {
        let ring = |name| KeyRing::of(purpose(secret, name));
        Self {
            principal: ring("principal"),
            page: ring("page"),
            link: ring("link"),
            task_token: ring("task-token"),
            event: ring("event"),
        }
    }

    /// Puts keys from these secrets in the place of those before, for all copies: the first secret signs, all are
    /// believed. No secrets change nothing.
    pub fn replace(&self, secrets: &[Key]) {
        let keys = |name| secrets.iter().map(|secret| purpose(secret, name)).collect();
        self.principal.replace(keys("principal"));
        self.page.replace(keys("page"));
        self.link.replace(keys("link"));
        self.task_token.replace(keys("task-token"));
        self.event.replace(keys("event"));
    }

    /// Makes a secret.
    pub fn secret() -> [u8; 32] {
        rand::random()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

fn purpose(secret: &[u8; 32], name: &str) -> [u8; 32] {
    // A key of any length is accepted, so that this cannot fail; zeros would verify nothing that was signed before.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return [0; 32] };
    mac.update(b"phasegate ");
    mac.update(name.as_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_have_different_keys_and_the_same_every_time() {
        let keys = Keys::derive(&[1; 32]);
        let all = [&keys.principal, &keys.page, &keys.link, &keys.task_token].map(KeyRing::signing);
        for (index, key) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(key));
        }
        assert_eq!(Keys::derive(&[1; 32]).link.signing(), keys.link.signing());
        assert_ne!(Keys::derive(&[2; 32]).link.signing(), keys.link.signing());
        assert_eq!(format!("{keys:?}"), "Keys(..)");
    }

    #[test]
    fn a_further_secret_takes_over_for_every_purpose() {
        let keys = Keys::derive(&[1; 32]);
        let copy = keys.clone();
        keys.replace(&[[2; 32], [1; 32]]);
        let (old, new) = (Keys::derive(&[1; 32]), Keys::derive(&[2; 32]));
        for (ring, old, new) in [
            (&copy.principal, old.principal, new.principal),
            (&copy.page, old.page, new.page),
            (&copy.link, old.link, new.link),
            (&copy.task_token, old.task_token, new.task_token),
        ] {
            assert_eq!(ring.all().as_ref(), [new.signing(), old.signing()]);
        }
    }
}
