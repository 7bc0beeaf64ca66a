//! The agents of the story: they poll, store what they made, and hand in. One of them fails once.

use std::time::Duration;

use phasegate_client::Connection;
use phasegate_proto::approval::v1::RequestApprovalRequest;
use phasegate_proto::approval::v1::approval_service_client::ApprovalServiceClient;
use phasegate_proto::artifact::v1::StoreArtifactRequest;
use phasegate_proto::artifact::v1::artifact_service_client::ArtifactServiceClient;
use phasegate_proto::instance::v1::{Failure, ProcessInstance};
use phasegate_proto::worker::v1::worker_service_client::WorkerServiceClient;
use phasegate_proto::worker::v1::{
    CompleteTaskRequest, FailTaskRequest, HeartbeatTasksRequest, LeasedTask, PollTasksRequest, WorkerInfo,
    heartbeat_tasks_request,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::patience::{call, request_id};
use super::setting::Setting;

/// How long a piece of work takes.
const WORK: Duration = Duration::from_millis(350);
/// How long one poll waits.
const POLL_SECONDS: i64 = 20;

/// Queues, one worker each.
const QUEUES: [&str; 5] = [
    "sso-specialist",
    "scim-specialist",
    "security-reviewer",
    "enterprise-deployment-lead",
    "integration-specialist",
];

/// One worker.
struct Agent {
    queue: &'static str,
    instance_id: String,
    workers: WorkerServiceClient<Connection>,
    artifacts: ArtifactServiceClient<Connection>,
    approvals: ApprovalServiceClient<Connection>,
    /// True once people have asked for changes.
    reworked: watch::Receiver<bool>,
    /// The tool of this agent has failed already.
    failed: bool,
}

/// Sends the agents on stage.
pub(super) fn enter(
    actors: &mut JoinSet<anyhow::Result<()>>,
    setting: &Setting,
    instance: &ProcessInstance,
    curtain: &CancellationToken,
    reworked: watch::Receiver<bool>,
) {
    for queue in QUEUES {
        let agent = Agent {
            queue,
            instance_id: instance.id.clone(),
            workers: WorkerServiceClient::new(setting.channel.clone()),
            artifacts: ArtifactServiceClient::new(setting.channel.clone()),
            approvals: ApprovalServiceClient::new(setting.channel.clone()),
            reworked: reworked.clone(),
            failed: false,
        };
        let curtain = curtain.clone();
        actors.spawn(async move { curtain.run_until_cancelled(agent.work()).await.unwrap_or(Ok(())) });
    }
}

impl Agent {
    async fn work(mut self) -> anyhow::Result<()> {
        loop {
            let request = PollTasksRequest {
                worker: Some(WorkerInfo {
                    worker_id: format!("demo-{}-{}", self.queue, std::process::id()),
                    identity: "phasegate demo".to_owned(),
                    tools: Vec::new(),
                }),
                queues: vec![self.queue.to_owned()],
                max_tasks: 1,
                wait: Some(prost_types::Duration { seconds: POLL_SECONDS, nanos: 0 }),
                lease_duration: None,
                // A server may run other instances of the same process; their work is for their own agents.
                instance_id: self.instance_id.clone(),
            };
            let polled = call(&self.workers, request, |mut workers, request| async move {
                workers.poll_tasks(request).await
            });
            for task in polled.await?.tasks {
                self.perform(task).await?;
            }
        }
    }

    async fn perform(&mut self, task: LeasedTask) -> anyhow::Result<()> {
        let token = task.lease.as_ref().map_or_else(String::new, |lease| lease.task_token.clone());
        if task.task_id == "scim_setup" {
            self.wait_for_rework(&token).await?;
        }
        tokio::time::sleep(WORK).await;
        if task.task_id == "scim_planning" && !self.failed {
            self.failed = true;
            let failure = Failure {
                r#type: "TOOL_ERROR".to_owned(),
                message: "the directory did not answer".to_owned(),
                ..Failure::default()
            };
            let request = FailTaskRequest {
                task_token: token,
                failure: Some(failure),
                request_id: request_id(),
                ..FailTaskRequest::default()
            };
            call(
                &self.workers,
                request,
                |mut workers, request| async move { workers.fail_task(request).await },
            )
            .await?;
            return Ok(());
        }
        let (key, kind, content) = product(&task);
        self.store(&task, &token, key, kind, &content).await?;
        if task.task_id == "sso_setup" {
            self.request_review(&task, &token).await?;
        }
        let output =
            phasegate_proto_json::from_json(&json!({ "artifact": key }), "google.protobuf.Struct").ok();
        let summary = format!("{} is done; see {key}.", task.name);
        let request = CompleteTaskRequest { task_token: token, output, summary, request_id: request_id() };
        call(
            &self.workers,
            request,
            |mut workers, request| async move { workers.complete_task(request).await },
        )
        .await?;
        Ok(())
    }

    /// Goes on once people have looked at the work beside this one, with heartbeats meanwhile.
    async fn wait_for_rework(&mut self, token: &str) -> anyhow::Result<()> {
        while !*self.reworked.borrow() {
            let item = heartbeat_tasks_request::Item {
                task_token: token.to_owned(),
                progress_percent: 50,
                message: "reading the directory".to_owned(),
                ..heartbeat_tasks_request::Item::default()
            };
            let request = HeartbeatTasksRequest { items: vec![item] };
            call(&self.workers, request, |mut workers, request| async move {
                workers.heartbeat_tasks(request).await
            })
            .await?;
            // A second is far below the lease; the sender may be gone at the end of the story.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.reworked.changed()).await;
        }
        Ok(())
    }

    async fn store(
        &mut self,
        task: &LeasedTask,
        token: &str,
        key: &str,
        kind: &str,
        content: &Value,
    ) -> anyhow::Result<()> {
        let metadata = json!({ "createdBy": task.agent_id, "phase": task.phase_id });
        let request = StoreArtifactRequest {
            instance_id: task.instance_id.clone(),
            key: key.to_owned(),
            r#type: kind.to_owned(),
            content: phasegate_proto_json::from_json(content, "google.protobuf.Value").ok(),
            metadata: phasegate_proto_json::from_json(&metadata, "google.protobuf.Struct").ok(),
            task_token: token.to_owned(),
            request_id: request_id(),
            ..StoreArtifactRequest::default()
        };
        call(&self.artifacts, request, |mut artifacts, request| async move {
            artifacts.store_artifact(request).await
        })
        .await?;
        Ok(())
    }

    /// Asks for the review itself, in its own words.
    async fn request_review(&mut self, task: &LeasedTask, token: &str) -> anyhow::Result<()> {
        let request = RequestApprovalRequest {
            instance_id: task.instance_id.clone(),
            task_id: task.task_id.clone(),
            approver_ids: vec!["customer_it_admin".to_owned()],
            title: "SSO Configuration Review".to_owned(),
            description: "The SSO configuration for your deployment is ready for review.".to_owned(),
            artifacts: vec!["sso_config_summary".to_owned()],
            expires_in: "48h".to_owned(),
            task_token: token.to_owned(),
            request_id: request_id(),
            ..RequestApprovalRequest::default()
        };
        call(&self.approvals, request, |mut approvals, request| async move {
            approvals.request_approval(request).await
        })
        .await?;
        Ok(())
    }
}

/// What comes of a task: key, kind and content. A second round makes up for what was missing in the first.
fn product(task: &LeasedTask) -> (&'static str, &'static str, Value) {
    match task.task_id.as_str() {
        "requirements_gathering" => (
            "sso_requirements_doc",
            "document",
            json!({
                "idpType": "okta",
                "attributes": ["email", "firstName", "lastName", "department"],
                "groups": ["engineering", "sales", "support"],
            }),
        ),
        "scim_planning" => (
            "scim_mapping_doc",
            "document",
            json!({ "mapping": [
                { "okta": "userName", "scim": "userName" },
                { "okta": "email", "scim": "emails[primary]" },
                { "okta": "department", "scim": "enterprise.department" },
            ] }),
        ),
        "sso_setup" if task.round > 1 => ("sso_config_summary", "document", sso_summary(true)),
        "sso_setup" => ("sso_config_summary", "document", sso_summary(false)),
        "scim_setup" => (
            "scim_config_summary",
            "document",
            json!({ "endpoint": "https://acme.com/scim/v2", "provisioning": "push", "users": 5000 }),
        ),
        "security_assessment" => (
            "security_report",
            "report",
            json!({ "findings": [
                { "title": "Session lifetime", "severity": "low", "state": "accepted" },
                { "title": "Signed assertions", "severity": "info", "state": "verified" },
            ], "verdict": "no open findings" }),
        ),
        "prod_deployment" => (
            "deployment_record",
            "report",
            json!({ "environment": "production", "signInTested": true, "rollback": "one switch" }),
        ),
        _ => {
            ("validation_report", "report", json!({ "signIns": 25, "failures": 0, "provisionedUsers": 5000 }))
        }
    }
}

fn sso_summary(department: bool) -> Value {
    let mut attributes = vec!["email", "firstName", "lastName"];
    if department {
        attributes.push("department");
    }
    json!({ "protocol": "saml", "idpType": "okta", "domain": "acme.com", "attributes": attributes })
}
