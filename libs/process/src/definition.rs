//! The definition of a process as the rest of the system sees it: checked, in order, with durations and conditions
//! already read. Only [`crate::validate`] makes one, so whoever holds it need not check anything again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::condition::Condition;

/// One version of a process, free of faults.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Names the process.
    pub id: String,
    /// Name to show.
    pub name: String,
    /// Semantic version, as written.
    pub version: String,
    /// Free text.
    pub description: String,
    /// Sorted by `order`; never empty.
    pub phases: Vec<Phase>,
    /// Programs that work, by id.
    pub agents: BTreeMap<String, Agent>,
    /// People, by id.
    pub humans: BTreeMap<String, Human>,
    /// Checkpoints, in the order written.
    pub gates: Vec<Gate>,
    /// JSON Schema of the context.
    pub context_schema: Option<Value>,
    /// Whom work goes up to, in order.
    pub escalation_path: Vec<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Held back from use.
    pub draft: bool,
}

/// A group of tasks between two checkpoints.
#[derive(Debug, Clone)]
pub struct Phase {
    /// Unique in the definition.
    pub id: String,
    /// Name to show.
    pub name: String,
    /// Free text.
    pub description: String,
    /// As written; phases are already sorted by it.
    pub order: i32,
    /// In the order written.
    pub tasks: Vec<Task>,
    /// Humans who approve its exit.
    pub required_approvals: Vec<String>,
    /// Tasks run as their dependencies allow.
    pub parallel: bool,
    /// As written.
    pub estimated_duration: String,
    /// The range that `estimated_duration` says, where it can be read.
    pub estimate: Option<Estimate>,
    /// Must all be true before it begins.
    pub entry_conditions: Vec<Condition>,
    /// Must all be true before it ends.
    pub exit_conditions: Vec<Condition>,
    /// How long its request may take, resolved: the nearest of phase and definition.
    pub timing: Timing,
    /// Rounds of changes before its review is escalated.
    pub max_rounds: u32,
}

/// A range of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// At least.
    pub low: Duration,
    /// At most; not below `low`.
    pub high: Duration,
}

/// One piece of work.
#[derive(Debug, Clone)]
pub struct Task {
    /// Unique in the definition.
    pub id: String,
    /// Name to show.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Agent or human who does it.
    pub assignee: String,
    /// What must be done first, in full: as written, and in a sequential phase the task before it.
    pub dependencies: Vec<String>,
    /// Humans who approve the work.
    pub required_approvals: Vec<String>,
    /// Tools that it needs.
    pub tools: Vec<String>,
    /// Artifact keys that must be stored when it is handed in.
    pub artifacts: Vec<String>,
    /// What to do when it fails, resolved: the nearest of task, phase and definition.
    pub error_handling: ErrorHandling,
    /// Given to the agent as it stands.
    pub input: Option<Value>,
    /// Urgency.
    pub priority: Priority,
    /// How long its request may take, resolved: the nearest of task, phase and definition.
    pub timing: Timing,
    /// Rounds of changes before it is escalated.
    pub max_rounds: u32,
}

/// A checkpoint before a phase.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Unique in the definition.
    pub id: String,
    /// Name to show.
    pub name: String,
    /// Phase that it guards.
    pub before_phase: String,
    /// What opens it.
    pub kind: GateKind,
    /// How long its request may take, resolved: the nearest of gate and definition.
    pub timing: Timing,
}

/// What opens a gate.
#[derive(Debug, Clone)]
pub enum GateKind {
    /// Its approvers, never empty.
    Approval(Vec<String>),
    /// Its expression.
    Condition(Condition),
    /// An operator or delegator.
    Manual,
}

/// A program that works.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Kind of agent.
    pub template_id: String,
    /// What it is on the team.
    pub role: String,
    /// Queue that its workers poll.
    pub queue: String,
    /// Tools that it has.
    pub tools: Vec<String>,
}

/// A person.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own, and none is a state")]
pub struct Human {
    /// Name to show; the id where none was written.
    pub name: String,
    /// What the person is.
    pub role: String,
    /// Responsibility.
    pub raid_role: RaidRole,
    /// Approval keys that the person answers for.
    pub required_approvals: Vec<String>,
    /// Wants mail.
    pub email_wanted: bool,
    /// Wants Slack.
    pub slack_wanted: bool,
    /// Wants the inbox.
    pub in_app_wanted: bool,
    /// May hand an approval on.
    pub can_delegate: bool,
    /// Address, where it is the same for every instance.
    pub email: Option<String>,
}

/// RAID responsibility.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RaidRole {
    /// Does the work.
    Responsible,
    /// Decides.
    Approver,
    /// Is told.
    Informed,
    /// Assigns.
    Delegator,
}

/// Urgency, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Below normal.
    Low,
    /// Normal.
    Normal,
    /// Above normal.
    High,
    /// First.
    Urgent,
}

/// How long a request for approval may take; every part resolved by itself to the nearest place that says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timing {
    /// Deadline after the request.
    pub timeout: Option<Duration>,
    /// When somebody further is asked.
    pub escalate_after: Option<Duration>,
    /// Human whom it is escalated to.
    pub escalate_to: Option<String>,
    /// When to remind.
    pub reminders: Vec<Duration>,
    /// What happens at the deadline.
    pub on_timeout: OnTimeout,
}

/// What happens at the deadline of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// Somebody is added; it stays open.
    #[default]
    Escalate,
    /// Counts as a rejection.
    Reject,
    /// Blocks the subject.
    Block,
}

/// What to do when an attempt fails, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorHandling {
    /// What follows the last failure.
    pub task_failure: TaskFailure,
    /// Retries after the first attempt.
    pub max_retries: u32,
    /// Agent or human whom the work goes up to.
    pub escalate_to: Option<String>,
    /// Humans who are told.
    pub notify_participants: Vec<String>,
    /// Wait before the first retry.
    pub retry_delay: Duration,
    /// Longest wait.
    pub max_retry_delay: Duration,
}

/// What follows the last failure of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskFailure {
    /// It has failed.
    Retry,
    /// It goes up.
    RetryWithEscalation,
    /// It goes up after the first failure.
    Escalate,
    /// It is passed over.
    Skip,
    /// The instance has failed.
    FailProcess,
}

impl Default for ErrorHandling {
    fn default() -> Self {
        Self {
            task_failure: TaskFailure::RetryWithEscalation,
            max_retries: 3,
            escalate_to: None,
            notify_participants: Vec::new(),
            retry_delay: Duration::from_secs(1),
            max_retry_delay: Duration::from_mins(1),
        }
    }
}
