//! Secrets: texts that open something. They are made here, compared by their hash, and never printed: not by `Debug`,
//! not in an error, not in a log.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use sha2::{Digest as _, Sha256};

/// Longest secret that anybody may show us: longer than any of ours.
const LENGTH_MAX: usize = 1_024;

/// A secret text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// SHA-256 of a secret: what is kept of it. Enough for 128 random bits and more.
pub type Hash = [u8; 32];

/// The machine has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness(#[source] rand::rand_core::OsError);

// === impl Secret ===

impl Secret {
    /// Makes one of so many random bytes, as base64url.
    pub fn random<const BYTES: usize>() -> Result<Self, NoRandomness> {
        let mut bytes = [0; BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(NoRandomness)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Takes one that we made or was shown to us.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Says it aloud: for an answer to its owner only.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> Hash {
        Sha256::digest(&self.0).into()
    }

    /// It could be one of ours.
    pub fn is_short(&self) -> bool {
        self.0.len() <= LENGTH_MAX
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_random_and_not_printed() -> Result<(), NoRandomness> {
        let first = Secret::random::<32>()?;
        let second = Secret::random::<32>()?;
        assert_ne!(first, second);
        assert_ne!(first.hash(), second.hash());
        assert_eq!(first.hash(), Secret::new(first.expose()).hash());
        assert_eq!(first.expose().len(), 43);
        assert_eq!(format!("{first:?}"), "Secret(..)");
        Ok(())
    }
}
