//! What is personal about an event, kept beside the chain so that erasing it leaves the chain whole.

use std::collections::BTreeMap;

use phasegate_id::ParticipantId;
use serde::{Deserialize, Serialize};

/// What is personal about one event. The store keeps it under the event's sequence, salted, and the chained bytes carry
/// only its hash.
///
/// It belongs to the **first** event that a command leads to: that one records what was asked or heard; everything
/// after it is the engine's own consequence, and names nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personal {
    /// Names and addresses, by participant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub people: BTreeMap<ParticipantId, Person>,
    /// What somebody wrote: a comment, the words with a decision, or the error that names an address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Texts of the remarks, in the order of the event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl Personal {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.people.is_empty() && self.text.is_empty() && self.remarks.is_empty()
    }
}

/// A name with its address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Name to show.
    pub name: String,
    /// Address; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// Whoever started the instance named the person; the others stand in the definition only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
}
