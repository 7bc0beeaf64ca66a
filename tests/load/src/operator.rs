//! An operator: starts instances, looks after its own, and does everything that the API offers for them.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::ledger::Kind;
use crate::process::{self, GO_AHEAD, REVIEWED};
use crate::run::{Run, Stage};

/// How often it has the log checked when it looks after an instance: that reads all of it.
const PROVES: f64 = 0.25;

/// An instance as its operator knows it.
struct Own {
    id: String,
    /// Newest version of the operator's own artifact.
    notes: i64,
    /// The condition of the second phase is set.
    goes_ahead: bool,
}

struct Operator {
    run: Arc<Run>,
    random: StdRng,
    own: Vec<Own>,
    started: mpsc::UnboundedSender<String>,
}

/// Works until all instances that it started have completed. Sends the id of each.
pub async fn operates(
    run: Arc<Run>,
    seed: u64,
    started: mpsc::UnboundedSender<String>,
) -> anyhow::Result<()> {
    let mut operator = Operator { run, random: StdRng::seed_from_u64(seed), own: Vec::new(), started };
    loop {
        let loads = operator.run.stage() == Stage::Load;
        if loads && operator.own.len() < operator.run.manner.under_way {
            operator.starts().await?;
        }
        if !loads && operator.own.is_empty() {
            return Ok(());
        }
        let indices: Vec<usize> = (0..operator.own.len()).collect();
        let Some(&index) = indices.choose(&mut operator.random) else { continue };
        if loads && operator.random.random_bool(operator.run.manner.busy) {
            operator.does_something(index).await?;
        } else {
            operator.looks_after(index).await?;
        }
        let pause = if loads { operator.run.manner.pause_millis } else { 100 };
        let pause = operator.random.random_range(0..pause);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

impl Operator {
    async fn starts(&mut self) -> anyhow::Result<()> {
        let mark = self.run.mark();
        let path = format!("/api/processes/{}/instances", self.run.manner.process);
        let body = process::start(&mark);
        let told = self.run.tell(&mut self.random, Kind::Start, ("", &mark), &path, body).await?;
        if let Some(instance) = told {
            let id = instance["id"].as_str().unwrap_or_default().to_owned();
            // Nobody listens once there are enough watchers.
            let _ = self.started.send(id.clone());
            self.own.push(Own { id, notes: 0, goes_ahead: false });
        }
        Ok(())
    }

    /// Reads how an instance stands, and does what it needs.
    async fn looks_after(&mut self, index: usize) -> anyhow::Result<()> {
        let id = self.own[index].id.clone();
        let instance = self.run.ask(&format!("/api/processes/instances/{id}")).await?;
        if instance["status"] == "completed" || instance["status"] == "cancelled" {
            self.own.swap_remove(index);
            return Ok(());
        }
        if self.random.random_bool(PROVES) {
            let proof = self.run.ask(&format!("/api/processes/instances/{id}/audit/verify")).await?;
            if proof["intact"] != true {
                self.run.fault(format!("the log of {id} is broken: {proof}"));
            }
            let head = proof["headHash"].as_str().unwrap_or_default().to_owned();
            self.run.ledger().heads.insert((id.clone(), proof["entries"].as_u64().unwrap_or_default(), head));
        }
        if !self.own[index].goes_ahead {
            self.own[index].goes_ahead = true;
            let mark = self.run.mark();
            let body = json!({ "facts": { GO_AHEAD: true, (&*mark): true }, "reason": mark });
            self.tells(Kind::Facts, index, &mark, "facts", body).await?;
        }
        for blocked in instance["blockedTasks"].as_array().cloned().unwrap_or_default() {
            let task = blocked["taskId"].as_str().unwrap_or_default();
            if !task.is_empty() && blocked["reason"] == "REJECTED" {
                let mark = self.run.mark();
                let path = format!("tasks/{task}/retry");
                self.tells(Kind::Retry, index, &mark, &path, json!({ "reason": mark })).await?;
            }
        }
        Ok(())
    }

    async fn does_something(&mut self, index: usize) -> anyhow::Result<()> {
        let mark = self.run.mark();
        if self.random.random_bool(self.run.manner.cancels) {
            let done = self.tells(Kind::Cancel, index, &mark, "cancel", json!({ "reason": mark })).await?;
            if done.is_some() {
                // To cancel it once more would do nothing.
                self.own.swap_remove(index);
            }
            return Ok(());
        }
        match self.random.random_range(0..100) {
            0..15 => {
                let body = json!({ "facts": { (&*mark): true }, "reason": mark });
                self.tells(Kind::Facts, index, &mark, "facts", body).await?;
            }
            15..40 => {
                let subject =
                    *["instance", "phase:build", "task:ship"].choose(&mut self.random).unwrap_or(&"");
                let body =
                    json!({ "subject": subject, "body": mark, "internal": self.random.random_bool(0.5) });
                self.tells(Kind::Comment, index, &mark, "comments", body).await?;
            }
            40..65 => self.notes(index).await?,
            65..70 => {
                // People who review it now have to look again.
                let body = json!({
                    "key": REVIEWED, "type": "document", "content": { "call": mark },
                    "metadata": { "call": mark, "phase": "build" },
                });
                self.tells(Kind::Store, index, &mark, "artifacts", body).await?;
            }
            70..82 => {
                let body = json!({
                    "approverIds": ["owner"], "title": mark, "description": "A question by the way.",
                });
                self.tells(Kind::Request, index, &mark, "approvals", body).await?;
            }
            82..90 => {
                let body = json!({ "patch": { (&*mark): true }, "reason": mark });
                self.tells(Kind::Context, index, &mark, "context", body).await?;
            }
            90..94 => {
                let body = json!({ "expiresIn": "1d", "permissions": ["view", "approve"] });
                self.tells(Kind::Link, index, &mark, "participants/owner/links", body).await?;
            }
            _ => {
                let paused =
                    self.tells(Kind::Pause, index, &mark, "pause", json!({ "reason": mark })).await?;
                if paused.is_some() {
                    tokio::time::sleep(Duration::from_millis(self.random.random_range(0..200))).await;
                    let mark = self.run.mark();
                    self.tells(Kind::Resume, index, &mark, "resume", json!({ "reason": mark })).await?;
                }
            }
        }
        Ok(())
    }

    /// Stores on the condition that nobody else has: a repeat must not stumble over its own version.
    async fn notes(&mut self, index: usize) -> anyhow::Result<()> {
        let mark = self.run.mark();
        let body = json!({
            "key": "notes", "type": "note", "content": { "call": mark }, "metadata": { "call": mark },
            "ifVersion": self.own[index].notes,
        });
        if let Some(stored) = self.tells(Kind::Store, index, &mark, "artifacts", body).await? {
            self.own[index].notes = stored["version"].as_i64().unwrap_or_default();
        }
        Ok(())
    }

    async fn tells(
        &mut self,
        kind: Kind,
        index: usize,
        mark: &str,
        path: &str,
        body: Value,
    ) -> anyhow::Result<Option<Value>> {
        let id = self.own[index].id.clone();
        let path = format!("/api/processes/instances/{id}/{path}");
        self.run.tell(&mut self.random, kind, (&id, mark), &path, body).await
    }
}
