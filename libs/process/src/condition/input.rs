//! What an expression can read, as the engine lays it out for one evaluation.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ALL_TASKS_COMPLETE;

/// Everything that an expression can read. Phases and tasks must all be there; an artifact that is not reads as
/// version 0, an approval that is not as status `none`, a fact that is not as false.
#[derive(Debug, Clone, Default)]
pub struct Inputs<'a> {
    /// The context of the instance, an object.
    pub context: Option<&'a Value>,
    /// Facts that were set.
    pub facts: Option<&'a BTreeMap<String, bool>>,
    /// Phases by id.
    pub phases: BTreeMap<&'a str, PhaseInput<'a>>,
    /// Tasks by id.
    pub tasks: BTreeMap<&'a str, TaskInput<'a>>,
    /// Current versions of artifacts by key.
    pub artifacts: BTreeMap<&'a str, ArtifactInput<'a>>,
    /// The latest request about each subject, by its id, and of each key.
    pub approvals: BTreeMap<&'a str, ApprovalInput<'a>>,
    /// Every task of the phase in question is done or handed in.
    pub all_tasks_complete: bool,
}

/// A phase as an expression sees it.
#[derive(Debug, Clone, Copy)]
pub struct PhaseInput<'a> {
    /// `pending`, `gated`, `active`, `awaiting_approval`, `completed`, `blocked` or `skipped`.
    pub status: &'a str,
    /// Round of its review, from 1.
    pub round: u32,
}

/// A task as an expression sees it.
#[derive(Debug, Clone, Copy)]
pub struct TaskInput<'a> {
    /// `pending`, `ready`, `running`, `awaiting_approval`, `completed`, `blocked`, `escalated`, `failed`, `skipped` or
    /// `cancelled`.
    pub status: &'a str,
    /// Round of its review, from 1.
    pub round: u32,
    /// Attempts used in this round.
    pub attempt: u32,
    /// What was handed in, an object; absent reads as an empty one.
    pub output: Option<&'a Value>,
}

/// An artifact as an expression sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArtifactInput<'a> {
    /// Current version, from 1.
    pub version: u32,
    /// Kind, such as `document`.
    pub kind: &'a str,
    /// Phase that it was stored in.
    pub phase: &'a str,
    /// Digest of the current version.
    pub digest: &'a str,
}

/// A request for approval as an expression sees it.
#[derive(Debug, Clone, Copy)]
pub struct ApprovalInput<'a> {
    /// `pending`, `approved`, `rejected`, `changes_requested`, `expired`, `withdrawn` or `superseded`.
    pub status: &'a str,
    /// Round, from 1.
    pub round: u32,
}

impl ApprovalInput<'_> {
    /// What nobody has asked for.
    pub(super) const NONE: ApprovalInput<'static> = ApprovalInput { status: "none", round: 0 };
}

impl Inputs<'_> {
    /// Whether the fact is true.
    pub(super) fn fact(&self, name: &str) -> bool {
        if name == ALL_TASKS_COMPLETE {
            return self.all_tasks_complete;
        }
        self.facts.and_then(|facts| facts.get(name)).copied().unwrap_or_default()
    }
}
