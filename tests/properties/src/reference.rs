//! The rules of running a process, written down a second time and as plainly as possible: words for states, numbers for
//! rounds, and a loop that does whatever is due until nothing is. No events, no history, no care for speed.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_process::condition::{ApprovalInput, ArtifactInput, PhaseInput, TaskInput, approved_fact};
use phasegate_process::{Condition, Definition, ErrorHandling, GateKind, Inputs, Phase, Task, TaskFailure};
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
    /// "approved", "rejected", "changes_requested", "expired", "withdrawn" or "superseded", once there is one.
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

    // === What people and programs may ask for. False: it is refused, and nothing has changed. ===

    /// A worker takes a task.
    pub fn lease(&mut self, id: &str, token: u64) -> bool {
        let is_agents = self.definition.agents.contains_key(&self.task(id).assignee);
        let task = self.task(id);
        let is_due = task.status == "ready" && task.ready_at.is_some_and(|at| at <= self.now);
        if self.status != "running" || !is_due || !is_agents {
            return false;
        }
        let task = self.task_mut(id);
        task.status = "running";
        task.attempt += 1;
        task.lease = Some(token);
        task.was_leased = true;
        task.ready_at = None;
        true
    }

    /// A worker hands a task in; `there` is what it could have stored.
    pub fn hand_in(&mut self, id: &str, token: u64, there: &Versions) -> bool {
        let task = self.task(id);
        let was_handed_in = matches!(task.status, "awaiting_approval" | "completed");
        if was_handed_in && task.ended[HANDED_IN] == Some(token) {
            return true;
        }
        let written = self.written(id);
        let has_all = written.artifacts.iter().all(|key| there.contains_key(key));
        if task.lease != Some(token) || !has_all {
            return false;
        }
        for key in &written.artifacts {
            self.hear_of(key, there[key], id);
        }
        let task = self.task_mut(id);
        task.lease = None;
        task.ended[HANDED_IN] = Some(token);
        task.output = json!({"done": true});
        task.status = if written.required_approvals.is_empty() { "completed" } else { "awaiting_approval" };
        // What the agent had asked itself and was taken back before there was any work decides nothing.
        let subject = ("task", id.to_owned());
        let answer = self.reviews[&subject].request.as_ref().and_then(|request| request.answer);
        if !written.required_approvals.is_empty() && matches!(answer, Some("withdrawn" | "superseded")) {
            self.new_round(&subject);
        }
        true
    }

    /// A worker reports a failure, or its lease has run out.
    pub fn fail(&mut self, id: &str, token: u64, is_final: bool, is_expiry: bool, jitter: u64) -> bool {
        let task = self.task(id);
        if task.lease != Some(token) {
            return is_expiry || (task.lease.is_none() && task.ended[FAILED] == Some(token));
        }
        if is_expiry && self.status == "paused" {
            return true;
        }
        let attempt = task.attempt;
        let handling = &self.written(id).error_handling;
        let task = self.task_mut(id);
        task.lease = None;
        task.ended[GIVEN_BACK] = None;
        task.ended[FAILED] = if is_expiry { None } else { Some(token) };
        if attempt < attempts(handling) && !is_final {
            let mut wait = handling.retry_delay;
            for _ in 1..attempt {
                wait = (wait * 2).min(handling.max_retry_delay);
            }
            let wait = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
            self.ready(id, self.now + wait / 2 + wait / 2 * jitter);
            return true;
        }
        match handling.task_failure {
            TaskFailure::Retry | TaskFailure::FailProcess => self.task_mut(id).status = "failed",
            TaskFailure::RetryWithEscalation | TaskFailure::Escalate => self.go_up(id),
            TaskFailure::Skip => self.pass_over(id),
        }
        true
    }

    /// A worker gives a task back.
    pub fn release(&mut self, id: &str, token: u64) -> bool {
        let task = self.task(id);
        if task.lease != Some(token) {
            return task.status == "ready" && task.ended[GIVEN_BACK] == Some(token);
        }
        let task = self.task_mut(id);
        task.lease = None;
        task.ended[GIVEN_BACK] = Some(token);
        task.attempt -= 1;
        self.ready(id, self.now);
        true
    }

    /// An operator holds the process, lets it go on, or ends it.
    pub fn turn(&mut self, to: &'static str) -> bool {
        if self.is_over() {
            return self.status == "cancelled" && to == "cancelled";
        }
        self.status = to;
        if to == "cancelled" {
            self.end();
        }
        true
    }

    /// An operator or delegator moves on.
    pub fn advance(&mut self, force: bool) -> bool {
        let Some(position) = self.current().filter(|_| self.status == "running") else { return false };
        let phase = self.phase(position);
        let has_begun = self.phases[&phase.id].1;
        if !force {
            let manual: Vec<String> = self
                .gates_of(phase)
                .filter(|gate| matches!(gate.kind, GateKind::Manual) && self.gates[&gate.id] == "pending")
                .map(|gate| gate.id.clone())
                .collect();
            for gate in &manual {
                self.gates.insert(gate.clone(), "open");
            }
            // Whatever could have moved by itself has moved before, so something else is in the way.
            return !has_begun && !manual.is_empty();
        }
        let mut next = Some(position);
        if has_begun {
            for task in &phase.tasks {
                if !is_done(self.task(&task.id).status) {
                    self.pass_over(&task.id);
                }
            }
            self.new_round(&("phase", phase.id.clone()));
            self.phases.insert(phase.id.clone(), ("skipped", true));
            next = (position + 1 < self.definition.phases.len()).then_some(position + 1);
        }
        if let Some(next) = next {
            let phase = self.phase(next);
            let closed: Vec<String> = self
                .gates_of(phase)
                .filter(|gate| self.gates[&gate.id] != "open")
                .map(|gate| gate.id.clone())
                .collect();
            for gate in closed {
                self.new_round(&("gate", gate.clone()));
                self.gates.insert(gate, "open");
            }
            self.phases.insert(phase.id.clone(), ("active", true));
        }
        true
    }

    /// An operator or delegator takes work up again.
    pub fn reopen(&mut self, phase: &str, chosen: &BTreeSet<String>) -> bool {
        let position = self.definition.phases.iter().position(|written| written.id == phase);
        let (Some(position), false) = (position, self.is_over()) else { return false };
        let current = self.current().unwrap_or(usize::MAX);
        let written = self.phase(position);
        if position > current || !chosen.iter().all(|id| written.tasks.iter().any(|task| task.id == *id)) {
            return false;
        }
        let begun: Vec<String> = written
            .tasks
            .iter()
            .map(|task| task.id.clone())
            .filter(|id| chosen.is_empty() || chosen.contains(id))
            .filter(|id| !matches!(self.task(id).status, "pending" | "ready"))
            .collect();
        let (word, has_begun) = self.phases[phase];
        let was_asked = self.reviews[&("phase", phase.to_owned())].request.is_some();
        let refused: Vec<String> = self
            .gates_of(written)
            .map(|gate| gate.id.clone())
            .filter(|gate| {
                let answer = self.reviews[&("gate", gate.clone())].request.as_ref().and_then(|it| it.answer);
                matches!(answer, Some("rejected" | "expired" | "withdrawn" | "changes_requested"))
            })
            .collect();
        let is_behind = matches!(word, "completed" | "skipped");
        if begun.is_empty()
            && !is_behind
            && word != "blocked"
            && !was_asked
            && (has_begun || refused.is_empty())
        {
            return true;
        }
        self.take_up(position, false);
        for gate in refused {
            self.unlock(&("gate", gate.clone()));
            self.gates.insert(gate, "pending");
        }
        for id in begun {
            self.redo(&id, position);
            self.unlock(&("task", id.clone()));
            let assignee = self.written(&id).assignee.clone();
            let task = self.task_mut(&id);
            task.went_up_to.clear();
            task.assignee = assignee;
        }
        for task in &written.tasks {
            let waits = !self.dependencies_done(task);
            let state = self.task_mut(&task.id);
            if waits && matches!(state.status, "ready" | "running") {
                state.attempt -= u32::from(state.status == "running");
                state.status = "pending";
                state.lease = None;
                state.ready_at = None;
            }
        }
        true
    }

    /// An operator or delegator takes a stuck task up again.
    pub fn retry(&mut self, id: &str) -> bool {
        if self.is_over() || !matches!(self.task(id).status, "failed" | "escalated" | "blocked") {
            return false;
        }
        let subject = ("task", id.to_owned());
        let was_reviewed = self.reviews[&subject].request.is_some();
        self.unlock(&subject);
        let assignee = self.written(id).assignee.clone();
        let task = self.task_mut(id);
        task.status = "pending";
        task.attempt = 0;
        task.assignee = assignee;
        task.ended[GIVEN_BACK] = None;
        task.went_up_to.clear();
        if was_reviewed {
            self.later_is_new(self.position_of(id));
        }
        true
    }

    /// An operator or delegator passes a task over.
    pub fn skip(&mut self, id: &str) -> bool {
        if self.task(id).status == "skipped" {
            return true;
        }
        if self.is_over() || self.task(id).status == "completed" {
            return false;
        }
        self.pass_over(id);
        true
    }

    /// Somebody sets a fact.
    pub fn set_fact(&mut self, name: &str, value: bool) -> bool {
        if self.is_over() {
            return false;
        }
        self.facts.insert(name.to_owned(), value);
        true
    }

    /// Somebody changes the context.
    pub fn set_context(&mut self, context: Value) -> bool {
        if self.is_over() {
            return false;
        }
        self.context = context;
        true
    }

    // === What is heard from elsewhere. Never refused. ===

    /// An artifact was stored.
    pub fn hear_of(&mut self, key: &str, version: u32, task: &str) {
        if self.heard.get(key).is_none_or(|known| known.0 < version) {
            self.heard.insert(key.to_owned(), (version, task.to_owned()));
        }
    }

    /// A request was put to people.
    pub fn asked(
        &mut self,
        subject: &Subject,
        round: u32,
        approvers: &BTreeSet<String>,
        reviewed: &Versions,
    ) {
        if let Some(request) = self.open_request(subject, round, approvers) {
            request.reviewed.clone_from(reviewed);
        }
    }

    /// People have decided. `there` is what is stored at this moment.
    pub fn answered(
        &mut self,
        subject: &Subject,
        round: u32,
        answer: &'static str,
        reviewed: &Versions,
        there: &Versions,
    ) {
        if self.is_over() {
            return;
        }
        if subject.0 == "key" {
            self.answers.insert(subject.1.clone(), answer);
            if answer == "approved" {
                self.facts.insert(approved_fact(&subject.1), true);
            }
            return;
        }
        let Some(request) = self.open_request(subject, round, &BTreeSet::new()) else { return };
        request.reviewed.clone_from(reviewed);
        request.answer = Some(answer);
        if answer == "approved" && !self.is_old(subject, there) {
            self.facts.insert(approved_fact(&subject.1), true);
        }
    }

    /// The request of the running round that has no answer; for a task that is with its agent, a first one of the
    /// agent's own.
    fn open_request(
        &mut self,
        subject: &Subject,
        round: u32,
        approvers: &BTreeSet<String>,
    ) -> Option<&mut Request> {
        let is_with_agent = subject.0 == "task"
            && matches!(self.task(&subject.1).status, "ready" | "running" | "awaiting_approval");
        let is_over = self.is_over();
        let review = self.reviews.get_mut(subject)?;
        if is_over || review.round + 1 != round {
            return None;
        }
        if review.request.is_none() && is_with_agent {
            review.request = Some(Request { approvers: approvers.clone(), ..Request::default() });
        }
        review.request.as_mut().filter(|request| request.answer.is_none())
    }

    // === What follows by itself ===

    /// Does whatever is due. `there` is what is stored at this moment.
    pub fn settle(&mut self, there: &Versions) {
        while self.status == "running" && self.step(there) {}
    }

    fn step(&mut self, there: &Versions) -> bool {
        let is_fatal = |(id, task): (&String, &TaskState)| {
            task.status == "failed"
                && self.written(id).error_handling.task_failure == TaskFailure::FailProcess
        };
        if self.tasks.iter().any(is_fatal) {
            self.status = "failed";
            self.end();
            return false;
        }
        match self.current() {
            None => {
                self.status = "completed";
                self.end();
                false
            }
            Some(position) if self.phases[&self.phase(position).id].1 => self.inside(position, there),
            Some(position) => self.before(position, there),
        }
    }

    fn inside(&mut self, position: usize, there: &Versions) -> bool {
        let phase = self.phase(position);
        let mut moved = false;
        for task in &phase.tasks {
            moved |= self.task_moves(position, task, there);
        }
        if moved {
            return true;
        }
        let all = |is: fn(&str) -> bool| phase.tasks.iter().all(|task| is(self.task(&task.id).status));
        if !all(|status| !matches!(status, "failed" | "blocked")) {
            return self.show(phase, "blocked");
        }
        if !all(is_handed_in) {
            return self.show(phase, "active");
        }
        let is_all_done = all(is_done);
        let before_asking = phase.exit_conditions.iter().filter(|condition| !condition.reads_approvals());
        match self.all_hold(Some(phase), before_asking) {
            None => return self.show(phase, "blocked"),
            Some(false) => {}
            Some(true) => {
                if self.ask_at_the_end(position) {
                    return true;
                }
            }
        }
        let subject = ("phase", phase.id.clone());
        let answer = self.verdict(&subject, there);
        if is_all_done {
            match answer {
                "approved" => match self.all_hold(Some(phase), phase.exit_conditions.iter()) {
                    None => return self.show(phase, "blocked"),
                    Some(true) => return self.show(phase, "completed"),
                    Some(false) => {}
                },
                "unasked" if phase.required_approvals.is_empty() => {
                    match self.all_hold(Some(phase), phase.exit_conditions.iter()) {
                        None => return self.show(phase, "blocked"),
                        Some(true) => return self.show(phase, "completed"),
                        Some(false) => {}
                    }
                }
                "old" | "superseded" => {
                    self.later_is_new(position);
                    return true;
                }
                "changes_requested" => return self.send_back(position, position, &subject),
                "rejected" | "expired" | "withdrawn" => return self.show(phase, "blocked"),
                _ => {}
            }
        }
        let waits = answer != "unasked" || !is_all_done;
        self.show(phase, if waits { "awaiting_approval" } else { "active" })
    }

    fn task_moves(&mut self, position: usize, written: &Task, there: &Versions) -> bool {
        let id = &written.id;
        let subject = ("task", id.clone());
        match self.task(id).status {
            "pending" if self.dependencies_done(written) => self.ready(id, self.now),
            "awaiting_approval" => match self.verdict(&subject, there) {
                "unasked" => self.ask(&subject, &written.required_approvals),
                "approved" => self.task_mut(id).status = "completed",
                "old" | "superseded" => {
                    self.new_round(&subject);
                    self.later_is_new(position);
                }
                "changes_requested" if self.reviews[&subject].sent_back + 1 < written.max_rounds => {
                    self.count_back(&subject);
                    self.redo(id, position);
                }
                "changes_requested" => self.go_up(id),
                "rejected" | "expired" | "withdrawn" => self.task_mut(id).status = "blocked",
                _ => return false,
            },
            _ => return false,
        }
        true
    }

    /// Asks for the phase and for the gates after it, unless that was done.
    fn ask_at_the_end(&mut self, position: usize) -> bool {
        let phase = self.phase(position);
        let mut wanted = vec![(("phase", phase.id.clone()), phase.required_approvals.clone())];
        if let Some(next) = self.definition.phases.get(position + 1) {
            for gate in self.gates_of(next).filter(|gate| self.gates[&gate.id] == "pending") {
                if let GateKind::Approval(approvers) = &gate.kind {
                    wanted.push((("gate", gate.id.clone()), approvers.clone()));
                }
            }
        }
        let mut asked = false;
        for (subject, approvers) in wanted {
            if !approvers.is_empty() && self.reviews[&subject].request.is_none() {
                self.ask(&subject, &approvers);
                asked = true;
            }
        }
        asked
    }

    fn before(&mut self, position: usize, there: &Versions) -> bool {
        let phase = self.phase(position);
        let back = position.checked_sub(1).map(|before| self.phase(before));
        let (mut moved, mut is_blocked) = (false, false);
        let closed: Vec<_> =
            self.gates_of(phase).filter(|gate| self.gates[&gate.id] != "open").cloned().collect();
        for gate in closed {
            let subject = ("gate", gate.id.clone());
            match &gate.kind {
                GateKind::Manual => {}
                GateKind::Condition(condition) => match self.all_hold(back, std::iter::once(condition)) {
                    None => is_blocked = true,
                    Some(false) => {}
                    Some(true) => {
                        self.gates.insert(gate.id, "open");
                        moved = true;
                    }
                },
                GateKind::Approval(approvers) => match self.verdict(&subject, there) {
                    "unasked" => {
                        self.ask(&subject, approvers);
                        moved = true;
                    }
                    "approved" => {
                        self.gates.insert(gate.id, "open");
                        moved = true;
                    }
                    "old" | "superseded" => {
                        self.new_round(&subject);
                        moved = true;
                    }
                    "changes_requested" => {
                        if self.send_back(position - 1, position, &subject) {
                            return true;
                        }
                        is_blocked = true;
                    }
                    "rejected" | "expired" | "withdrawn" => {
                        self.gates.insert(gate.id, "rejected");
                        is_blocked = true;
                    }
                    _ => {}
                },
            }
        }
        if moved {
            return true;
        }
        if self.gates_of(phase).all(|gate| self.gates[&gate.id] == "open") {
            match self.all_hold(back, phase.entry_conditions.iter()) {
                None => is_blocked = true,
                Some(false) => {}
                Some(true) => {
                    self.phases.insert(phase.id.clone(), ("active", true));
                    return true;
                }
            }
        }
        self.show(phase, if is_blocked { "blocked" } else { "gated" })
    }

    /// A later review sends work of the phase at `position` back: what was reviewed, else all of it.
    fn send_back(&mut self, position: usize, current: usize, subject: &Subject) -> bool {
        let phase = self.phase(position);
        let done: Vec<&Task> =
            phase.tasks.iter().filter(|task| self.task(&task.id).status == "completed").collect();
        let reviewed = self.reviews[subject].request.as_ref().map(|request| request.reviewed.clone());
        let reviewed = reviewed.unwrap_or_default();
        let is_of = |task: &&&Task| {
            reviewed.keys().any(|key| {
                task.artifacts.contains(key) || self.heard.get(key).is_some_and(|heard| heard.1 == task.id)
            })
        };
        let own: Vec<&Task> = done.iter().filter(is_of).copied().collect();
        let back = if own.is_empty() { done } else { own };
        if back.is_empty() || self.reviews[subject].sent_back + 1 >= phase.max_rounds {
            self.show(self.phase(current), "blocked");
            return false;
        }
        let back: Vec<String> = back.into_iter().map(|task| task.id.clone()).collect();
        self.count_back(subject);
        if current != position {
            self.take_up(position, true);
        }
        self.later_is_new(position);
        for id in back {
            self.redo(&id, position);
        }
        true
    }

    // === Small steps ===

    /// Makes the phase at `position` the current one again; what comes later is as if it had not been reached.
    fn take_up(&mut self, position: usize, by_review: bool) {
        let phase = self.phase(position);
        let subject = ("phase", phase.id.clone());
        let has_begun = self.phases[&phase.id].1;
        self.phases.insert(phase.id.clone(), (if has_begun { "active" } else { "gated" }, has_begun));
        self.new_round(&subject);
        if !by_review {
            self.unlock(&subject);
        }
        for later in &self.definition.phases[position + 1..] {
            let was_reached = self.phases[&later.id].0 != "pending";
            for gate in &self.definition.gates {
                let subject = ("gate", gate.id.clone());
                if gate.before_phase == later.id {
                    self.gates.insert(gate.id.clone(), "pending");
                    self.new_round(&subject);
                    if !by_review {
                        self.unlock(&subject);
                    }
                }
            }
            if was_reached {
                self.unlock(&("phase", later.id.clone()));
                self.phases.insert(later.id.clone(), ("pending", false));
                for task in &later.tasks {
                    if self.task(&task.id).status != "pending" {
                        self.forget(&task.id);
                    }
                }
            }
        }
    }

    /// A task is as if its phase had not been reached, but what was begun is a new round.
    fn forget(&mut self, id: &str) {
        let subject = ("task", id.to_owned());
        let round = self.reviews[&subject].round;
        let was_begun = self.task(id).was_leased;
        self.unlock(&subject);
        if let Some(review) = self.reviews.get_mut(&subject) {
            review.round = round + u32::from(was_begun);
        }
        let assignee = self.written(id).assignee.clone();
        let task = self.task_mut(id);
        task.status = "pending";
        task.attempt = 0;
        task.assignee = assignee;
        task.went_up_to.clear();
        task.lease = None;
        task.ready_at = None;
        if was_begun {
            task.ended[GIVEN_BACK] = None;
        }
    }

    fn redo(&mut self, id: &str, position: usize) {
        let subject = ("task", id.to_owned());
        let round = self.reviews[&subject].round;
        self.new_round(&subject);
        if let Some(review) = self.reviews.get_mut(&subject) {
            review.round = round + 1;
        }
        let task = self.task_mut(id);
        task.status = "pending";
        task.attempt = 0;
        task.lease = None;
        task.ended[GIVEN_BACK] = None;
        task.ready_at = None;
        self.later_is_new(position);
    }

    fn ready(&mut self, id: &str, at: u64) {
        let task = self.task_mut(id);
        task.status = "ready";
        task.ready_at = Some(at);
    }

    fn pass_over(&mut self, id: &str) {
        self.drop_request(&("task", id.to_owned()));
        let task = self.task_mut(id);
        task.status = "skipped";
        task.lease = None;
        task.ready_at = None;
    }

    /// To the nearest target, then along the path, then to operators; never to the same one again.
    fn go_up(&mut self, id: &str) {
        let written = self.written(id);
        let task = self.task(id);
        let target = written
            .error_handling
            .escalate_to
            .iter()
            .chain(&self.definition.escalation_path)
            .find(|to| **to != written.assignee && **to != task.assignee && !task.went_up_to.contains(to))
            .cloned()
            .unwrap_or_else(|| "operator".to_owned());
        let is_agent = self.definition.agents.contains_key(&target);
        let subject = ("task", id.to_owned());
        let now = self.now;
        let task = self.task_mut(id);
        task.went_up_to.push(target.clone());
        task.ended[GIVEN_BACK] = None;
        task.attempt = 0;
        task.status = if is_agent { "ready" } else { "escalated" };
        if is_agent {
            task.assignee = target;
            task.ready_at = Some(now);
            if self.reviews[&subject].request.is_some() {
                self.new_round(&subject);
                self.later_is_new(self.position_of(id));
            }
        }
    }

    fn ask(&mut self, subject: &Subject, approvers: &[String]) {
        if let Some(review) = self.reviews.get_mut(subject) {
            let approvers = approvers.iter().cloned().collect();
            review.request = Some(Request { approvers, ..Request::default() });
        }
    }

    /// Drops what was asked in this round, with the fact that it brought.
    fn drop_request(&mut self, subject: &Subject) -> bool {
        let request = self.reviews.get_mut(subject).and_then(|review| review.request.take());
        if request.as_ref().is_some_and(|request| request.answer == Some("approved")) {
            self.facts.insert(approved_fact(&subject.1), false);
        }
        request.is_some()
    }

    fn new_round(&mut self, subject: &Subject) {
        if self.drop_request(subject)
            && let Some(review) = self.reviews.get_mut(subject)
        {
            review.round += 1;
        }
    }

    /// A new round, and a fresh count of rounds.
    fn unlock(&mut self, subject: &Subject) {
        self.new_round(subject);
        if let Some(review) = self.reviews.get_mut(subject) {
            review.sent_back = 0;
        }
    }

    fn count_back(&mut self, subject: &Subject) {
        if let Some(review) = self.reviews.get_mut(subject) {
            review.sent_back += 1;
        }
    }

    /// What comes after the tasks at the end of a phase is asked anew.
    fn later_is_new(&mut self, position: usize) {
        self.new_round(&("phase", self.phase(position).id.clone()));
        if let Some(next) = self.definition.phases.get(position + 1) {
            let gates: Vec<String> = self.gates_of(next).map(|gate| gate.id.clone()).collect();
            for gate in gates {
                self.new_round(&("gate", gate));
            }
        }
    }

    fn end(&mut self) {
        for task in self.tasks.values_mut() {
            task.lease = None;
            task.ready_at = None;
            if !matches!(task.status, "completed" | "skipped" | "failed") {
                task.status = "cancelled";
            }
        }
    }

    fn show(&mut self, phase: &Phase, word: &'static str) -> bool {
        let has_begun = self.phases[&phase.id].1;
        self.phases.insert(phase.id.clone(), (word, has_begun));
        word == "completed"
    }

    // === Looking ===

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
