//! The hash chain over the stored bytes: each entry carries `sha256(hash of the entry before || its own bytes)`, so a
//! changed, missing or added entry shows. Personal data is not in the bytes; its salted hash is.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_id::InstanceId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::Event;

/// What stands before the first entry.
pub(crate) const NO_HASH: [u8; 32] = [0; 32];

/// The shape of the bytes. A change of meaning gets a new number; fields are only added.
const FORMAT: u32 = 1;

/// What the bytes of an entry say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredEntry {
    /// Shape of the bytes.
    pub(crate) format: u32,
    /// Unique; another service's event keeps its own.
    pub(crate) id: String,
    /// Instance.
    pub(crate) instance: InstanceId,
    /// Position, from 1.
    pub(crate) sequence: u64,
    /// What happened.
    pub(crate) event: Event,
    /// `sha256(salt || personal data)` in hex, where there is such data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) personal: Option<String>,
}

/// One row of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    pub(crate) event_id: String,
    pub(crate) kind: String,
    pub(crate) audit_type: String,
    pub(crate) occurred_at: Timestamp,
    pub(crate) body: Vec<u8>,
    pub(crate) previous_hash: [u8; 32],
    pub(crate) hash: [u8; 32],
}

/// What a check of the chain has found so far. Fed with entries in order; see [`Verifier::entry`].
#[derive(Debug)]
pub(crate) struct Verifier {
    instance: InstanceId,
    head: [u8; 32],
    entries: u64,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Entries that fit.
    pub(crate) entries: u64,
    /// Hash of the last entry that fits.
    pub(crate) head: [u8; 32],
    /// The first entry that does not fit, and what is wrong with it.
    pub(crate) broken: Option<(String, String)>,
}

impl StoredEntry {
    /// An entry to be written.
    pub(crate) fn new(
        id: String,
        instance: InstanceId,
        sequence: u64,
        event: Event,
        personal: Option<String>,
    ) -> Self {
        Self { format: FORMAT, id, instance, sequence, event, personal }
    }
}

/// The hash of an entry.
pub(crate) fn hash(previous: &[u8; 32], body: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(previous);
    hasher.update(body);
    hasher.finalize().into()
}

/// What the entry carries in place of personal data.
pub(crate) fn commitment(salt: &[u8], body: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(salt);
    hasher.update(body);
    hex::encode(hasher.finalize())
}

impl Verifier {
    /// A check of one instance's chain from its beginning.
    pub(crate) fn new(instance: InstanceId) -> Self {
        Self { instance, head: NO_HASH, entries: 0 }
    }

    /// Looks at the next entry, with the personal data kept beside it. The error says what does not fit.
    pub(crate) fn entry(
        &mut self,
        entry: &Entry,
        personal: &BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), String> {
        let expected = self.entries + 1;
        if entry.sequence != expected {
            return Err(format!("entry {expected} is missing"));
        }
        if entry.previous_hash != self.head {
            return Err(format!("entry {expected} does not follow the one before it"));
        }
        if hash(&entry.previous_hash, &entry.body) != entry.hash {
            return Err(format!("the content of entry {expected} is not what was hashed"));
        }
        let stored: StoredEntry = serde_json::from_slice(&entry.body)
            .map_err(|error| format!("the content of entry {expected} cannot be read: {error}"))?;
        // The columns beside the bytes are what lists and filters show.
        let fits = stored.sequence == entry.sequence
            && stored.instance == self.instance
            && stored.id == entry.event_id
            && stored.event.at == entry.occurred_at;
        let record = crate::domain::record(self.instance.as_str(), &stored.event);
        if !fits || record.watch_type != entry.kind || record.audit_type != entry.audit_type {
            return Err(format!("what is shown of entry {expected} is not what was hashed"));
        }
        // Absent data was erased, which is allowed; data that nobody promised or that was changed is not.
        if let Some((salt, body)) = personal.get(&entry.sequence)
            && stored.personal.as_deref() != Some(commitment(salt, body).as_str())
        {
            return Err(format!("the personal data of entry {expected} was changed"));
        }
        self.head = entry.hash;
        self.entries = expected;
        Ok(())
    }

    /// Compares the end of the chain with what the instance itself remembers: so a missing tail shows.
    pub(crate) fn finish(self, version: u64, head: [u8; 32]) -> Verdict {
        let broken = if version != self.entries {
            Some((
                String::new(),
                format!("the instance is at entry {version}, and the last one found is {}", self.entries),
            ))
        } else if head != self.head {
            Some((String::new(), "the last entry is not the one that the instance remembers".to_owned()))
        } else {
            None
        };
        Verdict { entries: self.entries, head: self.head, broken }
    }

    /// The outcome when an entry does not fit.
    pub(crate) fn fail(self, entry_id: &str, problem: String) -> Verdict {
        Verdict { entries: self.entries, head: self.head, broken: Some((entry_id.to_owned(), problem)) }
    }
}
