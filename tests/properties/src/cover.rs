//! Counts what was met. A generator that never makes the interesting case proves nothing, so the tests demand it.

use std::collections::BTreeMap;

use phasegate_instance::domain::{
    ActorKind, BlockCause, Change, Event, Fact, Instance, PhaseStatus, RoundCause, Subject,
};
use phasegate_process::{Definition, GateKind};

/// How often each case was met.
#[derive(Debug, Clone, Default)]
pub struct Cover(BTreeMap<String, u64>);

impl Cover {
    /// Notes one more of a case.
    pub fn note(&mut self, case: impl Into<String>) {
        *self.0.entry(case.into()).or_default() += 1;
    }

    /// How often a case was met.
    pub fn count(&self, case: &str) -> u64 {
        self.0.get(case).copied().unwrap_or_default()
    }

    /// Adds what another one has met.
    pub fn add(&mut self, other: &Self) {
        for (case, count) in &other.0 {
            *self.0.entry(case.clone()).or_default() += count;
        }
    }

    /// All cases with their counts.
    pub fn cases(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(case, count)| (case.as_str(), *count))
    }

    /// Notes what an event is a case of.
    pub fn take_in(&mut self, definition: &Definition, after: &Instance, event: &Event) {
        match &event.change {
            Change::GateOpened { gate, forced, .. } => {
                let kind = kind_of(definition, gate.as_str());
                let how = match (forced, event.actor.kind) {
                    (true, _) => "forced",
                    (false, ActorKind::Operator) => "opened by an operator",
                    (false, ActorKind::Participant) => "opened by a delegator",
                    (false, ActorKind::System | ActorKind::Agent | ActorKind::Service) => "opened",
                };
                self.note(format!("gate {kind}: {how}"));
            }
            Change::GateRejected { .. } => self.note("gate approval: rejected"),
            Change::RoundBegun { subject, cause, .. } => {
                self.note(format!("{}: new round, {}", review_of(subject), word(*cause)));
            }
            Change::TaskReturned { cause, .. } => self.note(format!("task: returned, {}", word(*cause))),
            Change::PhaseBlocked { phase, block } => {
                let is_next = after.phases.get(phase).is_some_and(|phase| phase.started_at.is_none());
                let what = match (block.cause, is_next) {
                    (BlockCause::Condition, true) => "gate condition or entry: has no answer",
                    (BlockCause::Condition, false) => "exit condition: has no answer",
                    (BlockCause::Rejected, _) => "phase: blocked by a rejection",
                    (BlockCause::Rounds, true) => "gate approval: too many rounds",
                    (BlockCause::Rounds, false) => "phase approval: too many rounds",
                    (BlockCause::Failed, _) => "phase: blocked by a failure",
                };
                self.note(what);
            }
            Change::TaskEscalated { to_agent: true, .. } => self.note("task: gone up to an agent"),
            Change::TaskEscalated { to, .. } if to == "operator" => self.note("task: gone up to operators"),
            Change::TaskEscalated { .. } => self.note("task: gone up to a human"),
            Change::Heard(Fact::ApprovalSettled { request, status, .. }) => {
                self.note(format!("{}: settled {}", review_of(&request.subject), status.as_str()));
            }
            Change::InstanceStarted(_)
            | Change::InstancePaused { .. }
            | Change::InstanceResumed { .. }
            | Change::InstanceCompleted {}
            | Change::InstanceCancelled { .. }
            | Change::InstanceFailed { .. }
            | Change::FactsSet { .. }
            | Change::ContextChanged { .. }
            | Change::PhaseGated { .. }
            | Change::PhaseEntered { .. }
            | Change::PhaseAwaitingApproval { .. }
            | Change::PhaseActivated { .. }
            | Change::PhaseCompleted { .. }
            | Change::PhaseSkipped { .. }
            | Change::PhaseReopened { .. }
            | Change::ApprovalNeeded { .. }
            | Change::TaskReady { .. }
            | Change::TaskLeased { .. }
            | Change::TaskHandedIn { .. }
            | Change::TaskCompleted { .. }
            | Change::TaskAttemptFailed { .. }
            | Change::TaskRetryScheduled { .. }
            | Change::TaskReleased { .. }
            | Change::TaskFailed { .. }
            | Change::TaskBlocked { .. }
            | Change::TaskRetried { .. }
            | Change::TaskSkipped { .. }
            | Change::TaskHeldBack { .. }
            | Change::Heard(_) => {}
        }
        self.note(phasegate_instance::domain::record("", event).watch_type);
    }

    /// Notes how a play ended.
    pub fn take_end(&mut self, definition: &Definition, instance: &Instance) {
        self.note(format!("instance: {}", instance.status.as_str()));
        for gate in &definition.gates {
            let is_waited_for = instance.phases.get(gate.before_phase.as_str()).is_some_and(|phase| {
                matches!(phase.status, PhaseStatus::Gated | PhaseStatus::Blocked)
                    && phase.started_at.is_none()
            });
            let is_closed = instance.gates.get(gate.id.as_str()).is_some_and(|gate| gate.opened_at.is_none());
            if is_waited_for && is_closed {
                self.note(format!("gate {}: closed at the end", kind_of(definition, &gate.id)));
            }
        }
    }
}

fn kind_of(definition: &Definition, gate: &str) -> &'static str {
    match definition.gates.iter().find(|written| written.id == gate).map(|gate| &gate.kind) {
        Some(GateKind::Approval(_)) => "approval",
        Some(GateKind::Condition(_)) => "condition",
        Some(GateKind::Manual) => "manual",
        None => "unknown",
    }
}

fn review_of(subject: &Subject) -> &'static str {
    match subject {
        Subject::Task(_) => "task approval",
        Subject::Phase(_) => "phase approval",
        Subject::Gate(_) => "gate approval",
        Subject::AdHoc(_) => "ad-hoc approval",
    }
}

fn word(cause: RoundCause) -> &'static str {
    match cause {
        RoundCause::ChangesRequested => "changes requested",
        RoundCause::LaterReview => "later review",
        RoundCause::EarlierRound => "earlier round",
        RoundCause::ContentChanged => "content changed",
        RoundCause::Superseded => "superseded",
        RoundCause::Unlocked => "unlocked",
    }
}
