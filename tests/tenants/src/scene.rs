//! What a tenant has: one of everything that a method can name. Names of one tenant are none of another's.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::world::World;

/// A tenant with one of everything.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Its name, which begins those of everything that it names itself.
    pub tenant: String,
    /// A key that may do everything.
    pub key: String,
    /// Running.
    pub instance: String,
    /// Open, to the approver.
    pub approval: String,
    /// What its approvers see.
    pub digest: String,
    /// Of a lease.
    pub task_token: String,
    /// Of the approver.
    pub link: String,
    /// Its token.
    pub link_token: String,
    /// On the instance.
    pub comment: String,
    /// Of a mail.
    pub notification: String,
    /// Of the template.
    pub team: String,
    /// Id of a further key.
    pub key_id: String,
}

impl Scene {
    /// Sets it.
    pub async fn set(world: &World, tenant: &str) -> anyhow::Result<Self> {
        let key = world.tenant(tenant).await?.expose().to_owned();
        let own = |what: &str| format!("{tenant}_{what}");
        let done = async |method: &str, message: Value| world.done(&key, method, message).await;
        done("CreateProcessDefinition", json!({"processDefinition": process(tenant)})).await?;
        done("CreateTeamTemplate", json!({"teamTemplate": template(tenant)})).await?;
        let team =
            done("InstantiateTeamTemplate", json!({"teamTemplateId": own("crew"), "onboarding": {}})).await?;
        let person = json!({"participantId": own("approver"), "email": format!("approver@{tenant}.example")});
        let start = json!({"processId": own("launch"), "name": "Main", "externalParticipants": [person]});
        let instance = text(&done("StartInstance", start).await?, "/instance/id")?;
        let task_token = leased(world, &key, &own("writer")).await?;
        let store =
            json!({"instanceId": instance, "key": "plan", "type": "document", "content": {"budget": 1}});
        done("StoreArtifact", store).await?;
        let ask = json!({
            "instanceId": instance, "approverIds": [own("approver")], "title": "Budget", "artifacts": ["plan"],
        });
        let asked = done("RequestApproval", ask).await?;
        let link = json!({"instanceId": instance, "participantId": own("approver")});
        let link = done("CreateLink", link).await?;
        let url = text(&link, "/url")?;
        let comment = done("CreateComment", json!({"instanceId": instance, "body": "When?"})).await?;
        let notification = world
            .eventually("a mail", async || {
                let listed = done("ListNotifications", json!({"instanceId": instance})).await?;
                Ok(text(&listed, "/notifications/0/id").ok())
            })
            .await?;
        let made = done("CreateKey", json!({"name": "further", "scopes": ["tasks:read"]})).await?;
        Ok(Self {
            approval: text(&asked, "/approval/id")?,
            digest: text(&asked, "/approval/contentDigest")?,
            link: text(&link, "/link/id")?,
            link_token: url.rsplit_once('=').context("a link has a token")?.1.to_owned(),
            comment: text(&comment, "/comment/id")?,
            team: text(&team, "/team/id")?,
            key_id: text(&made, "/key/id")?,
            tenant: tenant.to_owned(),
            key,
            instance,
            task_token,
            notification,
        })
    }

    /// What the tenant has of a kind, where rows say `$kind`.
    pub fn get(&self, kind: &str) -> anyhow::Result<String> {
        Ok(match kind {
            "instance" => self.instance.clone(),
            "approval" => self.approval.clone(),
            "digest" => self.digest.clone(),
            "token" => self.task_token.clone(),
            "link" => self.link.clone(),
            "link_token" => self.link_token.clone(),
            "comment" => self.comment.clone(),
            "notification" => self.notification.clone(),
            "team" => self.team.clone(),
            "key" => self.key_id.clone(),
            "process" => format!("{}_launch", self.tenant),
            "template" => format!("{}_crew", self.tenant),
            "approver" => format!("{}_approver", self.tenant),
            "queue" => format!("{}_writer", self.tenant),
            "task" => format!("{}_write", self.tenant),
            "phase" => format!("{}_prepare", self.tenant),
            "artifact" => "plan".to_owned(),
            _ => anyhow::bail!("rows know no kind {kind}"),
        })
    }
}

/// Polls a queue until a task is handed out: the token of its lease.
pub async fn leased(world: &World, key: &str, queue: &str) -> anyhow::Result<String> {
    let poll = json!({
        "worker": {"workerId": "w"}, "queues": [queue], "wait": "1s", "leaseDuration": "600s",
    });
    world
        .eventually("a task", async || {
            let polled = world.done(key, "PollTasks", poll.clone()).await?;
            Ok(text(&polled, "/tasks/0/lease/taskToken").ok())
        })
        .await
}

/// Text in an answer.
pub fn text(answer: &Value, pointer: &str) -> anyhow::Result<String> {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("no {pointer} in {answer}"))?.to_owned())
}

fn process(tenant: &str) -> Value {
    let own = |what: &str| format!("{tenant}_{what}");
    json!({
        "id": own("launch"), "name": "Launch", "version": "1.0.0",
        "phases": [
            {"id": own("prepare"), "name": "Prepare", "order": 1, "parallelExecution": true, "tasks": [
                {"id": own("write"), "name": "Write", "assignee": own("writer")},
                {"id": own("review"), "name": "Review", "assignee": own("critic")},
            ]},
        ],
        "agents": {own("writer"): {"templateId": own("writer")}, own("critic"): {"templateId": own("critic")}},
        "humans": {own("approver"): {"name": "Ed", "raidRole": "approver"}},
    })
}

fn template(tenant: &str) -> Value {
    json!({
        "id": format!("{tenant}_crew"), "name": "Crew",
        "agents": [
            {"id": "captain", "name": "Captain", "role": "lead", "systemPrompt": "Lead.",
             "hierarchy": {"level": 1}},
        ],
        "orchestration": {"mode": "hierarchical", "entryAgentId": "captain"},
    })
}
