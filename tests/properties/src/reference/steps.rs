//! The small steps that the rules are made of.

use phasegate_process::Phase;
use phasegate_process::condition::approved_fact;

use super::{GIVEN_BACK, Model, Request, Subject};

impl Model<'_> {
    /// Makes the phase at `position` the current one again; what comes later is as if it had not been reached.
    pub(super) fn take_up(&mut self, position: usize, by_review: bool) {
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
    pub(super) fn forget(&mut self, id: &str) {
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

    pub(super) fn redo(&mut self, id: &str, position: usize) {
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

    pub(super) fn ready(&mut self, id: &str, at: u64) {
        let task = self.task_mut(id);
        task.status = "ready";
        task.ready_at = Some(at);
    }

    pub(super) fn pass_over(&mut self, id: &str) {
        self.drop_request(&("task", id.to_owned()));
        let task = self.task_mut(id);
        task.status = "skipped";
        task.lease = None;
        task.ready_at = None;
    }

    /// To the nearest target, then along the path, then to operators; never to the same one again.
    pub(super) fn go_up(&mut self, id: &str) {
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

    pub(super) fn ask(&mut self, subject: &Subject, approvers: &[String]) {
        if let Some(review) = self.reviews.get_mut(subject) {
            let approvers = approvers.iter().cloned().collect();
            review.request = Some(Request { approvers, ..Request::default() });
        }
    }

    /// Drops what was asked in this round, with the fact that it brought.
    pub(super) fn drop_request(&mut self, subject: &Subject) -> bool {
        let request = self.reviews.get_mut(subject).and_then(|review| review.request.take());
        if request.as_ref().is_some_and(|request| request.answer == Some("approved")) {
            self.facts.insert(approved_fact(&subject.1), false);
        }
        request.is_some()
    }

    pub(super) fn new_round(&mut self, subject: &Subject) {
        if self.drop_request(subject)
            && let Some(review) = self.reviews.get_mut(subject)
        {
            review.round += 1;
        }
    }

    /// A new round, and a fresh count of rounds.
    pub(super) fn unlock(&mut self, subject: &Subject) {
        self.new_round(subject);
        if let Some(review) = self.reviews.get_mut(subject) {
            review.sent_back = 0;
        }
    }

    pub(super) fn count_back(&mut self, subject: &Subject) {
        if let Some(review) = self.reviews.get_mut(subject) {
            review.sent_back += 1;
        }
    }

    /// What comes after the tasks at the end of a phase is asked anew.
    pub(super) fn later_is_new(&mut self, position: usize) {
        self.new_round(&("phase", self.phase(position).id.clone()));
        if let Some(next) = self.definition.phases.get(position + 1) {
            let gates: Vec<String> = self.gates_of(next).map(|gate| gate.id.clone()).collect();
            for gate in gates {
                self.new_round(&("gate", gate));
            }
        }
    }

    pub(super) fn end(&mut self) {
        for task in self.tasks.values_mut() {
            task.lease = None;
            task.ready_at = None;
            if !matches!(task.status, "completed" | "skipped" | "failed") {
                task.status = "cancelled";
            }
        }
    }

    pub(super) fn show(&mut self, phase: &Phase, word: &'static str) -> bool {
        let has_begun = self.phases[&phase.id].1;
        self.phases.insert(phase.id.clone(), (word, has_begun));
        word == "completed"
    }
}
