//! What follows by itself: whatever is due is done, until nothing is.

use phasegate_process::{GateKind, Task, TaskFailure};

use super::{Model, Subject, TaskState, Versions, is_done, is_handed_in};

impl Model<'_> {
    /// Does whatever is due. `there` is what is stored at this moment.
    pub fn settle(&mut self, there: &Versions) {
        while self.status == "running" && self.step(there) {}
    }

    pub(super) fn step(&mut self, there: &Versions) -> bool {
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

    pub(super) fn inside(&mut self, position: usize, there: &Versions) -> bool {
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

    pub(super) fn task_moves(&mut self, position: usize, written: &Task, there: &Versions) -> bool {
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
    pub(super) fn ask_at_the_end(&mut self, position: usize) -> bool {
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

    pub(super) fn before(&mut self, position: usize, there: &Versions) -> bool {
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
    pub(super) fn send_back(&mut self, position: usize, current: usize, subject: &Subject) -> bool {
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
}
