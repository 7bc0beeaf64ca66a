//! `WorkerService`.

use std::time::Duration;

use phasegate_principal::Principal;
use phasegate_proto::worker::v1::heartbeat_tasks_response::Result as BeatResult;
use phasegate_proto::worker::v1::worker_service_server::WorkerService;
use phasegate_proto::worker::v1::{
    CompleteTaskRequest, CompleteTaskResponse, Directive, FailTaskRequest, FailTaskResponse, FailureOutcome,
    HeartbeatTasksRequest, HeartbeatTasksResponse, PollTasksRequest, PollTasksResponse, ReleaseTaskRequest,
    ReleaseTaskResponse,
};
use phasegate_rpc_error::Invalid;
use tonic::{Request, Response, Status, async_trait};

use super::Api;
use super::convert::{count, duration, once, respond, shortened};
use super::refusal::refuse;
use super::view;
use crate::app::{BeatWish, Beaten, Error, FailWish, Out, Outcome, Poll, struct_to_json};
use crate::domain::{self, Change, Delivery, TaskStatus};

/// Queues of one poll.
const QUEUES_MAX: usize = 100;
/// Tasks of one poll.
const TASKS_MAX: usize = 100;
/// Items of one heartbeat.
const BEATS_MAX: usize = 100;
/// Bytes of the message of a heartbeat; more is cut.
const MESSAGE_MAX: usize = 1_024;
/// How long a poll waits when it does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// How long a poll may wait.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Length of a lease when its worker does not say.
const LEASE_DEFAULT: Duration = Duration::from_mins(1);
/// Shortest lease.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// Longest lease.
const LEASE_MAX: Duration = Duration::from_hours(1);

fn invalid(reason: &'static str, field: &str, message: impl Into<String>) -> Status {
    refuse(Invalid::new(reason, field, message).into())
}

fn poll(request: PollTasksRequest) -> Result<Poll, Status> {
    let worker = request.worker.unwrap_or_default();
    let is_id = |text: &str| {
        (1..=phasegate_id::LENGTH_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !is_id(&worker.worker_id) {
        let message = "must be 1 to 128 visible ASCII characters";
        return Err(invalid("WORKER_ID_INVALID", "worker.worker_id", message));
    }
    let mut queues = request.queues;
    queues.sort_unstable();
    queues.dedup();
    if queues.is_empty() || queues.len() > QUEUES_MAX || !queues.iter().all(|queue| is_id(queue)) {
        return Err(invalid(
            "QUEUES_INVALID",
            "queues",
            format!("must be 1 to {QUEUES_MAX} names of queues"),
        ));
    }
    let lease = request.lease_duration.as_ref();
    Ok(Poll {
        worker: worker.worker_id,
        tools: worker.tools,
        queues,
        instance: request.instance_id,
        // Asking for none is asking for one; asking for too many is asking for as many as there may be.
        tasks_max: usize::try_from(request.max_tasks).unwrap_or(0).clamp(1, TASKS_MAX),
        wait: duration("wait", request.wait.as_ref(), WAIT_DEFAULT, Duration::ZERO..=WAIT_MAX)?,
        lease: duration("lease_duration", lease, LEASE_DEFAULT, LEASE_MIN..=LEASE_MAX)?,
    })
}

fn completed(lease: &Out, outcome: &Outcome) -> Result<CompleteTaskResponse, Error> {
    let task = outcome.after.tasks.get(&lease.task);
    let task = task.ok_or_else(|| Error::Broken(format!("task {} is gone", lease.task)))?;
    let approval_id = task.approval.as_ref().map(ToString::to_string).unwrap_or_default();
    Ok(CompleteTaskResponse { task_status: view::task_status(task.status).into(), approval_id })
}

/// What followed a failure: read from what happened, or from the state where it was reported before.
fn failed(lease: &Out, outcome: &Outcome) -> Result<FailTaskResponse, Error> {
    let task = outcome.after.tasks.get(&lease.task);
    let task = task.ok_or_else(|| Error::Broken(format!("task {} is gone", lease.task)))?;
    let has_ended = outcome.events.iter().any(|event| matches!(event.change, Change::InstanceFailed { .. }))
        || outcome.after.status == domain::Status::Failed;
    let what = match task.status {
        _ if has_ended => FailureOutcome::InstanceFailed,
        TaskStatus::Ready if task.delivery == Delivery::Escalation => FailureOutcome::Escalated,
        TaskStatus::Escalated => FailureOutcome::Escalated,
        TaskStatus::Skipped => FailureOutcome::Skipped,
        TaskStatus::Failed => FailureOutcome::TaskFailed,
        TaskStatus::Pending
        | TaskStatus::Ready
        | TaskStatus::Running
        | TaskStatus::AwaitingApproval
        | TaskStatus::Completed
        | TaskStatus::Blocked
        | TaskStatus::Cancelled => FailureOutcome::RetryScheduled,
    };
    let is_retried = what == FailureOutcome::RetryScheduled;
    let written =
        view::written_tasks(&outcome.pinned.definition).find(|(_, one)| one.id == lease.task.as_str());
    let attempts = written.map_or(0, |(_, task)| domain::attempts_max(&task.error_handling));
    let left = if is_retried { attempts.saturating_sub(task.attempt) } else { 0 };
    let escalated_to = task.escalated_to.last().filter(|_| what == FailureOutcome::Escalated);
    Ok(FailTaskResponse {
        outcome: what.into(),
        next_attempt_at: task.ready_at.filter(|_| is_retried).map(phasegate_clock::Timestamp::to_proto),
        attempts_left: count(left),
        escalated_to: escalated_to.cloned().unwrap_or_default(),
    })
}

#[async_trait]
impl WorkerService for Api {
    async fn poll_tasks(
        &self,
        request: Request<PollTasksRequest>,
    ) -> Result<Response<PollTasksResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let poll = poll(request.into_inner())?;
        if let Some(queue) = poll.queues.iter().find(|queue| !principal.may_poll(queue)) {
            return Err(refuse(Error::QueueForbidden(queue.clone())));
        }
        match self.app.poll(&principal, poll).await {
            Ok(leased) => {
                let tasks = leased.iter().filter_map(view::leased).collect();
                Ok(Response::new(PollTasksResponse { tasks, draining: false }))
            }
            Err(Error::Draining) => {
                Ok(Response::new(PollTasksResponse { tasks: Vec::new(), draining: true }))
            }
            Err(error) => Err(refuse(error)),
        }
    }

    async fn heartbeat_tasks(
        &self,
        request: Request<HeartbeatTasksRequest>,
    ) -> Result<Response<HeartbeatTasksResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let items = request.into_inner().items;
        if items.len() > BEATS_MAX {
            let message = format!("must be at most {BEATS_MAX}");
            return Err(invalid("TOKEN_MALFORMED", "items", message));
        }
        let tokens: Vec<String> = items.iter().map(|item| item.task_token.clone()).collect();
        let mut beats = Vec::with_capacity(items.len());
        for item in items {
            let extend_by = match &item.extend_by {
                Some(_) => {
                    let (given, allowed) = (item.extend_by.as_ref(), LEASE_MIN..=LEASE_MAX);
                    Some(duration("items.extend_by", given, LEASE_DEFAULT, allowed)?)
                }
                None => None,
            };
            let wish = BeatWish {
                progress: item.progress_percent.clamp(0, 100),
                message: shortened(&item.message, MESSAGE_MAX),
                details: item.details.as_ref().map(struct_to_json),
                extend_by,
            };
            beats.push((item.task_token, wish));
        }
        let beaten = self.app.beat(&principal, beats).await.map_err(refuse)?;
        let results = tokens.into_iter().zip(beaten).map(|(task_token, beaten)| {
            let (directive, ends_at) = match beaten {
                Beaten::Continue(ends_at) => (Directive::Continue, Some(ends_at)),
                Beaten::Pause(ends_at) => (Directive::Pause, Some(ends_at)),
                Beaten::Abandon => (Directive::Abandon, None),
            };
            let lease_expires_at = ends_at.map(phasegate_clock::Timestamp::to_proto);
            BeatResult { task_token, directive: directive.into(), lease_expires_at }
        });
        Ok(Response::new(HeartbeatTasksResponse { results: results.collect() }))
    }

    async fn complete_task(
        &self,
        request: Request<CompleteTaskRequest>,
    ) -> Result<Response<CompleteTaskResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "CompleteTask", &request.request_id, &request)?;
        let output = request.output.as_ref().map(struct_to_json);
        let (token, summary) = (request.task_token.as_str(), request.summary.clone());
        let done = self.app.task_complete(&principal, token, output, summary, once, completed).await;
        Ok(respond(done.map_err(refuse)?))
    }

    async fn fail_task(
        &self,
        request: Request<FailTaskRequest>,
    ) -> Result<Response<FailTaskResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "FailTask", &request.request_id, &request)?;
        let failure = request.failure.unwrap_or_default();
        let allowed = Duration::ZERO..=domain::RETRY_AFTER_MAX;
        let retry_after = match &request.retry_after {
            Some(given) => Some(duration("retry_after", Some(given), Duration::ZERO, allowed)?),
            None => None,
        };
        let wish = FailWish {
            kind: failure.r#type,
            message: failure.message,
            non_retryable: failure.non_retryable,
            retry_after,
            checkpoint: request.checkpoint.as_ref().map(struct_to_json),
        };
        let done = self.app.task_fail(&principal, &request.task_token, wish, once, failed).await;
        Ok(respond(done.map_err(refuse)?))
    }

    async fn release_task(
        &self,
        request: Request<ReleaseTaskRequest>,
    ) -> Result<Response<ReleaseTaskResponse>, Status> {
        let principal = Principal::of(&request)?.clone();
        let request = request.into_inner();
        let once = once(&principal, "ReleaseTask", &request.request_id, &request)?;
        let kept = request.checkpoint.as_ref().map(struct_to_json);
        let make = |_: &Out, _: &Outcome| Ok(ReleaseTaskResponse {});
        let reason = request.reason.clone();
        let done = self.app.task_release(&principal, &request.task_token, reason, kept, once, make).await;
        Ok(respond(done.map_err(refuse)?))
    }
}
