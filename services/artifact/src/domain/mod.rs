//! The rules of shared storage: when content makes a new version, what a comment may be about and who may write one.
//! Pure: what a rule needs is passed in, and whoever asks another service or a database does it in `app`.

pub mod artifact;
pub mod comment;

use serde::{Deserialize, Serialize};

/// Who did something, as the contract's message encodes it. Opaque here: no rule looks into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author(pub Vec<u8>);
