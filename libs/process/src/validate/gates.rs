//! Gates: what each needs to be able to open, and nothing that belongs to another kind.

use super::Checker;
use super::timing::Written;
use crate::definition::{Gate, GateKind, Timing};
use crate::draft::GateDraft;
use crate::issue::{Path, did_you_mean};

const INCOMPLETE: &str = "GATE_INCOMPLETE";

impl<'a> Checker<'a> {
    /// The gates in the order written; one that cannot be read is left out.
    pub(super) fn gates(&mut self, path: &Path, timing: &Timing) -> Vec<Gate> {
        let draft = self.draft;
        draft
            .gates
            .iter()
            .enumerate()
            .filter_map(|(index, gate)| self.gate(&path.at(index), gate, timing))
            .collect()
    }

    fn gate(&mut self, path: &Path, gate: &'a GateDraft, timing: &Timing) -> Option<Gate> {
        self.id(&path.at("id"), &gate.id);
        self.name(&path.at("name"), &gate.name);
        self.place(&path.at("beforePhase"), gate);
        self.approvers(&path.at("approvers"), &gate.approvers);
        let condition = gate.condition.as_deref().filter(|condition| !condition.is_empty());
        let written = Written::of_gate(gate);
        let timing = self.timing(path, &written, timing);
        if gate.kind != "approval" && written.says_anything() {
            let message =
                "only a request for approval has a deadline; remove the times, or make it an approval gate";
            self.report.warning(path, "TIMING_UNUSED", message);
        }
        let kind = match gate.kind.as_str() {
            "approval" => self.approval(path, gate, condition),
            "condition" => self.conditional(path, gate, condition),
            "manual" => Some(self.manual(path, gate, condition)),
            other => {
                self.word(&path.at("type"), other, &["approval", "condition", "manual"]);
                None
            }
        };
        Some(Gate {
            id: gate.id.clone(),
            name: gate.name.clone(),
            before_phase: gate.before_phase.clone(),
            kind: kind?,
            timing,
        })
    }

    fn place(&mut self, path: &Path, gate: &GateDraft) {
        const CODE: &str = "GATE_PHASE_UNKNOWN";
        if !self.scope.phases.contains(&gate.before_phase) || gate.before_phase.is_empty() {
            let alike = did_you_mean(&gate.before_phase, self.scope.phases.iter().map(String::as_str));
            let message = format!("`{}` is no phase of the definition{alike}", gate.before_phase);
            self.report.fault(path, CODE, message);
            return;
        }
        let first = self.order.first().and_then(|index| self.draft.phases.get(*index));
        if gate.kind == "approval" && first.is_some_and(|first| first.id == gate.before_phase) {
            let message = "an approval gate is asked for when the phase before it ends, and there is none; make it manual or a condition";
            self.report.fault(path, CODE, message);
        }
    }

    fn approval(&mut self, path: &Path, gate: &GateDraft, condition: Option<&str>) -> Option<GateKind> {
        if condition.is_some() {
            let message = "an approval gate opens by its approvers alone; remove the condition or give it a gate of its own";
            self.report.fault(&path.at("condition"), INCOMPLETE, message);
        }
        if gate.approvers.is_empty() {
            let message = "nobody could open the gate; name at least one approver";
            self.report.fault(&path.at("approvers"), INCOMPLETE, message);
            return None;
        }
        Some(GateKind::Approval(gate.approvers.clone()))
    }

    fn conditional(&mut self, path: &Path, gate: &GateDraft, condition: Option<&'a str>) -> Option<GateKind> {
        self.no_approvers(path, gate);
        let Some(source) = condition else {
            let message = "the gate has nothing that could become true; write its condition";
            self.report.fault(&path.at("condition"), INCOMPLETE, message);
            return None;
        };
        self.condition(&path.at("condition"), source).map(GateKind::Condition)
    }

    fn manual(&mut self, path: &Path, gate: &GateDraft, condition: Option<&str>) -> GateKind {
        self.no_approvers(path, gate);
        if condition.is_some() {
            let message =
                "a manual gate opens by hand alone; remove the condition or make the type condition";
            self.report.fault(&path.at("condition"), INCOMPLETE, message);
        }
        GateKind::Manual
    }

    fn no_approvers(&mut self, path: &Path, gate: &GateDraft) {
        if !gate.approvers.is_empty() {
            let message =
                format!("a {} gate asks nobody; remove the approvers or make the type approval", gate.kind);
            self.report.fault(&path.at("approvers"), INCOMPLETE, message);
        }
    }
}
