//! What happened. Events are stored for ever, as JSON, and hashed into the chain: names and meanings never change,
//! fields are only added, with a default. Every shape has a history in `tests/histories`.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, GateId, InstanceId, ParticipantId, PhaseId, ProcessId, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::command::{Actor, CurrentVersion};
use super::fact::Fact;
use super::instance::{Block, Raid};
use super::request::Subject;
use super::task::Remark;

/// One entry of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it happened, by the clock of the service that it happened in.
    pub at: Timestamp,
    /// Who did it.
    pub actor: Actor,
    /// What it was.
    #[serde(flatten)]
    pub change: Change,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Change {
    /// The instance began.
    InstanceStarted(Started),
    /// It was put on hold.
    InstancePaused {
        /// Why.
        reason: String,
    },
    /// It was taken up again.
    InstanceResumed {
        /// Why.
        reason: String,
    },
    /// It ended well.
    InstanceCompleted {},
    /// An operator ended it.
    InstanceCancelled {
        /// Why.
        reason: String,
    },
    /// A failure ended it.
    InstanceFailed {
        /// Task that failed.
        task: TaskId,
        /// Why.
        reason: String,
    },
    /// Names were set.
    FactsSet {
        /// Those that changed.
        facts: BTreeMap<String, bool>,
        /// Why; empty where an agent or the engine did it.
        reason: String,
    },
    /// The shared context changed.
    ContextChanged {
        /// Members of the context with their new values.
        changed: Map<String, Value>,
        /// Members that are gone.
        removed: BTreeSet<String>,
        /// Why; empty where an agent did it.
        reason: String,
    },
    /// A phase was reached, and something stands before it.
    PhaseGated {
        /// Phase.
        phase: PhaseId,
    },
    /// A phase began.
    PhaseEntered {
        /// Phase.
        phase: PhaseId,
        /// Why, where an operator forced the way in.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// All tasks of a phase are handed in; people decide.
    PhaseAwaitingApproval {
        /// Phase.
        phase: PhaseId,
    },
    /// Tasks of a phase that was waiting or blocked run again.
    PhaseActivated {
        /// Phase.
        phase: PhaseId,
    },
    /// A phase is held.
    PhaseBlocked {
        /// Phase.
        phase: PhaseId,
        /// By what.
        block: Block,
    },
    /// A phase is done.
    PhaseCompleted {
        /// Phase.
        phase: PhaseId,
    },
    /// A phase was passed over by force.
    PhaseSkipped {
        /// Phase.
        phase: PhaseId,
        /// Why.
        reason: String,
    },
    /// A phase was taken up again; later ones wait for it.
    PhaseReopened {
        /// Phase.
        phase: PhaseId,
        /// Phases that wait for it again, with their gates and tasks.
        later: BTreeSet<PhaseId>,
        /// Gates that are closed again.
        gates: BTreeSet<GateId>,
        /// Why.
        reason: String,
        /// Reviewers asked for it, so its rounds go on; otherwise it is unlocked, and they begin anew.
        #[serde(default)]
        reviewed: bool,
    },
    /// A gate opened.
    GateOpened {
        /// Gate.
        gate: GateId,
        /// Request that opened it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalId>,
        /// Versions of the artifacts under review at that moment.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        artifacts: BTreeMap<ArtifactKey, u32>,
        /// It was opened by force.
        #[serde(default)]
        forced: bool,
        /// Why, where somebody opened it; empty otherwise.
        reason: String,
    },
    /// The approval of a gate was rejected, withdrawn or timed out.
    GateRejected {
        /// Gate.
        gate: GateId,
        /// Request.
        approval: ApprovalId,
    },
    /// The engine needs a decision.
    ApprovalNeeded {
        /// Request, as it will be called.
        approval: ApprovalId,
        /// What it is about.
        subject: Subject,
        /// Round of the subject.
        round: u32,
        /// Who is asked.
        approvers: BTreeSet<ParticipantId>,
    },
    /// A subject is reviewed anew; what was decided or asked about it before no longer counts.
    RoundBegun {
        /// Subject.
        subject: Subject,
        /// Round that begins.
        round: u32,
        /// Request that was replaced, where there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaced: Option<ApprovalId>,
        /// Why.
        cause: RoundCause,
    },
    /// The dependencies of a task are done.
    TaskReady {
        /// Task.
        task: TaskId,
    },
    /// A worker took a task.
    TaskLeased {
        /// Task.
        task: TaskId,
        /// Agent whose work it is.
        agent: String,
        /// Worker that took it.
        worker: String,
        /// Fencing token of the lease.
        fencing: u64,
        /// Attempt in this round, from 1.
        attempt: u32,
        /// End of the lease unless it is extended.
        until: Timestamp,
    },
    /// A worker handed a task in.
    TaskHandedIn {
        /// Task.
        task: TaskId,
        /// Worker.
        worker: String,
        /// Fencing token of its lease.
        fencing: u64,
        /// Result, an object.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
        /// What was done, for people.
        summary: String,
        /// Expected artifacts, as they were at that moment.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        artifacts: BTreeMap<ArtifactKey, CurrentVersion>,
    },
    /// A task is done.
    TaskCompleted {
        /// Task.
        task: TaskId,
        /// Request that approved it, where one was required.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalId>,
    },
    /// An attempt failed, by report or because its lease ran out.
    TaskAttemptFailed {
        /// Task.
        task: TaskId,
        /// Attempt in this round.
        attempt: u32,
        /// Fencing token of its lease.
        fencing: u64,
        /// `UPPER_SNAKE_CASE`.
        kind: String,
        /// What happened.
        message: String,
        /// No retry can help.
        non_retryable: bool,
    },
    /// A failed task is tried again.
    TaskRetryScheduled {
        /// Task.
        task: TaskId,
        /// Not before this.
        ready_at: Timestamp,
        /// Attempts that are left.
        attempts_left: u32,
    },
    /// A worker gave a task back.
    TaskReleased {
        /// Task.
        task: TaskId,
        /// Fencing token of its lease.
        fencing: u64,
        /// Why.
        reason: String,
    },
    /// A task has gone up.
    TaskEscalated {
        /// Task.
        task: TaskId,
        /// Agent, human or "operator".
        to: String,
        /// What became of the target: an agent works on it at once, anybody else has to look.
        to_agent: bool,
        /// Round that goes on with.
        round: u32,
        /// Request that was replaced, where there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaced: Option<ApprovalId>,
        /// What reviewers asked for, where that is why.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remarks: Vec<Remark>,
        /// Why, as a sentence.
        message: String,
    },
    /// A task has failed for good.
    TaskFailed {
        /// Task.
        task: TaskId,
        /// Why, as a sentence.
        message: String,
    },
    /// A task comes back for another round.
    TaskReturned {
        /// Task.
        task: TaskId,
        /// Round that begins.
        round: u32,
        /// Request that was replaced, where there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaced: Option<ApprovalId>,
        /// What reviewers asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remarks: Vec<Remark>,
        /// Why.
        cause: RoundCause,
    },
    /// The approval of a task was rejected, withdrawn or timed out.
    TaskBlocked {
        /// Task.
        task: TaskId,
        /// Request.
        approval: ApprovalId,
        /// Why, as a sentence.
        message: String,
    },
    /// An operator took a task up again.
    TaskRetried {
        /// Task.
        task: TaskId,
        /// Round that it goes on with.
        round: u32,
        /// Request that was replaced, where there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaced: Option<ApprovalId>,
        /// Why.
        reason: String,
    },
    /// A task was passed over.
    TaskSkipped {
        /// Task.
        task: TaskId,
        /// Request that nobody needs any more, where there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaced: Option<ApprovalId>,
        /// Why.
        reason: String,
    },
    /// A task waits again for one that was taken up again.
    TaskHeldBack {
        /// Task.
        task: TaskId,
        /// Task that it waits for.
        dependency: TaskId,
    },
    /// Something happened in another service.
    #[serde(untagged)]
    Heard(Fact),
}

/// How an instance began. It names everything that the state keeps track of, so that folding needs no definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Its id.
    pub id: InstanceId,
    /// Definition.
    pub process_id: ProcessId,
    /// Version.
    pub process_version: String,
    /// Digest of the pinned version.
    pub definition_digest: String,
    /// Name to show.
    pub name: String,
    /// Shared context.
    pub context: Value,
    /// People.
    pub participants: BTreeMap<ParticipantId, Raid>,
    /// Team that serves it; empty for none.
    pub team_id: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Phases, in order.
    pub phases: Vec<PhaseId>,
    /// Tasks, in the order of the definition.
    pub tasks: Vec<StartedTask>,
    /// Gates, in the order of the definition.
    pub gates: Vec<GateId>,
}

/// A task as its instance begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedTask {
    /// Its id.
    pub id: TaskId,
    /// Its phase.
    pub phase: PhaseId,
    /// Agent or human who does it.
    pub assignee: String,
}

/// Why a round begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundCause {
    /// Reviewers asked for changes on the subject itself.
    ChangesRequested,
    /// Reviewers asked for changes on the phase or gate that the work belongs to.
    LaterReview,
    /// Something earlier at the same boundary has a new round, so this one is out of date.
    EarlierRound,
    /// What was approved has a newer version.
    ContentChanged,
    /// The request ended without an answer and without blame.
    Superseded,
    /// Somebody reopened, retried or skipped.
    Unlocked,
}
