//! What is counted of requests and answers, for those who watch the installation.

use futures::future::BoxFuture;
use phasegate_telemetry::metrics::{Counter, Gauge, Sample, Source};

use super::{App, Caller, Decide, Done, Error};
use crate::domain::{Channel, Decision};

static PENDING: Gauge<1> = Gauge::new(
    "phasegate_approvals_pending",
    "Requests that wait for people. Every copy tells the same number.",
    ["overdue"],
);
static OLDEST: Gauge<0> = Gauge::new(
    "phasegate_approval_oldest_pending_age_seconds",
    "How long the oldest of these has waited; 0 where there are none.",
    [],
);
static DECISIONS: Counter<2> = Counter::new(
    "phasegate_portal_decisions_total",
    "Answers of people by what they said, or refused; and by where they came from.",
    ["result", "channel"],
);

impl App {
    /// Answers for one approver, and counts the answer.
    pub async fn decide_counted(
        &self,
        caller: &Caller,
        wish: Decide,
        call: Option<&super::Call>,
    ) -> Result<Done, Error> {
        phasegate_telemetry::note("phasegate.approval.id", &wish.approval);
        let said = match wish.verdict.decision() {
            Decision::Approve => "approved",
            Decision::Reject => "rejected",
            Decision::RequestChanges => "changes_requested",
        };
        let done = self.decide(caller, wish, call).await;
        let result = match &done {
            Ok(Done::Now { repeated: false, .. }) => said,
            Ok(Done::Now { repeated: true, .. } | Done::Before(_)) => "repeated",
            Err(_) => "refused",
        };
        let channel = match caller.actor().channel {
            Channel::Portal => "portal",
            Channel::Api => "api",
            Channel::Engine => "engine",
        };
        DECISIONS.add(1, [result, channel]);
        done
    }

    async fn samples(&self) -> Result<Vec<Sample>, Error> {
        let waiting = self.store().pending_count(self.now()).await?;
        let oldest = waiting.oldest.map_or(0.0, |oldest| self.now().duration_since(oldest).as_secs_f64());
        Ok(vec![
            PENDING.sample(["true"], waiting.overdue.into()),
            PENDING.sample(["false"], waiting.in_time.into()),
            OLDEST.sample([], oldest),
        ])
    }
}

impl Source for App {
    fn read(&self) -> BoxFuture<'_, Vec<Sample>> {
        Box::pin(async {
            self.samples().await.unwrap_or_else(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "requests cannot be counted");
                Vec::new()
            })
        })
    }
}
