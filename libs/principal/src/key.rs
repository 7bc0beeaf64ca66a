//! API keys as text: `phasegate_sk_`, eight characters that name the key, 32 that nobody can guess, and a checksum by
//! which a mistyped key and a false alarm of a secret scanner are told apart from a key, without asking anybody.

use std::fmt;

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use sha2::{Digest as _, Sha256};

/// How every key begins.
pub const KEY_PREFIX: &str = "phasegate_sk_";

/// Characters that name a key.
const NAME_CHARS: usize = 8;
/// Characters that nobody can guess: 190 bits.
const SECRET_CHARS: usize = 32;
/// Characters of the checksum: CRC-32 in base 62.
const CHECK_CHARS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An API key, whole. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// The machine has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness(#[source] rand::rand_core::OsError);

impl ApiKey {
    /// Makes one.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut body = String::with_capacity(NAME_CHARS + SECRET_CHARS);
        while body.len() < NAME_CHARS + SECRET_CHARS {
            let mut bytes = [0; 64];
            OsRng.try_fill_bytes(&mut bytes).map_err(NoRandomness)?;
            // 248 is four times 62: what is beyond would make some characters likelier.
            let fair = bytes.iter().filter(|byte| **byte < 248);
            let chars = fair.filter_map(|byte| ALPHABET.get(usize::from(byte % 62)));
            body.extend(chars.map(|byte| char::from(*byte)).take(NAME_CHARS + SECRET_CHARS - body.len()));
        }
        let check = check(&body);
        Ok(Self(format!("{KEY_PREFIX}{body}{check}")))
    }

    /// Reads one. Nothing where it is none of ours or has been mistyped.
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(KEY_PREFIX)?;
        let is_whole = body.len() == NAME_CHARS + SECRET_CHARS + CHECK_CHARS
            && body.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let (body, given) = body.split_at_checked(NAME_CHARS + SECRET_CHARS)?;
        (is_whole && check(body) == given).then(|| Self(text.to_owned()))
    }

    /// The part that may be shown: it names the key and opens nothing.
    pub fn prefix(&self) -> &str {
        self.0.get(..KEY_PREFIX.len() + NAME_CHARS).unwrap_or_default()
    }

    /// What is kept of it. A hash that is slow by design would add nothing to 190 random bits.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }

    /// Says it aloud: for its holder, once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.prefix())
    }
}

fn check(body: &str) -> String {
    let mut rest = crc32(body.as_bytes());
    let mut digits = [b'0'; CHECK_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = usize::try_from(rest % 62).ok().and_then(|at| ALPHABET.get(at)).copied().unwrap_or(b'0');
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// CRC-32 as in zip and PNG.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_long_random_and_known_by_its_looks() -> Result<(), NoRandomness> {
        let (one, two) = (ApiKey::generate()?, ApiKey::generate()?);
        assert_ne!(one, two);
        assert_ne!(one.digest(), two.digest());
        assert_eq!(one.expose().len(), 59);
        assert_eq!(ApiKey::parse(one.expose()), Some(one.clone()));
        assert!(one.prefix().len() == 21 && one.expose().starts_with(one.prefix()));
        assert!(!format!("{one:?}").contains(&one.expose()[21..]));
        Ok(())
    }

    #[test]
    fn a_mistyped_key_is_found_without_asking() -> Result<(), NoRandomness> {
        let key = ApiKey::generate()?.expose().to_owned();
        for at in 0..key.len() {
            let mut typo = key.clone().into_bytes();
            typo[at] = if typo[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(ApiKey::parse(&String::from_utf8(typo).unwrap_or_default()), None, "{at}");
        }
        let long = format!("{key}A");
        for text in ["", "phasegate_sk_", &key[1..], &key[..58], &long, "phasegate_sk_é"] {
            assert_eq!(ApiKey::parse(text), None, "{text}");
        }
        Ok(())
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
