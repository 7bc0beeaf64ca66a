//! What is counted of requests and answers, for those who watch the installation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use phasegate_telemetry::metrics::{Counter, Gauge, Sample, Source};

use super::{App, Caller, Decide, Done, Error};
use crate::domain::{Channel, Decision};

static PENDING: Gauge<2> = Gauge::new(
    "phasegate_approvals_pending",
    "Requests that wait for people. Every copy tells the same numbers, of the definitions that it has seen requests of.",
    ["process_id", "overdue"],
);
/// Definitions that are remembered when nothing of them waits any more, so that their numbers fall to 0 and do not end.
const REMEMBERED_MAX: usize = 1_000;
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

/// Definitions of which requests have been seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted(Arc<Mutex<BTreeSet<String>>>);

impl Counted {
    /// Adds some.
    pub(super) fn remember(&self, processes: Vec<String>) {
        let mut known = self.known();
        for process in processes {
            if known.len() < REMEMBERED_MAX {
                known.insert(process);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
        let oldest = waiting.iter().map(|pending| pending.oldest).min();
        let oldest = oldest.map_or(0.0, |oldest| self.now().duration_since(oldest).as_secs_f64());
        let mut numbers: BTreeMap<(String, bool), u32> = BTreeMap::new();
        self.counted.remember(waiting.iter().map(|pending| pending.process.clone()).collect());
        for process in &*self.counted.known() {
            numbers.extend([true, false].map(|overdue| ((process.clone(), overdue), 0)));
        }
        numbers.extend(waiting.into_iter().map(|one| ((one.process, one.overdue), one.number)));
        let sample = |((process, overdue), number): (&(String, bool), &u32)| {
            PENDING.sample([process, if *overdue { "true" } else { "false" }], (*number).into())
        };
        Ok(numbers.iter().map(sample).chain([OLDEST.sample([], oldest)]).collect())
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
