//! Request ids: one names one request, whoever uses it again and when.

use anyhow::ensure;
use phasegate_bad_input::{Case, Check, World, on_both};
use serde_json::{Value, json};

#[test]
fn request_ids_name_one_request() -> anyhow::Result<()> {
    let reused = "INVALID_ARGUMENT 422 REQUEST_ID_REUSED";
    let invalid = "INVALID_ARGUMENT 400 REQUEST_ID_INVALID";
    on_both(async |world, scene| {
        let id = json!(scene.instance);
        // One mutating method of every service, the first request, and another one.
        let methods: Vec<(&str, Value, Value)> = vec![
            (
                "CreateProcessDefinition",
                json!({"processDefinition": phasegate_bad_input::launch()}),
                json!({"processDefinition": sound("other")}),
            ),
            (
                "InstantiateTeamTemplate",
                json!({"teamTemplateId": "crew", "onboarding": {"customer": "A"}}),
                json!({"teamTemplateId": "crew", "onboarding": {"customer": "B"}}),
            ),
            ("StartInstance", json!({"processId": "gated"}), json!({"processId": "gated", "name": "other"})),
            (
                "SetFacts",
                json!({"instanceId": id, "facts": {"seen": true}, "reason": "r"}),
                json!({"instanceId": id, "facts": {"seen": false}, "reason": "r"}),
            ),
            (
                "StoreArtifact",
                json!({"instanceId": id, "key": "once", "type": "document", "content": 1}),
                json!({"instanceId": id, "key": "once", "type": "document", "content": 2}),
            ),
            (
                "CreateComment",
                json!({"instanceId": id, "body": "one"}),
                json!({"instanceId": id, "body": "two"}),
            ),
            (
                "CreateLink",
                json!({"instanceId": id, "participantId": "owner"}),
                json!({"instanceId": id, "participantId": "owner", "expiresIn": "1d"}),
            ),
            (
                "RequestApproval",
                json!({"instanceId": id, "approverIds": ["owner"], "title": "Once"}),
                json!({"instanceId": id, "approverIds": ["owner"], "title": "Twice"}),
            ),
        ];
        let mark = uuid(world);
        for (method, first, _) in &methods {
            world.call(method, named(first, &mark)).await?;
        }
        let mut check = Check::new(world).await?;
        for (method, first, other) in methods {
            let again = named(&first, &mark);
            check.accepted(Case::new("B024", "the same again", method, again, "200", "")).await?;
            let case = Case::new("B024", "another one", method, named(&other, &mark), reused, "");
            check.refused(case).await?;
            let call = phasegate_bad_input::rest_call(method, &other)?;
            let request = world.doors.request(&call.verb, &call.path)?.header("idempotency-key", &mark);
            let request = if let Some(body) = &call.body { request.json(body) } else { request };
            check.refused_by_rest("B024", format!("another one, {method}"), request, reused, "").await?;
            for bad in ["x".repeat(129), "a b".to_owned(), "\u{e9}".to_owned()] {
                let bad = named(&first, &bad);
                check.refused(Case::new("B024", "no id", method, bad, invalid, "request_id")).await?;
            }
        }
        check.done()
    })
}

/// The process of the scene under another id.
fn sound(id: &str) -> Value {
    let mut process = phasegate_bad_input::launch();
    process["id"] = json!(id);
    process
}

fn named(message: &Value, request_id: &str) -> Value {
    let mut message = message.clone();
    message["requestId"] = json!(request_id);
    message
}

/// A request id that nobody has used in this world.
fn uuid(world: &World) -> String {
    format!("{:?}", world.folder.path().file_name()).chars().filter(char::is_ascii_alphanumeric).collect()
}

#[test]
fn request_ids_race_to_one_effect() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let message = json!({
            "instanceId": scene.instance, "key": "raced", "type": "document", "content": {"n": 1}, "requestId": "B025",
        });
        let before = world.settled().await?;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let request = phasegate_bad_input::rest_call("StoreArtifact", &message)?;
            let body = request.body.clone().unwrap_or_default();
            let request = world.doors.request(&request.verb, &request.path)?.json(&body);
            calls.spawn(async move {
                let answer = request.send().await?;
                Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.json::<Value>().await?))
            });
        }
        let mut digests = std::collections::BTreeSet::new();
        while let Some(answer) = calls.join_next().await {
            let (status, body) = answer??;
            match status {
                200 | 201 => {
                    digests.insert(body["version"].to_string());
                }
                // The first one is still under way: its caller is told to come back.
                409 => ensure!(body["error"]["details"][0]["reason"] == "REQUEST_IN_PROGRESS", "{body}"),
                other => anyhow::bail!("B025: {other} {body}"),
            }
        }
        ensure!(digests.len() == 1, "B025: answers differ: {digests:?}");
        let after = world.settled().await?;
        let made = after.rows("artifact.artifact_version") - before.rows("artifact.artifact_version");
        ensure!(made == 1, "B025: {made} versions were made of one request");
        Ok(())
    })
}
