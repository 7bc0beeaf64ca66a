//! What is counted of instances, tasks, leases and workers, for those who watch the installation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use phasegate_clock::Timestamp;
use phasegate_database::Reach;
use phasegate_id::{PhaseId, TaskId};
use phasegate_process::Definition;
use phasegate_telemetry::metrics::{Counter, Gauge, HOURS, Histogram, Sample, Source, WEEKS};

use super::order::Outcome;
use super::{App, Error};
use crate::domain::{self, ApprovalStatus, Change, Fact, Failure, Health, Instance, Status, Surroundings};
use crate::store::{Counts, Out};

static INSTANCES: Gauge<3> = Gauge::new(
    "phasegate_instances",
    "Instances under way. Every copy tells the same number.",
    ["process_id", "status", "health"],
);
static TRANSITIONS: Counter<2> = Counter::new(
    "phasegate_instance_transitions_total",
    "Changes of the status of instances.",
    ["process_id", "to"],
);
static PHASES: Histogram<2> = Histogram::new(
    "phasegate_phase_duration_seconds",
    "Time from the entry into a phase to its end.",
    ["process_id", "phase"],
    WEEKS,
);
static READY: Gauge<1> = Gauge::new(
    "phasegate_task_queue_ready",
    "Tasks that could be handed out. Every copy tells the same number.",
    ["queue"],
);
static LEASED: Gauge<1> = Gauge::new(
    "phasegate_task_queue_leased",
    "Tasks that workers hold. Every copy tells the same number.",
    ["queue"],
);
static OLDEST: Gauge<1> = Gauge::new(
    "phasegate_task_queue_oldest_ready_age_seconds",
    "How long the oldest of the tasks has waited that could be handed out; 0 where there are none.",
    ["queue"],
);
static WORKERS: Gauge<1> = Gauge::new(
    "phasegate_workers",
    "Workers that asked this copy for work within the last minute, or hold some.",
    ["queue"],
);
static SLOTS: Gauge<1> =
    Gauge::new("phasegate_worker_slots", "Tasks that these workers hold or have asked for.", ["queue"]);
static SLOTS_FREE: Gauge<1> = Gauge::new(
    "phasegate_worker_slots_free",
    "Tasks that workers have asked this copy for within the last minute.",
    ["queue"],
);
static CHAIN_OK: Gauge<0> = Gauge::new(
    "phasegate_audit_chain_ok",
    "1 while every audit trail that was checked is whole, 0 from the first that is not until it is.",
    [],
);
static TO_START: Histogram<1> = Histogram::new(
    "phasegate_task_schedule_to_start_seconds",
    "Time from when a task could be handed out until a worker took it.",
    ["queue"],
    HOURS,
);
static RUN: Histogram<2> = Histogram::new(
    "phasegate_task_run_seconds",
    "Time that a worker held a task.",
    ["queue", "outcome"],
    HOURS,
);
static ATTEMPTS: Counter<2> = Counter::new(
    "phasegate_task_attempts_total",
    "Attempts at tasks by how they ended: completed, failed, lease_expired or released.",
    ["queue", "outcome"],
);
static LEASES_LOST: Counter<2> = Counter::new(
    "phasegate_lease_lost_total",
    "Calls of workers that had lost their lease.",
    ["queue", "call"],
);
static RESPONSES: Histogram<2> = Histogram::new(
    "phasegate_approval_response_seconds",
    "Time from asking people to their decision.",
    ["process_id", "outcome"],
    WEEKS,
);

/// A worker that has not asked for so long has gone.
const GONE_AFTER: Duration = super::around::WORKER_MISSING_AFTER;
/// Workers that are remembered; more are not counted.
const WORKERS_MAX: usize = 10_000;
/// Tasks that nobody works on over a queue.
const NO_QUEUE: &str = "none";

/// Who asked for work lately, and for how much: by queue and worker.
#[derive(Debug, Default)]
pub(super) struct Workers(Mutex<HashMap<(String, String), (Timestamp, usize)>>);

/// What is known about audit trails.
#[derive(Debug, Default)]
pub(super) struct Chains {
    broken: Mutex<BTreeSet<(String, String)>>,
    has_checked: AtomicBool,
}

impl Workers {
    pub(super) fn note(&self, queues: &[String], worker: &str, wanted: usize, now: Timestamp) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + queues.len() > WORKERS_MAX {
            known.retain(|_, (asked, _)| now.duration_since(*asked) < GONE_AFTER);
        }
        if known.len() + queues.len() > WORKERS_MAX {
            return;
        }
        for queue in queues {
            known.insert((queue.clone(), worker.to_owned()), (now, wanted));
        }
    }

    /// By queue: workers, each with what it asked for.
    fn live(&self, now: Timestamp) -> BTreeMap<String, BTreeMap<String, usize>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (asked, _)| now.duration_since(*asked) < GONE_AFTER);
        let mut live: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for ((queue, worker), (_, wanted)) in known.iter() {
            live.entry(queue.clone()).or_default().insert(worker.clone(), *wanted);
        }
        live
    }
}

impl Chains {
    pub(super) fn note(&self, tenant: &str, instance_id: &str, is_whole: bool) {
        let key = (tenant.to_owned(), instance_id.to_owned());
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_checked.store(true, Ordering::Relaxed);
        if is_whole {
            broken.remove(&key);
        } else if broken.insert(key) {
            tracing::error!(instance_id, tenant_id = tenant, "an audit trail is not whole");
        }
    }

    fn are_whole(&self) -> bool {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// How an instance stands after a transition, as far as its state says, and the earliest deadline of a request of it: what
/// time and workers add is looked up when somebody asks.
pub(super) fn standing(outcome: &Outcome) -> (&'static str, Option<Timestamp>) {
    let around = Surroundings { now: outcome.now, unpolled: &BTreeMap::new() };
    let overview = domain::overview(&outcome.pinned.definition, &outcome.after, &around);
    let health = match overview.health {
        Health::Ok => "ok",
        Health::WaitingOnHuman => "waiting_on_human",
        Health::Blocked => "blocked",
        Health::NoWorker => "no_worker",
        Health::Overdue => "overdue",
    };
    (health, overview.pending_approvals.iter().filter_map(|pending| pending.expires_at).min())
}

/// Counts what a transition was, once it is written.
#[expect(clippy::wildcard_enum_match_arm, reason = "a few of many changes move the instance as a whole")]
pub(super) fn count(outcome: &Outcome) {
    let definition = &outcome.pinned.definition;
    let process = outcome.after.process_id.as_str();
    for event in &outcome.events {
        let to = match &event.change {
            Change::InstanceStarted(_) | Change::InstanceResumed { .. } => Status::Running,
            Change::InstancePaused { .. } => Status::Paused,
            Change::InstanceCompleted {} => Status::Completed,
            Change::InstanceCancelled { .. } => Status::Cancelled,
            Change::InstanceFailed { .. } => Status::Failed,
            other => {
                count_inside(definition, outcome, process, other, event.at);
                continue;
            }
        };
        TRANSITIONS.add(1, [process, to.as_str()]);
    }
}

fn count_inside(definition: &Definition, outcome: &Outcome, process: &str, change: &Change, at: Timestamp) {
    if let Change::PhaseCompleted { phase } | Change::PhaseSkipped { phase, .. } = change {
        count_phase(outcome, process, phase, at);
    } else if let Change::TaskLeased { task, .. } = change {
        let ready_at = outcome.before.tasks.get(task).and_then(|task| task.ready_at);
        if let Some(ready_at) = ready_at {
            TO_START.record_time(at.duration_since(ready_at), [queue(definition, &outcome.before, task)]);
        }
    } else if let Change::TaskHandedIn { task, .. } = change {
        count_attempt(definition, &outcome.before, task, "completed", at);
    } else if let Change::TaskAttemptFailed { task, kind, .. } = change {
        let outcome_name = if kind == Failure::LEASE_EXPIRED { "lease_expired" } else { "failed" };
        count_attempt(definition, &outcome.before, task, outcome_name, at);
    } else if let Change::TaskReleased { task, .. } = change {
        count_attempt(definition, &outcome.before, task, "released", at);
    } else if let Change::Heard(Fact::ApprovalSettled { status, request, .. }) = change
        && *status != ApprovalStatus::Pending
    {
        RESPONSES.record_time(at.duration_since(request.requested_at), [process, status.as_str()]);
    }
}

fn count_phase(outcome: &Outcome, process: &str, phase: &PhaseId, at: Timestamp) {
    let began = outcome.after.phases.get(phase).and_then(|phase| phase.started_at);
    if let Some(began) = began {
        PHASES.record_time(at.duration_since(began), [process, phase.as_str()]);
    }
}

fn count_attempt(definition: &Definition, before: &Instance, task: &TaskId, how: &str, at: Timestamp) {
    let queue = queue(definition, before, task);
    ATTEMPTS.add(1, [queue, how]);
    if let Some(lease) = before.tasks.get(task).and_then(|task| task.lease.as_ref()) {
        RUN.record_time(at.duration_since(lease.granted_at), [queue, how]);
    }
}

/// The queue that a task is handed out on.
pub(super) fn queue<'a>(definition: &'a Definition, instance: &Instance, task: &TaskId) -> &'a str {
    let assignee = instance.tasks.get(task).map(|task| task.assignee.as_str()).unwrap_or_default();
    definition.agents.get(assignee).map_or(NO_QUEUE, |agent| agent.queue.as_str())
}

impl App {
    /// Counts a call whose lease was lost, if that is why it failed.
    pub(super) async fn count_lost(&self, lease: &Out, call: &'static str, error: &Error) {
        use crate::domain::Rejection;
        if !matches!(error, Error::LeaseLost { .. } | Error::Rejected(Rejection::LeaseLost(_))) {
            return;
        }
        let name = self.queue_of(lease).await.unwrap_or_else(|_| NO_QUEUE.to_owned());
        LEASES_LOST.add(1, [&name, call]);
    }

    async fn queue_of(&self, lease: &Out) -> Result<String, Error> {
        let snapshot = self.snapshot(&lease.tenant, lease.instance_id.as_str()).await?;
        let pinned = self.pinned(&lease.tenant, &snapshot.instance.definition_digest).await?;
        Ok(queue(&pinned.definition, &snapshot.instance, &lease.task).to_owned())
    }

    /// Checks the audit trail of the instance after another one, and says which one that was: so all get their turn.
    pub(crate) async fn check_next_chain(
        &self,
        after: &(String, String),
    ) -> Result<Option<(String, String)>, Error> {
        let Some((tenant, id)) = self.store().instance_after(&after.0, &after.1).await? else {
            return Ok(None);
        };
        let verifying = self.store().history_verify(&tenant, &id);
        if let Some(verdict) = Reach::of_tenant(&tenant).within(verifying).await? {
            self.0.chains.note(&tenant, id.as_str(), verdict.broken.is_none());
        }
        Ok(Some((tenant, id.to_string())))
    }

    async fn samples(&self) -> Result<Vec<Sample>, Error> {
        let now = self.now();
        let Counts { instances, ready, leased } = self.store().counts(now, now - GONE_AFTER).await?;
        let mut samples: Vec<Sample> = instances
            .iter()
            .map(|((process, status, health), count)| {
                INSTANCES.sample([process, status, health], number(*count))
            })
            .collect();
        let live = self.0.workers.live(now);
        let queues: BTreeSet<&String> = ready.keys().chain(leased.keys()).chain(live.keys()).collect();
        for queue in queues {
            let (waiting, oldest) = ready.get(queue).copied().unwrap_or((0, now));
            let held = leased.get(queue);
            let held_count: u32 = held.map_or(0, |held| held.values().sum());
            let asking = live.get(queue);
            let free: usize = asking.map_or(0, |asking| asking.values().sum());
            let names: BTreeSet<&String> = held
                .into_iter()
                .flat_map(BTreeMap::keys)
                .chain(asking.into_iter().flat_map(BTreeMap::keys))
                .collect();
            let free = u32::try_from(free).unwrap_or(u32::MAX);
            samples.push(READY.sample([queue], number(waiting)));
            samples.push(OLDEST.sample([queue], now.duration_since(oldest).as_secs_f64()));
            samples.push(LEASED.sample([queue], number(held_count)));
            samples.push(WORKERS.sample([queue], number(u32::try_from(names.len()).unwrap_or(u32::MAX))));
            samples.push(SLOTS_FREE.sample([queue], number(free)));
            samples.push(SLOTS.sample([queue], number(free.saturating_add(held_count))));
        }
        Ok(samples)
    }
}

fn number(count: u32) -> f64 {
    f64::from(count)
}

impl Source for App {
    fn read(&self) -> BoxFuture<'_, Vec<Sample>> {
        Box::pin(async {
            let mut samples = self.samples().await.unwrap_or_else(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "instances cannot be counted");
                Vec::new()
            });
            if self.0.chains.has_checked.load(Ordering::Relaxed) {
                samples.push(CHAIN_OK.sample([], f64::from(u8::from(self.0.chains.are_whole()))));
            }
            samples
        })
    }
}
