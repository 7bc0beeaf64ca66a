//! Workers: they take work, finish it, fail, give it back or die, and sometimes show an old lease.

use std::time::Duration;

use phasegate_id::TaskId;
use phasegate_instance::domain::{Action, ready_work};
use serde_json::json;

use super::{Difference, Play, agent, engine};
use crate::cover::Cover;

impl Play<'_> {
    pub(super) fn lease(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let ready: Vec<TaskId> = ready_work(self.definition, &self.instance).into_keys().collect();
        let any = if self.chance.percent(4) { self.any_task() } else { None };
        let Some(task) = any.or_else(|| self.chance.one(&ready).cloned()) else { return Ok(()) };
        let token = self.instance.tasks.get(&task).map_or(0, |state| state.fencing + 1);
        let until = self.now + Duration::from_mins(1);
        let words = format!("lease {task} #{token}");
        let action = Action::Lease { task: task.clone(), worker: "w".to_owned(), until };
        self.tokens.entry(task.to_string()).or_default().push(token);
        self.both(agent(), action, &words, cover, |model| model.lease(task.as_str(), token))
    }

    /// A worker does something with a lease: mostly the newest one.
    pub(super) fn work(&mut self, cover: &mut Cover) -> Result<(), Difference> {
        let running = self.instance.tasks.iter().filter(|(_, task)| task.lease.is_some());
        let running: Vec<TaskId> = running.map(|(id, _)| id.clone()).collect();
        let any = if self.chance.percent(5) { self.any_task() } else { None };
        let task = any.or_else(|| self.chance.one(&running).cloned());
        let Some(task) = task else { return Ok(()) };
        let granted = self.tokens.get(task.as_str()).cloned().unwrap_or_default();
        let newest = self.instance.tasks.get(&task).map_or(0, |task| task.fencing);
        let token = if self.chance.percent(90) {
            newest
        } else {
            self.chance.one(&granted).copied().unwrap_or(newest)
        };
        let jitter = u8::from(self.chance.percent(50));
        match self.chance.below(100) {
            0..62 => self.hand_in(&task, token, cover),
            62..84 => {
                let is_final = self.chance.percent(15);
                let action = Action::Fail {
                    task: task.clone(),
                    fencing: token,
                    kind: "TOOL_ERROR".to_owned(),
                    message: "it broke".to_owned(),
                    non_retryable: is_final,
                    retry_after: None,
                    jitter: f64::from(jitter),
                };
                let words = format!("fail {task} #{token} final={is_final}");
                let jitter = u64::from(jitter);
                self.both(agent(), action, &words, cover, |model| {
                    model.fail(task.as_str(), token, is_final, false, jitter)
                })
            }
            84..94 => {
                let action =
                    Action::ExpireLease { task: task.clone(), fencing: token, jitter: f64::from(jitter) };
                let words = format!("expire {task} #{token}");
                let jitter = u64::from(jitter);
                self.both(engine(), action, &words, cover, |model| {
                    model.fail(task.as_str(), token, false, true, jitter)
                })
            }
            _ => {
                let action =
                    Action::Release { task: task.clone(), fencing: token, reason: "cannot".to_owned() };
                let words = format!("release {task} #{token}");
                self.both(agent(), action, &words, cover, |model| model.release(task.as_str(), token))
            }
        }
    }

    pub(super) fn hand_in(&mut self, task: &TaskId, token: u64, cover: &mut Cover) -> Result<(), Difference> {
        let expected = self.written(task).map(|task| task.artifacts.clone()).unwrap_or_default();
        for key in expected {
            if self.chance.percent(92) {
                let version = self.stored.get(&key).map_or(1, |stored| stored.0 + 1);
                self.stored.insert(key, (version, task.to_string()));
            }
        }
        let there = self.versions();
        let action = Action::HandIn {
            task: task.clone(),
            fencing: token,
            output: Some(json!({"done": true})),
            summary: String::new(),
        };
        let words = format!("hand in {task} #{token}");
        self.both(agent(), action, &words, cover, |model| model.hand_in(task.as_str(), token, &there))
    }
}
