//! One attempt at one task: the program works while the lease is extended, then its answer is handed in.

use std::time::Duration;

use phasegate_client::{Client, Error};
use phasegate_proto::artifact::v1::StoreArtifactRequest;
use phasegate_proto::instance::v1::Failure as TaskFailure;
use phasegate_proto::worker::v1::heartbeat_tasks_request::Item;
use phasegate_proto::worker::v1::{
    CompleteTaskRequest, Directive, FailTaskRequest, FailureOutcome, HeartbeatTasksRequest, LeasedTask,
    ReleaseTaskRequest,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::child::{self, Finished, Outcome};
use super::report::{Answer, Ended, Wrong};
use crate::cli::failure::Failure;
use crate::cli::input;
use crate::cli::output::document;

/// Kind of the artifacts that a program answers with.
const ARTIFACT_TYPE: &str = "document";

/// One attempt.
pub(super) struct Attempt {
    pub(super) client: Client,
    pub(super) address: String,
    pub(super) command: Vec<String>,
    pub(super) lease: Duration,
    /// The agent is to stop.
    pub(super) stop: CancellationToken,
    /// Lines for standard error.
    pub(super) said: mpsc::UnboundedSender<String>,
    pub(super) task: LeasedTask,
}

/// Why the work on a task stops before its end.
enum Stop {
    /// The attempt failed.
    Wrong(Wrong),
    /// The lease is gone.
    Lost(String),
}

impl Attempt {
    /// Makes the attempt. An error is one of the agent itself, which had better end.
    pub(super) async fn make(self) -> Result<Ended, Failure> {
        let mut input = document(&self.task, "phasegate.worker.v1.LeasedTask")?.to_string().into_bytes();
        input.push(b'\n');
        let child = match child::start(&self.command, &self.environment()) {
            Ok(child) => child,
            Err(error) => {
                // A program that cannot be started says nothing about the task: it goes back unharmed.
                let program = self.command.first().cloned().unwrap_or_default();
                self.release("its program could not be started").await;
                return Err(Failure::local(&format!("start {program}"), &error));
            }
        };
        let kill = self.stop.child_token();
        let (said, task) = (self.said.clone(), self.task.task_id.clone());
        let say = move |line: &str| {
            // Nobody listens any more only when the command has ended.
            let _ = said.send(format!("[{task}] {line}"));
        };
        let lease = self.keep(kill.clone());
        let outcome = tokio::select! {
            outcome = child::converse(child, input, kill.clone(), say) => outcome,
            never = lease => match never {},
        };
        let outcome = outcome.map_err(|error| Failure::local("follow the program", &error))?;
        let ended = match outcome {
            Outcome::Killed if self.stop.is_cancelled() => {
                self.release("the agent was stopped").await;
                return Ok(self.left("the agent was stopped"));
            }
            Outcome::Killed => return Ok(self.left("the lease is gone")),
            Outcome::TooMuch => {
                Err(Stop::Wrong(Wrong::new("OUTPUT_TOO_LARGE", "standard output is too large")))
            }
            Outcome::Finished(finished) => self.hand_in(finished).await,
        };
        match ended {
            Ok(ended) => Ok(ended),
            Err(Stop::Lost(why)) => Ok(self.left(&why)),
            Err(Stop::Wrong(wrong)) => Ok(self.fail(wrong).await),
        }
    }

    fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("PHASEGATE_ADDRESS", self.address.clone()),
            ("PHASEGATE_INSTANCE_ID", self.task.instance_id.clone()),
            ("PHASEGATE_TASK_ID", self.task.task_id.clone()),
            ("PHASEGATE_TASK_TOKEN", self.token()),
        ]
    }

    /// Extends the lease for as long as it is polled, and calls for the kill once the lease is gone.
    async fn keep(&self, kill: CancellationToken) -> std::convert::Infallible {
        let asked = self.task.lease.as_ref().and_then(|lease| lease.heartbeat_interval);
        let every = asked.and_then(|every| Duration::try_from(every).ok()).filter(|every| !every.is_zero());
        let every = every.unwrap_or(self.lease / 3).max(Duration::from_millis(200));
        let mut good_until = tokio::time::Instant::now() + self.lease;
        loop {
            tokio::time::sleep(every).await;
            let item = Item {
                task_token: self.token(),
                extend_by: prost_types::Duration::try_from(self.lease).ok(),
                ..Item::default()
            };
            let request = HeartbeatTasksRequest { items: vec![item] };
            let beat = self
                .client
                .call_once(request, async |client, request| client.workers().heartbeat_tasks(request).await);
            let is_gone = match tokio::time::timeout(every.max(Duration::from_secs(5)), beat).await {
                Ok(Ok(answer)) => {
                    good_until = tokio::time::Instant::now() + self.lease;
                    answer.results.iter().any(|result| result.directive() == Directive::Abandon)
                }
                Ok(Err(error)) => {
                    let passes =
                        matches!(error.code, Code::Unavailable | Code::DeadlineExceeded | Code::Unknown);
                    !passes || tokio::time::Instant::now() > good_until
                }
                Err(_) => tokio::time::Instant::now() > good_until,
            };
            if is_gone {
                kill.cancel();
            }
        }
    }

    /// Stores the artifacts of an answer and hands the work in.
    async fn hand_in(&self, finished: Finished) -> Result<Ended, Stop> {
        if !finished.status.success() {
            let message = if finished.tail.trim().is_empty() {
                format!("the program ended with {}", finished.status)
            } else {
                finished.tail
            };
            return Err(Stop::Wrong(Wrong::new("EXIT_STATUS", &message)));
        }
        let answer = Answer::read(&finished.stdout)
            .map_err(|problem| Stop::Wrong(Wrong::new("OUTPUT_INVALID", &problem)))?;
        for (key, content) in &answer.artifacts {
            self.store(key, content).await?;
        }
        let output = input::structure(answer.output)
            .map_err(|failure| Stop::Wrong(Wrong::new("OUTPUT_INVALID", &failure.message())))?;
        let request = CompleteTaskRequest {
            task_token: self.token(),
            output: Some(output),
            summary: answer.summary,
            request_id: self.request_id("complete"),
        };
        let answer = self
            .client
            .call(request, async |client, request| client.workers().complete_task(request).await)
            .await
            .map_err(|error| stop("HAND_IN_REFUSED", &error))?;
        Ok(Ended::HandedIn { task: self.task.task_id.clone(), approval_id: answer.approval_id })
    }

    async fn store(&self, key: &str, content: &Value) -> Result<(), Stop> {
        let content = input::value(content)
            .map_err(|failure| Stop::Wrong(Wrong::new("OUTPUT_INVALID", &failure.message())))?;
        let request = StoreArtifactRequest {
            instance_id: self.task.instance_id.clone(),
            key: key.to_owned(),
            r#type: ARTIFACT_TYPE.to_owned(),
            content: Some(content),
            task_token: self.token(),
            request_id: self.request_id(key),
            ..StoreArtifactRequest::default()
        };
        self.client
            .call(request, async |client, request| client.artifacts().store_artifact(request).await)
            .await
            .map_err(|error| stop("ARTIFACT_REFUSED", &error))?;
        Ok(())
    }

    /// Reports a failed attempt.
    async fn fail(&self, wrong: Wrong) -> Ended {
        let task = self.task.task_id.clone();
        let request = FailTaskRequest {
            task_token: self.token(),
            failure: Some(TaskFailure {
                r#type: wrong.kind.to_owned(),
                message: wrong.message.clone(),
                ..TaskFailure::default()
            }),
            request_id: self.request_id("fail"),
            ..FailTaskRequest::default()
        };
        let reported = self
            .client
            .call(request, async |client, request| client.workers().fail_task(request).await)
            .await;
        match reported {
            Ok(answer) => {
                let follows = match answer.outcome() {
                    FailureOutcome::Escalated => format!("it goes up to {}", answer.escalated_to),
                    FailureOutcome::RetryScheduled => format!("{} attempts are left", answer.attempts_left),
                    FailureOutcome::Skipped => "it is passed over".to_owned(),
                    FailureOutcome::TaskFailed => "it has failed for good".to_owned(),
                    FailureOutcome::InstanceFailed => "the instance has failed".to_owned(),
                    FailureOutcome::Unspecified => "what follows is not known".to_owned(),
                };
                Ended::Failed { task, message: wrong.message, follows }
            }
            Err(error) => Ended::Left {
                task,
                why: format!("{} (and that could not be reported: {error})", wrong.message),
            },
        }
    }

    /// Gives the task back; no attempt is used up.
    async fn release(&self, reason: &str) {
        let request = ReleaseTaskRequest {
            task_token: self.token(),
            reason: reason.to_owned(),
            request_id: self.request_id("release"),
            ..ReleaseTaskRequest::default()
        };
        let released = self
            .client
            .call(request, async |client, request| client.workers().release_task(request).await)
            .await;
        if let Err(error) = released {
            let _ = self.said.send(format!("{} could not be given back: {error}", self.task.task_id));
        }
    }

    fn left(&self, why: &str) -> Ended {
        Ended::Left { task: self.task.task_id.clone(), why: why.to_owned() }
    }

    fn token(&self) -> String {
        self.task.lease.as_ref().map(|lease| lease.task_token.clone()).unwrap_or_default()
    }

    /// The same for every repetition of a step of this attempt.
    fn request_id(&self, step: &str) -> String {
        let fencing = self.task.lease.as_ref().map_or(0, |lease| lease.fencing_token);
        let name = format!("{}\n{}\n{fencing}\n{step}", self.task.instance_id, self.task.task_id);
        uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
    }
}

fn stop(kind: &'static str, error: &Error) -> Stop {
    if error.is("LEASE_LOST") {
        return Stop::Lost("the lease is gone".to_owned());
    }
    let details: Vec<String> = error
        .violations
        .iter()
        .map(|one| format!("{}: {}", one.field, one.message))
        .chain(error.preconditions.iter().map(|one| format!("{}: {}", one.subject, one.message)))
        .collect();
    Stop::Wrong(Wrong::new(kind, &format!("{error}\n{}", details.join("\n"))))
}
