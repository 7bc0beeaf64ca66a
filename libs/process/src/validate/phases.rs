//! Phases and their tasks.

use std::collections::BTreeMap;

use super::Checker;
use super::text::is_artifact_key;
use super::timing::Written;
use crate::condition::Condition;
use crate::definition::{ErrorHandling, Phase, Priority, Task, Timing};
use crate::draft::{PhaseDraft, TaskDraft};
use crate::estimate::parse_estimate;
use crate::issue::Path;

/// Rounds of changes before a review is escalated, where nobody says.
const ROUNDS: u32 = 5;

/// Most rounds.
const MAX_ROUNDS: i32 = 100;

impl<'a> Checker<'a> {
    /// The phases in their order, each with where it was written.
    pub(super) fn phases(&mut self, path: &Path, timing: &Timing) -> Vec<(usize, Phase)> {
        let draft = self.draft;
        self.orders(path);
        let root = Path::root().at("errorHandling");
        let handling = self.error_handling(&root, draft.error_handling.as_ref(), &ErrorHandling::default());
        let order = self.order.clone();
        let written =
            order.into_iter().filter_map(|index| draft.phases.get(index).map(|phase| (index, phase)));
        written.map(|(index, phase)| (index, self.phase(&path.at(index), phase, timing, &handling))).collect()
    }

    fn orders(&mut self, path: &Path) {
        let mut seen: BTreeMap<i32, &str> = BTreeMap::new();
        for (index, phase) in self.draft.phases.iter().enumerate() {
            let path = path.at(index).at("order");
            if phase.order <= 0 {
                self.report.fault(&path, "ORDER_INVALID", "write a whole number above zero");
            } else if let Some(other) = seen.insert(phase.order, &phase.id) {
                let message =
                    format!("phase `{other}` has the order {}, too; give each phase its own", phase.order);
                self.report.fault(&path, "ORDER_INVALID", message);
            }
        }
    }

    fn phase(
        &mut self,
        path: &Path,
        phase: &'a PhaseDraft,
        timing: &Timing,
        handling: &ErrorHandling,
    ) -> Phase {
        self.id(&path.at("id"), &phase.id);
        self.name(&path.at("name"), &phase.name);
        self.description(&path.at("description"), phase.description.as_deref());
        self.approvers(&path.at("requiredApprovals"), &phase.required_approvals);
        let is_guarded = self.draft.gates.iter().any(|gate| gate.before_phase == phase.id);
        if phase.tasks.is_empty() && phase.required_approvals.is_empty() && !is_guarded {
            let message =
                "the phase has no tasks, no approvals and no gate; write a task or remove the phase";
            self.report.fault(&path.at("tasks"), "PHASES_EMPTY", message);
        }
        let estimated_duration = phase.estimated_duration.clone().unwrap_or_default();
        let estimate = parse_estimate(&estimated_duration);
        self.short(&path.at("estimatedDuration"), &estimated_duration);
        if estimate.is_none() && !estimated_duration.is_empty() {
            let message =
                "it is shown and not planned with; write N or N-M and hours, days or weeks, such as 1-2 days";
            self.report.warning(&path.at("estimatedDuration"), "ESTIMATE_UNREADABLE", message);
        }
        let timing = self.timing(path, &Written::of_phase(phase), timing);
        let handling =
            self.error_handling(&path.at("errorHandling"), phase.error_handling.as_ref(), handling);
        Phase {
            id: phase.id.clone(),
            name: phase.name.clone(),
            description: phase.description.clone().unwrap_or_default(),
            order: phase.order,
            tasks: phase
                .tasks
                .iter()
                .enumerate()
                .map(|(index, task)| self.task(&path.at("tasks").at(index), task, &timing, &handling))
                .collect(),
            required_approvals: phase.required_approvals.clone(),
            parallel: phase.parallel_execution.unwrap_or(false),
            estimated_duration,
            estimate,
            entry_conditions: self.conditions(&path.at("entryConditions"), &phase.entry_conditions),
            exit_conditions: self.conditions(&path.at("exitConditions"), &phase.exit_conditions),
            timing,
            max_rounds: self.rounds(&path.at("maxRounds"), phase.max_rounds),
        }
    }

    fn conditions(&mut self, path: &Path, sources: &'a [String]) -> Vec<Condition> {
        let read =
            sources.iter().enumerate().filter_map(|(index, source)| self.condition(&path.at(index), source));
        read.collect()
    }

    fn task(&mut self, path: &Path, task: &TaskDraft, timing: &Timing, handling: &ErrorHandling) -> Task {
        self.id(&path.at("id"), &task.id);
        self.name(&path.at("name"), &task.name);
        self.description(&path.at("description"), task.description.as_deref());
        self.assignee(&path.at("assignee"), task);
        self.approvers(&path.at("requiredApprovals"), &task.required_approvals);
        self.tools(&path.at("tools"), &task.tools);
        self.repeated(&path.at("artifacts"), &task.artifacts);
        for (index, key) in task.artifacts.iter().enumerate() {
            if !is_artifact_key(key) {
                let message = "write a key of letters, digits, `.`, `_` and `-` that begins with a letter or digit, at most 128 characters";
                self.report.fault(&path.at("artifacts").at(index), "ID_INVALID", message);
            }
        }
        Task {
            id: task.id.clone(),
            name: task.name.clone(),
            description: task.description.clone().unwrap_or_default(),
            assignee: task.assignee.clone(),
            dependencies: task.dependencies.clone(),
            required_approvals: task.required_approvals.clone(),
            tools: task.tools.clone(),
            artifacts: task.artifacts.clone(),
            error_handling: self.error_handling(
                &path.at("errorHandling"),
                task.error_handling.as_ref(),
                handling,
            ),
            input: task.input.clone().map(serde_json::Value::Object),
            priority: self.priority(&path.at("priority"), &task.priority),
            timing: self.timing(path, &Written::of_task(task), timing),
            max_rounds: self.rounds(&path.at("maxRounds"), task.max_rounds),
        }
    }

    fn assignee(&mut self, path: &Path, task: &TaskDraft) {
        let name = &task.assignee;
        if name.is_empty() {
            self.report.fault(
                path,
                "ASSIGNEE_UNKNOWN",
                "nobody is named; write the agent or human who does the task",
            );
        } else if !self.is_somebody(name) {
            let alike = self.somebody_like(name);
            let alike =
                if alike.is_empty() { "; describe it under agents or humans".to_owned() } else { alike };
            let message = format!("`{name}` is neither an agent nor a human of the definition{alike}");
            self.report.fault(path, "ASSIGNEE_UNKNOWN", message);
        } else if self.draft.humans.get(name).is_some_and(|human| human.raid_role == "informed") {
            let message =
                format!("`{name}` is informed and does no work; assign somebody else or change its raidRole");
            self.report.fault(path, "ASSIGNEE_INVALID", message);
        } else if task.required_approvals.contains(name) {
            let message =
                format!("`{name}` does the task and approves it; name another approver or another assignee");
            self.report.fault(path, "SEGREGATION_OF_DUTIES", message);
        }
    }

    fn priority(&mut self, path: &Path, word: &str) -> Priority {
        match word {
            "" | "normal" => Priority::Normal,
            "low" => Priority::Low,
            "high" => Priority::High,
            "urgent" => Priority::Urgent,
            other => {
                self.word(path, other, &["low", "normal", "high", "urgent"]);
                Priority::Normal
            }
        }
    }

    fn rounds(&mut self, path: &Path, written: Option<i32>) -> u32 {
        let Some(written) = written else { return ROUNDS };
        if !(1..=MAX_ROUNDS).contains(&written) {
            self.report.fault(path, "ROUNDS_INVALID", format!("write 1 to {MAX_ROUNDS}"));
        }
        u32::try_from(written).unwrap_or(ROUNDS)
    }
}
