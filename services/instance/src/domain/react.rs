//! Who must hear of what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phasegate_id::{ApprovalId, ArtifactKey, BoundaryId, GateId, ParticipantId, PhaseId, TaskId};
use phasegate_process::{Definition, OnTimeout};

use super::event::Event;
use super::instance::{HeldLease, Instance, PhaseStatus, ReadyWork, Status, Subject};

/// What should follow outside, at least once. Written to the outbox with the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell everybody that the instance began.
    InstanceStarted,
    /// Stop its timers.
    InstancePaused {
        /// Why.
        reason: String,
    },
    /// Let its timers go on.
    InstanceResumed,
    /// Withdraw its requests, revoke its links, tell its people.
    InstanceEnded {
        /// How.
        status: Status,
        /// Why; empty when it ended well.
        reason: String,
    },
    /// Tell those who are informed.
    PhaseChanged {
        /// Phase.
        phase: PhaseId,
        /// Its name.
        name: String,
        /// Its state.
        status: PhaseStatus,
        /// Position among the phases, from 1.
        position: usize,
        /// Number of phases.
        phases: usize,
    },
    /// Tell those whom work went up to.
    TaskEscalated {
        /// Task.
        task: TaskId,
        /// Its name.
        name: String,
        /// Agent, human or "operator".
        escalated_to: String,
        /// Humans who are told, the one it went up to included.
        notify_participants: BTreeSet<ParticipantId>,
        /// What happened.
        message: String,
    },
    /// Put requests to people: all of one decision, so that each person gets one mail.
    AskApprovals {
        /// Shared by the requests.
        boundary: BoundaryId,
        /// Requests, in order: task, phase, gate.
        needs: Vec<Need>,
    },
    /// Take back requests that nobody needs any more.
    WithdrawApprovals {
        /// Requests.
        approvals: BTreeSet<ApprovalId>,
        /// Why.
        reason: String,
    },
}

/// One request to put to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its id.
    pub approval: ApprovalId,
    /// What it is about: a task, a phase or a gate.
    pub subject: Subject,
    /// Task, where there is one.
    pub task: Option<TaskId>,
    /// Phase whose boundary it is.
    pub phase: PhaseId,
    /// Gate, where there is one.
    pub gate: Option<GateId>,
    /// Round of the subject.
    pub round: u32,
    /// Who answers.
    pub approvers: Vec<ParticipantId>,
    /// Title, one line.
    pub title: String,
    /// What the approvers should know.
    pub description: String,
    /// Artifacts under review; those that do not exist are left out by who asks.
    pub artifacts: BTreeSet<ArtifactKey>,
    /// Time that it may take.
    pub timing: NeedTiming,
    /// Agents and humans whose work is reviewed: they do not decide it.
    pub produced_by: BTreeSet<String>,
}

/// How long a request may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeedTiming {
    /// Deadline after the request.
    pub timeout: Option<Duration>,
    /// When somebody further is asked.
    pub escalate_after: Option<Duration>,
    /// Whom, nearest first; humans only.
    pub escalate_to: Vec<ParticipantId>,
    /// When to remind.
    pub reminders: Vec<Duration>,
    /// What happens at the deadline.
    pub on_timeout: OnTimeout,
}

/// Says who must hear of `events`, which led from `before` to `after`.
pub fn react(
    _definition: &Definition,
    _before: &Instance,
    _after: &Instance,
    _events: &[Event],
) -> Vec<Effect> {
    Vec::new()
}

/// The work that may be handed out, by task. The store keeps one row each and writes what differs.
pub fn ready_work(_definition: &Definition, _instance: &Instance) -> BTreeMap<TaskId, ReadyWork> {
    BTreeMap::new()
}

/// The leases that are out, by task. The store keeps one row each and writes what differs.
pub fn leases(_instance: &Instance) -> BTreeMap<TaskId, HeldLease> {
    BTreeMap::new()
}
