//! Streams as Server-Sent Events.

use anyhow::Result;
use serde_json::json;

use crate::backend::{Answer, Server, reason};

#[tokio::test]
async fn events_come_one_by_one_and_can_be_resumed() -> Result<()> {
    let server = Server::start().await?;
    let messages = vec![
        json!({"events": [{"id": "1", "type": "instance.started"}, {"id": "2", "type": "phase.entered"}], "resumeToken": "2"}),
        json!({"checkpoint": true, "resumeToken": "3"}),
        json!({"events": [{"id": "4", "type": "instance.completed"}], "resumeToken": "4"}),
    ];
    server.backend.lay("WatchEvents", Answer::Stream(messages));
    let url =
        server.url("/api/processes/instances/i/events?types=instance.*&types=phase.entered&resumeToken=0");
    let answer = server.http.get(&url).header("last-event-id", "1").send().await?;
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-store, no-transform");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    let text = answer.text().await?;
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.is_empty() && !line.starts_with("data:")).collect();
    let expected = [
        "retry: 2000",
        "event: instance.started",
        "id: 2",
        "event: phase.entered",
        ": checkpoint",
        "id: 3",
        "id: 4",
        "event: instance.completed",
    ];
    assert_eq!(lines, expected);
    assert!(text.contains("data: {\"id\":\"1\",\"instanceId\":\"\""), "{text}");
    let asked = server.backend.last()?;
    let expected = json!({"instanceId": "i", "types": ["instance.*", "phase.entered"], "resumeToken": "1"});
    assert_eq!(asked.message, expected);
    Ok(())
}

#[tokio::test]
async fn a_stream_whose_service_dies_ends_without_an_error() -> Result<()> {
    let server = Server::start().await?;
    let message = json!({"events": [{"id": "1", "type": "phase.entered"}], "resumeToken": "7"});
    server.backend.lay("WatchEvents", Answer::Broken(vec![message]));
    let url = server.url("/api/processes/instances/i/events");
    // Whoever reads it comes back with the last id, as every browser does by itself.
    let text = server.http.get(&url).send().await?.text().await?;
    assert!(text.contains("id: 7\nevent: phase.entered\n"), "{text}");
    assert!(text.ends_with("\n\n") && !text.contains("phasegate.error"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_refused_is_an_error() -> Result<()> {
    let server = Server::start().await?;
    server.backend.lay("WatchApprovalResponses", Answer::Down);
    let (status, error) = server.call("GET", "/api/processes/instances/i/approvals/responses", None).await?;
    assert_eq!((status, reason(&error)), (503, "DEPENDENCY_DOWN"));
    Ok(())
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_server() -> Result<()> {
    let limits = phasegate_gateway::Limits { streams_max: 1, ..Default::default() };
    let server =
        Server::start_with(phasegate_gateway::Config { dev: true, limits, ..Default::default() }).await?;
    server.backend.lay("WatchEvents", Answer::Endless);
    let url = server.url("/api/processes/instances/i/events");
    let mut open = server.http.get(&url).send().await?;
    assert_eq!(open.chunk().await?.as_deref(), Some(&b"retry: 2000\n\n"[..]));
    let (status, error) = server.call("GET", "/api/processes/instances/i/events", None).await?;
    assert_eq!((status, reason(&error)), (429, "TOO_MANY_STREAMS"));
    server.context.shutdown.cancel();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), open.text()).await?;
    assert!(ended.is_ok());
    Ok(())
}
