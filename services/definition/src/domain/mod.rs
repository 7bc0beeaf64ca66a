//! What is kept of a definition, and what may become of it. No clock, no I/O: times and ids come in from outside.

mod decide;

use phasegate_clock::Timestamp;
use phasegate_process::Issue;
use serde::{Deserialize, Serialize};

pub use decide::{Change, Immutable, publish, store};

/// Life cycle of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Held back from use; may be replaced.
    Draft,
    /// In use; never changes.
    Published,
}

/// One version of a process, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_field_names,
    reason = "a version of a process is named by its process and its version"
)]
pub struct Version {
    /// Process.
    pub process_id: String,
    /// Semantic version.
    pub version: String,
    /// Life cycle.
    pub status: Status,
    /// Canonical JSON of what the author wrote.
    pub content: Vec<u8>,
    /// Digest of the content.
    pub digest: String,
    /// What was worth a look when it was stored.
    pub warnings: Vec<Warning>,
    /// Who stored it.
    pub created_by: Author,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it was published; never while it is a draft.
    pub published_at: Option<Timestamp>,
}

/// A team template, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Names it.
    pub id: String,
    /// Canonical JSON of what the author wrote, with the id.
    pub content: Vec<u8>,
    /// What was worth a look when it was stored.
    pub warnings: Vec<Warning>,
    /// Who stored it.
    pub created_by: Author,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// Who did it, as the record names them: an encoded `phasegate.actor.v1.Actor`, which nothing here looks into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author(pub Vec<u8>);

/// Something worth a look, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Stable name.
    pub code: String,
    /// JSON Pointer.
    pub path: String,
    /// Sentence.
    pub message: String,
}

impl Status {
    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Published => "published",
        }
    }

    /// Reads the word of the database.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Draft, Self::Published].into_iter().find(|status| status.as_str() == word)
    }
}

impl From<&Issue> for Warning {
    fn from(issue: &Issue) -> Self {
        Self { code: issue.code.to_owned(), path: issue.path.clone(), message: issue.message.clone() }
    }
}
