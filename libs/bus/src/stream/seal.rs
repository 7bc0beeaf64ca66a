//! Each entry is sealed by its sender: whoever can write to Redis can hold events up, repeat and drop them, all of which
//! receivers bear anyway, and cannot make one up. HMAC-SHA-256 (RFC 2104) over the sender and the event; not over the
//! receivers, whom an entry that is handed back names anew.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac as _};
use phasegate_keyring::{Key, KeyRing};
use sha2::Sha256;

/// Bytes of a seal.
pub(super) const BYTES: usize = 32;

/// Seals an event with the newest key.
pub(super) fn seal(keys: &KeyRing, sender: &str, event: &[u8]) -> [u8; BYTES] {
    mac(&keys.signing(), sender, event).finalize().into_bytes().into()
}

/// Whether a seal was made with a key that is believed, in constant time for each.
pub(super) fn is_sealed(keys: &KeyRing, sender: &str, event: &[u8], seal: &[u8]) -> bool {
    keys.all().iter().any(|key| mac(key, sender, event).verify_slice(seal).is_ok())
}

fn mac(key: &Key, sender: &str, event: &[u8]) -> Hmac<Sha256> {
    // A key shorter than a block is filled up with zeros, so that this is the key itself.
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    // The length of the sender, so that no part of one can pass for a part of the other.
    mac.update(&(sender.len() as u64).to_be_bytes());
    mac.update(sender.as_bytes());
    mac.update(event);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_good_for_its_sender_and_event_and_as_long_as_its_key() {
        let keys = KeyRing::of([1; 32]);
        let made = seal(&keys, "instance", b"event");
        assert!(is_sealed(&keys, "instance", b"event", &made));
        for (sender, event) in [("approval", &b"event"[..]), ("instance", b"other"), ("instancee", b"vent")] {
            assert!(!is_sealed(&keys, sender, event, &made), "{sender} {event:?}");
        }
        for wrong in [&b""[..], &made[..31], &[0; 32]] {
            assert!(!is_sealed(&keys, "instance", b"event", wrong));
        }
        keys.replace(vec![[2; 32], [1; 32]]);
        assert!(is_sealed(&keys, "instance", b"event", &made), "it was made before the key was replaced");
        assert_ne!(seal(&keys, "instance", b"event"), made);
        keys.replace(vec![[2; 32]]);
        assert!(!is_sealed(&keys, "instance", b"event", &made));
    }
}
