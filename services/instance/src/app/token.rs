//! The token that a worker shows with every call about its attempt: which lease it means, signed. Whether that lease
//! still holds is looked at each time.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use phasegate_id::{InstanceId, TaskId};
use phasegate_keyring::{Key, KeyRing};
use sha2::Sha256;

use crate::store::Out;

/// Bytes of the signature.
const SIGNATURE: usize = 32;
/// No token of ours is longer.
const TOKEN_MAX: usize = 1_024;

/// A token as it travels.
pub(crate) type TaskToken = String;

/// Makes and reads task tokens.
#[derive(Clone)]
pub(crate) struct TaskTokens {
    keys: KeyRing,
}

impl std::fmt::Debug for TaskTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TaskTokens(..)")
    }
}

impl TaskTokens {
    pub(crate) fn new(keys: impl Into<KeyRing>) -> Self {
        Self { keys: keys.into() }
    }

    /// The token of a lease of a task from a queue.
    pub(crate) fn encode(&self, lease: &Out, queue: &str) -> TaskToken {
        let payload = [
            lease.tenant.as_str(),
            lease.instance_id.as_str(),
            lease.task.as_str(),
            &lease.fencing.to_string(),
            queue,
        ]
        .join("\n");
        let mut mac = Self::mac(&self.keys.signing());
        mac.update(payload.as_bytes());
        let mut token = mac.finalize().into_bytes().to_vec();
        token.extend(payload.into_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The lease of a token and the queue that its task came from; nothing for one that is not ours.
    pub(crate) fn decode(&self, token: &str) -> Option<(Out, String)> {
        if token.len() > TOKEN_MAX {
            return None;
        }
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (signature, payload) = token.split_at_checked(SIGNATURE)?;
        let is_ours = self.keys.all().iter().any(|key| {
            let mut mac = Self::mac(key);
            mac.update(payload);
            mac.verify_slice(signature).is_ok()
        });
        if !is_ours {
            return None;
        }
        let mut parts = std::str::from_utf8(payload).ok()?.split('\n');
        let lease = Out {
            tenant: parts.next()?.to_owned(),
            instance_id: InstanceId::parse(parts.next()?).ok()?,
            task: TaskId::parse(parts.next()?).ok()?,
            fencing: parts.next()?.parse().ok()?,
        };
        Some((lease, parts.next()?.to_owned()))
    }

    fn mac(key: &Key) -> Hmac<Sha256> {
        // A key is filled up with zeros to the block of the hash, by definition; done here, it cannot fail.
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        <Hmac<Sha256> as hmac::digest::KeyInit>::new(&block.into())
    }
}

#[cfg(test)]
mod tests {
    use phasegate_id::{InstanceId, TaskId};

    use super::TaskTokens;
    use crate::store::Out;

    #[test]
    fn a_token_comes_back_and_no_other_is_believed() {
        let tokens = TaskTokens::new([3; 32]);
        let lease = Out {
            tenant: "default".to_owned(),
            instance_id: InstanceId::trusted("proc-inst-1"),
            task: TaskId::trusted("sso_setup"),
            fencing: 7,
        };
        let token = tokens.encode(&lease, "sso");
        assert_eq!(tokens.decode(&token), Some((lease, "sso".to_owned())));
        assert_eq!(TaskTokens::new([4; 32]).decode(&token), None);
        for wrong in ["", "x", "!!", &token[1..], &format!("{token}AA"), &"A".repeat(2_000)] {
            assert_eq!(tokens.decode(wrong), None, "{wrong}");
        }
    }
}
