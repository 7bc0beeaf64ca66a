//! An agent: polls, stores what it made, hands in; sometimes it fails, gives back, or sleeps past its lease.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::ledger::Kind;
use crate::process::QUEUES;
use crate::run::{Run, Stage};

/// Length of a lease.
const LEASE: Duration = Duration::from_secs(4);

/// Works until the run is over.
pub async fn works(run: Arc<Run>, number: u64, seed: u64) -> anyhow::Result<()> {
    let mut agent = Agent { run, random: StdRng::seed_from_u64(seed), worker: format!("agent-{number}") };
    while agent.run.stage() < Stage::Over {
        let body = json!({
            "worker": { "workerId": agent.worker, "identity": "kill test" },
            "queues": QUEUES,
            "maxTasks": agent.random.random_range(1..3),
            "wait": "1s",
            "leaseDuration": format!("{}s", LEASE.as_secs()),
        });
        let Some(answer) = agent.run.try_once("/api/workers/tasks/poll", body).await? else { continue };
        for task in answer["tasks"].as_array().cloned().unwrap_or_default() {
            agent.performs(&task).await?;
        }
    }
    Ok(())
}

struct Agent {
    run: Arc<Run>,
    random: StdRng,
    worker: String,
}

impl Agent {
    async fn performs(&mut self, task: &Value) -> anyhow::Result<()> {
        let token = task["lease"]["taskToken"].as_str().unwrap_or_default();
        let instance = task["instanceId"].as_str().unwrap_or_default();
        // Near the end nobody plays about.
        let mood = if self.run.stage() == Stage::Load { self.random.random_range(0..100) } else { 99 };
        let mark = self.run.mark();
        match mood {
            0..8 => {
                let failure = json!({ "type": "TOOL_ERROR", "message": mark });
                let body = json!({ "taskToken": token, "failure": failure });
                self.tells(Kind::Fail, (instance, &mark), "/api/workers/tasks/fail", body).await?;
                return Ok(());
            }
            8..14 => {
                let body = json!({ "taskToken": token, "reason": mark });
                self.tells(Kind::Release, (instance, &mark), "/api/workers/tasks/release", body).await?;
                return Ok(());
            }
            // A worker that comes back from the dead: whether it may still hand in is the server's to say.
            14..16 => tokio::time::sleep(LEASE + Duration::from_millis(1_200)).await,
            16..26 => self.beats(token).await?,
            _ => {}
        }
        let mut keys = Vec::new();
        for key in task["expectedArtifacts"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            keys.push(key);
            for _ in 0..=usize::from(mood < 40) {
                self.stores(instance, task, key, token).await?;
            }
        }
        if task["taskId"] == "assemble" && self.random.random_bool(0.4) {
            self.requests(instance, &keys, token).await?;
        }
        let body = json!({ "taskToken": token, "output": { "by": mark }, "summary": mark });
        self.tells(Kind::Complete, (instance, &mark), "/api/workers/tasks/complete", body).await?;
        Ok(())
    }

    async fn beats(&mut self, token: &str) -> anyhow::Result<()> {
        let item = json!({ "taskToken": token, "progressPercent": 50, "message": "half way" });
        let path = "/api/workers/tasks/heartbeat";
        if let Some(answer) = self.run.try_once(path, json!({ "items": [item] })).await? {
            let directive = answer["results"][0]["directive"].as_str().unwrap_or_default();
            if !["continue", "pause", "abandon"].contains(&directive) {
                self.run.fault(format!("a heartbeat was answered with {answer}"));
            }
        }
        Ok(())
    }

    async fn stores(&mut self, instance: &str, task: &Value, key: &str, token: &str) -> anyhow::Result<()> {
        let mark = self.run.mark();
        let body = json!({
            "key": key,
            "type": "document",
            "content": { "by": self.worker, "call": mark },
            "metadata": { "call": mark, "phase": task["phaseId"] },
            "taskToken": token,
        });
        let path = format!("/api/processes/instances/{instance}/artifacts");
        self.tells(Kind::Store, (instance, &mark), &path, body).await
    }

    /// Asks for the review of the round in words of its own.
    async fn requests(&mut self, instance: &str, keys: &[&str], token: &str) -> anyhow::Result<()> {
        let mark = self.run.mark();
        let body = json!({
            "taskId": "assemble",
            "approverIds": ["reviewer"],
            "title": mark,
            "description": "Ready for review.",
            "artifacts": keys,
            "expiresIn": "48h",
            "taskToken": token,
        });
        let path = format!("/api/processes/instances/{instance}/approvals");
        self.tells(Kind::Request, (instance, &mark), &path, body).await
    }

    async fn tells(
        &mut self,
        kind: Kind,
        about: (&str, &str),
        path: &str,
        body: Value,
    ) -> anyhow::Result<()> {
        self.run.tell(&mut self.random, kind, about, path, body).await.map(drop)
    }
}
