//! Requests for a decision, and decisions.

use phasegate_bad_input::{Case, Check, Scene, on_both};
use serde_json::{Value, json};

const REQUEST: &str = "RequestApproval";
const DECIDE: &str = "DecideApproval";

/// A request that is right, with one field replaced.
fn ask(scene: &Scene, field: &str, value: Value) -> Value {
    let mut ask = json!({"instanceId": scene.instance, "approverIds": ["owner"], "title": "Never asked"});
    ask[field] = value;
    ask
}

/// A decision that is right, with one field replaced.
fn decide(scene: &Scene, field: &str, value: Value) -> Value {
    let mut decide = json!({
        "approvalId": scene.open, "approverId": "editor", "decision": "approve", "contentDigest": scene.digest,
    });
    decide[field] = value;
    decide
}

#[test]
fn requests_are_checked() -> anyhow::Result<()> {
    let approver = "INVALID_ARGUMENT 400 APPROVER_INVALID";
    let artifact = "INVALID_ARGUMENT 400 ARTIFACT_UNKNOWN";
    let expiry = "INVALID_ARGUMENT 400 EXPIRY_INVALID";
    let wrong = "INVALID_ARGUMENT 400 TEXT_INVALID";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let people: Vec<String> = (0..21).map(|n| format!("p{n}")).collect();
        let done = json!({"instanceId": scene.gated, "approverIds": [], "taskId": "knock", "title": "T", "key": "k"});
        let rows: Vec<(&str, Value, &str, &str)> = vec![
            ("B090", ask(scene, "taskId", json!("paint")), "INVALID_ARGUMENT 400 TASK_UNKNOWN", "task_id"),
            ("B090", ask(scene, "taskId", json!("a b")), "INVALID_ARGUMENT 400 TASK_UNKNOWN", "task_id"),
            ("B090", done, "FAILED_PRECONDITION 409 INVALID_STATE", ""),
            ("B091", ask(scene, "approverIds", json!([])), approver, "approver_ids"),
            ("B091", ask(scene, "approverIds", json!(["boss"])), approver, "approver_ids[0]"),
            ("B091", ask(scene, "approverIds", json!(["owner", "owner"])), approver, "approver_ids[1]"),
            ("B091", ask(scene, "approverIds", json!(["reader"])), approver, "approver_ids[0]"),
            ("B091", ask(scene, "approverIds", json!(["writer"])), approver, "approver_ids[0]"),
            ("B091", ask(scene, "approverIds", json!(people)), approver, "approver_ids"),
            ("B093", ask(scene, "artifacts", json!(["nothing"])), artifact, "artifacts[0]"),
            ("B093", ask(scene, "artifacts", json!(["plan", "../plan"])), artifact, "artifacts[1]"),
            ("B094", ask(scene, "expiresIn", json!("0h")), expiry, "expires_in"),
            ("B094", ask(scene, "expiresIn", json!("-1h")), expiry, "expires_in"),
            ("B094", ask(scene, "expiresIn", json!("91d")), expiry, "expires_in"),
            ("B094", ask(scene, "expiresIn", json!("soon")), expiry, "expires_in"),
            ("B095", ask(scene, "title", json!("")), wrong, "title"),
            ("B095", ask(scene, "title", json!("one\r\nBcc: two")), wrong, "title"),
            ("B095", ask(scene, "title", json!("x".repeat(201))), wrong, "title"),
            ("B095", ask(scene, "title", json!("turn\u{202e}ed")), wrong, "title"),
            ("B095", ask(scene, "description", json!("x".repeat(64 * 1024 + 1))), wrong, "description"),
            ("B095", ask(scene, "description", json!("bell\u{7}")), wrong, "description"),
            ("B095", ask(scene, "key", json!("Not a key")), wrong, "key"),
        ];
        for (row, message, refusal, at) in rows {
            let what = message.to_string().chars().take(150).collect::<String>();
            check.refused(Case::new(row, what, REQUEST, message, refusal, at)).await?;
        }
        check.done()
    })
}

#[test]
fn active_text_stays_text() -> anyhow::Result<()> {
    let hostile = "<script>alert(1)</script> [x](javascript:alert(1)) <img src=//evil.example/x>";
    on_both(async |world, scene| {
        // B095: kept as it was written, and shown as text.
        let asked = world.call(REQUEST, ask(scene, "description", json!(hostile))).await?;
        anyhow::ensure!(asked["approval"]["description"] == hostile, "B095: {asked}");
        let withdraw = json!({"approvalId": asked["approval"]["id"], "reason": "r"});
        world.call("WithdrawApproval", withdraw).await?;
        Ok(())
    })
}

#[test]
fn the_same_request_is_the_first() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let same = ask(scene, "title", json!("Asked twice"));
        let first = world.call(REQUEST, same.clone()).await?;
        let mut check = Check::new(world).await?;
        check.accepted(Case::new("B096", "an open request", REQUEST, same.clone(), "200", "")).await?;
        let again = world.call(REQUEST, same).await?;
        let outcome = if again["approval"]["id"] == first["approval"]["id"] {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{again} is not {first}"))
        };
        check.note("B096", "its id", outcome).await?;
        check.done()?;
        // What was rejected is not asked again unchanged.
        let approval = &first["approval"];
        let no = json!({
            "approvalId": approval["id"], "approverId": "owner", "decision": "reject", "comment": "No",
            "contentDigest": approval["contentDigest"],
        });
        world.call(DECIDE, no).await?;
        let mut check = Check::new(world).await?;
        let same = ask(scene, "title", json!("Asked twice"));
        let refusal = "FAILED_PRECONDITION 409 CONTENT_REJECTED";
        check.refused(Case::new("B096", "a rejected request", REQUEST, same, refusal, "")).await?;
        check.done()
    })
}

#[test]
fn what_is_not_there_is_not_found() -> anyhow::Result<()> {
    let not_found = "NOT_FOUND 404 APPROVAL_NOT_FOUND";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for id in ["apr-0", scene.instance.as_str(), scene.link.as_str(), "' or 1=1 --", &"x".repeat(3000)] {
            for (method, message) in [
                ("GetApproval", json!({})),
                (DECIDE, decide(scene, "comment", json!(""))),
                ("WithdrawApproval", json!({"reason": "r"})),
            ] {
                let mut message = message;
                message["approvalId"] = json!(id);
                let what = id.chars().take(30).collect::<String>();
                check.refused(Case::new("B097", what, method, message, not_found, "")).await?;
            }
        }
        check.done()
    })
}

#[test]
fn decisions_are_checked() -> anyhow::Result<()> {
    let comment = "INVALID_ARGUMENT 400 COMMENT_REQUIRED";
    let wrong = "INVALID_ARGUMENT 400 TEXT_INVALID";
    let not_asked = "PERMISSION_DENIED 403 NOT_AN_APPROVER";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let mut reject = decide(scene, "decision", json!("reject"));
        let mut changes = decide(scene, "decision", json!("request_changes"));
        let mut undecided = decide(scene, "comment", json!("fine"));
        undecided.as_object_mut().expect("an object").remove("decision");
        let remarks: Vec<Value> = (0..101).map(|_| json!({"text": "t"})).collect();
        let mut rows: Vec<(&str, Value, &str, &str)> = vec![
            ("B098", decide(scene, "approverId", json!("owner")), not_asked, ""),
            ("B098", decide(scene, "approverId", json!("reader")), not_asked, ""),
            ("B098", decide(scene, "approverId", json!("writer")), not_asked, ""),
            ("B098", decide(scene, "approverId", json!("")), not_asked, ""),
            ("B105", undecided, "INVALID_ARGUMENT 400 DECISION_REQUIRED", "decision"),
            (
                "B105",
                decide(scene, "contentDigest", json!("")),
                "INVALID_ARGUMENT 400 CONTENT_DIGEST_REQUIRED",
                "content_digest",
            ),
            (
                "B105",
                decide(scene, "contentDigest", json!("sha256:00")),
                "ABORTED 409 APPROVAL_CONTENT_CHANGED",
                "",
            ),
            ("B106", reject.clone(), comment, "comment"),
            ("B106", changes.clone(), comment, "comment"),
            ("B106", decide(scene, "comment", json!("x".repeat(16 * 1024 + 1))), wrong, "comment"),
            ("B106", decide(scene, "comment", json!("bell\u{7}")), wrong, "comment"),
            ("B106", decide(scene, "remarks", json!(remarks)), wrong, "remarks"),
        ];
        reject["comment"] = json!("  ");
        changes["remarks"] = json!([{"text": ""}]);
        rows.extend([("B106", reject, comment, "comment"), ("B106", changes, wrong, "remarks[0].text")]);
        for (row, message, refusal, at) in rows {
            let what = message.to_string().chars().take(150).collect::<String>();
            check.refused(Case::new(row, what, DECIDE, message, refusal, at)).await?;
        }
        let message = json!({"approvalId": scene.open});
        let refusal = "INVALID_ARGUMENT 400 REASON_REQUIRED";
        check.refused(Case::new("B085", "withdrawn", "WithdrawApproval", message, refusal, "reason")).await?;
        let refusal = "INVALID_ARGUMENT 400 DECISION_REQUIRED";
        let case =
            Case::new("B105", "no answer", DECIDE, decide(scene, "comment", json!("")), refusal, "decision");
        check.refused_with_number(case, "/decision", 9).await?;
        check.done()
    })
}

#[test]
fn the_first_answer_stands() -> anyhow::Result<()> {
    let settled = [
        ("B100", "FAILED_PRECONDITION 409 APPROVAL_ALREADY_DECIDED"),
        ("B101", "FAILED_PRECONDITION 409 APPROVAL_EXPIRED"),
        ("B102", "FAILED_PRECONDITION 409 APPROVAL_WITHDRAWN"),
        ("B102", "FAILED_PRECONDITION 409 APPROVAL_SUPERSEDED"),
    ];
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let ids = [&scene.approved, &scene.expired, &scene.withdrawn, &scene.superseded];
        for ((row, refusal), id) in settled.into_iter().zip(ids) {
            let found = world.call("GetApproval", json!({"approvalId": id})).await?;
            let digest = &found["approval"]["contentDigest"];
            let approver = &found["approval"]["approvers"][0]["participantId"];
            let message = json!({
                "approvalId": id, "approverId": approver, "decision": "reject", "comment": "No",
                "contentDigest": digest,
            });
            check.refused(Case::new(row, "another decision", DECIDE, message.clone(), refusal, "")).await?;
            if row == "B100" {
                let mut same = message;
                same["decision"] = json!("approve");
                check.accepted(Case::new(row, "the same decision", DECIDE, same, "200", "")).await?;
                let message = json!({"approvalId": id, "reason": "r"});
                check.refused(Case::new(row, "withdrawn", "WithdrawApproval", message, refusal, "")).await?;
            }
        }
        let again = json!({"approvalId": scene.withdrawn, "reason": "r"});
        check.accepted(Case::new("B102", "withdrawn again", "WithdrawApproval", again, "200", "")).await?;
        check.done()
    })
}

#[test]
fn decisions_end_with_the_instance() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let found = world.call("GetApproval", json!({"approvalId": scene.of_ended})).await?;
        let message = json!({
            "approvalId": scene.of_ended, "approverId": "owner", "decision": "approve",
            "contentDigest": found["approval"]["contentDigest"],
        });
        let mut check = Check::new(world).await?;
        let refusal = "FAILED_PRECONDITION 409 INSTANCE_TERMINAL";
        check.refused(Case::new("B104", "after the end", DECIDE, message, refusal, "")).await?;
        check.done()
    })
}
