//! Lists: pages, their tokens, and filters.

use anyhow::Context as _;
use phasegate_bad_input::{Case, Check, Scene, World, on_both};
use serde_json::{Value, json};

/// Every method that pages, and what it needs to be right.
fn lists(scene: &Scene) -> Vec<(&'static str, Value)> {
    let instance = json!({"instanceId": scene.instance});
    vec![
        ("ListProcessDefinitions", json!({})),
        ("ListProcessDefinitionVersions", json!({"processId": "launch"})),
        ("ListTeamTemplates", json!({})),
        ("ListInstances", json!({})),
        ("ListTasks", instance.clone()),
        ("ListAuditEntries", instance.clone()),
        ("ListApprovals", and(&instance, "all", true)),
        ("ListArtifacts", instance.clone()),
        ("ListArtifactVersions", json!({"instanceId": scene.instance, "key": "plan"})),
        ("ListComments", instance.clone()),
        ("ListLinks", instance.clone()),
        ("ListParticipants", instance.clone()),
        ("ListNotifications", instance),
    ]
}

fn and(message: &Value, field: &str, value: impl Into<Value>) -> Value {
    let mut message = message.clone();
    message[field] = value.into();
    message
}

#[test]
fn pages_have_sizes() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for (method, message) in lists(scene) {
            for size in [-1, i32::MIN] {
                let refusal = "INVALID_ARGUMENT 400 PAGE_SIZE_INVALID";
                let wrong = and(&message, "pageSize", size);
                check.refused(Case::new("B028", size, method, wrong, refusal, "page_size")).await?;
            }
            for size in [0, 1, 1_000_000_000] {
                let right = and(&message, "pageSize", size);
                check.accepted(Case::new("B028", size, method, right, "200", "")).await?;
            }
        }
        for (value, refusal) in [
            ("abc", "INVALID_ARGUMENT 400 INVALID_NUMBER"),
            ("1.5", "INVALID_ARGUMENT 400 INVALID_NUMBER"),
            ("99999999999", "INVALID_ARGUMENT 400 INVALID_NUMBER"),
        ] {
            for field in ["pageSize", "limit"] {
                let request = world.doors.request("GET", &format!("/api/processes?{field}={value}"))?;
                check.refused_by_rest("B028", value, request, refusal, field).await?;
            }
        }
        check.done()
    })
}

#[test]
fn page_tokens_belong_to_their_list() -> anyhow::Result<()> {
    let refusal = "INVALID_ARGUMENT 400 PAGE_TOKEN_INVALID";
    on_both(async |world, scene| {
        // Lists with two pages: the token of each is of no use to any other.
        for body in ["one", "two"] {
            world.call("CreateComment", json!({"instanceId": scene.instance, "body": body})).await?;
        }
        let mut tokens = Vec::new();
        for (method, message) in lists(scene) {
            let token = next_page(world, method, &message).await?;
            tokens.extend(token.map(|token| (method, token)));
        }
        anyhow::ensure!(tokens.len() >= 8, "only {} lists have a second page", tokens.len());
        let mut check = Check::new(world).await?;
        for (method, message) in lists(scene) {
            let own = tokens.iter().find(|(of, _)| *of == method).map(|(_, token)| token);
            let foreign = tokens.iter().find(|(of, _)| *of != method).map(|(_, token)| token);
            let foreign = foreign.context("another list has a second page")?.clone();
            let mut wrong = vec!["x".to_owned(), "AAAA".repeat(40), "\u{e9}".to_owned(), foreign];
            wrong.extend(own.map(|token| flipped(token)));
            for token in wrong {
                let message = and(&message, "pageToken", token);
                check.refused(Case::new("B029", "a token", method, message, refusal, "page_token")).await?;
            }
            if let Some(token) = own {
                let right = and(&message, "pageToken", token.clone());
                check.accepted(Case::new("B029", "its own", method, right, "200", "")).await?;
            }
        }
        let instance = json!({"instanceId": scene.instance});
        // The same list with another filter, or of another instance, is another list.
        let of = |method: &str| {
            let found = tokens.iter().find(|(of, _)| *of == method).map(|(_, token)| token.clone());
            found.with_context(|| format!("{method} has a second page"))
        };
        for (method, message) in [
            ("ListProcessDefinitions", json!({"includeDrafts": true})),
            ("ListInstances", json!({"status": "running"})),
            ("ListInstances", json!({"processId": "launch"})),
            ("ListTasks", json!({"instanceId": scene.ended})),
            ("ListTasks", json!({"instanceId": scene.instance, "status": "running"})),
            ("ListAuditEntries", json!({"instanceId": scene.ended})),
            ("ListAuditEntries", json!({"instanceId": scene.instance, "types": ["approval"]})),
            ("ListApprovals", instance.clone()),
            ("ListArtifacts", json!({"instanceId": scene.instance, "type": "document"})),
            ("ListComments", json!({"instanceId": scene.instance, "subject": "instance"})),
            ("ListParticipants", json!({"instanceId": scene.ended})),
            ("ListLinks", json!({"instanceId": scene.instance, "participantId": "editor"})),
        ] {
            let message = and(&message, "pageToken", of(method)?);
            check
                .refused(Case::new("B029", "another filter", method, message, refusal, "page_token"))
                .await?;
        }
        check.done()
    })
}

async fn next_page(world: &World, method: &str, message: &Value) -> anyhow::Result<Option<String>> {
    let page = world.call(method, and(message, "pageSize", 1)).await?;
    let token = page["nextPageToken"].as_str().unwrap_or_default();
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

/// A token with one character in its middle changed.
fn flipped(token: &str) -> String {
    let middle = token.len() / 2;
    let other = if token.as_bytes().get(middle) == Some(&b'A') { "B" } else { "A" };
    format!("{}{other}{}", &token[..middle], &token[middle + 1..])
}

#[test]
fn filters_are_exact() -> anyhow::Result<()> {
    let filter = "INVALID_ARGUMENT 400 FILTER_INVALID";
    let word = "INVALID_ARGUMENT 400 ENUM_INVALID";
    on_both(async |world, scene| {
        let base = format!("/api/processes/instances/{}", scene.instance);
        let mut check = Check::new(world).await?;
        let instance = json!({"instanceId": scene.instance});
        for (types, at) in [(json!(["weather"]), "types"), (json!(["approval", "Approval"]), "types")] {
            let message = and(&instance, "types", types.clone());
            check.refused(Case::new("B149", &types, "ListAuditEntries", message, filter, at)).await?;
        }
        let mut inverted = and(&instance, "since", "2026-02-01T00:00:00Z");
        inverted["until"] = json!("2026-01-01T00:00:00Z");
        check
            .refused(Case::new(
                "B149",
                "ends before it begins",
                "ListAuditEntries",
                inverted,
                filter,
                "until",
            ))
            .await?;
        let many = and(&instance, "types", vec!["task.*"; 101]);
        check.refused(Case::new("B149", "101 types", "WatchEvents", many, filter, "types")).await?;
        for (path, refusal, at) in [
            (format!("{base}/audit?since=yesterday"), "INVALID_ARGUMENT 400 TIMESTAMP_INVALID", "/since"),
            (format!("{base}/audit?type=approval"), "INVALID_ARGUMENT 400 UNKNOWN_FIELD", "type"),
        ] {
            let request = world.doors.request("GET", &path)?;
            check.refused_by_rest("B149", path, request, refusal, at).await?;
        }
        for path in ["/api/approvals", "/api/processes/instances", &format!("{base}/tasks")] {
            for status in ["bogus", "Pending", "APPROVAL_STATUS_PENDING", "1"] {
                let path = format!("{path}?status={status}");
                let request = world.doors.request("GET", &path)?;
                check.refused_by_rest("B113", path, request, word, "/status").await?;
            }
        }
        for (method, message) in [
            ("ListApprovals", json!({"status": "pending"})),
            ("ListInstances", json!({"status": "running"})),
            ("ListTasks", and(&instance, "status", "running")),
        ] {
            let case = Case::new("B113", "status 99", method, message, word, "status");
            check.refused_with_number(case, "/status", 99).await?;
        }
        check.done()
    })
}

#[test]
fn filters_without_a_match_are_empty() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let instance = json!({"instanceId": scene.instance});
        for (row, method, message, list) in [
            ("B142", "ListArtifacts", and(&instance, "phase", "later"), "artifacts"),
            ("B142", "ListArtifacts", and(&instance, "type", "weather"), "artifacts"),
            ("B113", "ListApprovals", and(&instance, "approverId", "boss"), "approvals"),
            ("B113", "ListApprovals", json!({"approverId": "' or 1=1 --"}), "approvals"),
            ("B113", "ListInstances", json!({"processId": "lunch"}), "instances"),
        ] {
            check.accepted(Case::new(row, &message, method, message.clone(), "200", "")).await?;
            let found = world.call(method, message).await?;
            let is_empty = found[list].as_array().is_some_and(Vec::is_empty);
            let outcome = if is_empty { Ok(()) } else { Err(anyhow::anyhow!("{found}")) };
            check.note(row, "its list", outcome).await?;
        }
        check.done()
    })
}
