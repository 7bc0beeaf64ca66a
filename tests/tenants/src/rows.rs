//! One row for each public method: a call that is right, and what each of its ids is.
//!
//! In a message, `$kind` stands for what the calling tenant has of a kind (see [`crate::scene::Scene::get`]).

use anyhow::Context as _;
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Value, json};

use crate::scene::Scene;

/// A method, a call of it, and its ids.
#[derive(Debug)]
pub struct Row {
    /// Name of the method.
    pub method: &'static str,
    /// A call that is right.
    pub message: Value,
    /// Fields that name something that somebody has: the field, and what it is.
    pub ids: Vec<(&'static str, &'static str)>,
    /// Fields that look like ids and name nothing that another tenant could have.
    pub free: Vec<&'static str>,
}

/// Fields of every method that name nothing: they belong to the call.
const OF_THE_CALL: [&str; 2] = ["request_id", "page_token"];

fn row(method: &'static str, message: Value, ids: &[(&'static str, &'static str)]) -> Row {
    Row { method, message, ids: ids.to_vec(), free: Vec::new() }
}

impl Row {
    fn free(mut self, fields: &[&'static str]) -> Self {
        self.free = fields.to_vec();
        self
    }

    /// The fields of the method's request that look like ids, nested ones behind a dot.
    pub fn fields_of(input: &MessageDescriptor) -> Vec<String> {
        let mut found = Vec::new();
        for field in input.fields() {
            let name = field.name();
            let kind = field.kind();
            if let Kind::Message(nested) = &kind
                && !field.is_map()
                && nested.full_name().starts_with("phasegate.")
                // Documents: what they name is in themselves.
                && !["process_definition", "team_template"].contains(&name)
            {
                found.extend(Self::fields_of(nested).into_iter().map(|inner| format!("{name}.{inner}")));
            }
            let looks_so = name.ends_with("_id")
                || name.ends_with("_ids")
                || name.ends_with("token")
                || ["queues", "prefix"].contains(&name);
            if kind == Kind::String && looks_so && !OF_THE_CALL.contains(&name) {
                found.push(name.to_owned());
            }
        }
        found
    }
}

/// Puts what a tenant has into a message.
pub fn filled(message: &Value, scene: &Scene) -> anyhow::Result<Value> {
    Ok(match message {
        Value::String(text) => match text.strip_prefix('$') {
            Some(kind) => Value::String(scene.get(kind)?),
            None => message.clone(),
        },
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| filled(item, scene)).collect::<anyhow::Result<_>>()?)
        }
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| Ok((name.clone(), filled(value, scene)?)))
                .collect::<anyhow::Result<_>>()?,
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => message.clone(),
    })
}

/// The message with another value in a field, which may be nested in a list of one.
#[expect(clippy::wildcard_enum_match_arm, reason = "lists are one of several kinds of JSON")]
pub fn with(message: &Value, field: &str, value: &str) -> anyhow::Result<Value> {
    let mut changed = message.clone();
    let mut place = &mut changed;
    for step in field.split('.') {
        let name = camel(step);
        place = match place {
            Value::Array(items) => items.first_mut().context("a list of one")?,
            other => other,
        };
        place = place.as_object_mut().context("an object")?.entry(name).or_insert(Value::Null);
    }
    *place = match place {
        Value::Array(_) => json!([value]),
        _ => json!(value),
    };
    Ok(changed)
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut text, part| {
        let (head, tail) = part.split_at(part.len().min(1));
        text.push_str(&head.to_uppercase());
        text.push_str(tail);
        text
    })
}

/// All rows.
pub fn rows() -> Vec<Row> {
    let of_instance = [("instance_id", "instance")];
    let of_task = [("instance_id", "instance"), ("task_id", "task")];
    let of_approval = [("approval_id", "approval")];
    let of_token = [("task_token", "token")];
    let instance = json!({"instanceId": "$instance"});
    let because = json!({"instanceId": "$instance", "reason": "because"});
    vec![
        // Definitions and teams.
        row("ListProcessDefinitions", json!({}), &[]),
        row("GetProcessDefinition", json!({"processId": "$process"}), &[("process_id", "process")]),
        row("CreateProcessDefinition", json!({}), &[]),
        row(
            "PublishProcessDefinition",
            json!({"processId": "$process", "version": "1.0.0"}),
            &[("process_id", "process")],
        ),
        row("ListProcessDefinitionVersions", json!({"processId": "$process"}), &[("process_id", "process")]),
        row("ValidateProcessDefinition", json!({}), &[]),
        row("ListTeamTemplates", json!({}), &[]),
        row("GetTeamTemplate", json!({"teamTemplateId": "$template"}), &[("team_template_id", "template")]),
        row("CreateTeamTemplate", json!({}), &[]),
        row(
            "InstantiateTeamTemplate",
            json!({"teamTemplateId": "$template", "onboarding": {}}),
            &[("team_template_id", "template")],
        ),
        row("GetTeam", json!({"teamId": "$team"}), &[("team_id", "team")]),
        // The engine.
        row(
            "StartInstance",
            json!({"processId": "$process", "name": "Second", "teamId": "$team", "validateOnly": true,
                   "externalParticipants": [{"participantId": "$approver", "email": "a@example.com"}]}),
            &[("process_id", "process"), ("team_id", "team"), ("instance_id", "instance")],
        )
        // A place in the definition that is started.
        .free(&["external_participants.participant_id"]),
        row("GetInstance", instance.clone(), &of_instance),
        row("ListInstances", json!({"processId": "$process"}), &[("process_id", "process")]),
        row(
            "UpdateInstanceContext",
            json!({"instanceId": "$instance", "patch": {"a": 1}, "reason": "because", "taskToken": "$token"}),
            &[("instance_id", "instance"), ("task_token", "token")],
        ),
        row(
            "SetFacts",
            json!({"instanceId": "$instance", "facts": {"a": true}, "reason": "because", "taskToken": "$token"}),
            &[("instance_id", "instance"), ("task_token", "token")],
        ),
        row("AdvancePhase", instance.clone(), &of_instance),
        row(
            "ReopenPhase",
            json!({"instanceId": "$instance", "phaseId": "$phase", "taskIds": ["$task"], "reason": "because"}),
            &[("instance_id", "instance"), ("phase_id", "phase"), ("task_ids", "task")],
        ),
        row("PauseInstance", because.clone(), &of_instance),
        row("ResumeInstance", because.clone(), &of_instance),
        row("CancelInstance", because, &of_instance),
        row("GetTimeline", instance.clone(), &of_instance),
        row("ListTasks", instance.clone(), &of_instance),
        row("GetTask", json!({"instanceId": "$instance", "taskId": "$task"}), &of_task),
        row(
            "RetryTask",
            json!({"instanceId": "$instance", "taskId": "$task", "reason": "because"}),
            &of_task,
        ),
        row("SkipTask", json!({"instanceId": "$instance", "taskId": "$task", "reason": "because"}), &of_task),
        row("WatchEvents", json!({"instanceId": "$instance", "resumeToken": "0"}), &of_instance)
            // A position in the feed of the instance, and no secret.
            .free(&["resume_token"]),
        row("ListAuditEntries", instance.clone(), &of_instance),
        row("VerifyAuditChain", instance.clone(), &of_instance),
        // Workers.
        row(
            "PollTasks",
            json!({"worker": {"workerId": "w"}, "queues": ["$queue"], "wait": "0s"}),
            &[("queues", "queue"), ("instance_id", "instance")],
        )
        .free(&["worker.worker_id"]),
        row("HeartbeatTasks", json!({"items": [{"taskToken": "$token"}]}), &[("items.task_token", "token")]),
        row("CompleteTask", json!({"taskToken": "$token"}), &of_token),
        row("FailTask", json!({"taskToken": "$token", "failure": {"message": "no"}}), &of_token),
        row("ReleaseTask", json!({"taskToken": "$token"}), &of_token),
        // Approvals.
        row(
            "RequestApproval",
            json!({"instanceId": "$instance", "approverIds": ["$approver"], "title": "More", "artifacts": ["plan"],
                   "taskId": "$task", "taskToken": "$token"}),
            &[
                ("instance_id", "instance"),
                ("approver_ids", "approver"),
                ("task_id", "task"),
                ("task_token", "token"),
            ],
        ),
        row(
            "ListApprovals",
            json!({"instanceId": "$instance", "approverId": "$approver"}),
            &[("instance_id", "instance"), ("approver_id", "approver")],
        ),
        row("GetApproval", json!({"approvalId": "$approval"}), &of_approval),
        row(
            "DecideApproval",
            json!({"approvalId": "$approval", "approverId": "$approver", "decision": "approve",
                   "contentDigest": "$digest"}),
            &[("approval_id", "approval"), ("approver_id", "approver")],
        )
        // Output only: whoever decides is who wrote a remark.
        .free(&["remarks.participant_id"]),
        row("WithdrawApproval", json!({"approvalId": "$approval", "reason": "because"}), &of_approval),
        row("WatchApprovalResponses", instance.clone(), &of_instance).free(&["resume_token"]),
        // Artifacts and comments.
        row(
            "StoreArtifact",
            json!({"instanceId": "$instance", "key": "plan", "type": "document", "content": {"budget": 2},
                   "taskToken": "$token"}),
            &[("instance_id", "instance"), ("task_token", "token")],
        ),
        row("ListArtifacts", instance.clone(), &of_instance),
        row("GetArtifact", json!({"instanceId": "$instance", "key": "plan"}), &of_instance),
        row("ListArtifactVersions", json!({"instanceId": "$instance", "key": "plan"}), &of_instance),
        row(
            "CreateComment",
            json!({"instanceId": "$instance", "body": "Soon.", "parentId": "$comment"}),
            &[("instance_id", "instance"), ("parent_id", "comment")],
        ),
        row("ListComments", instance.clone(), &of_instance),
        // People.
        row("ListParticipants", instance.clone(), &of_instance),
        row(
            "GetParticipant",
            json!({"instanceId": "$instance", "participantId": "$approver"}),
            &[("instance_id", "instance"), ("participant_id", "approver")],
        ),
        row(
            "CreateLink",
            json!({"instanceId": "$instance", "participantId": "$approver"}),
            &[("instance_id", "instance"), ("participant_id", "approver")],
        ),
        row(
            "ListLinks",
            json!({"instanceId": "$instance", "participantId": "$approver"}),
            &[("instance_id", "instance"), ("participant_id", "approver")],
        ),
        row("RevokeLink", json!({"linkId": "$link"}), &[("link_id", "link")]),
        row("RequestNewLink", json!({"token": "$link_token"}), &[("token", "link_token")]),
        row("CreateKey", json!({"name": "third", "scopes": ["tasks:read"]}), &[])
            // A name that the key will speak for, whoever has it; and queues that nobody owns.
            .free(&["participant_id", "queues"]),
        row("ListKeys", json!({}), &[]),
        row("RevokeKey", json!({"keyId": "$key"}), &[("key_id", "key")])
            // Looked for among the secrets of the key alone.
            .free(&["prefix"]),
        row("RotateKey", json!({"keyId": "$key"}), &[("key_id", "key")]),
        // Messages to people.
        row("ListNotifications", instance, &of_instance),
        row(
            "GetNotification",
            json!({"notificationId": "$notification"}),
            &[("notification_id", "notification")],
        ),
        // The installation.
        row("GetServerInfo", json!({}), &[]),
        row("GetCaller", json!({}), &[]),
    ]
}
