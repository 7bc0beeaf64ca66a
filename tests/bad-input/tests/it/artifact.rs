//! Artifacts and comments.

use phasegate_bad_input::{Case, Check, Scene, on_both};
use serde_json::{Value, json};

const STORE: &str = "StoreArtifact";

/// An artifact that is right, with one field replaced.
fn store(scene: &Scene, field: &str, value: Value) -> Value {
    let mut store =
        json!({"instanceId": scene.instance, "key": "never", "type": "document", "content": {"a": 1}});
    store[field] = value;
    store
}

#[test]
fn artifacts_are_checked() -> anyhow::Result<()> {
    let metadata = "INVALID_ARGUMENT 400 METADATA_INVALID";
    let content = "INVALID_ARGUMENT 400 CONTENT_INVALID";
    let large = "RESOURCE_EXHAUSTED 413 ARTIFACT_TOO_LARGE";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let mut both = store(scene, "rawContent", json!("YQ=="));
        both["content"] = json!({"a": 1});
        let mut neither = store(scene, "contentType", json!("text/plain"));
        neither.as_object_mut().expect("an object").remove("content");
        for (row, message, refusal, at) in [
            ("B134", store(scene, "content", json!("x".repeat(8 * 1024 * 1024))), large, "content"),
            ("B135", store(scene, "type", json!("")), metadata, "type"),
            ("B135", store(scene, "type", json!("x".repeat(65))), metadata, "type"),
            ("B135", store(scene, "type", json!("a\nb")), metadata, "type"),
            ("B135", store(scene, "key", json!("../../etc/passwd")), metadata, "key"),
            ("B135", store(scene, "key", json!("")), metadata, "key"),
            ("B135", store(scene, "key", json!("x".repeat(129))), metadata, "key"),
            ("B135", store(scene, "metadata", json!({"phase": "later"})), metadata, "metadata.phase"),
            ("B135", store(scene, "metadata", json!({"phase": 7})), metadata, "metadata.phase"),
            ("B135", store(scene, "metadata", json!({"a": "x".repeat(64 * 1024)})), metadata, "metadata"),
            ("B135", both, content, "content"),
            ("B135", neither, content, "content"),
        ] {
            let what = message.to_string().chars().take(150).collect::<String>();
            check.refused(Case::new(row, what, STORE, message, refusal, at)).await?;
        }
        let mut raw = store(scene, "contentType", json!("x".repeat(129)));
        let fields = raw.as_object_mut().expect("an object");
        fields.remove("content");
        fields.insert("rawContent".to_owned(), json!("YQ=="));
        check.refused(Case::new("B135", "media type", STORE, raw, metadata, "content_type")).await?;
        check.done()
    })
}

#[test]
fn artifacts_end_with_the_instance() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let message = store(scene, "instanceId", json!(scene.ended));
        let refusal = "FAILED_PRECONDITION 409 INSTANCE_TERMINAL";
        check.refused(Case::new("B139", "after the end", STORE, message, refusal, "")).await?;
        check.done()
    })
}

#[test]
fn what_is_not_there_is_not_found() -> anyhow::Result<()> {
    let not_found = "NOT_FOUND 404 ARTIFACT_NOT_FOUND";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for (method, key, version) in [
            ("GetArtifact", "nothing", 0),
            ("GetArtifact", "plan", 3),
            ("GetArtifact", "plan", -1),
            ("GetArtifact", "../plan", 0),
            ("GetArtifact", "Plan", 0),
            ("ListArtifactVersions", "nothing", 0),
        ] {
            let mut message = json!({"instanceId": scene.instance, "key": key});
            if version != 0 {
                message["version"] = json!(version);
            }
            let what = format!("{key} {version}");
            check.refused(Case::new("B140", what, method, message, not_found, "")).await?;
        }
        check.done()
    })
}

#[test]
fn comments_are_checked() -> anyhow::Result<()> {
    let subject = "INVALID_ARGUMENT 400 SUBJECT_INVALID";
    let text = "INVALID_ARGUMENT 400 TEXT_INVALID";
    let parent = "INVALID_ARGUMENT 400 COMMENT_PARENT_INVALID";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let comment = |field: &str, value: Value| {
            let mut comment = json!({"instanceId": scene.instance, "body": "b"});
            comment[field] = value;
            comment
        };
        let mut elsewhere = comment("parentId", json!(scene.comment));
        elsewhere["subject"] = json!("task:write");
        for (message, refusal, at) in [
            (comment("subject", json!("weather")), subject, "subject"),
            (comment("subject", json!("task:paint")), subject, "subject"),
            (comment("subject", json!("phase:later")), subject, "subject"),
            (comment("subject", json!("artifact:nothing")), subject, "subject"),
            (comment("subject", json!("approval:apr-0")), subject, "subject"),
            (comment("body", json!("")), text, "body"),
            (comment("body", json!("x".repeat(16 * 1024 + 1))), text, "body"),
            (comment("body", json!("bell\u{7}")), text, "body"),
            (comment("parentId", json!("cmt-0")), parent, "parent_id"),
            (elsewhere, parent, "parent_id"),
        ] {
            let what = message.to_string().chars().take(150).collect::<String>();
            check.refused(Case::new("B112", what, "CreateComment", message, refusal, at)).await?;
        }
        check.done()
    })
}

#[test]
fn active_content_stays_inert() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let path = format!("/api/processes/instances/{}/artifacts/page.html/content", scene.instance);
        let answer = world.doors.send(world.doors.request("GET", &path)?).await?;
        let header = |name: &str| {
            answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let inert = answer.status == 200
            && header("content-disposition").starts_with("attachment")
            && header("x-content-type-options") == "nosniff"
            && header("content-security-policy").contains("sandbox");
        let outcome = if inert { Ok(()) } else { Err(anyhow::anyhow!("{answer:?}")) };
        check.note("B141", "a page that would run", outcome).await?;
        check.done()
    })
}
