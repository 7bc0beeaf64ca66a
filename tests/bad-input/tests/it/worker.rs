//! Workers: leases, and what is handed in under them.

use phasegate_bad_input::{Case, Check, on_both};
use serde_json::{Value, json};

const LOST: &str = "FAILED_PRECONDITION 409 LEASE_LOST";
const MALFORMED: &str = "INVALID_ARGUMENT 400 TOKEN_MALFORMED";

#[test]
fn lost_leases_change_nothing() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let id = json!(scene.instance);
        let methods: Vec<(&str, Value)> = vec![
            ("CompleteTask", json!({})),
            ("FailTask", json!({"failure": {"type": "BROKEN", "message": "m"}})),
            ("ReleaseTask", json!({})),
            ("SetFacts", json!({"instanceId": id, "facts": {"ready": true}})),
            ("UpdateInstanceContext", json!({"instanceId": id, "patch": {"seats": 2}})),
            ("StoreArtifact", json!({"instanceId": id, "key": "late", "type": "document", "content": 1})),
            ("RequestApproval", json!({"instanceId": id, "approverIds": ["owner"], "title": "Late"})),
        ];
        for (method, rest) in &methods {
            let mut message = rest.clone();
            message["taskToken"] = json!(scene.stale_lease);
            check
                .refused(Case::new("B082", "a lease that was given back", method, message, LOST, ""))
                .await?;
            for token in
                ["x", "eyJhbGciOiJub25lIn0.e30.", &flipped(&scene.lease), &format!("{}x", scene.lease)]
            {
                let mut message = rest.clone();
                message["taskToken"] = json!(token);
                let what = format!("token {token:?}");
                check.refused(Case::new("B082", what, method, message, MALFORMED, "task_token")).await?;
            }
        }
        for method in ["CompleteTask", "FailTask", "ReleaseTask"] {
            let message = json!({"failure": {"type": "BROKEN", "message": "m"}});
            let message = if method == "FailTask" { message } else { json!({}) };
            check.refused(Case::new("B082", "no token", method, message, MALFORMED, "task_token")).await?;
        }
        // A heartbeat is told to stop, and that is no error.
        let beat = json!({"items": [{"taskToken": scene.stale_lease}]});
        check.accepted(Case::new("B082", "a heartbeat", "HeartbeatTasks", beat, "200", "")).await?;
        let beat = json!({"items": [{"taskToken": "x"}]});
        check
            .refused(Case::new(
                "B082",
                "a heartbeat",
                "HeartbeatTasks",
                beat,
                MALFORMED,
                "items[0].task_token",
            ))
            .await?;
        check.done()
    })
}

/// A token with one character in its middle changed.
fn flipped(token: &str) -> String {
    let middle = token.len() / 2;
    let other = if token.as_bytes().get(middle) == Some(&b'A') { "B" } else { "A" };
    format!("{}{other}{}", &token[..middle], &token[middle + 1..])
}

#[test]
fn hand_ins_are_checked() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let token = json!(scene.lease);
        let failure = "INVALID_ARGUMENT 400 FAILURE_INVALID";
        let duration = "INVALID_ARGUMENT 400 DURATION_INVALID";
        for (row, method, message, refusal, at) in [
            (
                "B083",
                "CompleteTask",
                json!({"taskToken": token}),
                "FAILED_PRECONDITION 409 ARTIFACTS_MISSING",
                "",
            ),
            (
                "B083",
                "CompleteTask",
                json!({"taskToken": token, "output": {"a": "x".repeat(256 * 1024)}}),
                "RESOURCE_EXHAUSTED 413 OUTPUT_TOO_LARGE",
                "",
            ),
            (
                "B083",
                "CompleteTask",
                json!({"taskToken": token, "output": (0..25).fold(json!(1), |inner, _| json!({"a": inner}))}),
                "RESOURCE_EXHAUSTED 413 OUTPUT_TOO_LARGE",
                "",
            ),
            ("B083", "FailTask", json!({"taskToken": token}), failure, "failure.type"),
            (
                "B083",
                "FailTask",
                json!({"taskToken": token, "failure": {"type": "not ours", "message": "m"}}),
                failure,
                "failure.type",
            ),
            (
                "B083",
                "FailTask",
                json!({"taskToken": token, "failure": {"type": "BROKEN", "message": ""}}),
                failure,
                "failure.message",
            ),
            (
                "B083",
                "FailTask",
                json!({"taskToken": token, "failure": {"type": "BROKEN", "message": "x".repeat(4097)}}),
                failure,
                "failure.message",
            ),
            (
                "B083",
                "FailTask",
                json!({"taskToken": token, "failure": {"type": "BROKEN", "message": "m"}, "retryAfter": "-1s"}),
                duration,
                "retry_after",
            ),
            (
                "B083",
                "FailTask",
                json!({"taskToken": token, "failure": {"type": "BROKEN", "message": "m"}, "retryAfter": "90000s"}),
                duration,
                "retry_after",
            ),
            (
                "B083",
                "HeartbeatTasks",
                json!({"items": [{"taskToken": token, "extendBy": "7200s"}]}),
                duration,
                "items.extend_by",
            ),
        ] {
            check.refused(Case::new(row, "under a good lease", method, message, refusal, at)).await?;
        }
        check.done()
    })
}

#[test]
fn polls_are_checked() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        let poll = |field: &str, value: Value| {
            let mut poll = json!({"worker": {"workerId": "w"}, "queues": ["nobody"], "wait": "0s"});
            poll[field] = value;
            poll
        };
        let queues = "INVALID_ARGUMENT 400 QUEUES_INVALID";
        let worker = "INVALID_ARGUMENT 400 WORKER_ID_INVALID";
        let duration = "INVALID_ARGUMENT 400 DURATION_INVALID";
        for (message, refusal, at) in [
            (poll("queues", json!([])), queues, "queues"),
            (poll("queues", json!([""])), queues, "queues"),
            (poll("queues", json!(["a b"])), queues, "queues"),
            (poll("queues", json!((0..101).map(|n| format!("q{n}")).collect::<Vec<_>>())), queues, "queues"),
            (poll("worker", json!({})), worker, "worker.worker_id"),
            (poll("worker", json!({"workerId": "a b"})), worker, "worker.worker_id"),
            (poll("worker", json!({"workerId": "w".repeat(129)})), worker, "worker.worker_id"),
            (poll("wait", json!("61s")), duration, "wait"),
            (poll("wait", json!("-1s")), duration, "wait"),
            (poll("leaseDuration", json!("0.5s")), duration, "lease_duration"),
            (poll("leaseDuration", json!("3601s")), duration, "lease_duration"),
        ] {
            check.refused(Case::new("B083", &message, "PollTasks", message.clone(), refusal, at)).await?;
        }
        check.done()
    })
}
