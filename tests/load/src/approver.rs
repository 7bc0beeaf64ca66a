//! People: they look at what is asked of them and answer what they saw.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::ledger::Kind;
use crate::run::{Run, Stage};

/// From this round on people are content.
const CONTENT: i64 = 3;

/// Requests that one person answers before looking for others.
const AT_ONCE: usize = 5;

/// Title of requests that somebody else answers.
pub const RESERVED: &str = "reserved";

/// Decides until the run is over.
pub async fn decides(run: Arc<Run>, seed: u64) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    while run.stage() < Stage::Over {
        let page = run.ask("/api/approvals?pageSize=50").await?;
        let open = page["approvals"].as_array().cloned().unwrap_or_default();
        let is_reserved =
            |request: &&Value| request["title"].as_str().is_some_and(|title| title.starts_with(RESERVED));
        let open: Vec<&Value> = open.iter().filter(|request| !is_reserved(request)).collect();
        let next: Vec<&&Value> = open.choose_multiple(&mut random, AT_ONCE).collect();
        let pause = if next.is_empty() { 150..250 } else { 0..30 };
        for request in next {
            answer(&run, &mut random, request).await?;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(pause))).await;
    }
    Ok(())
}

async fn answer(run: &Run, random: &mut StdRng, request: &Value) -> anyhow::Result<()> {
    let id = request["id"].as_str().unwrap_or_default();
    let shown = run.ask(&format!("/api/approvals/{id}")).await?;
    let open: Vec<&str> = shown["approvers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|approver| approver["status"] == "pending")
        .filter_map(|approver| approver["participantId"].as_str())
        .collect();
    let Some(approver) = open.choose(random) else { return Ok(()) };
    let kind = shown["subjectKind"].as_str().unwrap_or_default();
    let is_early = shown["round"].as_i64().unwrap_or_default() < CONTENT && run.stage() == Stage::Load;
    let decision = match random.random_range(0..100) {
        0..12 if is_early => "request_changes",
        // A rejected task is retried by its operator; a rejected phase would have to be reopened.
        12..32 if kind == "ad_hoc" || (kind == "task" && is_early) => "reject",
        _ => "approve",
    };
    let mark = run.mark();
    let body = json!({
        "approverId": approver,
        "decision": decision,
        "comment": mark,
        "contentDigest": shown["contentDigest"],
    });
    let instance = shown["instanceId"].as_str().unwrap_or_default();
    let path = format!("/api/approvals/{id}/decision");
    run.tell(random, Kind::Decide, (instance, &mark), &path, body).await?;
    Ok(())
}
