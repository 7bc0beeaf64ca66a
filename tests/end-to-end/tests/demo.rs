//! The demo on a server of somebody else's, and then everything it claims asked of the API.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::Context as _;
use phasegate_end_to_end::{Rest, Server, Storage, program};
use serde_json::Value;
use tokio::process::Command;

async fn demo(arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let output = Command::new(program()?)
        .arg("demo")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .await?;
    anyhow::ensure!(output.status.success(), "the demo failed: {}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).context("every line is one JSON object")).collect()
}

fn texts<'a>(value: &'a Value, list: &str, key: &str) -> Vec<&'a str> {
    let entries = value[list].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(|entry| entry[key].as_str()).collect()
}

async fn plays_through(storage: Storage) -> anyhow::Result<()> {
    let server = Server::start(storage).await?;
    let story = demo(&["--address", server.address(), "--json"]).await?;
    let last = story.last().context("the demo said something")?;
    assert_eq!(last["type"], "demo.completed");
    let instance = last["instanceId"].as_str().context("an instance id")?;

    // From here on nothing is believed that the demo printed, but the id.
    let rest = Rest::new(server.address());
    let base = format!("/api/processes/instances/{instance}");
    let (code, status) = rest.get(&base).await?;
    assert_eq!((code, &status["status"]), (200, &Value::from("completed")));
    assert_eq!(status["progressPercent"], 100);
    assert_eq!(
        status["completedPhases"],
        serde_json::json!(["discovery", "configuration", "security_review", "production"])
    );
    assert_eq!(status["pendingApprovals"], serde_json::json!([]));

    let (_, timeline) = rest.get(&format!("{base}/timeline")).await?;
    let phases = timeline["phases"].as_array().context("phases")?;
    let mut order = Vec::new();
    for phase in phases {
        assert_eq!(phase["status"], "completed", "{phase}");
        for task in phase["tasks"].as_array().context("tasks")? {
            assert_eq!(task["status"], "completed", "{task}");
            assert!(task["startedAt"].as_str() <= task["completedAt"].as_str(), "{task}");
            order.push((
                task["id"].as_str().unwrap_or_default(),
                task["round"].as_i64(),
                task["attempt"].as_i64(),
            ));
        }
    }
    assert_eq!(order.len(), 7);
    assert!(order.contains(&("sso_setup", Some(2), Some(1))), "one task took two rounds: {order:?}");
    assert!(order.contains(&("scim_planning", Some(1), Some(2))), "one task took two attempts: {order:?}");
    for (before, after) in phases.iter().zip(&phases[1..]) {
        assert!(
            before["completedAt"].as_str() <= after["startedAt"].as_str(),
            "phases run one after another"
        );
    }

    let (_, approvals) = rest.get(&format!("{base}/approvals?all=true&pageSize=100")).await?;
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in texts(&approvals, "approvals", "status") {
        *outcomes.entry(outcome).or_default() += 1;
    }
    assert_eq!(outcomes, BTreeMap::from([("approved", 8), ("changes_requested", 1)]));
    let votes = approvals["approvals"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|approval| approval["approvers"].as_array().into_iter().flatten());
    assert!(votes.clone().all(|vote| vote["assurance"] == "link"), "every answer came through a link");
    assert_eq!(votes.count(), 10, "nine answers of the page's process, and one more round");

    let (_, audit) = rest
        .get(&format!("{base}/audit?types=approval&types=phase_transition&types=task_completion&limit=500"))
        .await?;
    let kinds = texts(&audit, "entries", "type");
    assert_eq!(kinds.iter().filter(|kind| **kind == "task_completion").count(), 7, "{kinds:?}");
    let (_, proof) = rest.get(&format!("{base}/audit/verify")).await?;
    assert_eq!(proof["intact"], true, "{proof}");
    // A mail or a link may be recorded after the demo has looked for the last time.
    let proven = proof["entries"].as_i64().context("entries")?;
    let seen = last["audit"]["entries"].as_i64().context("entries")?;
    assert!(proven >= seen, "{proof}");
    Ok(())
}

#[tokio::test]
async fn the_demo_plays_on_another_server_with_sqlite() -> anyhow::Result<()> {
    plays_through(Storage::Sqlite).await
}

#[tokio::test]
async fn the_demo_plays_on_another_server_with_postgresql() -> anyhow::Result<()> {
    let database = phasegate_test_database::postgres_url().await?;
    plays_through(Storage::Postgres(database)).await
}

#[tokio::test]
async fn the_demo_plays_on_its_own_and_ends_with_what_it_was() -> anyhow::Result<()> {
    let story = demo(&["--json"]).await?;
    let last = story.last().context("the demo said something")?;
    assert_eq!(last["type"], "demo.completed");
    assert_eq!(last["status"], "completed");
    assert_eq!((&last["phases"], &last["tasks"], &last["approvals"]), (&4.into(), &7.into(), &9.into()));
    assert_eq!(last["audit"]["intact"], true);
    Ok(())
}
