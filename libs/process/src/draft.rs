//! A definition as its author wrote it: every field may be missing, enums are words, nothing is checked yet.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::canonical;

/// A definition as written. Fields that only the server sets are not part of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "`draft` is the author's word for it")]
pub struct Draft {
    /// Names the process.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Name to show.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Semantic version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Free text.
    #[serde(skip_serializing_if = "is_blank")]
    pub description: Option<String>,
    /// In the order written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseDraft>,
    /// Programs that work, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub agents: BTreeMap<String, AgentDraft>,
    /// People, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub humans: BTreeMap<String, HumanDraft>,
    /// Checkpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateDraft>,
    /// What to do when a task fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_handling: Option<ErrorHandlingDraft>,
    /// JSON Schema of the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_schema: Option<Map<String, Value>>,
    /// Whom work goes up to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub escalation_path: Vec<String>,
    /// Free labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Held back from use. How it is stored, not what it says: no part of the canonical text.
    #[serde(skip_serializing_if = "is_false")]
    pub draft: bool,
    /// Longest time a request may take.
    #[serde(skip_serializing_if = "is_blank")]
    pub timeout: Option<String>,
    /// When somebody further is asked.
    #[serde(skip_serializing_if = "is_blank")]
    pub escalate_after: Option<String>,
    /// Whom a late request is escalated to.
    #[serde(skip_serializing_if = "is_blank")]
    pub escalate_to: Option<String>,
    /// When to remind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reminders: Vec<String>,
    /// `escalate`, `reject` or `block`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub on_timeout: String,
}

/// A phase as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PhaseDraft {
    /// Unique in the definition.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Name to show.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Free text.
    #[serde(skip_serializing_if = "is_blank")]
    pub description: Option<String>,
    /// Position.
    #[serde(skip_serializing_if = "is_zero")]
    pub order: i32,
    /// What is done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskDraft>,
    /// Humans who approve its exit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_approvals: Vec<String>,
    /// Tasks run as their dependencies allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_execution: Option<bool>,
    /// For estimates.
    #[serde(skip_serializing_if = "is_blank")]
    pub estimated_duration: Option<String>,
    /// Must all be true before it begins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entry_conditions: Vec<String>,
    /// Must all be true before it ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exit_conditions: Vec<String>,
    /// What to do when one of its tasks fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_handling: Option<ErrorHandlingDraft>,
    /// Longest time a request may take.
    #[serde(skip_serializing_if = "is_blank")]
    pub timeout: Option<String>,
    /// When somebody further is asked.
    #[serde(skip_serializing_if = "is_blank")]
    pub escalate_after: Option<String>,
    /// Whom a late request is escalated to.
    #[serde(skip_serializing_if = "is_blank")]
    pub escalate_to: Option<String>,
    /// When to remind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reminders: Vec<String>,
    /// `escalate`, `reject` or `block`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub on_timeout: String,
    /// Rounds of changes before a review is escalated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rounds: Option<i32>,
}

/// A task as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TaskDraft {
    /// Unique in the definition.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Name to show.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Free text.
    #[serde(skip_serializing_if = "is_blank")]
    pub description: Option<String>,
    /// Agent or human who does it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub assignee: String,
    /// What must be done first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<String>,
    /// Humans who approve the work.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_approvals: Vec<String>,
    /// Tools that it needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Artifact keys that must be stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// What to do when it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_handling: Option<ErrorHandlingDraft>,
    /// Given to the agent as it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Map<String, Value>>,
    /// `low`, `normal`, `high` or `urgent`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub priority: String,
    /// Longest time a request may take.
    #[serde(skip_serializing_if = "is_blank")]
    pub timeout: Option<String>,
    /// When somebody further is asked.
    #[serde(skip_serializing_if = "is_blank")]
    pub escalate_after: Option<String>,
    /// Whom a late request is escalated to.
    #[serde(skip_serializing_if = "is_blank")]
    pub escalate_to: Option<String>,
    /// When to remind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reminders: Vec<String>,
    /// `escalate`, `reject` or `block`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub on_timeout: String,
    /// Rounds of changes before the work is escalated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rounds: Option<i32>,
}

/// A gate as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GateDraft {
    /// Unique in the definition.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Name to show.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Phase that it guards.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub before_phase: String,
    /// `approval`, `condition` or `manual`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub kind: String,
    /// Humans who open an approval gate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Expression of a condition gate.
    #[serde(skip_serializing_if = "is_blank")]
    pub condition: Option<String>,
    /// Longest time a request may take.
    #[serde(skip_serializing_if = "is_blank")]
    pub timeout: Option<String>,
    /// When somebody further is asked.
    #[serde(skip_serializing_if = "is_blank")]
    pub escalate_after: Option<String>,
    /// Whom a late request is escalated to.
    #[serde(skip_serializing_if = "is_blank")]
    pub escalate_to: Option<String>,
    /// When to remind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reminders: Vec<String>,
    /// `escalate`, `reject` or `block`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub on_timeout: String,
}

/// An agent as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AgentDraft {
    /// Kind of agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub template_id: String,
    /// What it is on the team.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// Queue that its workers poll.
    #[serde(skip_serializing_if = "is_blank")]
    pub queue: Option<String>,
    /// Tools that it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
}

/// A person as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HumanDraft {
    /// The key in the map, again.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Name to show.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What the person is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// `responsible`, `approver`, `informed` or `delegator`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub raid_role: String,
    /// Approval keys that the person answers for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_approvals: Vec<String>,
    /// How the person wants to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_preferences: Option<NotificationDraft>,
    /// May hand an approval on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_delegate: Option<bool>,
    /// Address.
    #[serde(skip_serializing_if = "is_blank")]
    pub email: Option<String>,
}

/// Preferences as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct NotificationDraft {
    /// By e-mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<bool>,
    /// By Slack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slack: Option<bool>,
    /// In the inbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_app: Option<bool>,
}

/// Error handling as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ErrorHandlingDraft {
    /// `retry`, `retry_with_escalation`, `escalate`, `skip` or `fail_process`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub task_failure: String,
    /// Retries after the first attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i32>,
    /// Agent or human whom the work goes up to.
    #[serde(skip_serializing_if = "is_blank")]
    pub escalate_to: Option<String>,
    /// Humans who are told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notify_participants: Vec<String>,
    /// Wait before the first retry.
    #[serde(skip_serializing_if = "is_blank")]
    pub retry_delay: Option<String>,
    /// Longest wait.
    #[serde(skip_serializing_if = "is_blank")]
    pub max_retry_delay: Option<String>,
}

/// JSON that is no draft: a field that nobody knows, or one of the wrong kind.
#[derive(Debug, thiserror::Error)]
#[error("the JSON is not that of a definition: {0}")]
pub struct DraftUnreadable(#[from] serde_json::Error);

impl Draft {
    /// Reads a draft from JSON; a field that is not known is refused, because it could have been a gate.
    pub fn from_json(value: Value) -> Result<Self, DraftUnreadable> {
        Ok(serde_json::from_value(value)?)
    }

    /// Reads a draft from the text of its JSON.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, DraftUnreadable> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The draft as JSON, without what is empty.
    pub fn to_json(&self) -> Value {
        // Maps with string keys and finite numbers only: nothing in a draft can fail to become JSON.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The bytes that stand for the content: the same content gives the same bytes, whether it is held back or not.
    pub fn canonical(&self) -> Vec<u8> {
        canonical::canonical_json(&Self { draft: false, ..self.clone() }.to_json())
    }

    /// `sha256:` and the hex digest of [`Draft::canonical`].
    pub fn digest(&self) -> String {
        canonical::digest(&self.canonical())
    }
}

/// An enum's word. A number is what protobuf carries for a word that this version does not know; as text it is refused
/// with the place where it stands.
pub(crate) fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Word(String),
        Number(i32),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Word(word) => word,
        Written::Number(number) => number.to_string(),
    })
}

/// Absent and empty text say the same.
#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn is_blank(text: &Option<String>) -> bool {
    text.as_ref().is_none_or(String::is_empty)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &[u8] = include_bytes!("../tests/data/process.json");

    #[test]
    fn a_draft_survives_the_way_through_json() {
        let draft = Draft::from_slice(PAGE).unwrap();
        assert_eq!(Draft::from_slice(&draft.canonical()).unwrap(), draft);
    }

    #[test]
    fn the_same_content_has_the_same_digest() {
        let draft = Draft::from_slice(PAGE).unwrap();
        let held_back = Draft { draft: true, description: draft.description.clone(), ..draft.clone() };
        assert_eq!(held_back.digest(), draft.digest());
        let other = Draft { name: "Other".to_owned(), ..draft.clone() };
        assert_ne!(other.digest(), draft.digest());
        let empty_text = Draft { timeout: Some(String::new()), ..draft.clone() };
        assert_eq!(empty_text.digest(), draft.digest());
    }

    #[test]
    fn a_word_that_came_as_a_number_is_left_to_the_checks() {
        let draft =
            Draft::from_slice(br#"{"gates": [{"type": 99}], "humans": {"h": {"raidRole": 7}}}"#).unwrap();
        assert_eq!((draft.gates[0].kind.as_str(), draft.humans["h"].raid_role.as_str()), ("99", "7"));
    }

    #[test]
    fn an_unknown_field_is_refused_wherever_it_stands() {
        for json in [
            r#"{"requiredAproval": []}"#,
            r#"{"phases": [{"requiredAproval": []}]}"#,
            r#"{"phases": [{"tasks": [{"requiredAproval": []}]}]}"#,
            r#"{"gates": [{"approver": []}]}"#,
            r#"{"agents": {"a": {"x": 1}}}"#,
            r#"{"humans": {"h": {"x": 1}}}"#,
            r#"{"errorHandling": {"retries": 1}}"#,
        ] {
            let refused = Draft::from_slice(json.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains("unknown field"), "{json}: {refused}");
        }
    }
}
