//! What a process definition says, and whether it may be run.
//!
//! An author's JSON becomes a [`Draft`] (loose, everything may be missing), [`validate`] turns that into a
//! [`Definition`] (checked, resolved, in order) or into a list of every fault in it. Definition stores drafts, instance
//! walks definitions: the graph has two owners and therefore stands here. Nothing in this crate knows of instances,
//! reads a clock or waits for anything.

mod canonical;
pub mod condition;
pub mod definition;
mod draft;
mod duration;
mod estimate;
mod issue;
mod precedence;
mod schema;
mod template;
mod validate;

pub use canonical::{canonical_json, digest};
pub use condition::{Condition, ConditionFailed, ConditionFault, Inputs, Scope};
pub use definition::{
    Agent, Definition, ErrorHandling, Estimate, Gate, GateKind, Human, OnTimeout, Phase, Priority, RaidRole,
    Task, TaskFailure, Timing,
};
pub use draft::{
    AgentDraft, Draft, DraftUnreadable, ErrorHandlingDraft, GateDraft, HumanDraft, NotificationDraft,
    PhaseDraft, TaskDraft,
};
pub use duration::{DurationFault, format_duration, parse_duration};
pub use estimate::parse_estimate;
pub use issue::{Issue, Severity};
pub use precedence::precedence;
pub use schema::{Schema, SchemaFault, SchemaUnusable};
pub use template::{
    HierarchyDraft, OrchestrationDraft, RuleDraft, TeamAgentDraft, TeamDraft, TemplateChecked, ToolDraft,
    slug, validate_template,
};
pub use validate::{Checked, MAX_BYTES, validate};
