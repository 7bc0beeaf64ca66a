//! Everything that can be seen of the engine and of the model must be the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use phasegate_id::ApprovalId;
use phasegate_instance::domain::{ApprovalStatus, GateStatus, Instance, evolve, ready_work};

use super::{Difference, Play, micros};

impl Play<'_> {
    /// Everything that can be seen of both must be the same.
    pub(super) fn compare(&self) -> Result<(), Difference> {
        if self.agree() {
            return Ok(());
        }
        let (engine, model) = (self.seen_of_engine(), self.seen_of_model());
        let mut differing = String::new();
        for key in engine.keys().chain(model.keys()).collect::<BTreeSet<_>>() {
            let (one, other) = (engine.get(key), model.get(key));
            if one != other {
                let _ = writeln!(differing, "{key}: engine {one:?}, model {other:?}");
            }
        }
        Err(self.differs(&differing))
    }

    /// The same without words, because almost always it is so.
    pub(super) fn agree(&self) -> bool {
        let (engine, model) = (&self.instance, &self.model);
        let is_same_review = |kind: &'static str, id: &str, round: u32, slot: Option<&ApprovalId>| {
            let Some(review) = model.reviews.get(&(kind, id.to_owned())) else { return false };
            let asked =
                review.request.as_ref().filter(|request| !model.is_over() || request.answer.is_some());
            let answer = asked.map(|request| request.answer.unwrap_or("pending"));
            review.round + 1 == round && self.asked(slot) == answer
        };
        let phases = engine.phases.iter().all(|(id, phase)| {
            model.phases.get(id.as_str()).is_some_and(|known| known.0 == phase.status.as_str())
                && is_same_review("phase", id.as_str(), phase.round, phase.approval.as_ref())
        });
        let gates = engine.gates.iter().all(|(id, gate)| {
            model.gates.get(id.as_str()).is_some_and(|known| *known == gate_word(gate.status))
                && is_same_review("gate", id.as_str(), gate.round, gate.approval.as_ref())
        });
        let tasks = engine.tasks.iter().all(|(id, task)| {
            model.tasks.get(id.as_str()).is_some_and(|known| {
                known.status == task.status.as_str()
                    && known.attempt == task.attempt
                    && known.assignee == task.assignee
                    && known.ready_at == task.ready_at.map(micros)
            }) && is_same_review("task", id.as_str(), task.round, task.approval.as_ref())
        });
        let is_fact = |(name, value): (&String, &bool), others: &BTreeMap<String, bool>| {
            !value || others.get(name) == Some(&true)
        };
        let facts = engine.facts.iter().all(|fact| is_fact(fact, &model.facts))
            && model.facts.iter().all(|fact| is_fact(fact, &engine.facts));
        let queue = ready_work(self.definition, engine);
        let expected = model.queue();
        let queue = queue.len() == expected.len()
            && queue.values().all(|work| {
                expected.contains(&(work.task.to_string(), work.queue.trim_start_matches("q-").to_owned()))
            });
        engine.status.as_str() == model.status && phases && gates && tasks && facts && queue
    }

    /// Where the request in a slot stands, in the words of the rules.
    pub(super) fn asked(&self, slot: Option<&ApprovalId>) -> Option<&'static str> {
        let approval = slot.and_then(|id| self.instance.approvals.get(id))?;
        let is_needed = approval.status == ApprovalStatus::Needed;
        Some(if is_needed { "pending" } else { approval.status.as_str() })
    }

    pub(super) fn seen_of_engine(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::from([("status".to_owned(), self.instance.status.as_str().to_owned())]);
        let asked = |slot: &Option<ApprovalId>| self.asked(slot.as_ref()).unwrap_or("unasked");
        for (id, phase) in &self.instance.phases {
            let words = format!("{} {} {}", phase.status.as_str(), phase.round, asked(&phase.approval));
            seen.insert(format!("phase {id}"), words);
        }
        for (id, gate) in &self.instance.gates {
            let words = format!("{} {} {}", gate_word(gate.status), gate.round, asked(&gate.approval));
            seen.insert(format!("gate {id}"), words);
        }
        for (id, task) in &self.instance.tasks {
            let words = format!(
                "{} attempt {} of {} at {:?}, round {} {}",
                task.status.as_str(),
                task.attempt,
                task.assignee,
                task.ready_at.map(micros),
                task.round,
                asked(&task.approval)
            );
            seen.insert(format!("task {id}"), words);
        }
        let facts: Vec<&String> =
            self.instance.facts.iter().filter(|(_, value)| **value).map(|(name, _)| name).collect();
        seen.insert("facts".to_owned(), format!("{facts:?}"));
        let queue: BTreeSet<(String, String)> = ready_work(self.definition, &self.instance)
            .into_values()
            .map(|work| (work.task.to_string(), work.queue.replace("q-", "")))
            .collect();
        seen.insert("queue".to_owned(), format!("{queue:?}"));
        seen
    }

    pub(super) fn seen_of_model(&self) -> BTreeMap<String, String> {
        let model = &self.model;
        let mut seen = BTreeMap::from([("status".to_owned(), model.status.to_owned())]);
        let reviewed = |kind, id: &String| {
            let review = &model.reviews[&(kind, id.clone())];
            let asked =
                review.request.as_ref().map_or("unasked", |request| request.answer.unwrap_or("pending"));
            // What nobody has answered when the instance ends is withdrawn with it.
            let asked = if model.is_over() && asked == "pending" { "unasked" } else { asked };
            format!("{} {asked}", review.round + 1)
        };
        for (id, (status, _)) in &model.phases {
            seen.insert(format!("phase {id}"), format!("{status} {}", reviewed("phase", id)));
        }
        for (id, status) in &model.gates {
            seen.insert(format!("gate {id}"), format!("{status} {}", reviewed("gate", id)));
        }
        for (id, task) in &model.tasks {
            let words = format!(
                "{} attempt {} of {} at {:?}, round {}",
                task.status,
                task.attempt,
                task.assignee,
                task.ready_at,
                reviewed("task", id)
            );
            seen.insert(format!("task {id}"), words);
        }
        let facts: Vec<&String> =
            model.facts.iter().filter(|(_, value)| **value).map(|(name, _)| name).collect();
        seen.insert("facts".to_owned(), format!("{facts:?}"));
        seen.insert("queue".to_owned(), format!("{:?}", model.queue()));
        seen
    }

    /// The state must be what its history says.
    pub(super) fn check_replay(&self) -> Result<(), Difference> {
        let replayed = self.events.iter().fold(Instance::unstarted(), evolve);
        if replayed == self.instance {
            Ok(())
        } else {
            Err(self.differs("the history folds to another state"))
        }
    }
}

fn gate_word(status: GateStatus) -> &'static str {
    match status {
        GateStatus::Pending => "pending",
        GateStatus::Open => "open",
        GateStatus::Rejected => "rejected",
    }
}
