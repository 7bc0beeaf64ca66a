//! The rules of running a process, written down a second time and as plainly as possible: words for states, numbers for
//! rounds, and a loop that does whatever is due until nothing is. No events, no history, no care for speed.

mod asks;
mod follows;
mod hears;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use phasegate_process::condition::{ApprovalInput, ArtifactInput, PhaseInput, TaskInput};
use phasegate_process::{Condition, Definition, ErrorHandling, Inputs, Phase, Task, TaskFailure};
use serde_json::{Value, json};

/// Newest version by artifact key.
pub type Versions = BTreeMap<String, u32>;

/// What a request is about: "task", "phase", "gate" or "key", and the name.
pub type Subject = (&'static str, String);

/// Positions in `TaskState::ended`.
const HANDED_IN: usize = 0;
const FAILED: usize = 1;
const GIVEN_BACK: usize = 2;

/// A task is here.
#[derive(Debug, Clone)]
pub struct TaskState {
    /// A word of the rules.
    pub status: &'static str,
    /// Attempts used in this round.
    pub attempt: u32,
    /// Who does it.
    pub assignee: String,
    /// Not before this, in microseconds.
    pub ready_at: Option<u64>,
    /// The lease that is out.
    lease: Option<u64>,
    /// The leases under which it was handed in, failed and given back last.
    ended: [Option<u64>; 3],
    was_leased: bool,
    went_up_to: Vec<String>,
    output: Value,
}

/// A subject is reviewed here.
#[derive(Debug, Clone, Default)]
pub struct Review {
    /// From 1, less one.
    pub round: u32,
    sent_back: u32,
    /// What was asked in this round.
    pub request: Option<Request>,
}

/// What was asked.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Who was asked.
    pub approvers: BTreeSet<String>,
    /// What they look at.
    pub reviewed: Versions,
    /// The word of the rules for how it was answered, once it was: `approved`, `rejected`, `changes_requested` and so on.
    pub answer: Option<&'static str>,
}

/// One running process.
#[derive(Debug, Clone)]
pub struct Model<'d> {
    definition: &'d Definition,
    /// "running", "paused", "completed", "cancelled" or "failed".
    pub status: &'static str,
    /// Word and whether it has begun, by phase.
    pub phases: BTreeMap<String, (&'static str, bool)>,
    /// By task.
    pub tasks: BTreeMap<String, TaskState>,
    /// "pending", "open" or "rejected", by gate.
    pub gates: BTreeMap<String, &'static str>,
    /// By subject.
    pub reviews: BTreeMap<Subject, Review>,
    /// Those that are true.
    pub facts: BTreeMap<String, bool>,
    /// Shared context.
    pub context: Value,
    /// Version and task of each artifact that was heard of.
    heard: BTreeMap<String, (u32, String)>,
    /// How requests with a key ended.
    answers: BTreeMap<String, &'static str>,
    now: u64,
}

impl<'d> Model<'d> {
    /// Begins.
    pub fn start(definition: &'d Definition, now: u64) -> Self {
        let mut model = Self {
            definition,
            status: "running",
            phases: definition.phases.iter().map(|phase| (phase.id.clone(), ("pending", false))).collect(),
            tasks: BTreeMap::new(),
            gates: definition.gates.iter().map(|gate| (gate.id.clone(), "pending")).collect(),
            reviews: BTreeMap::new(),
            facts: BTreeMap::new(),
            context: json!({}),
            heard: BTreeMap::new(),
            answers: BTreeMap::new(),
            now,
        };
        for phase in &definition.phases {
            model.reviews.insert(("phase", phase.id.clone()), Review::default());
            for task in &phase.tasks {
                model.reviews.insert(("task", task.id.clone()), Review::default());
                let state = TaskState {
                    status: "pending",
                    attempt: 0,
                    assignee: task.assignee.clone(),
                    ready_at: None,
                    lease: None,
                    ended: [None; 3],
                    was_leased: false,
                    went_up_to: Vec::new(),
                    output: json!({}),
                };
                model.tasks.insert(task.id.clone(), state);
            }
        }
        for gate in &definition.gates {
            model.reviews.insert(("gate", gate.id.clone()), Review::default());
        }
        model
    }

    /// The time.
    pub fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// "unasked", "open", "old" for an approval of what has changed since, or the answer.
    fn verdict(&self, subject: &Subject, there: &Versions) -> &'static str {
        let Some(request) = &self.reviews[subject].request else { return "unasked" };
        match request.answer {
            None => "open",
            Some("approved") if self.is_old(subject, there) => "old",
            Some(answer) => answer,
        }
    }

    fn is_old(&self, subject: &Subject, there: &Versions) -> bool {
        let newest = |key: &String| {
            let heard = self.heard.get(key).map_or(0, |heard| heard.0);
            there.get(key).copied().unwrap_or_default().max(heard)
        };
        let request = self.reviews[subject].request.as_ref();
        request.is_some_and(|request| request.reviewed.iter().any(|(key, version)| newest(key) > *version))
    }

    /// Whether all hold; none if one of them has no answer.
    fn all_hold<'c>(
        &self,
        of: Option<&Phase>,
        conditions: impl Iterator<Item = &'c Condition>,
    ) -> Option<bool> {
        let mut all = true;
        for condition in conditions {
            all &= condition.evaluate(&self.inputs(of)).ok()?;
        }
        Some(all)
    }

    fn inputs(&self, of: Option<&Phase>) -> Inputs<'_> {
        let round = |kind, id: &String| self.reviews[&(kind, id.clone())].round + 1;
        let mut approvals: BTreeMap<&str, ApprovalInput<'_>> = self
            .answers
            .iter()
            .map(|(key, status)| (key.as_str(), ApprovalInput { status, round: 1 }))
            .collect();
        for (subject, review) in &self.reviews {
            if let Some(request) = &review.request {
                let status = request.answer.unwrap_or("pending");
                approvals.insert(&subject.1, ApprovalInput { status, round: review.round + 1 });
            }
        }
        Inputs {
            context: Some(&self.context),
            facts: Some(&self.facts),
            phases: self
                .phases
                .iter()
                .map(|(id, (status, _))| (id.as_str(), PhaseInput { status, round: round("phase", id) }))
                .collect(),
            tasks: self
                .tasks
                .iter()
                .map(|(id, task)| {
                    let (status, attempt) = (task.status, task.attempt);
                    let output = Some(&task.output);
                    (id.as_str(), TaskInput { status, round: round("task", id), attempt, output })
                })
                .collect(),
            artifacts: self
                .heard
                .iter()
                .map(|(key, heard)| {
                    (key.as_str(), ArtifactInput { version: heard.0, ..ArtifactInput::default() })
                })
                .collect(),
            approvals,
            all_tasks_complete: of
                .is_none_or(|phase| phase.tasks.iter().all(|task| is_handed_in(self.task(&task.id).status))),
        }
    }

    fn current(&self) -> Option<usize> {
        let phases = self.definition.phases.iter();
        phases.map(|phase| self.phases[&phase.id].0).position(|word| !matches!(word, "completed" | "skipped"))
    }

    fn phase(&self, position: usize) -> &'d Phase {
        &self.definition.phases[position]
    }

    fn gates_of(&self, phase: &'d Phase) -> impl Iterator<Item = &'d phasegate_process::Gate> + use<'d> {
        self.definition.gates.iter().filter(|gate| gate.before_phase == phase.id)
    }

    fn position_of(&self, task: &str) -> usize {
        let phases = self.definition.phases.iter();
        phases.take_while(|phase| phase.tasks.iter().all(|written| written.id != task)).count()
    }

    fn written(&self, id: &str) -> &'d Task {
        &self.phase(self.position_of(id)).tasks
            [self.phase(self.position_of(id)).tasks.iter().take_while(|task| task.id != id).count()]
    }

    fn task(&self, id: &str) -> &TaskState {
        &self.tasks[id]
    }

    fn task_mut(&mut self, id: &str) -> &mut TaskState {
        self.tasks.entry(id.to_owned()).and_modify(|_| {}).or_insert_with(|| panic!("no task {id}"))
    }

    fn dependencies_done(&self, task: &Task) -> bool {
        task.dependencies.iter().all(|id| is_done(self.task(id).status))
    }

    /// Whether nothing can follow.
    pub fn is_over(&self) -> bool {
        matches!(self.status, "completed" | "cancelled" | "failed")
    }

    /// The queue: tasks that a worker may take now or later, with the agent that they are for.
    pub fn queue(&self) -> BTreeSet<(String, String)> {
        let tasks = self.tasks.iter().filter(|(_, task)| self.status == "running" && task.status == "ready");
        tasks
            .filter(|(_, task)| self.definition.agents.contains_key(&task.assignee))
            .map(|(id, task)| (id.clone(), task.assignee.clone()))
            .collect()
    }
}

fn attempts(handling: &ErrorHandling) -> u32 {
    match handling.task_failure {
        TaskFailure::Escalate | TaskFailure::Skip => 1,
        TaskFailure::Retry | TaskFailure::RetryWithEscalation | TaskFailure::FailProcess => {
            handling.max_retries + 1
        }
    }
}

fn is_done(status: &str) -> bool {
    matches!(status, "completed" | "skipped")
}

fn is_handed_in(status: &str) -> bool {
    is_done(status) || status == "awaiting_approval"
}
