//! Where the next page of a list begins. A token carries a position and is signed together with its scope, so that it
//! can be neither made up nor used for another list, another filter or another tenant. It says nothing about rights:
//! those are looked at on every page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use phasegate_keyring::{Key, KeyRing};
use phasegate_rpc_error::Invalid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

/// Entries of a page when the caller does not say.
pub const SIZE_DEFAULT: usize = 50;
/// Most entries of a page.
pub const SIZE_MAX: usize = 500;
/// Largest page, in bytes: a client that sets no limit of its own reads messages of 4 MiB.
const BYTES_MAX: usize = 3 << 20;
/// Bytes of the signature.
const SIGNATURE: usize = 32;
/// No token of ours is longer, so a longer one is not read.
const TOKEN_MAX: usize = 4_096;

/// Makes and reads page tokens.
#[derive(Clone)]
pub struct PageTokens {
    keys: KeyRing,
}

impl std::fmt::Debug for PageTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageTokens(..)")
    }
}

impl PageTokens {
    /// Tokens under a key, or under one of several.
    pub fn new(keys: impl Into<KeyRing>) -> Self {
        Self { keys: keys.into() }
    }

    /// A token for the page that begins after `position`. The scope names the method, the tenant and all arguments but
    /// page size and token.
    pub fn encode(&self, scope: &str, position: &impl Serialize) -> String {
        // A position is a plain structure of texts and numbers, which always has a JSON form.
        let payload = serde_json::to_vec(position).unwrap_or_default();
        let mut token = self.sign(scope, &payload).to_vec();
        token.extend(payload);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The position of a token; nothing for the first page, which has none.
    pub fn decode<T: DeserializeOwned>(&self, scope: &str, token: &str) -> Result<Option<T>, Invalid> {
        if token.is_empty() {
            return Ok(None);
        }
        self.read(scope, token).map(Some).ok_or_else(|| {
            Invalid::new(
                "PAGE_TOKEN_INVALID",
                "page_token",
                "must be the next_page_token of the page before, with the same arguments",
            )
        })
    }

    fn read<T: DeserializeOwned>(&self, scope: &str, token: &str) -> Option<T> {
        if token.len() > TOKEN_MAX {
            return None;
        }
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (signature, payload) = token.split_at_checked(SIGNATURE)?;
        let is_ours = self.keys.all().iter().any(|key| {
            let mut mac = Self::mac(key);
            Self::feed(&mut mac, scope, payload);
            mac.verify_slice(signature).is_ok()
        });
        if !is_ours {
            return None;
        }
        serde_json::from_slice(payload).ok()
    }

    fn sign(&self, scope: &str, payload: &[u8]) -> [u8; SIGNATURE] {
        let mut mac = Self::mac(&self.keys.signing());
        Self::feed(&mut mac, scope, payload);
        mac.finalize().into_bytes().into()
    }

    fn mac(key: &Key) -> Hmac<Sha256> {
        // A key is filled up with zeros to the block of the hash, by definition; done here, it cannot fail.
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        <Hmac<Sha256> as hmac::digest::KeyInit>::new(&block.into())
    }

    /// The length goes first, so that no part of the scope can pass for a part of the payload.
    fn feed(mac: &mut Hmac<Sha256>, scope: &str, payload: &[u8]) {
        mac.update(&(scope.len() as u64).to_be_bytes());
        mac.update(scope.as_bytes());
        mac.update(payload);
    }
}

/// The size of a page: 50 when not given, at most 500.
pub fn page_size(requested: i32) -> Result<usize, Invalid> {
    match usize::try_from(requested) {
        Ok(0) => Ok(SIZE_DEFAULT),
        Ok(size) => Ok(size.min(SIZE_MAX)),
        Err(_) => Err(Invalid::new("PAGE_SIZE_INVALID", "page_size", "must not be negative")),
    }
}

/// Cuts a page to at most `most` entries, and to what fits into a message; one there is always. Says whether nothing was cut
/// off.
pub fn cut<M: prost::Message>(page: &mut Vec<M>, most: usize) -> bool {
    let mut bytes = 0_usize;
    let fitting = page.iter().take(most).take_while(|entry| {
        bytes = bytes.saturating_add(entry.encoded_len());
        bytes <= BYTES_MAX
    });
    let kept = fitting.count().max(1);
    let is_last = page.len() <= kept;
    page.truncate(kept);
    is_last
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, PageTokens, cut, page_size};

    fn tokens() -> PageTokens {
        PageTokens::new([7; 32])
    }

    #[test]
    fn a_token_is_good_for_its_own_list_only() {
        let position = ("2026".to_owned(), 42_u32);
        let token = tokens().encode("ListTasks/t/phase=a", &position);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert_eq!(tokens().decode("ListTasks/t/phase=a", &token), Ok(Some(position)));
        for scope in ["ListTasks/t/phase=b", "ListTasks/u/phase=a", "", "ListTasks/t/phase="] {
            let refused = tokens().decode::<(String, u32)>(scope, &token);
            assert_eq!(refused.map_err(|invalid| invalid.reason), Err("PAGE_TOKEN_INVALID"), "{scope}");
        }
        let other = PageTokens::new([8; 32]);
        assert!(other.decode::<(String, u32)>("ListTasks/t/phase=a", &token).is_err());
    }

    #[test]
    fn no_changed_or_made_up_token_is_read() {
        let token = tokens().encode("s", &"position");
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let read = tokens().decode::<String>("s", &changed);
            // The last character of base64 may carry bits that mean nothing.
            assert!(
                read.is_err() || (at + 1 == token.len() && read == Ok(Some("position".to_owned()))),
                "{at}"
            );
        }
        for token in ["x", "!!!", "AAAA", &"A".repeat(5_000), &token[1..], "\u{e9}"] {
            assert!(tokens().decode::<String>("s", token).is_err(), "{token}");
        }
        assert_eq!(tokens().decode::<String>("s", ""), Ok(None));
    }

    #[test]
    fn a_token_outlives_the_key_that_signs_while_it_is_believed() {
        let ring = phasegate_keyring::KeyRing::of([7; 32]);
        let tokens = PageTokens::new(&ring);
        let token = tokens.encode("s", &1_u32);
        ring.replace(vec![[8; 32], [7; 32]]);
        assert_eq!(tokens.decode("s", &token), Ok(Some(1_u32)));
        assert_ne!(tokens.encode("s", &1_u32), token);
        ring.replace(vec![[8; 32]]);
        assert!(tokens.decode::<u32>("s", &token).is_err());
    }

    #[test]
    fn page_sizes_are_bounded() {
        let sizes = [0, 1, 500, 501, i32::MAX].map(|size| page_size(size).ok());
        assert_eq!(sizes, [Some(50), Some(1), Some(500), Some(500), Some(500)]);
        assert_eq!(page_size(-1).map_err(|invalid| invalid.reason), Err("PAGE_SIZE_INVALID"));
    }

    #[test]
    fn a_page_has_at_least_one_and_fits() {
        let entry = |bytes: usize| "x".repeat(bytes);
        let half = BYTES_MAX / 2 - 100;
        for (sizes, most, kept, is_last) in [
            (vec![], 9, 0, true),
            (vec![1, 2], 2, 2, true),
            (vec![1, 2, 3], 2, 2, false),
            (vec![half, half], 9, 2, true),
            (vec![half, half, 200], 9, 2, false),
            (vec![2 * BYTES_MAX], 9, 1, true),
            (vec![2 * BYTES_MAX, 1], 9, 1, false),
        ] {
            let mut page: Vec<String> = sizes.iter().map(|bytes| entry(*bytes)).collect();
            assert_eq!((cut(&mut page, most), page.len()), (is_last, kept), "{sizes:?} {most}");
        }
    }
}
