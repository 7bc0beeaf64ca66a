//! What a decision refers to: a digest over everything that the person was shown.
//!
//! Every part is written with its length before it, so that no two contents share an encoding.

use std::fmt;

use phasegate_id::ArtifactKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::approval::{Request, ReviewedArtifact};

/// "sha256:" and 64 hexadecimal digits, or whatever a caller sent in its place: it is only ever compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentDigest(String);

impl ContentDigest {
    /// Takes what a caller says that it saw.
    pub fn claimed(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Digest over title, description, the persons asked, and keys, versions and digests of the artifacts.
///
/// Persons whom an escalation adds later are not part of it: who is added does not change what was shown, and votes
/// that were given stay good.
pub fn content(request: &Request) -> ContentDigest {
    let mut parts = Parts::new("phasegate approval content 1");
    parts.text(&request.title);
    parts.text(&request.description);
    let mut people: Vec<&str> = request.approvers.iter().map(AsRef::as_ref).collect();
    people.sort_unstable();
    parts.count(people.len());
    for person in people {
        parts.text(person);
    }
    parts.artifacts(&request.artifacts);
    parts.finish()
}

/// Digest over what is asked, whoever is asked: the same question put to other people has the same one. A new round of
/// a task is another question, because the work was done again.
pub fn substance(request: &Request) -> ContentDigest {
    let mut parts = Parts::new("phasegate approval substance 1");
    parts.text(request.key.as_deref().unwrap_or(""));
    parts.text(request.task.as_ref().map_or("", |task| task.as_str()));
    parts.count(usize::try_from(request.round).unwrap_or(usize::MAX));
    parts.text(&request.title);
    parts.text(&request.description);
    parts.artifacts(&request.artifacts);
    parts.finish()
}

struct Parts(Sha256);

impl Parts {
    fn new(purpose: &str) -> Self {
        let mut parts = Self(Sha256::new());
        parts.text(purpose);
        parts
    }

    fn count(&mut self, count: usize) {
        self.0.update(u64::try_from(count).unwrap_or(u64::MAX).to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text.as_bytes());
    }

    fn artifacts(&mut self, artifacts: &[ReviewedArtifact]) {
        let mut sorted: Vec<(&ArtifactKey, u32, &str)> =
            artifacts.iter().map(|one| (&one.key, one.version, one.digest.as_str())).collect();
        sorted.sort_unstable();
        self.count(sorted.len());
        for (key, version, digest) in sorted {
            self.text(key.as_str());
            self.0.update(version.to_be_bytes());
            self.text(digest);
        }
    }

    fn finish(self) -> ContentDigest {
        ContentDigest(format!("sha256:{}", hex::encode(self.0.finalize())))
    }
}
