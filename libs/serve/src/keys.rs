//! Signing keys, one for each purpose, derived from one secret so that an installation keeps one.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The keys of an installation. Never printed.
#[derive(Clone)]
pub struct Keys {
    /// Signs principals between services.
    pub principal: [u8; 32],
    /// Signs page tokens.
    pub page: [u8; 32],
    /// Signs magic links.
    pub link: [u8; 32],
    /// Signs task tokens.
    pub task_token: [u8; 32],
}

impl Keys {
    /// Derives the keys from a secret: HMAC-SHA-256 of each purpose's name.
    pub fn derive(secret: &[u8; 32]) -> Self {
        Self {
            principal: purpose(secret, "principal"),
            page: purpose(secret, "page"),
            link: purpose(secret, "link"),
            task_token: purpose(secret, "task-token"),
        }
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
        let all = [keys.principal, keys.page, keys.link, keys.task_token];
        for (index, key) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(key));
        }
        assert_eq!(Keys::derive(&[1; 32]).link, keys.link);
        assert_ne!(Keys::derive(&[2; 32]).link, keys.link);
        assert_eq!(format!("{keys:?}"), "Keys(..)");
    }
}
