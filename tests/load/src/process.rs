//! What runs: three phases with every kind of approval, a condition and work that may be tried again.

use serde_json::{Value, json};

/// Queues of the agents.
pub const QUEUES: [&str; 2] = ["kill-crafts", "kill-checks"];
/// The fact that the second phase waits for.
pub const GO_AHEAD: &str = "go_ahead";
/// An artifact that people review, and that operators change under their hands.
pub const REVIEWED: &str = "assembly";

/// Who has to approve what before an instance can complete.
pub const ASKED: [(&str, &[&str]); 4] = [
    ("task:assemble", &["reviewer"]),
    ("phase:build", &["reviewer", "owner"]),
    ("gate:sign_off", &["owner"]),
    ("phase:release", &["owner"]),
];

/// The definition, by that id.
pub fn definition(id: &str) -> Value {
    let phase = |id: &str, order: u32, parallel: bool, approvers: &[&str], tasks: Value| {
        json!({
            "id": id, "name": id, "order": order, "parallelExecution": parallel,
            "requiredApprovals": approvers, "tasks": tasks, "maxRounds": 100,
        })
    };
    json!({
        "id": id,
        "name": "Built to be killed",
        "version": "1.0.0",
        "phases": [
            phase("collect", 1, true, &[], json!([
                { "id": "survey", "name": "Survey", "assignee": "crafts", "artifacts": ["survey"] },
                { "id": "inventory", "name": "Inventory", "assignee": "checks", "artifacts": ["inventory"] },
            ])),
            phase("build", 2, false, &["reviewer", "owner"], json!([
                { "id": "assemble", "name": "Assemble", "assignee": "crafts", "artifacts": [REVIEWED],
                  "dependencies": ["survey"], "requiredApprovals": ["reviewer"], "maxRounds": 100 },
                { "id": "polish", "name": "Polish", "assignee": "checks" },
            ])),
            phase("release", 3, false, &["owner"], json!([
                { "id": "ship", "name": "Ship", "assignee": "crafts", "artifacts": ["receipt"] },
            ])),
        ],
        "agents": {
            "crafts": { "templateId": QUEUES[0], "role": "specialist" },
            "checks": { "templateId": QUEUES[1], "role": "specialist" },
        },
        "humans": {
            "reviewer": { "role": "reviewer", "raidRole": "approver" },
            "owner": { "role": "owner", "raidRole": "approver" },
        },
        "gates": [
            { "id": "ready_gate", "name": "Ready", "beforePhase": "build", "type": "condition", "condition": GO_AHEAD },
            { "id": "sign_off", "name": "Sign-off", "beforePhase": "release", "type": "approval", "approvers": ["owner"] },
        ],
        "errorHandling": {
            "taskFailure": "retry", "maxRetries": 100, "retryDelay": "50ms", "maxRetryDelay": "200ms",
        },
    })
}

/// The body of a start.
pub fn start(name: &str) -> Value {
    json!({
        "name": name,
        "context": { "batch": 7 },
        "externalParticipants": [
            { "participantId": "reviewer", "email": "reviewer@acme.com", "name": "Rita" },
            { "participantId": "owner", "email": "owner@acme.com", "name": "Omar" },
        ],
    })
}
