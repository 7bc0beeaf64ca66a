//! What a definition may have and is likely not to mean.

use std::collections::BTreeSet;

use crate::condition::{ALL_TASKS_COMPLETE, Condition, approved_fact};
use crate::definition::{Definition, GateKind, Phase, RaidRole};
use crate::draft::Draft;
use crate::issue::{Path, Report, did_you_mean};

/// Notes the warnings about a definition that was read as far as it could be.
pub(super) fn note(definition: &Definition, draft: &Draft, report: &mut Report) {
    let asked = asked(definition);
    people(definition, &asked, report);
    agents(definition, report);
    keys(definition, report);
    unapproved(definition, draft, report);
    duties(definition, draft, report);
    facts(definition, draft, report);
}

/// Everybody who is asked, told or given something.
fn asked(definition: &Definition) -> BTreeSet<&str> {
    let mut names: BTreeSet<&str> = definition.escalation_path.iter().map(String::as_str).collect();
    for phase in &definition.phases {
        names.extend(phase.required_approvals.iter().map(String::as_str));
        names.extend(phase.timing.escalate_to.as_deref());
        for task in &phase.tasks {
            names.insert(&task.assignee);
            names.extend(task.required_approvals.iter().map(String::as_str));
            names.extend(task.timing.escalate_to.as_deref());
            names.extend(task.error_handling.escalate_to.as_deref());
            names.extend(task.error_handling.notify_participants.iter().map(String::as_str));
        }
    }
    for gate in &definition.gates {
        names.extend(gate.timing.escalate_to.as_deref());
        match &gate.kind {
            GateKind::Approval(approvers) => names.extend(approvers.iter().map(String::as_str)),
            GateKind::Condition(_) | GateKind::Manual => {}
        }
    }
    names
}

fn people(definition: &Definition, asked: &BTreeSet<&str>, report: &mut Report) {
    for (id, human) in &definition.humans {
        let path = Path::root().at("humans").at(id);
        match human.raid_role {
            RaidRole::Informed if !human.email_wanted && !asked.contains(id.as_str()) => {
                let message = format!(
                    "nobody tells `{id}` anything: it is informed and wants no mail; allow mail or remove it"
                );
                report.warning(&path, "INFORMED_NOT_NOTIFIED", message);
            }
            RaidRole::Approver if !asked.contains(id.as_str()) && human.required_approvals.is_empty() => {
                let message =
                    format!("`{id}` is an approver and is never asked; name it in an approval or remove it");
                report.warning(&path, "HUMAN_NEVER_ASKED", message);
            }
            RaidRole::Responsible if !asked.contains(id.as_str()) => {
                let message = format!("`{id}` is responsible and has no task; assign one or remove it");
                report.warning(&path, "HUMAN_NEVER_ASKED", message);
            }
            // A delegator acts when it wants to, and an informed one need not be named to be told.
            RaidRole::Informed | RaidRole::Approver | RaidRole::Responsible | RaidRole::Delegator => {}
        }
    }
}

fn agents(definition: &Definition, report: &mut Report) {
    let asked = asked(definition);
    for id in definition.agents.keys().filter(|id| !asked.contains(id.as_str())) {
        let message =
            format!("no task is assigned to `{id}`, and nothing goes up to it; assign one or remove it");
        report.warning(&Path::root().at("agents").at(id), "AGENT_UNUSED", message);
    }
}

/// Ids that requests are about.
fn subjects(definition: &Definition) -> impl Iterator<Item = &str> {
    let phases = definition.phases.iter().map(|phase| phase.id.as_str());
    let tasks = definition.phases.iter().flat_map(|phase| &phase.tasks).map(|task| task.id.as_str());
    phases.chain(tasks).chain(definition.gates.iter().map(|gate| gate.id.as_str()))
}

fn keys(definition: &Definition, report: &mut Report) {
    let used: BTreeSet<String> = subjects(definition)
        .map(approved_fact)
        .chain(conditions(definition).flat_map(Condition::facts).map(str::to_owned))
        .collect();
    for (id, human) in &definition.humans {
        let path = Path::root().at("humans").at(id).at("requiredApprovals");
        for (index, key) in human.required_approvals.iter().enumerate() {
            if !used.contains(&approved_fact(key)) {
                let message = format!(
                    "nothing in the definition uses the approval key `{key}`; only a request that names it will ask `{id}`"
                );
                report.warning(&path.at(index), "APPROVAL_KEY_UNUSED", message);
            }
        }
    }
}

fn unapproved(definition: &Definition, draft: &Draft, report: &mut Report) {
    for (at, phase) in definition.phases.iter().enumerate() {
        let next = definition.phases.get(at + 1).map(|next| next.id.as_str());
        let is_guarded = definition.gates.iter().any(|gate| {
            Some(gate.before_phase.as_str()) == next
                && match gate.kind {
                    GateKind::Approval(_) | GateKind::Manual => true,
                    GateKind::Condition(_) => false,
                }
        });
        let is_approved = !phase.required_approvals.is_empty()
            || phase.tasks.iter().any(|task| !task.required_approvals.is_empty());
        if !is_guarded && !is_approved {
            let message = format!(
                "nobody approves anything in `{}`, nor before what follows it; add an approval if somebody should",
                phase.id
            );
            report.warning(&path_of(draft, phase), "PHASE_UNAPPROVED", message);
        }
    }
}

/// Who approves a phase that holds work of their own.
fn duties(definition: &Definition, draft: &Draft, report: &mut Report) {
    for phase in &definition.phases {
        for (index, name) in phase.required_approvals.iter().enumerate() {
            if let Some(task) = phase.tasks.iter().find(|task| task.assignee == *name) {
                let message = format!(
                    "`{name}` approves the phase and does its task `{}`; somebody else should look, too",
                    task.id
                );
                let path = path_of(draft, phase).at("requiredApprovals").at(index);
                report.warning(&path, "SEGREGATION_OF_DUTIES", message);
            }
        }
    }
}

fn conditions(definition: &Definition) -> impl Iterator<Item = &Condition> {
    let phases = definition
        .phases
        .iter()
        .flat_map(|phase| phase.entry_conditions.iter().chain(&phase.exit_conditions));
    let gates = definition.gates.iter().filter_map(|gate| match &gate.kind {
        GateKind::Condition(condition) => Some(condition),
        GateKind::Approval(_) | GateKind::Manual => None,
    });
    phases.chain(gates)
}

/// Facts that a condition reads and that nothing in the definition sets.
fn facts(definition: &Definition, draft: &Draft, report: &mut Report) {
    let mut set: BTreeSet<String> = BTreeSet::from([ALL_TASKS_COMPLETE.to_owned()]);
    for phase in &definition.phases {
        let tasks = phase
            .tasks
            .iter()
            .filter(|task| !task.required_approvals.is_empty())
            .map(|task| task.id.as_str());
        let own = Some(phase.id.as_str()).filter(|_| !phase.required_approvals.is_empty());
        set.extend(tasks.chain(own).map(approved_fact));
    }
    let gates = definition.gates.iter().filter(|gate| matches!(gate.kind, GateKind::Approval(_)));
    set.extend(gates.map(|gate| approved_fact(&gate.id)));
    set.extend(
        definition.humans.values().flat_map(|human| &human.required_approvals).map(|key| approved_fact(key)),
    );
    let mut check = |path: Path, condition: &Condition| {
        for fact in condition.facts().filter(|fact| !set.contains(*fact)) {
            let alike = did_you_mean(fact, set.iter().map(String::as_str));
            let message = format!(
                "nothing in the definition sets `{fact}`: it is false until an agent or an operator sets it{alike}"
            );
            report.warning(&path, "FACT_NEVER_SET", message);
        }
    };
    for phase in &definition.phases {
        let path = path_of(draft, phase);
        let written = draft.phases.iter().find(|written| written.id == phase.id);
        let index = |sources: Option<&Vec<String>>, condition: &Condition| {
            sources
                .and_then(|sources| sources.iter().position(|source| source == condition.source()))
                .unwrap_or_default()
        };
        for condition in &phase.entry_conditions {
            let index = index(written.map(|phase| &phase.entry_conditions), condition);
            check(path.at("entryConditions").at(index), condition);
        }
        for condition in &phase.exit_conditions {
            let index = index(written.map(|phase| &phase.exit_conditions), condition);
            check(path.at("exitConditions").at(index), condition);
        }
    }
    for gate in &definition.gates {
        let Some(index) = draft.gates.iter().position(|written| written.id == gate.id) else { continue };
        match &gate.kind {
            GateKind::Condition(condition) => {
                check(Path::root().at("gates").at(index).at("condition"), condition);
            }
            GateKind::Approval(_) | GateKind::Manual => {}
        }
    }
}

/// Where a phase was written.
fn path_of(draft: &Draft, phase: &Phase) -> Path {
    let index = draft.phases.iter().position(|written| written.id == phase.id).unwrap_or_default();
    Path::root().at("phases").at(index)
}
