//! What the cases happen in: one process with work under way, questions open and answered, artifacts, links; and its like
//! that have ended or are held up.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::World;

/// Ids of everything that cases name.
#[derive(Debug, Clone)]
pub struct Scene {
    /// A running instance of the process `launch`.
    pub instance: String,
    /// One that was cancelled.
    pub ended: String,
    /// One whose phase waits for a gate that stays closed.
    pub gated: String,
    /// Lease of the task `write` in the running instance.
    pub lease: String,
    /// A lease on the task `sketch` that was given back, after which the task was handed out again.
    pub stale_lease: String,
    /// An open request for the task `review`, to the editor.
    pub open: String,
    /// Content digest of it.
    pub digest: String,
    /// A request that the owner approved.
    pub approved: String,
    /// A request that was taken back.
    pub withdrawn: String,
    /// A request whose time ran out.
    pub expired: String,
    /// A request that was made moot by changes asked for in the phase before its gate.
    pub superseded: String,
    /// A request of the cancelled instance.
    pub of_ended: String,
    /// A link of the editor that works.
    pub link: String,
    /// Its URL.
    pub link_url: String,
    /// URL of one whose time is over.
    pub expired_url: String,
    /// URL of one that was revoked.
    pub revoked_url: String,
    /// A comment on the instance.
    pub comment: String,
    /// A team of the template `crew`.
    pub team: String,
}

impl Scene {
    /// Sets it, in a world with nothing in it.
    pub async fn set(world: &World) -> anyhow::Result<Self> {
        for definition in [launch(), draft(), gated(), chain()] {
            world.call("CreateProcessDefinition", json!({"processDefinition": definition})).await?;
        }
        world.call("CreateTeamTemplate", json!({"teamTemplate": crew()})).await?;
        let onboarding = json!({"teamTemplateId": "crew", "onboarding": {"customer": "Acme"}});
        let team = world.call("InstantiateTeamTemplate", onboarding).await?;

        let instance = start(world, "launch", "main", json!({"region": "eu"})).await?;
        // What runs out: before the clock moves.
        let ask =
            json!({"instanceId": instance, "approverIds": ["owner"], "title": "Budget", "expiresIn": "1h"});
        let expired = text(&world.call("RequestApproval", ask).await?, "/approval/id")?;
        let short = json!({"instanceId": instance, "participantId": "editor", "expiresIn": "5m"});
        let expired_url = text(&world.call("CreateLink", short).await?, "/url")?;
        world.pass(Duration::from_hours(2));
        await_status(world, &expired, "expired").await?;

        let gated = start(world, "gated", "gated", json!({})).await?;
        let (_, lease) = lease(world, "gatekeeper").await?;
        world.call("CompleteTask", json!({"taskToken": lease})).await?;

        let ended = start(world, "launch", "ended", json!({"region": "eu"})).await?;
        let ask = json!({"instanceId": ended, "approverIds": ["owner"], "title": "Budget"});
        let of_ended = text(&world.call("RequestApproval", ask).await?, "/approval/id")?;
        world.call("CancelInstance", json!({"instanceId": ended, "reason": "no budget"})).await?;
        await_status(world, &of_ended, "withdrawn").await?;

        let superseded = supersede(world).await?;
        let (lease, stale_lease, open, digest) = work(world, &instance).await?;
        let (approved, withdrawn) = decide(world, &instance).await?;

        let plan = |budget: i32| json!({"instanceId": instance, "key": "plan", "type": "document", "content": {"budget": budget}});
        for budget in [1, 2] {
            world.call("StoreArtifact", plan(budget)).await?;
        }
        let page = json!({
            "instanceId": instance, "key": "page.html", "type": "page", "contentType": "text/html",
            "rawContent": "PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
        });
        world.call("StoreArtifact", page).await?;
        let comment = json!({"instanceId": instance, "body": "When?"});
        let comment = text(&world.call("CreateComment", comment).await?, "/comment/id")?;

        let link = json!({"instanceId": instance, "participantId": "editor"});
        let revoked = world.call("CreateLink", link.clone()).await?;
        world.call("RevokeLink", json!({"linkId": revoked["link"]["id"], "reason": "lost phone"})).await?;
        let link = world.call("CreateLink", link).await?;
        Ok(Self {
            ended,
            gated,
            lease,
            stale_lease,
            open,
            digest,
            approved,
            withdrawn,
            expired,
            superseded,
            of_ended,
            link: text(&link, "/link/id")?,
            link_url: text(&link, "/url")?,
            expired_url,
            revoked_url: text(&revoked, "/url")?,
            comment,
            team: text(&team, "/team/id")?,
            instance,
        })
    }
}

/// Leases `write`, gives `sketch` back, and hands `review` in, which asks the editor.
async fn work(world: &World, instance: &str) -> anyhow::Result<(String, String, String, String)> {
    let mut held = std::collections::BTreeMap::new();
    for queue in ["writer", "writer", "artist"] {
        let (task, token) = lease(world, queue).await?;
        held.insert(task, token);
    }
    let mut take = |task: &str| held.remove(task).with_context(|| format!("{task} was handed out"));
    let (write, review, sketch) = (take("write")?, take("review")?, take("sketch")?);
    world.call("ReleaseTask", json!({"taskToken": sketch, "reason": "no ink"})).await?;
    lease(world, "artist").await?;
    world.call("CompleteTask", json!({"taskToken": review, "output": {}})).await?;
    let open = world
        .eventually("the request for the review", async || {
            let list = json!({"instanceId": instance, "approverId": "editor"});
            let list = world.call("ListApprovals", list).await?;
            Ok(list["approvals"].as_array().and_then(|list| list.first()).cloned())
        })
        .await?;
    Ok((write, sketch, text(&open, "/id")?, text(&open, "/contentDigest")?))
}

/// Has one request approved and one withdrawn.
async fn decide(world: &World, instance: &str) -> anyhow::Result<(String, String)> {
    let mut ids = Vec::new();
    for title in ["Colours", "Fonts"] {
        let ask = json!({"instanceId": instance, "approverIds": ["owner"], "title": title});
        let asked = world.call("RequestApproval", ask).await?;
        ids.push((text(&asked, "/approval/id")?, text(&asked, "/approval/contentDigest")?));
    }
    let [(approved, digest), (withdrawn, _)] = ids.as_slice() else { anyhow::bail!("two were asked") };
    let yes = json!({
        "approvalId": approved, "approverId": "owner", "decision": "approve", "contentDigest": digest,
    });
    world.call("DecideApproval", yes).await?;
    world.call("WithdrawApproval", json!({"approvalId": withdrawn, "reason": "moved on"})).await?;
    Ok((approved.clone(), withdrawn.clone()))
}

/// Has changes asked for at the exit of a phase, which makes the question at the gate behind it moot.
async fn supersede(world: &World) -> anyhow::Result<String> {
    let instance = start(world, "chain", "chain", json!({})).await?;
    let (_, token) = lease(world, "linker").await?;
    world.call("CompleteTask", json!({"taskToken": token})).await?;
    let (phase, gate) = world
        .eventually("the requests of the boundary", async || {
            let list = world.call("ListApprovals", json!({"instanceId": instance})).await?;
            let of = |kind: &str| {
                let mut all = list["approvals"].as_array().into_iter().flatten();
                all.find(|one| one["subjectKind"] == kind).cloned()
            };
            Ok(of("phase").zip(of("gate")))
        })
        .await?;
    let changes = json!({
        "approvalId": phase["id"], "approverId": "owner", "decision": "request_changes", "comment": "Again",
        "contentDigest": phase["contentDigest"],
    });
    world.call("DecideApproval", changes).await?;
    let gate = text(&gate, "/id")?;
    await_status(world, &gate, "superseded").await?;
    Ok(gate)
}

async fn start(world: &World, process: &str, name: &str, context: Value) -> anyhow::Result<String> {
    let people: Vec<Value> = ["editor", "owner"]
        .map(|id| json!({"participantId": id, "email": format!("{id}@example.com")}))
        .to_vec();
    let people = if process == "gated" { Vec::new() } else { people };
    let start =
        json!({"processId": process, "name": name, "context": context, "externalParticipants": people});
    text(&world.call("StartInstance", start).await?, "/instance/id")
}

/// Polls until a task of a queue is handed out: its id, and the token of the lease.
async fn lease(world: &World, queue: &str) -> anyhow::Result<(String, String)> {
    let poll =
        json!({"worker": {"workerId": "w"}, "queues": [queue], "wait": "20s", "leaseDuration": "3600s"});
    let polled = world.call("PollTasks", poll).await?;
    Ok((text(&polled, "/tasks/0/taskId")?, text(&polled, "/tasks/0/lease/taskToken")?))
}

async fn await_status(world: &World, approval: &str, status: &str) -> anyhow::Result<()> {
    world
        .eventually(&format!("{status} for {approval}"), async || {
            let found = world.call("GetApproval", json!({"approvalId": approval})).await?;
            Ok((found["approval"]["status"] == status).then_some(()))
        })
        .await
}

fn text(answer: &Value, pointer: &str) -> anyhow::Result<String> {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("no {pointer} in {answer}"))?.to_owned())
}

/// The process of the scene. Nothing is wrong with it.
pub fn launch() -> Value {
    json!({
        "id": "launch", "name": "Launch", "version": "1.0.0", "timeout": "48h", "onTimeout": "block",
        "phases": [
            {"id": "prepare", "name": "Prepare", "order": 1, "parallelExecution": true,
             "requiredApprovals": ["owner"], "tasks": [
                {"id": "write", "name": "Write", "assignee": "writer", "artifacts": ["notes"]},
                {"id": "review", "name": "Review", "assignee": "writer", "requiredApprovals": ["editor"]},
                {"id": "sketch", "name": "Sketch", "assignee": "artist"},
                {"id": "translate", "name": "Translate", "assignee": "writer", "dependencies": ["write"]},
            ]},
            {"id": "publish", "name": "Publish", "order": 2, "tasks": [
                {"id": "post", "name": "Post", "assignee": "writer", "dependencies": ["translate"]},
            ]},
        ],
        "agents": {"writer": {"templateId": "writer"}, "artist": {"templateId": "artist"}},
        "humans": {
            "editor": {"name": "Ed", "raidRole": "approver"},
            "owner": {"name": "Olga", "raidRole": "approver"},
            "reader": {"name": "Rex", "raidRole": "informed"},
            "lead": {"name": "Lea", "raidRole": "delegator"},
        },
        "gates": [
            {"id": "go", "name": "Go", "beforePhase": "publish", "type": "approval", "approvers": ["editor"]},
        ],
        "contextSchema": {
            "type": "object", "additionalProperties": false, "required": ["region"],
            "properties": {
                "region": {"type": "string", "enum": ["eu", "us"]},
                "seats": {"type": "integer", "minimum": 1},
            },
        },
    })
}

/// A version that may not be started yet.
fn draft() -> Value {
    let mut draft = launch();
    draft["version"] = json!("2.0.0");
    draft["draft"] = json!(true);
    draft
}

/// A process that stands before a closed gate as soon as its first task is done.
fn gated() -> Value {
    json!({
        "id": "gated", "name": "Gated", "version": "1.0.0",
        "phases": [
            {"id": "before", "name": "Before", "order": 1, "tasks": [
                {"id": "knock", "name": "Knock", "assignee": "gatekeeper"},
            ]},
            {"id": "behind", "name": "Behind", "order": 2, "tasks": [
                {"id": "enter", "name": "Enter", "assignee": "gatekeeper"},
            ]},
        ],
        "agents": {"gatekeeper": {"templateId": "gatekeeper"}},
        "gates": [
            {"id": "door", "name": "Door", "beforePhase": "behind", "type": "condition", "condition": "unlocked"},
        ],
    })
}

/// A process that asks for its phase and for the gate behind it at once.
fn chain() -> Value {
    json!({
        "id": "chain", "name": "Chain", "version": "1.0.0",
        "phases": [
            {"id": "first", "name": "First", "order": 1, "requiredApprovals": ["owner"], "tasks": [
                {"id": "link", "name": "Link", "assignee": "linker"},
            ]},
            {"id": "second", "name": "Second", "order": 2, "tasks": [
                {"id": "close", "name": "Close", "assignee": "linker"},
            ]},
        ],
        "agents": {"linker": {"templateId": "linker"}},
        "humans": {"editor": {"raidRole": "approver"}, "owner": {"raidRole": "approver"}},
        "gates": [
            {"id": "pass", "name": "Pass", "beforePhase": "second", "type": "approval", "approvers": ["editor"]},
        ],
    })
}

/// A team template. Nothing is wrong with it.
pub fn crew() -> Value {
    json!({
        "id": "crew", "name": "Crew",
        "agents": [
            {"id": "captain", "name": "Captain", "role": "lead", "systemPrompt": "Lead.",
             "hierarchy": {"level": 1, "canDelegate": true, "subordinates": ["mate"]}},
            {"id": "mate", "name": "Mate", "role": "hand", "systemPrompt": "Help.",
             "hierarchy": {"level": 2, "reportsTo": "captain"}},
        ],
        "sharedOnboarding": {
            "properties": {"customer": {"type": "string"}, "idp": {"type": "string", "enum": ["okta", "other"]}},
            "required": ["customer"],
        },
        "orchestration": {"mode": "hierarchical", "entryAgentId": "captain", "escalationPath": ["mate", "captain"]},
        "interactionRules": [
            {"id": "stuck", "trigger": "task_blocked", "action": "escalate", "target": "captain", "timeout": "4h"},
        ],
    })
}
