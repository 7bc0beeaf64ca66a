//! Signing keys of one purpose, which can be replaced while they are in use: the first one signs, all are believed.
//!
//! A key is brought in as a further one first, then moved to the front once every copy of every service knows it, and
//! taken out when nothing that it signed is still good. What signs and what is signed is never here.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A key.
pub type Key = [u8; 32];

/// The keys of one purpose. Copies share them. Never printed.
#[derive(Clone)]
pub struct KeyRing(Arc<RwLock<Arc<[Key]>>>);

impl KeyRing {
    /// A ring of one key.
    pub fn of(key: Key) -> Self {
        Self(Arc::new(RwLock::new(Arc::new([key]))))
    }

    /// The key that signs.
    pub fn signing(&self) -> Key {
        // There is always one: an empty list replaces nothing.
        self.all().first().copied().unwrap_or_default()
    }

    /// The keys that are believed, the one that signs first.
    pub fn all(&self) -> Arc<[Key]> {
        // Nobody panics while holding the lock, and a list is never half replaced.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts these keys in the place of those before, for all copies. An empty list changes nothing.
    pub fn replace(&self, keys: Vec<Key>) {
        if !keys.is_empty() {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
        }
    }
}

impl From<Key> for KeyRing {
    fn from(key: Key) -> Self {
        Self::of(key)
    }
}

impl From<&Key> for KeyRing {
    fn from(key: &Key) -> Self {
        Self::of(*key)
    }
}

impl From<&KeyRing> for KeyRing {
    fn from(ring: &KeyRing) -> Self {
        ring.clone()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRing(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_see_a_replacement_and_nothing_leaves_a_ring_empty() {
        let ring = KeyRing::of([1; 32]);
        let copy = ring.clone();
        ring.replace(vec![[2; 32], [1; 32]]);
        assert_eq!(copy.signing(), [2; 32]);
        assert_eq!(copy.all().as_ref(), [[2; 32], [1; 32]]);
        ring.replace(Vec::new());
        assert_eq!(copy.signing(), [2; 32]);
        assert_eq!(format!("{ring:?}"), "KeyRing(..)");
    }
}
