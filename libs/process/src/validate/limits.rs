//! How large a definition may be. Counted before anything is read.

use crate::draft::Draft;
use crate::issue::{Path, Report};
use crate::schema::depth;

/// Largest definition, as canonical JSON.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The one code of this module.
pub(super) const TOO_LARGE: &str = "DEFINITION_TOO_LARGE";

const MAX_PHASES: usize = 100;
const MAX_TASKS: usize = 1000;
const MAX_GATES: usize = 100;
const MAX_AGENTS: usize = 100;
const MAX_HUMANS: usize = 100;
const MAX_DEPENDENCIES: usize = 32;
/// A request has at most so many approvers, and a list of people is never longer.
const MAX_PEOPLE: usize = 20;
const MAX_TOOLS: usize = 100;
/// A request pins at most so many artifacts.
const MAX_ARTIFACTS: usize = 50;
const MAX_LABELS: usize = 64;
/// Each is compiled, which is the slowest part of reading a definition.
const MAX_CONDITIONS: usize = 500;
/// Deepest value that an agent is given.
const MAX_DEPTH: usize = 32;

pub(super) fn check(draft: &Draft, report: &mut Report) {
    let bytes = draft.canonical().len();
    if bytes > MAX_BYTES {
        let message = format!(
            "the definition has {bytes} bytes, and {MAX_BYTES} are allowed; move texts into artifacts"
        );
        report.too_large(&Path::root(), TOO_LARGE, message, MAX_BYTES);
        return;
    }
    let root = Path::root();
    let tasks = draft.phases.iter().map(|phase| phase.tasks.len()).sum();
    let expressions =
        draft.phases.iter().map(|phase| phase.entry_conditions.len() + phase.exit_conditions.len());
    let conditions = expressions.sum::<usize>() + draft.gates.len();
    let counts = [
        (root.at("phases"), draft.phases.len(), MAX_PHASES, "phases"),
        (root.at("phases"), tasks, MAX_TASKS, "tasks"),
        (root.at("phases"), conditions, MAX_CONDITIONS, "conditions and gates"),
        (root.at("gates"), draft.gates.len(), MAX_GATES, "gates"),
        (root.at("agents"), draft.agents.len(), MAX_AGENTS, "agents"),
        (root.at("humans"), draft.humans.len(), MAX_HUMANS, "humans"),
        (root.at("labels"), draft.labels.len(), MAX_LABELS, "labels"),
        (root.at("escalationPath"), draft.escalation_path.len(), MAX_PEOPLE, "names"),
    ];
    for (path, count, most, what) in counts {
        refuse(report, &path, count, most, what);
    }
    // With too many of the outer parts the inner ones are not worth the walk.
    if !report.has_faults() {
        inner(draft, report);
    }
}

fn inner(draft: &Draft, report: &mut Report) {
    for (index, phase) in draft.phases.iter().enumerate() {
        let path = Path::root().at("phases").at(index);
        refuse(
            report,
            &path.at("requiredApprovals"),
            phase.required_approvals.len(),
            MAX_PEOPLE,
            "approvers",
        );
        for (index, task) in phase.tasks.iter().enumerate() {
            let path = path.at("tasks").at(index);
            refuse(
                report,
                &path.at("dependencies"),
                task.dependencies.len(),
                MAX_DEPENDENCIES,
                "dependencies",
            );
            refuse(
                report,
                &path.at("requiredApprovals"),
                task.required_approvals.len(),
                MAX_PEOPLE,
                "approvers",
            );
            refuse(report, &path.at("tools"), task.tools.len(), MAX_TOOLS, "tools");
            refuse(report, &path.at("artifacts"), task.artifacts.len(), MAX_ARTIFACTS, "artifacts");
            let deepest =
                task.input.iter().flat_map(|input| input.values()).map(|value| depth(value, 1)).max();
            refuse(report, &path.at("input"), deepest.unwrap_or_default(), MAX_DEPTH, "levels");
        }
    }
    for (index, gate) in draft.gates.iter().enumerate() {
        let path = Path::root().at("gates").at(index).at("approvers");
        refuse(report, &path, gate.approvers.len(), MAX_PEOPLE, "approvers");
    }
    for (id, human) in &draft.humans {
        let path = Path::root().at("humans").at(id).at("requiredApprovals");
        refuse(report, &path, human.required_approvals.len(), MAX_TOOLS, "approval keys");
    }
    for (id, agent) in &draft.agents {
        refuse(report, &Path::root().at("agents").at(id).at("tools"), agent.tools.len(), MAX_TOOLS, "tools");
    }
}

fn refuse(report: &mut Report, path: &Path, count: usize, most: usize, what: &str) {
    if count > most {
        let message =
            format!("there are {count} {what}, and {most} are allowed; split the process or leave some out");
        report.too_large(path, TOO_LARGE, message, most);
    }
}
