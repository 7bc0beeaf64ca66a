//! What people and programs may ask for. False: it is refused, and nothing has changed.

use std::collections::BTreeSet;

use phasegate_process::{GateKind, TaskFailure};
use serde_json::{Value, json};

use super::{FAILED, GIVEN_BACK, HANDED_IN, Model, Versions, attempts, is_done};

impl Model<'_> {
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
}
