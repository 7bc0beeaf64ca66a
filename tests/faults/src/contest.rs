//! Contests that are decided on purpose: many decisions on one approval at a time, and workers that come back after their
//! lease has gone to another.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use phasegate_load::approver::RESERVED;
use phasegate_load::ledger::{Call, Kind};
use phasegate_load::run::{Run, reason};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::world::World;

/// Decisions at a time.
const PARALLEL: usize = 16;
/// Tasks of one instance whose leases go stale.
const TASKS: usize = 10;
/// Of the agents.
pub(crate) const QUEUE: &str = "faults-stale";
/// Longest wait for the tasks whose leases ran out.
const PATIENCE: Duration = Duration::from_mins(1);

/// The definition of both contests: tasks that all can be taken at once.
pub(crate) fn definition(id: &str) -> Value {
    let tasks: Vec<Value> = (0..TASKS)
        .map(|number| json!({ "id": format!("task_{number}"), "name": "Task", "assignee": "crafts" }))
        .collect();
    json!({
        "id": id,
        "name": "Contested",
        "version": "1.0.0",
        "phases": [{
            "id": "only", "name": "only", "order": 1, "parallelExecution": true, "requiredApprovals": [], "tasks": tasks,
        }],
        "agents": { "crafts": { "templateId": QUEUE, "role": "specialist" } },
        "humans": { "owner": { "role": "owner", "raidRole": "approver" } },
        "errorHandling": { "taskFailure": "retry", "maxRetries": 100, "retryDelay": "50ms", "maxRetryDelay": "50ms" },
    })
}

async fn change(run: &Run, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
    let request_id = format!("contest-{}", run.mark());
    let call = Call { method: Method::POST, path: path.to_owned(), body, request_id };
    let (status, answer, _) = run.settle(Kind::Decide, &call, None).await?;
    Ok((status, answer))
}

async fn start(run: &Run, process: &str) -> anyhow::Result<String> {
    let body = json!({
        "name": run.mark(),
        "externalParticipants": [{ "participantId": "owner", "email": "owner@acme.com", "name": "Omar" }],
    });
    let (status, answer) = change(run, &format!("/api/processes/{process}/instances"), body).await?;
    anyhow::ensure!(status < 300, "a start was answered with {status}: {answer}");
    answer["id"].as_str().map(str::to_owned).context("an id")
}

/// Many people's hands on one request, again and again: one of them decides. Gives the instance whose log shows it.
pub(crate) async fn duels(world: Arc<World>, process: String, count: u64) -> anyhow::Result<String> {
    let run = &world.run;
    let instance = start(run, &process).await?;
    for _ in 0..count {
        let title = format!("{RESERVED} {}", run.mark());
        let body = json!({ "approverIds": ["owner"], "title": title, "description": "Whose hand is first?" });
        let path = format!("/api/processes/instances/{instance}/approvals");
        let (status, asked) = change(run, &path, body).await?;
        anyhow::ensure!(status < 300, "a request was answered with {status}: {asked}");
        let id = asked["id"].as_str().unwrap_or_default().to_owned();
        let digest = asked["contentDigest"].clone();
        let mut calls = JoinSet::new();
        for hand in 0..PARALLEL {
            let (run, id, digest) = (run.clone(), id.clone(), digest.clone());
            calls.spawn(async move {
                let mark = run.mark();
                let decision = if hand % 2 == 0 { "approve" } else { "reject" };
                let body = json!({
                    "approverId": "owner", "decision": decision, "comment": mark, "contentDigest": digest,
                });
                let (status, answer) = change(&run, &format!("/api/approvals/{id}/decision"), body).await?;
                let own = answer["approvers"][0]["comment"] == mark.as_str();
                anyhow::Ok((status, own && status < 300, answer))
            });
        }
        let mut effects = 0;
        while let Some(called) = calls.join_next().await {
            let (status, is_own, answer) = called??;
            effects += u64::from(is_own);
            if status >= 300 && reason(&answer) != "APPROVAL_ALREADY_DECIDED" {
                run.fault(format!("a contested decision was answered with {status}: {answer}"));
            }
        }
        if effects != 1 {
            run.fault(format!("{PARALLEL} decisions on {id} had {effects} effects"));
        }
        let mut counts = world.counts();
        counts.duels += 1;
        counts.duel_calls += PARALLEL as u64;
    }
    Ok(instance)
}

/// A lease runs out, the task goes to another worker, and the first one comes back.
pub(crate) async fn goes_stale(world: Arc<World>, process: String, count: u64) -> anyhow::Result<()> {
    while world.counts().stale_tried < count {
        let instance = start(&world.run, &process).await?;
        let first = poll(&world.run, "first", "1s").await?;
        let first: Vec<Value> =
            first.into_iter().filter(|task| task["instanceId"] == instance.as_str()).collect();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut taken = Vec::new();
        while taken.len() < TASKS && tokio::time::Instant::now() < until {
            let tasks = poll(&world.run, "second", "120s").await?;
            taken.extend(tasks.into_iter().filter(|task| task["instanceId"] == instance.as_str()));
        }
        for task in &first {
            if taken.iter().any(|other| other["taskId"] == task["taskId"]) {
                comes_back(&world, &instance, task).await?;
            }
        }
        for task in &taken {
            let body = json!({ "taskToken": task["lease"]["taskToken"], "output": {} });
            // Where the lease was lost on the way the task is somebody else's.
            change(&world.run, "/api/workers/tasks/complete", body).await?;
        }
    }
    Ok(())
}

async fn poll(run: &Run, worker: &str, lease: &str) -> anyhow::Result<Vec<Value>> {
    let body = json!({
        "worker": { "workerId": worker, "identity": "fault test" }, "queues": [QUEUE], "maxTasks": TASKS,
        "wait": "1s", "leaseDuration": lease,
    });
    let answer = run.try_once("/api/workers/tasks/poll", body).await?;
    Ok(answer.map(|answer| answer["tasks"].as_array().cloned().unwrap_or_default()).unwrap_or_default())
}

/// Does everything that a worker can, with a lease that is another's.
async fn comes_back(world: &World, instance: &str, task: &Value) -> anyhow::Result<()> {
    let run = &world.run;
    let token = &task["lease"]["taskToken"];
    let store = json!({ "key": "late", "type": "note", "content": { "late": true }, "taskToken": token });
    let failure = json!({ "type": "TOOL_ERROR", "message": "late" });
    let tries = [
        (format!("/api/processes/instances/{instance}/artifacts"), store),
        ("/api/workers/tasks/fail".to_owned(), json!({ "taskToken": token, "failure": failure })),
        ("/api/workers/tasks/release".to_owned(), json!({ "taskToken": token, "reason": "late" })),
        ("/api/workers/tasks/complete".to_owned(), json!({ "taskToken": token, "output": { "late": true } })),
    ];
    let mut accepted = false;
    for (path, body) in tries {
        let (status, answer) = change(run, &path, body).await?;
        if status < 300 || reason(&answer) != "LEASE_LOST" {
            accepted = true;
            run.fault(format!("a stale lease was answered with {status} at {path}: {answer}"));
        }
    }
    let item = json!({ "taskToken": token, "progressPercent": 50 });
    let beat = run.try_once("/api/workers/tasks/heartbeat", json!({ "items": [item] })).await?;
    if beat.is_some_and(|answer| answer["results"][0]["directive"] == "continue") {
        accepted = true;
        run.fault(format!("a stale lease was prolonged: {token}"));
    }
    let mut counts = world.counts();
    counts.stale_tried += 1;
    counts.stale_accepted += u64::from(accepted);
    Ok(())
}
