//! One newtype for each noun that has an id, so that a task's id cannot stand where an instance's belongs.
//!
//! Ids that the author of a definition chooses are slugs; the server's own are a prefix and a UUID in Crockford's
//! base 32, version 7, so that they sort by time. No id is a secret, and knowing one gives no right.
//! What the nouns do is never here.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest id of any kind, in bytes.
pub const LENGTH_MAX: usize = 128;

/// A text that cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to {LENGTH_MAX} visible ASCII characters")]
pub struct InvalidId;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes a text that has the form of an id.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }

            /// Takes a text that is known to be an id: one that was checked when it was stored.
            pub fn trusted(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The id as text, owned.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )+};
}

ids! {
    /// A customer of the installation.
    TenantId,
    /// A process definition.
    ProcessId,
    /// One run of a definition.
    InstanceId,
    /// A phase of a definition.
    PhaseId,
    /// A task of a definition.
    TaskId,
    /// A gate of a definition.
    GateId,
    /// A request for approval.
    ApprovalId,
    /// Requests that were asked together.
    BoundaryId,
    /// A person of an instance.
    ParticipantId,
    /// A program that works on tasks.
    AgentId,
    /// The name of an artifact in its instance.
    ArtifactKey,
    /// A magic link.
    LinkId,
    /// An API key.
    KeyId,
    /// A comment.
    CommentId,
    /// A message to a person.
    NotificationId,
    /// A team made from a template.
    TeamId,
    /// A team template.
    TeamTemplateId,
    /// An event between services.
    EventId,
}

macro_rules! generated {
    ($($name:ident => $prefix:literal),+ $(,)?) => {$(
        impl $name {
            /// Makes a new id that sorts after those made before.
            pub fn generate() -> Self {
                Self(format!(concat!($prefix, "-{}"), base32(new_uuid().as_u128())))
            }
        }
    )+};
}

generated! {
    InstanceId => "proc-inst",
    ApprovalId => "apr",
    BoundaryId => "bnd",
    LinkId => "lnk",
    KeyId => "key",
    CommentId => "cmt",
    NotificationId => "ntf",
    TeamId => "team",
}

impl EventId {
    /// Makes a new id that sorts after those made before: a plain UUID.
    pub fn generate() -> Self {
        Self(new_uuid().to_string())
    }
}

/// The name space of derived request ids.
const APPROVALS: Uuid = Uuid::from_u128(0x8b1f_5c52_6f0e_4d0c_9a51_2f60_71c3_0e8d);

impl ApprovalId {
    /// The id of the request about one subject in one round. Whoever asks first, it is the same request.
    pub fn derive(instance: &InstanceId, kind: &str, subject: &str, round: u32) -> Self {
        let name = format!("{instance}\n{kind}\n{subject}\n{round}");
        Self(format!("apr-{}", base32(Uuid::new_v5(&APPROVALS, name.as_bytes()).as_u128())))
    }
}

/// Whether a text has the form of an id that an author chooses: `^[a-z][a-z0-9_-]{0,62}$`.
pub fn is_slug(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// What somebody wrote for an id, no longer than one can be: it goes back in messages and headers.
pub fn shortened(text: &str) -> String {
    text.chars().take(LENGTH_MAX).collect()
}

fn check(text: &str) -> Result<(), InvalidId> {
    let fits =
        !text.is_empty() && text.len() <= LENGTH_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(InvalidId) }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that makes ids")]
fn new_uuid() -> Uuid {
    Uuid::now_v7()
}

/// Crockford's base 32, lower case: 26 characters for 128 bits, in the order of the number.
fn base32(number: u128) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    (0..26)
        .rev()
        .map(|position| {
            let index = usize::try_from((number >> (5 * position)) & 31).unwrap_or(0);
            char::from(ALPHABET[index])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_sort_by_time() {
        let ids: Vec<InstanceId> = (0..1_000).map(|_| InstanceId::generate()).collect();
        assert!(ids.is_sorted());
        assert!(ids[0].as_str().starts_with("proc-inst-"));
        assert_eq!(ids[0].as_str().len(), "proc-inst-".len() + 26);
    }

    #[test]
    fn the_same_subject_and_round_is_the_same_request() {
        let instance = InstanceId::trusted("proc-inst-1");
        let first = ApprovalId::derive(&instance, "task", "sso_setup", 1);
        assert_eq!(first, ApprovalId::derive(&instance, "task", "sso_setup", 1));
        assert_ne!(first, ApprovalId::derive(&instance, "task", "sso_setup", 2));
        assert_ne!(first, ApprovalId::derive(&instance, "phase", "sso_setup", 1));
        assert_ne!(first, ApprovalId::derive(&InstanceId::trusted("proc-inst-2"), "task", "sso_setup", 1));
    }

    #[test]
    fn ids_have_a_form() {
        for good in ["a", "proc-123", "A.b_c", &"x".repeat(LENGTH_MAX)] {
            assert!(TaskId::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a b", "a\n", "ä", &"x".repeat(LENGTH_MAX + 1)] {
            assert_eq!(TaskId::parse(bad), Err(InvalidId), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_id_is_cut_to_the_length_of_one() {
        assert_eq!(shortened("ä b"), "ä b");
        assert_eq!(shortened(&"ä".repeat(LENGTH_MAX + 1)), "ä".repeat(LENGTH_MAX));
    }

    #[test]
    fn slugs_have_a_form() {
        for good in ["a", "sso_setup", "x-1", &"x".repeat(63)] {
            assert!(is_slug(good), "{good:?}");
        }
        for bad in ["", "1a", "_a", "A", "a b", "ａ", &"x".repeat(64)] {
            assert!(!is_slug(bad), "{bad:?}");
        }
    }
}
