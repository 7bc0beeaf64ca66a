//! Artifacts that change, facts that are set, and operators who interfere, some of whom may not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use phasegate_id::{ArtifactKey, PhaseId, TaskId};
use phasegate_instance::domain::{Action, Actor, Fact};
use serde_json::json;

use super::{Difference, Play, operator, participant};
use crate::cover::Cover;
use crate::generate::{DELEGATOR, FACTS};

impl Play<'_> {
    /// A new version is stored; the engine may hear of it, or not yet.
    pub(super) fn store(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let Some(task) = self.any_task() else { return Ok(()) };
        let key = if self.chance.percent(80) { format!("k-{task}") } else { format!("n-{task}") };
        let version = self.stored.get(&key).map_or(1, |stored| stored.0 + 1);
        self.stored.insert(key.clone(), (version, task.to_string()));
        let _ = writeln!(self.script, "  (stored {key} {version})");
        if self.chance.percent(40) {
            return Ok(());
        }
        let artifact = self.current(&key);
        let fact = Fact::ArtifactStored { key: ArtifactKey::trusted(&key), artifact, size_bytes: 1 };
        self.hear(fact, &format!("heard of {key} {version}"), cover, |model, _| {
            model.hear_of(&key, version, task.as_str());
        })
    }

    pub(super) fn tell(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let reason = "because".to_owned();
        if self.chance.percent(10) {
            let context =
                if self.chance.percent(80) { json!({"size": self.chance.below(6)}) } else { json!({}) };
            let action = Action::ChangeContext {
                context: context.clone(),
                expected_version: None,
                lease: None,
                reason,
            };
            let words = format!("context {context}");
            return self.both(operator(), action, &words, cover, |model| model.set_context(context));
        }
        let name = FACTS[self.chance.below(FACTS.len())];
        let value = self.chance.percent(70);
        let facts = BTreeMap::from([(name.to_owned(), value)]);
        let words = format!("fact {name}={value}");
        let action = Action::SetFacts { facts, lease: None, reason };
        self.both(operator(), action, &words, cover, |model| model.set_fact(name, value))
    }

    pub(super) fn steer(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let reason = || "because".to_owned();
        let who = match self.chance.below(10) {
            0..6 => operator(),
            6..9 => participant(DELEGATOR),
            _ => participant("h1"),
        };
        let may = who.id != "h1";
        let name = who.id.clone();
        match self.chance.below(100) {
            0..32 => {
                let force = self.chance.percent(15);
                let action = Action::Advance { from_phase: None, force, reason: reason() };
                let words = format!("{name}: advance force={force}");
                self.both(who, action, &words, cover, |model| may && model.advance(force))
            }
            32..40 => {
                let action = Action::Pause { reason: reason() };
                self.both(who, action, &format!("{name}: pause"), cover, |model| may && model.turn("paused"))
            }
            40..46 => {
                let action = Action::Resume { reason: reason() };
                self.both(who, action, &format!("{name}: resume"), cover, |model| {
                    may && model.turn("running")
                })
            }
            46..48 => {
                let action = Action::Cancel { reason: reason() };
                self.both(who, action, &format!("{name}: cancel"), cover, |model| {
                    may && model.turn("cancelled")
                })
            }
            48..66 => {
                let Some(task) = self.a_stuck_task() else { return Ok(()) };
                let action = Action::RetryTask { task: task.clone(), reason: reason() };
                let words = format!("{name}: retry {task}");
                self.both(who, action, &words, cover, |model| may && model.retry(task.as_str()))
            }
            66..76 => {
                let Some(task) = self.a_stuck_task() else { return Ok(()) };
                let action = Action::SkipTask { task: task.clone(), reason: reason() };
                let words = format!("{name}: skip {task}");
                self.both(who, action, &words, cover, |model| may && model.skip(task.as_str()))
            }
            _ => self.reopen(who, may, cover),
        }
    }

    pub(super) fn reopen(&mut self, who: Actor, may: bool, cover: &mut Cover) -> Result<(), Difference> {
        let blocked = self.definition.phases.iter().find(|phase| {
            let state = self.instance.phases.get(phase.id.as_str());
            state.is_some_and(|state| state.block.is_some())
        });
        let any = self.chance.one(&self.definition.phases);
        let Some(phase) = blocked.filter(|_| self.chance.percent(60)).or(any) else { return Ok(()) };
        let all: Vec<String> = phase.tasks.iter().map(|task| task.id.clone()).collect();
        let most = self.chance.below(3);
        let chosen: BTreeSet<String> = self.chance.some(&all, most).into_iter().collect();
        let words = format!("{}: reopen {} {chosen:?}", who.id, phase.id);
        let action = Action::Reopen {
            phase: Some(PhaseId::trusted(&phase.id)),
            tasks: chosen.iter().map(TaskId::trusted).collect(),
            reason: "because".to_owned(),
        };
        self.both(who, action, &words, cover, |model| may && model.reopen(&phase.id, &chosen))
    }
}
