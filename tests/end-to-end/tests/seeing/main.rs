//! What is seen of the page's process from outside: its metrics, its traces and its log, and that no secret and no address
//! is in any of them.

mod canaries;
mod collector;
mod log;
mod metrics;
mod traces;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_end_to_end::{Production, Rest, Server, Storage, program};
use serde_json::{Value, json};
use tokio::process::Command;

use collector::Collector;

/// The process, played through under watch, and what became visible of it.
struct Seen {
    instance: String,
    metrics: String,
    log: String,
    collector: Collector,
    canaries: canaries::Planted,
    /// What is kept: every file of every database.
    data: Vec<u8>,
}

async fn play(address: &str) -> anyhow::Result<String> {
    let output = Command::new(program()?)
        .args(["demo", "--json", "--address", address])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .await?;
    ensure!(output.status.success(), "the demo failed: {}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8(output.stdout)?;
    let last: Value = serde_json::from_str(text.lines().last().context("the demo said something")?)?;
    Ok(last["instanceId"].as_str().context("an instance id")?.to_owned())
}

/// A second instance that stays under way: a task is handed out, its lease is lost, and one link cannot be read.
async fn leave_something_under_way(rest: &Rest) -> anyhow::Result<()> {
    let start = json!({
        "processId": "enterprise_sso_deployment",
        "name": "Left under way",
        "context": { "customerName": "Acme", "customerDomain": "acme.com", "idpType": "okta", "userCount": 1 },
        "externalParticipants": [
            { "participantId": "customer_it_admin", "email": canaries::ADDRESS, "name": "John Smith" },
            { "participantId": "customer_ciso", "email": "ciso@acme.com", "name": "Jane Doe" },
        ],
    });
    let (code, _) = rest.post("/api/processes/enterprise_sso_deployment/instances", &start).await?;
    ensure!(code == 201, "the start answered {code}");
    let poll = json!({ "worker": { "workerId": "w" }, "queues": ["sso-specialist"], "wait": "10s" });
    let (_, answer) = rest.post("/api/workers/tasks/poll", &poll).await?;
    let token = &answer["tasks"][0]["lease"]["taskToken"];
    let body = json!({ "taskToken": token, "reason": "not now" });
    let (code, answer) = rest.post("/api/workers/tasks/release", &body).await?;
    ensure!(code == 200, "the release answered {code}: {answer}");
    let (code, _) =
        rest.post("/api/workers/tasks/complete", &json!({ "taskToken": token, "summary": "x" })).await?;
    ensure!(code >= 400, "a lease that was given back is lost");
    let (_, answer) = rest.post("/api/workers/tasks/poll", &poll).await?;
    ensure!(answer["tasks"][0]["taskId"].is_string(), "the task comes again: {answer}");
    Ok(())
}

async fn see(storage: Storage) -> anyhow::Result<Seen> {
    let collector = Collector::start().await?;
    let mut server = Server::start_watched(storage, collector.address()).await?;
    let rest = Rest::new(server.address());
    let instance = play(server.address()).await?;
    let canaries = canaries::plant(server.address(), &instance).await?;
    leave_something_under_way(&rest).await?;
    let (code, _) = rest.get(&format!("/api/processes/instances/{instance}/audit/verify")).await?;
    ensure!(code == 200, "the audit trail can be verified");
    // Gauges are read anew after two seconds, and spans are sent in batches.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let metrics = reqwest::get(format!("{}/metrics", server.address())).await?.error_for_status()?;
    let metrics = metrics.text().await?;
    let log = std::fs::read_to_string(server.log())?;
    let mut data = Vec::new();
    for file in std::fs::read_dir(server.data())? {
        let path = file?.path();
        if path.is_file() {
            data.extend(std::fs::read(path)?);
        }
    }
    server.kill().await?;
    Ok(Seen { instance, metrics, log, collector, canaries, data })
}

/// The numbers come from the same questions to the database.
#[tokio::test]
async fn what_happens_is_seen_on_postgresql() -> anyhow::Result<()> {
    let database = phasegate_test_database::postgres_url().await?;
    let seen = see(Storage::Postgres(database)).await?;
    metrics::look(&seen)?;
    traces::look(&seen)
}

/// Each service in a process of its own sends its part of the same trace.
#[tokio::test]
async fn a_trace_goes_through_separate_processes() -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let production = Production::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address()),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100000"),
    ])
    .await?;
    let output = production
        .command(&["demo", "--json", "--address", production.address(), "--mail", production.mail()])?
        .stderr(Stdio::inherit())
        .output()
        .await?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "the demo failed: {text}");
    let last: Value = serde_json::from_str(text.lines().last().context("the demo said something")?)?;
    // Spans are sent in batches.
    tokio::time::sleep(Duration::from_secs(3)).await;
    traces::follow(&collector, last["instanceId"].as_str().context("an instance id")?)?;
    production.stop().await
}

/// One run for all that is looked at: it takes a while.
#[tokio::test]
async fn what_happens_is_seen_and_no_secret_is() -> anyhow::Result<()> {
    let seen = see(Storage::Sqlite).await?;
    metrics::look(&seen)?;
    traces::look(&seen)?;
    log::look(&seen)?;
    canaries::look(&seen)
}
