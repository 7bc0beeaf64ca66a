//! Team templates: the agents for a process, with what they need to know.
//!
//! A template stands by itself: it may name agents and people that only the process describes. Those are warnings here,
//! where in a definition they would be faults.

mod validate;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use validate::{TemplateChecked, validate_template};

use crate::canonical;
use crate::draft::{DraftUnreadable, word};

/// A template as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TeamDraft {
    /// Names the template; made from the name where it is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Name to show.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Group in lists.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub category: String,
    /// Free text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Agents of the team.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<TeamAgentDraft>,
    /// JSON Schema of the onboarding values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_onboarding: Option<Map<String, Value>>,
    /// How the agents work together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orchestration: Option<OrchestrationDraft>,
    /// What follows from what.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interaction_rules: Vec<RuleDraft>,
}

/// One agent as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TeamAgentDraft {
    /// Unique in the template.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Name to show.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it is on the team.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// Instructions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_prompt: String,
    /// Tools that it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolDraft>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hierarchy: Option<HierarchyDraft>,
}

/// A tool as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ToolDraft {
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Map<String, Value>>,
}

/// Where an agent stands, as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HierarchyDraft {
    /// 1 is the top.
    #[serde(skip_serializing_if = "is_zero")]
    pub level: i32,
    /// May give work to its subordinates.
    #[serde(skip_serializing_if = "is_false")]
    pub can_delegate: bool,
    /// Agents that it may give work to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subordinates: Vec<String>,
    /// Agent that it escalates to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reports_to: Option<String>,
}

/// How agents work together, as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OrchestrationDraft {
    /// `hierarchical`, `sequential`, `parallel` or `collaborative`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub mode: String,
    /// Agent that is told first.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub entry_agent_id: String,
    /// Whom work goes up to, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub escalation_path: Vec<String>,
}

/// An interaction rule as written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RuleDraft {
    /// Unique in the template.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Event that fires it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trigger: String,
    /// What follows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// Agent, human or `external_participant`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Urgency.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "word")]
    pub priority: String,
    /// How long its request may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

impl TeamDraft {
    /// Reads a template from JSON; a field that is not known is refused.
    pub fn from_json(value: Value) -> Result<Self, DraftUnreadable> {
        Ok(serde_json::from_value(value)?)
    }

    /// Reads a template from the text of its JSON.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, DraftUnreadable> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The template as JSON, without what is empty.
    pub fn to_json(&self) -> Value {
        // Maps with string keys and finite numbers only: nothing in a template can fail to become JSON.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The bytes that stand for the content.
    pub fn canonical(&self) -> Vec<u8> {
        canonical::canonical_json(&self.to_json())
    }
}

/// An id made from a name: `Enterprise Deployment Team` gives `enterprise-deployment-team`. A name without a letter
/// that an id may have gives none.
pub fn slug(name: &str) -> Option<String> {
    let mut slug = String::new();
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' => slug.push(c),
            '0'..='9' | '_' if !slug.is_empty() => slug.push(c),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    slug.truncate(63);
    let slug = slug.trim_end_matches('-');
    (!slug.is_empty()).then(|| slug.to_owned())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}
