//! What opens, and whether it may: every approval, condition and release that the pinned definition demands, held against
//! what people said to the approval service, and to which content.

use std::collections::BTreeMap;

use phasegate_approval::domain::{Decision, Outcome};
use phasegate_id::{ApprovalId, ArtifactKey};
use phasegate_instance::domain::{ActorKind, Change, Event, GateStatus, Instance};
use phasegate_process::{Condition, Definition, GateKind, RaidRole};

use crate::world::World;

/// A moment at which something may open.
pub(crate) struct Opening<'a> {
    pub(crate) definition: &'a Definition,
    pub(crate) before: &'a Instance,
    pub(crate) after: &'a Instance,
    /// What artifact had when it was decided.
    pub(crate) current: &'a BTreeMap<ArtifactKey, u32>,
    /// Somebody passes over what is left.
    pub(crate) is_forced: bool,
}

impl World {
    /// What is missing for that which an entry opens or ends.
    #[expect(clippy::wildcard_enum_match_arm, reason = "looks for a few of many kinds")]
    pub(crate) fn opening_faults(&self, opening: &Opening<'_>, event: &Event) -> Vec<String> {
        let definition = opening.definition;
        let moves_on = matches!(
            event.change,
            Change::GateOpened { .. } | Change::PhaseCompleted { .. } | Change::PhaseEntered { .. }
        );
        if moves_on && opening.before.paused_at.is_some() && event.actor.kind == ActorKind::System {
            return vec![format!("it moved on while it was on hold: {:?}", event.change)];
        }
        match &event.change {
            Change::GateOpened { gate, approval, forced: false, .. } => {
                let Some(written) = definition.gates.iter().find(|written| written.id == gate.as_str())
                else {
                    return vec![format!("there is no gate {gate}")];
                };
                match &written.kind {
                    GateKind::Approval(approvers) => {
                        self.votes(opening, approval.as_ref(), approvers, &written.id)
                    }
                    GateKind::Condition(condition) => holds(opening, [condition], gate.as_str()),
                    GateKind::Manual => released(definition, event, gate.as_str()),
                }
            }
            Change::TaskCompleted { task, approval } => {
                let mut tasks = definition.phases.iter().flat_map(|phase| &phase.tasks);
                let written = tasks.find(|written| written.id == task.as_str());
                let approvers = written.map(|written| written.required_approvals.clone()).unwrap_or_default();
                if approvers.is_empty() {
                    return Vec::new();
                }
                self.votes(opening, approval.as_ref(), &approvers, task.as_str())
            }
            Change::PhaseCompleted { phase } => {
                let Some(written) = definition.phases.iter().find(|one| one.id == phase.as_str()) else {
                    return vec![format!("there is no phase {phase}")];
                };
                let mut faults = holds(opening, &written.exit_conditions, phase.as_str());
                if !written.required_approvals.is_empty() {
                    let slot = opening.before.phases.get(phase).and_then(|phase| phase.approval.clone());
                    faults.extend(self.votes(
                        opening,
                        slot.as_ref(),
                        &written.required_approvals,
                        phase.as_str(),
                    ));
                }
                faults
            }
            Change::PhaseEntered { phase, .. } => {
                let is_forced = opening.is_forced || event.actor.kind != ActorKind::System;
                entered(&Opening { is_forced, ..*opening }, phase.as_str())
            }
            _ => Vec::new(),
        }
    }

    /// Whether everybody who has to has approved, or a stand-in has, of the content that there is.
    fn votes(
        &self,
        opening: &Opening<'_>,
        approval: Option<&ApprovalId>,
        approvers: &[String],
        what: &str,
    ) -> Vec<String> {
        let stored = approval.and_then(|id| self.desk.requests.get(id));
        let Some(stored) = stored else { return vec![format!("{what} opened without a request")] };
        let approval = &stored.approval;
        let mut faults = Vec::new();
        let outcome = approval.settlement().map(|end| end.outcome);
        if outcome != Some(Outcome::Approved) {
            faults.push(format!("{what} opened when its request was {outcome:?}"));
        }
        let has_approved = |one: &phasegate_approval::domain::Approver| {
            one.answer().is_some_and(|answer| answer.decision == Decision::Approve)
        };
        let by_stand_in = approval.approvers.iter().any(|one| one.escalated && has_approved(one));
        for person in approvers {
            let asked = approval.approvers.iter().find(|one| one.id.as_str() == person);
            if asked.is_none() {
                faults.push(format!("{what} opened, and {person} was not asked"));
            }
            if !by_stand_in && !asked.is_some_and(has_approved) {
                faults.push(format!("{what} opened without the approval of {person}"));
            }
        }
        for bound in &approval.request.artifacts {
            let current = opening.current.get(&bound.key).copied();
            let heard = opening.before.artifacts.get(&bound.key).map(|artifact| artifact.version);
            if current.max(heard).is_some_and(|newest| newest > bound.version) {
                let (key, version) = (&bound.key, bound.version);
                faults.push(format!(
                    "{what} opened on {key} {version} when there was {:?}",
                    current.max(heard)
                ));
            }
        }
        faults
    }
}

/// Conditions that are the name of a fact, or its contrary, looked up by hand.
fn holds<'a>(
    opening: &Opening<'_>,
    conditions: impl IntoIterator<Item = &'a Condition>,
    what: &str,
) -> Vec<String> {
    let mut faults = Vec::new();
    for condition in conditions {
        let text = condition.source();
        let (name, wanted) = text.strip_prefix('!').map_or((text, true), |name| (name, false));
        if !phasegate_properties::generate::FACTS.contains(&name) {
            continue;
        }
        let value = opening.before.facts.get(name).copied().unwrap_or_default();
        if value != wanted {
            faults.push(format!("{what} opened, and {text} was false"));
        }
    }
    faults
}

/// Whether somebody who may has opened a manual gate.
fn released(definition: &Definition, event: &Event, gate: &str) -> Vec<String> {
    let is_delegator =
        definition.humans.get(&event.actor.id).is_some_and(|human| human.raid_role == RaidRole::Delegator);
    let may = match event.actor.kind {
        ActorKind::Operator => true,
        ActorKind::Participant => is_delegator,
        ActorKind::System | ActorKind::Agent | ActorKind::Service => false,
    };
    if may { Vec::new() } else { vec![format!("{gate} was opened by {:?}", event.actor)] }
}

/// Whether everything that stands before a phase is open.
fn entered(opening: &Opening<'_>, phase: &str) -> Vec<String> {
    let Some(written) = opening.definition.phases.iter().find(|one| one.id == phase) else {
        return vec![format!("there is no phase {phase}")];
    };
    let gates = opening.definition.gates.iter().filter(|gate| gate.before_phase == phase);
    let closed = gates.filter(|gate| {
        opening.after.gates.get(gate.id.as_str()).is_none_or(|state| state.status != GateStatus::Open)
    });
    let mut faults: Vec<String> =
        closed.map(|gate| format!("{phase} was entered, and {} is closed", gate.id)).collect();
    if !opening.is_forced {
        faults.extend(holds(opening, &written.entry_conditions, phase));
    }
    faults
}
