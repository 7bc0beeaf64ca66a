//! The stream of answers: what is there, then what comes, and a sign of life in between.

use std::time::Duration;

use futures::Stream;
use phasegate_id::InstanceId;
use phasegate_proto::approval::v1::WatchApprovalResponsesResponse;
use phasegate_rpc_error::status;
use phasegate_serve::STREAM_AGE_MAX;
use phasegate_serve::{WATCH_LAG, WATCH_STREAMS};
use phasegate_telemetry::metrics::Held;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::app::{App, CONSUMER, Caller};

/// Commits of other processes are noticed by looking this often.
const POLL: Duration = Duration::from_secs(1);

/// What metrics call such a stream.
const KIND: &str = "approval_responses";

/// How streams are kept alive and ended.
#[derive(Debug, Clone)]
pub struct Watching {
    /// Longest silence.
    pub checkpoint_interval: Duration,
    /// The service stops.
    pub shutdown: CancellationToken,
}

/// One watcher.
struct Watcher {
    app: App,
    caller: Caller,
    instance: InstanceId,
    position: i64,
    committed: tokio::sync::watch::Receiver<u64>,
    checkpoint_at: Instant,
    ends_at: Instant,
    is_over: bool,
    how: Watching,
    _open: Option<Held>,
}

impl Watching {
    /// The answers of an instance after a position.
    pub(super) fn stream(
        &self,
        app: App,
        caller: Caller,
        instance: InstanceId,
        position: i64,
    ) -> impl Stream<Item = Result<WatchApprovalResponsesResponse, Status>> + Send + use<> {
        let now = Instant::now();
        let watcher = Watcher {
            committed: app.committed(),
            app,
            caller,
            instance,
            position,
            // The first message comes at once: it carries the position of a watcher that began without one.
            checkpoint_at: now,
            ends_at: now + STREAM_AGE_MAX,
            is_over: false,
            how: self.clone(),
            _open: WATCH_STREAMS.hold([CONSUMER, KIND]),
        };
        futures::stream::unfold(watcher, |mut watcher| async move {
            if watcher.is_over {
                return None;
            }
            let message = watcher.next().await;
            watcher.is_over |= message.is_err();
            Some((message, watcher))
        })
    }
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchApprovalResponsesResponse, Status> {
        loop {
            // Marked as seen before looking, so that a commit in between wakes us again.
            self.committed.borrow_and_update();
            let answers = self.app.watch_next(&self.caller, &self.instance, self.position).await;
            let answers = answers.map_err(|error| status(&error))?;
            self.position = answers.position;
            if !answers.responses.is_empty() {
                let behind = u32::try_from(answers.responses.len()).unwrap_or(u32::MAX);
                WATCH_LAG.record(f64::from(behind), [CONSUMER, KIND]);
                return Ok(WatchApprovalResponsesResponse { responses: answers.responses, ..self.message() });
            }
            if answers.more {
                continue;
            }
            let shutdown = self.how.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(self.going_away()),
                () = tokio::time::sleep_until(self.ends_at) => return Ok(self.going_away()),
                () = tokio::time::sleep_until(self.checkpoint_at) => {
                    return Ok(WatchApprovalResponsesResponse { checkpoint: true, ..self.message() });
                }
                _ = self.committed.changed() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    fn message(&mut self) -> WatchApprovalResponsesResponse {
        self.checkpoint_at = Instant::now() + self.how.checkpoint_interval;
        WatchApprovalResponsesResponse {
            resume_token: self.position.to_string(),
            ..WatchApprovalResponsesResponse::default()
        }
    }

    fn going_away(&mut self) -> WatchApprovalResponsesResponse {
        self.is_over = true;
        WatchApprovalResponsesResponse { going_away: true, ..self.message() }
    }
}
