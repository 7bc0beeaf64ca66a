//! Every line is one JSON object with the same fields, and a call can be followed through the services by them.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::Seen;

pub(crate) fn look(seen: &Seen) -> anyhow::Result<()> {
    let lines: Vec<Value> = seen
        .log
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect::<anyhow::Result<_>>()?;
    for line in &lines {
        for field in ["ts", "level", "msg", "target", "version"] {
            ensure!(line[field].is_string(), "{field} is missing: {line}");
        }
    }
    let answered = |service: &str, method: &str| {
        let rpc =
            |line: &&Value| line["service"] == service && line["rpc"] == method && line["msg"] == "answered";
        lines.iter().find(rpc).with_context(|| format!("{service} does not say that it answered {method}"))
    };
    let complete = "phasegate.worker.v1.WorkerService/CompleteTask";
    let outside = answered("gateway", complete)?;
    ensure!(outside["level"] == "info", "{outside}");
    ensure!(outside["code"] == "OK" && outside["duration_ms"].is_number(), "{outside}");
    ensure!(outside["tenant_id"] == "default" && outside["actor_kind"] == "operator", "{outside}");
    ensure!(outside["actor_id"].is_string() && outside["request_id"].is_string(), "{outside}");
    ensure!(outside["trace_id"].as_str().is_some_and(|id| id.len() == 32), "{outside}");
    ensure!(outside["span_id"].as_str().is_some_and(|id| id.len() == 16), "{outside}");
    let inside = lines.iter().find(|line| {
        line["service"] == "instance" && line["rpc"] == complete && line["trace_id"] == outside["trace_id"]
    });
    let inside = inside.context("the engine's line has the same trace")?;
    ensure!(inside["instance_id"].is_string() && inside["task_id"].is_string(), "{inside}");
    ensure!(inside["level"] == "debug", "{inside}");
    // Polls come all the time.
    ensure!(answered("gateway", "phasegate.worker.v1.WorkerService/PollTasks")?["level"] == "debug");
    // Paths of the portal are templates; what is refused says why.
    let page = answered("gateway", "/external/{link}")?;
    ensure!(page["instance_id"] == seen.instance.as_str() && page["actor_kind"] == "participant", "{page}");
    let refused = lines.iter().find(|line| line["error.reason"] == "LINK_INVALID");
    ensure!(refused.is_some(), "a link that nobody knows is named as such");
    Ok(())
}
