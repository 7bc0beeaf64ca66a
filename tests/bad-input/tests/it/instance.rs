//! Instances: how they start, move, change and end, and what their record says.

use phasegate_bad_input::{Case, Check, Scene, World, on_both};
use serde_json::{Map, Value, json};

const INVALID: &str = "INVALID_ARGUMENT 400 VALIDATION_FAILED";
const NOT_FOUND: &str = "NOT_FOUND 404 INSTANCE_NOT_FOUND";
const TERMINAL: &str = "FAILED_PRECONDITION 409 INSTANCE_TERMINAL";
const STATE: &str = "FAILED_PRECONDITION 409 INVALID_STATE";
const REASON: &str = "INVALID_ARGUMENT 400 REASON_REQUIRED";

fn person(id: &str, email: &str) -> Value {
    json!({"participantId": id, "email": email})
}

/// A start that is right, with one field replaced.
fn start(field: &str, value: Value) -> Value {
    let people = [person("editor", "editor@example.com"), person("owner", "owner@example.com")];
    let mut start =
        json!({"processId": "launch", "context": {"region": "eu"}, "externalParticipants": people});
    start[field] = value;
    start
}

fn people(list: &[Value]) -> Value {
    start("externalParticipants", json!(list))
}

#[test]
fn starts_are_checked() -> anyhow::Result<()> {
    let schema = "INVALID_ARGUMENT 400 CONTEXT_SCHEMA_MISMATCH";
    let unknown = "NOT_FOUND 404 PROCESS_NOT_FOUND";
    let taken = "ALREADY_EXISTS 409 ALREADY_EXISTS";
    let (editor, owner) = (person("editor", "editor@example.com"), person("owner", "owner@example.com"));
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let context = |context: Value| start("context", context);
        let rows: Vec<(&str, Value, &str, &str)> = vec![
            (
                "B065",
                start("version", json!("2.0.0")),
                "FAILED_PRECONDITION 409 DEFINITION_NOT_STARTABLE",
                "",
            ),
            ("B036", start("version", json!("3.0.0")), unknown, ""),
            ("B036", start("processId", json!("lunch")), unknown, ""),
            ("B067", context(json!({})), schema, "/context/region"),
            ("B067", context(json!({"region": "mars"})), schema, "/context/region"),
            ("B067", context(json!({"region": "eu", "seats": -1})), schema, "/context/seats"),
            ("B067", context(json!({"region": "eu", "seat": 1})), schema, "/context"),
            (
                "B069",
                people(&[editor.clone(), owner.clone(), person("boss", "b@example.com")]),
                INVALID,
                "external_participants[2].participant_id PARTICIPANT_UNKNOWN",
            ),
            (
                "B069",
                people(&[editor.clone(), owner.clone(), person("writer", "b@example.com")]),
                INVALID,
                "external_participants[2].participant_id PARTICIPANT_UNKNOWN",
            ),
            (
                "B070",
                people(&[editor.clone(), owner.clone(), owner.clone()]),
                INVALID,
                "external_participants[2].participant_id PARTICIPANT_DUPLICATE",
            ),
            (
                "B071",
                people(std::slice::from_ref(&editor)),
                INVALID,
                "external_participants PARTICIPANT_MISSING",
            ),
            (
                "B071",
                people(&[editor.clone(), person("owner", "")]),
                INVALID,
                "external_participants[1].email EMAIL_INVALID; external_participants PARTICIPANT_MISSING",
            ),
            (
                "B071",
                people(&[editor.clone(), person("owner", "o@example.com\r\nBcc: e@example.com")]),
                INVALID,
                "external_participants[1].email EMAIL_INVALID",
            ),
            (
                "B071",
                people(&[editor.clone(), person("owner", "\"e@evil.example\"@example.com")]),
                INVALID,
                "external_participants[1].email EMAIL_INVALID",
            ),
            (
                "B071",
                people(&[editor.clone(), person("owner", "owner\u{ff20}example.com")]),
                INVALID,
                "external_participants[1].email EMAIL_INVALID",
            ),
            ("B064", start("instanceId", json!(scene.instance)), taken, ""),
            ("B064", start("instanceId", json!("Main")), INVALID, "instance_id ID_INVALID"),
            ("B064", start("instanceId", json!("search")), INVALID, "instance_id ID_INVALID"),
            ("B095", start("name", json!("two\nlines")), INVALID, "name TEXT_INVALID"),
            ("B095", start("name", json!("x".repeat(201))), INVALID, "name TEXT_INVALID"),
        ];
        for (row, message, refusal, at) in rows {
            let what = format!("{message}").chars().take(120).collect::<String>();
            check.refused(Case::new(row, &what, "StartInstance", message.clone(), refusal, at)).await?;
            let mut dry = message;
            dry["validateOnly"] = json!(true);
            check.refused(Case::new(row, &what, "StartInstance", dry, refusal, at)).await?;
        }
        // Two places of a REST call that name two processes.
        let request = world.doors.request("POST", "/api/processes/launch/instances")?;
        let request = request.json(&start("processId", json!("gated")));
        check
            .refused_by_rest(
                "B064",
                "another process in the body",
                request,
                "INVALID_ARGUMENT 400 ID_MISMATCH",
                "processId",
            )
            .await?;
        // A check changes nothing, and what was checked can be started once.
        let mut dry = start("instanceId", json!("taken"));
        dry["validateOnly"] = json!(true);
        check.accepted(Case::new("B064", "a check", "StartInstance", dry, "201", "")).await?;
        check.done()?;
        let found = world.call("GetInstance", json!({"instanceId": "taken"})).await;
        if found.is_err() {
            world.call("StartInstance", start("instanceId", json!("taken"))).await?;
        }
        let mut check = Check::new(world).await?;
        let again = start("instanceId", json!("taken"));
        check.refused(Case::new("B064", "an id that is taken", "StartInstance", again, taken, "")).await?;
        check.done()
    })
}

#[test]
fn approvers_who_decide_together_are_two() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut process = phasegate_bad_input::launch();
        process["id"] = json!("together");
        process["phases"][0]["requiredApprovals"] = json!(["owner", "editor"]);
        world.call("CreateProcessDefinition", json!({"processDefinition": process})).await?;
        let mut check = Check::new(world).await?;
        let mut message =
            people(&[person("editor", "Same@example.com"), person("owner", "same@example.com")]);
        message["processId"] = json!("together");
        let at = "external_participants PARTICIPANTS_NOT_DISTINCT";
        check
            .refused(Case::new("B070", "one address for two", "StartInstance", message, INVALID, at))
            .await?;
        check.done()
    })
}

#[test]
fn contexts_are_bounded() -> anyhow::Result<()> {
    let too_large = "RESOURCE_EXHAUSTED 413 CONTEXT_TOO_LARGE";
    // Lists, because as many objects in each other are more than a message may be.
    let deep = json!({"a": (0..33).fold(json!(1), |inner, _| json!([inner]))});
    let too_deep = (0..40).fold(json!(1), |inner, _| json!({"a": inner}));
    let objects = (0..25).fold(json!(1), |inner, _| json!({"a": inner}));
    let wide: Map<String, Value> = (0..5_001).map(|n| (format!("k{n}"), Value::Null)).collect();
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for (what, context) in [
            ("bytes", json!({"a": "x".repeat(256 * 1024)})),
            ("levels", deep.clone()),
            ("levels of objects", objects.clone()),
            ("keys", Value::Object(wide.clone())),
        ] {
            let message = start("context", context.clone());
            check.refused(Case::new("B068", what, "StartInstance", message, too_large, "")).await?;
            let message = json!({"instanceId": scene.instance, "patch": context, "reason": "r"});
            check.refused(Case::new("B068", what, "UpdateInstanceContext", message, too_large, "")).await?;
        }
        let request = world.doors.request("POST", "/api/processes/launch/instances")?;
        let request = request.json(&start("context", too_deep.clone()));
        let at = format!("/context{}", "/a".repeat(31));
        check
            .refused_by_rest("B068", "40 objects", request, "INVALID_ARGUMENT 400 JSON_TOO_DEEP", &at)
            .await?;
        // As a message it is more than its reader goes through.
        let mut message = phasegate_bad_input::message("StartInstance", &json!({"processId": "launch"}))?;
        message.extend(field(3, &nested(40)));
        let answer =
            world.doors.grpc_bytes(&phasegate_bad_input::find("StartInstance")?, message.into()).await?;
        let outcome = match answer {
            Err(status) if status.code() == tonic::Code::Internal && status.message().contains("decode") => {
                Ok(())
            }
            other => Err(anyhow::anyhow!("{other:?}")),
        };
        check.note("B068", "40 objects over gRPC", outcome).await?;
        // Data like any other: refused here by the schema only.
        let message = start("context", json!({"region": "eu", "__proto__": {"admin": true}}));
        let refusal = "INVALID_ARGUMENT 400 CONTEXT_SCHEMA_MISMATCH";
        check.refused(Case::new("B068", "__proto__", "StartInstance", message, refusal, "/context")).await?;
        check.done()?;
        let message =
            json!({"processId": "gated", "context": {"__proto__": {"admin": true}}, "validateOnly": true});
        world.call("StartInstance", message).await?;
        Ok(())
    })
}

/// A field of a message that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        field.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    field.push(u8::try_from(length).unwrap_or_default());
    field.extend(bytes);
    field
}

/// A `google.protobuf.Struct` with so many of them in each other.
fn nested(levels: usize) -> Vec<u8> {
    (1..levels).fold(Vec::new(), |inner, _| {
        let value = field(5, &inner);
        field(1, &[field(1, b"a"), field(2, &value)].concat())
    })
}

#[test]
fn what_is_not_there_is_not_found() -> anyhow::Result<()> {
    // Every public method that names an instance, and what else it needs to be right.
    let methods: Vec<(&str, Value)> = vec![
        ("GetInstance", json!({})),
        ("UpdateInstanceContext", json!({"patch": {"seats": 2}, "reason": "r"})),
        ("SetFacts", json!({"facts": {"ready": true}, "reason": "r"})),
        ("AdvancePhase", json!({})),
        ("ReopenPhase", json!({"reason": "r"})),
        ("PauseInstance", json!({"reason": "r"})),
        ("ResumeInstance", json!({"reason": "r"})),
        ("CancelInstance", json!({"reason": "r"})),
        ("GetTimeline", json!({})),
        ("ListTasks", json!({})),
        ("GetTask", json!({"taskId": "write"})),
        ("RetryTask", json!({"taskId": "write", "reason": "r"})),
        ("SkipTask", json!({"taskId": "write", "reason": "r"})),
        ("WatchEvents", json!({})),
        ("ListAuditEntries", json!({})),
        ("VerifyAuditChain", json!({})),
        ("RequestApproval", json!({"approverIds": ["owner"], "title": "T"})),
        ("ListApprovals", json!({})),
        ("WatchApprovalResponses", json!({})),
        ("StoreArtifact", json!({"key": "k", "type": "document", "content": 1})),
        ("ListArtifacts", json!({})),
        ("GetArtifact", json!({"key": "plan"})),
        ("ListArtifactVersions", json!({"key": "plan"})),
        ("CreateComment", json!({"body": "b"})),
        ("ListComments", json!({})),
        ("CreateLink", json!({"participantId": "editor"})),
        ("ListLinks", json!({})),
        ("ListParticipants", json!({})),
        ("GetParticipant", json!({"participantId": "editor"})),
        ("ListNotifications", json!({})),
    ];
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for (method, rest) in &methods {
            for id in ["proc-inst-0", scene.open.as_str(), "launch", "' or 1=1 --", &"x".repeat(3000)] {
                let mut message = rest.clone();
                message["instanceId"] = json!(id);
                let what = id.chars().take(30).collect::<String>();
                check.refused(Case::new("B075", what, method, message, NOT_FOUND, "")).await?;
            }
        }
        for (method, message, refusal) in [
            ("GetTask", json!({"taskId": "paint"}), "NOT_FOUND 404 TASK_NOT_FOUND"),
            ("RetryTask", json!({"taskId": "paint", "reason": "r"}), "NOT_FOUND 404 TASK_NOT_FOUND"),
            ("SkipTask", json!({"taskId": "paint", "reason": "r"}), "NOT_FOUND 404 TASK_NOT_FOUND"),
            ("SkipTask", json!({"taskId": "a b", "reason": "r"}), "NOT_FOUND 404 TASK_NOT_FOUND"),
            ("ReopenPhase", json!({"phaseId": "later", "reason": "r"}), "NOT_FOUND 404 PHASE_NOT_FOUND"),
            ("ReopenPhase", json!({"taskIds": ["paint"], "reason": "r"}), "NOT_FOUND 404 TASK_NOT_FOUND"),
        ] {
            let mut message = message;
            message["instanceId"] = json!(scene.instance);
            check.refused(Case::new("B075", "part of an instance", method, message, refusal, "")).await?;
        }
        check.done()
    })
}

#[test]
fn blocked_phases_say_why() -> anyhow::Result<()> {
    let blocked = "FAILED_PRECONDITION 409 PHASE_BLOCKED";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for (row, instance, expected) in [
            ("B076", &scene.instance, ["write", "review", "sketch", "translate"].as_slice()),
            ("B077", &scene.gated, ["door"].as_slice()),
        ] {
            let message = json!({"instanceId": instance});
            check.refused(Case::new(row, "advance", "AdvancePhase", message.clone(), blocked, "")).await?;
            let told = blockers(world, &message).await?;
            let names_all = expected.iter().all(|subject| told.iter().any(|found| found == subject));
            let outcome =
                if names_all { Ok(()) } else { Err(anyhow::anyhow!("{told:?} lacks some of {expected:?}")) };
            check.note(row, "everything in the way", outcome).await?;
            let dry = json!({"instanceId": instance, "validateOnly": true});
            check
                .accepted(Case::new(row, "asking what is in the way", "AdvancePhase", dry, "200", ""))
                .await?;
        }
        let moved = json!({"instanceId": scene.instance, "fromPhase": "publish"});
        let refusal = "ABORTED 409 PHASE_MOVED";
        check.refused(Case::new("B076", "from another phase", "AdvancePhase", moved, refusal, "")).await?;
        let early = json!({"instanceId": scene.instance, "phaseId": "publish", "reason": "r"});
        check.refused(Case::new("B076", "a phase to come", "ReopenPhase", early, STATE, "")).await?;
        let running = json!({"instanceId": scene.instance, "taskId": "write", "reason": "r"});
        check.refused(Case::new("B083", "retry of what runs", "RetryTask", running, STATE, "")).await?;
        check.done()
    })
}

async fn blockers(world: &World, message: &Value) -> anyhow::Result<Vec<String>> {
    let Err(status) = world.doors.grpc("AdvancePhase", message).await? else {
        anyhow::bail!("it was not refused")
    };
    Ok(phasegate_bad_input::Refusal::of_status(&status)
        .blockers
        .into_iter()
        .map(|(_, subject)| subject)
        .collect())
}

#[test]
fn what_has_ended_stays_so() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for (row, method, rest) in [
            ("B078", "AdvancePhase", json!({})),
            ("B078", "AdvancePhase", json!({"force": true, "reason": "r"})),
            ("B078", "ReopenPhase", json!({"reason": "r"})),
            ("B078", "PauseInstance", json!({"reason": "r"})),
            ("B078", "ResumeInstance", json!({"reason": "r"})),
            ("B078", "UpdateInstanceContext", json!({"patch": {"seats": 2}, "reason": "r"})),
            ("B078", "SetFacts", json!({"facts": {"ready": true}, "reason": "r"})),
            ("B078", "SkipTask", json!({"taskId": "write", "reason": "r"})),
            ("B078", "RetryTask", json!({"taskId": "write", "reason": "r"})),
            ("B078", "RequestApproval", json!({"approverIds": ["owner"], "title": "T"})),
            ("B078", "CreateLink", json!({"participantId": "editor"})),
        ] {
            let mut message = rest;
            message["instanceId"] = json!(scene.ended);
            check.refused(Case::new(row, "after the end", method, message, TERMINAL, "")).await?;
        }
        let again = json!({"instanceId": scene.ended, "reason": "no budget"});
        check.accepted(Case::new("B085", "cancelled again", "CancelInstance", again, "200", "")).await?;
        check.done()
    })
}

#[test]
fn reasons_are_required() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for (row, method, rest) in [
            ("B085", "CancelInstance", json!({})),
            ("B085", "PauseInstance", json!({})),
            ("B085", "ResumeInstance", json!({})),
            ("B085", "ReopenPhase", json!({})),
            ("B085", "SkipTask", json!({"taskId": "write"})),
            ("B085", "AdvancePhase", json!({"force": true})),
            ("B085", "SetFacts", json!({"facts": {"ready": true}})),
            ("B085", "UpdateInstanceContext", json!({"patch": {"seats": 2}})),
            ("B085", "RetryTask", json!({"taskId": "write"})),
        ] {
            for reason in ["", " ", &"x".repeat(4097)] {
                let mut message = rest.clone();
                message["instanceId"] = json!(scene.instance);
                message["reason"] = json!(reason);
                let what = format!("a reason of {} characters", reason.len());
                check.refused(Case::new(row, what, method, message, REASON, "reason")).await?;
            }
        }
        check.done()
    })
}

#[test]
fn stale_changes_are_refused() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let stale = json!({
            "instanceId": scene.instance, "patch": {"seats": 2}, "expectedVersion": 1, "reason": "r",
        });
        let refusal = "ABORTED 409 VERSION_MISMATCH";
        check.refused(Case::new("B086", "version 1", "UpdateInstanceContext", stale, refusal, "")).await?;
        let stale = json!({"instanceId": scene.instance, "key": "plan", "type": "document", "content": 3, "ifVersion": 1});
        let refusal = "ABORTED 409 ARTIFACT_VERSION_CONFLICT";
        check.refused(Case::new("B086", "version 1", "StoreArtifact", stale, refusal, "")).await?;
        let new = json!({"instanceId": scene.instance, "key": "plan", "type": "document", "content": 3, "ifVersion": 0});
        check.refused(Case::new("B086", "a new key", "StoreArtifact", new, refusal, "")).await?;
        let schema = json!({"instanceId": scene.instance, "patch": {"region": null}, "reason": "r"});
        let refusal = "INVALID_ARGUMENT 400 CONTEXT_SCHEMA_MISMATCH";
        check
            .refused(Case::new(
                "B067",
                "a patch",
                "UpdateInstanceContext",
                schema,
                refusal,
                "/context/region",
            ))
            .await?;
        for facts in [json!({}), json!({"Ready": true}), json!({"": true}), json!({"a-b": true})] {
            let message = json!({"instanceId": scene.instance, "facts": facts, "reason": "r"});
            let refusal = "INVALID_ARGUMENT 400 FACT_INVALID";
            check.refused(Case::new("B060", "a fact", "SetFacts", message, refusal, "facts")).await?;
        }
        check.done()
    })
}

#[test]
fn resume_tokens_belong_to_their_stream() -> anyhow::Result<()> {
    let refusal = "INVALID_ARGUMENT 400 RESUME_TOKEN_INVALID";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        for method in ["WatchEvents", "WatchApprovalResponses"] {
            for token in ["999999", "-1", "1.5", "tomorrow", "18446744073709551616", "\u{ff11}"] {
                let message = json!({"instanceId": scene.instance, "resumeToken": token});
                check.refused(Case::new("B088", token, method, message, refusal, "resume_token")).await?;
            }
        }
        check.done()
    })
}

#[test]
fn the_record_cannot_be_written() -> anyhow::Result<()> {
    on_both(async |world, scene: &Scene| {
        let mut check = Check::new(world).await?;
        for path in ["audit", "audit/verify", "events", "timeline"] {
            for verb in ["POST", "PUT", "PATCH", "DELETE"] {
                let path = format!("/api/processes/instances/{}/{path}", scene.instance);
                let request = world.doors.request(verb, &path)?.json(&json!({"type": "approval"}));
                let refusal = "UNIMPLEMENTED 405 NO_ROUTE";
                check.refused_by_rest("B150", format!("{verb} {path}"), request, refusal, "").await?;
            }
        }
        check.done()
    })
}
