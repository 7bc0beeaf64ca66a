//! Everything in one process, and one small process definition in it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use phasegate::dev::{Dev, Settings};
use phasegate_clock::{Clock, SystemClock, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// How long anything may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The machine's clock, some time ahead.
#[derive(Debug, Default)]
struct AheadClock(AtomicI64);

impl Clock for AheadClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().as_micros() + self.0.load(Ordering::SeqCst))
    }
}

/// A running Phasegate.
#[derive(Debug)]
pub struct World {
    /// Base of every URL.
    pub address: String,
    /// The instance that was started.
    pub instance: String,
    http: reqwest::Client,
    clock: Arc<AheadClock>,
    shutdown: CancellationToken,
    _dev: tokio::task::JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

/// Runs a test on SQLite and on PostgreSQL, and says on which one it failed.
pub async fn on_both<F, Fut>(test: F) -> anyhow::Result<()>
where
    F: Fn(World) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    Box::pin(test(World::new(None).await?)).await.context("on SQLite")?;
    let url = phasegate_test_database::postgres_url().await?;
    Box::pin(test(World::new(Some(url)).await?)).await.context("on PostgreSQL")
}

impl World {
    /// Starts one, with an instance whose one task has been handed in and waits for its reviewer.
    async fn new(database_url: Option<String>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let clock = Arc::new(AheadClock::default());
        let shutdown = CancellationToken::new();
        let settings = Settings {
            folder: folder.path().join("data"),
            port: 0,
            database_url,
            public_url: None,
            clock: clock.clone(),
        };
        let dev = Dev::start(settings, shutdown.clone()).await?;
        let address = format!("http://{}", dev.address());
        let dev = tokio::spawn(dev.finished());
        let http = reqwest::Client::new();
        let mut world =
            Self { address, instance: String::new(), http, clock, shutdown, _dev: dev, _folder: folder };
        world.post("/api/processes", &definition()).await?;
        let start = json!({ "name": "Notes for 2.4", "externalParticipants": [
            { "participantId": "editor", "email": "ed@example.com", "name": "Ed Ito" },
            { "participantId": "owner", "email": "olga@example.com", "name": "Olga Ost" },
        ]});
        let instance = world.post("/api/processes/release_notes/instances", &start).await?;
        instance["id"].as_str().context("an id")?.clone_into(&mut world.instance);
        Ok(world)
    }

    /// The agent takes its task, stores `content` as the notes, and hands in.
    pub async fn work(&self, content: &Value) -> anyhow::Result<()> {
        self.work_saying(content, "").await
    }

    /// The same, with the agent's own words on what it did: its reviewers read them.
    pub async fn work_saying(&self, content: &Value, summary: &str) -> anyhow::Result<()> {
        let poll = json!({ "worker": { "workerId": "w" }, "queues": ["writer"], "wait": "15s" });
        let polled = self.post("/api/workers/tasks/poll", &poll).await?;
        let token = polled["tasks"][0]["lease"]["taskToken"].as_str().context("a task")?;
        let store = json!({ "key": "notes", "type": "document", "content": content, "taskToken": token });
        self.post(&format!("{}/artifacts", self.base()), &store).await?;
        self.post(
            "/api/workers/tasks/complete",
            &json!({ "taskToken": token, "output": {}, "summary": summary }),
        )
        .await?;
        Ok(())
    }

    /// Path of the instance in the API.
    pub fn base(&self) -> String {
        format!("/api/processes/instances/{}", self.instance)
    }

    /// Moves the clock.
    pub fn pass(&self, time: Duration) {
        self.clock.0.fetch_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Calls the API; anything but success is an error.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let response = self.http.post(format!("{}{path}", self.address)).json(body).send().await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        ensure!(status.is_success(), "POST {path}: {status} {answer}");
        Ok(answer)
    }

    /// Asks the API; anything but success is an error.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.http.get(format!("{}{path}", self.address)).send().await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        ensure!(status.is_success(), "GET {path}: {status} {answer}");
        Ok(answer)
    }

    /// The only open request for somebody.
    pub async fn open_request(&self, approver: &str) -> anyhow::Result<Value> {
        let path = format!("{}/approvals?approverId={approver}", self.base());
        self.eventually("an open request", async || {
            let list = self.get(&path).await?;
            Ok(list["approvals"].as_array().and_then(|list| list.first()).cloned())
        })
        .await
    }

    /// Everything that can be seen of the decisions of the instance: it must not change by looking.
    pub async fn decisions(&self) -> anyhow::Result<Value> {
        let list = self.get(&format!("{}/approvals?all=true", self.base())).await?;
        Ok(list["approvals"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| json!([one["id"], one["status"], one["approvers"]]))
            .collect())
    }

    /// The link of the newest mail to an address, of which there must be more than `seen`.
    pub async fn mailed_link(&self, address: &str, seen: usize) -> anyhow::Result<(String, usize)> {
        self.eventually("a mail", async || {
            let mails = self.get("/dev/mail/messages").await?;
            let own: Vec<&Value> = mails
                .as_array()
                .into_iter()
                .flatten()
                .filter(|mail| mail["to"].to_string().contains(address) && mail["link"].is_string())
                .collect();
            let link = own.last().and_then(|mail| mail["link"].as_str()).map(str::to_owned);
            Ok(link.filter(|_| own.len() > seen).map(|link| (link, own.len())))
        })
        .await
    }

    /// Waits for something that happens by itself.
    pub async fn eventually<T>(
        &self,
        what: &str,
        look: impl AsyncFn() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let end = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < end {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{what} did not come within {} s", PATIENCE.as_secs())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn definition() -> Value {
    json!({
        "id": "release_notes",
        "name": "Release notes",
        "version": "1.0.0",
        "phases": [
            { "id": "draft", "name": "Draft", "order": 1, "tasks": [
                { "id": "write", "name": "Write the notes", "assignee": "writer", "artifacts": ["notes"],
                  "requiredApprovals": ["editor"], "timeout": "48h" },
            ]},
            { "id": "publish", "name": "Publish", "order": 2, "requiredApprovals": ["owner"], "tasks": [
                { "id": "post", "name": "Post them", "assignee": "writer", "dependencies": ["write"] },
            ]},
        ],
        "agents": { "writer": { "templateId": "writer", "role": "specialist" } },
        "humans": {
            "editor": { "role": "editor", "raidRole": "approver" },
            "owner": { "role": "owner", "raidRole": "approver" },
        },
        "gates": [],
    })
}
