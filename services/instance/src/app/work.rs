//! What workers do under a lease, and what the artifact service asks about one.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{EventId, PhaseId};
use phasegate_planted::{self as planted, Bug};
use phasegate_principal::Principal;
use phasegate_rpc_error::Invalid;
use prost::Message;
use rand::Rng as _;
use serde_json::{Map, Value};

use super::execute::{By, Order, Wish};
use super::{Answered, App, Error, LEVELS_MAX, Once, Outcome, levels};
use crate::domain::{Action, Rejection, Status};
use crate::store::{Beat, CheckpointChange, Guard, Out};

/// No new lease of a task is granted for so long after one was confirmed to a writer of artifacts, unless the write is
/// heard of before.
const HOLD: Duration = Duration::from_secs(5);
/// By how much a planted timer is early.
const EARLY: Duration = Duration::from_secs(1);
/// Bytes of an output, as JSON.
const OUTPUT_MAX: usize = 256 * 1024;
/// Bytes of a checkpoint, as JSON.
const CHECKPOINT_MAX: usize = 64 * 1024;
/// Bytes of a summary.
const SUMMARY_MAX: usize = 16 * 1024;
/// Bytes of the message of a failure.
const FAILURE_MAX: usize = 4 * 1024;
/// Longest name of a kind of failure.
const FAILURE_KIND_MAX: usize = 63;

/// A failed attempt, as its worker reports it.
#[derive(Debug, Clone)]
pub(crate) struct FailWish {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) non_retryable: bool,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) checkpoint: Option<Map<String, Value>>,
}

/// What became of a sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Beaten {
    /// Go on until then.
    Continue(Timestamp),
    /// The instance is on hold; the lease goes on until then.
    Pause(Timestamp),
    /// The lease is gone.
    Abandon,
}

/// A lease that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) lease: Out,
    pub(crate) phase: PhaseId,
    pub(crate) agent: String,
    /// What the promise is known by.
    pub(crate) hold: String,
}

impl App {
    /// The lease of a token. One of another tenant was not made for this caller; one from a queue that the caller's key
    /// is not for came to the caller by mistake, or by theft.
    pub(super) async fn lease_of(&self, principal: &Principal, token: &str) -> Result<Out, Error> {
        self.lease_in(principal, token, "task_token").await
    }

    async fn lease_in(&self, principal: &Principal, token: &str, field: &str) -> Result<Out, Error> {
        let shown = self.tokens().decode(token).filter(|(lease, _)| lease.tenant == principal.tenant);
        let (lease, queue) =
            shown.ok_or_else(|| Invalid::new("TOKEN_MALFORMED", field, "is not one of ours"))?;
        if !principal.may_poll(&queue) {
            return Err(Error::QueueForbidden(queue));
        }
        if planted::is(Bug::NoFence) {
            let snapshot = self.snapshot(&lease.tenant, lease.instance_id.as_str()).await?;
            let newest = snapshot.instance.tasks.get(&lease.task).map_or(lease.fencing, |task| task.fencing);
            return Ok(Out { fencing: newest, ..lease });
        }
        Ok(lease)
    }

    /// Extends leases. The answers are in the order of the items.
    pub(crate) async fn beat(
        &self,
        principal: &Principal,
        items: Vec<(String, BeatWish)>,
    ) -> Result<Vec<Beaten>, Error> {
        let mut beats = Vec::with_capacity(items.len());
        for (index, (token, wish)) in items.into_iter().enumerate() {
            let lease = self.lease_in(principal, &token, &format!("items[{index}].task_token")).await?;
            let kept = |details| bytes_of("details", details, CHECKPOINT_MAX);
            let checkpoint = wish.details.as_ref().map(kept).transpose()?;
            let (progress, message) = (wish.progress, wish.message);
            beats.push(Beat { lease, progress, message, checkpoint, extend_by: wish.extend_by });
        }
        let leases: Vec<_> = beats.iter().map(|beat| beat.lease.clone()).collect();
        let ends = self.store().lease_beat(beats, self.now()).await?;
        let mut answers = Vec::with_capacity(ends.len());
        for (ends_at, lease) in ends.into_iter().zip(leases) {
            answers.push(match ends_at {
                None => {
                    let lost = Rejection::LeaseLost(lease.task.clone()).into();
                    self.count_lost(&lease, "heartbeat", &lost).await;
                    Beaten::Abandon
                }
                Some(ends_at) => {
                    let snapshot = self.snapshot(&principal.tenant, lease.instance_id.as_str()).await?;
                    let is_paused = snapshot.instance.status == Status::Paused;
                    if is_paused { Beaten::Pause(ends_at) } else { Beaten::Continue(ends_at) }
                }
            });
        }
        Ok(answers)
    }

    /// Takes work in.
    pub(crate) async fn task_complete<M: Message + Default>(
        &self,
        principal: &Principal,
        token: &str,
        output: Option<Map<String, Value>>,
        summary: String,
        once: Option<Once>,
        make: impl Fn(&Out, &Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        let lease = self.lease_of(principal, token).await?;
        if let Some(output) = &output {
            bytes_of("output", output, OUTPUT_MAX)?;
        }
        if summary.len() > SUMMARY_MAX {
            return Err(Error::OutputTooLarge { field: "summary", limit: "bytes", max: SUMMARY_MAX });
        }
        let output = output.map(Value::Object);
        let (task, fencing) = (lease.task.clone(), lease.fencing);
        let action = Action::HandIn { task, fencing, output, summary };
        self.under_lease(lease, action, CheckpointChange::Clear, once, make).await
    }

    /// Takes a failed attempt in.
    pub(crate) async fn task_fail<M: Message + Default>(
        &self,
        principal: &Principal,
        token: &str,
        wish: FailWish,
        once: Option<Once>,
        make: impl Fn(&Out, &Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        let lease = self.lease_of(principal, token).await?;
        check_failure(&wish)?;
        let checkpoint = checkpoint_change(wish.checkpoint.as_ref())?;
        let action = Action::Fail {
            task: lease.task.clone(),
            fencing: lease.fencing,
            kind: wish.kind,
            message: wish.message,
            non_retryable: wish.non_retryable,
            retry_after: wish.retry_after,
            jitter: rand::rng().random_range(0.0..1.0),
        };
        self.under_lease(lease, action, checkpoint, once, make).await
    }

    /// Takes a task back.
    pub(crate) async fn task_release<M: Message + Default>(
        &self,
        principal: &Principal,
        token: &str,
        reason: String,
        kept: Option<Map<String, Value>>,
        once: Option<Once>,
        make: impl Fn(&Out, &Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        let lease = self.lease_of(principal, token).await?;
        let reason: String = reason.chars().take(FAILURE_MAX).collect();
        let checkpoint = checkpoint_change(kept.as_ref())?;
        let (task, fencing) = (lease.task.clone(), lease.fencing);
        let action = Action::Release { task, fencing, reason };
        self.under_lease(lease, action, checkpoint, once, make).await
    }

    async fn under_lease<M: Message + Default>(
        &self,
        lease: Out,
        action: Action,
        checkpoint: CheckpointChange,
        once: Option<Once>,
        make: impl Fn(&Out, &Outcome) -> Result<M, Error> + Send + Sync,
    ) -> Result<Answered<M>, Error> {
        phasegate_telemetry::note("phasegate.task.id", lease.task.as_str());
        let call = call_of(&action);
        let mut order = Order::new(By::AgentOf(lease.task.clone()), Wish::fixed(action));
        order.guard = Some(Guard::Holds { task: lease.task.clone(), fencing: lease.fencing });
        order.checkpoint = checkpoint;
        let done = self
            .answer(&lease.tenant, &lease.instance_id, order, once, |outcome| make(&lease, outcome))
            .await;
        // Where its instance is gone, so is the lease; the caller knows only the token.
        let done = done.map_err(|error| {
            let is_gone = matches!(
                error,
                Error::NotFound(_) | Error::Rejected(Rejection::Terminal(_) | Rejection::TaskNotFound(_))
            );
            if is_gone { Rejection::LeaseLost(lease.task.clone()).into() } else { error }
        });
        if let Err(error) = &done {
            self.count_lost(&lease, call, error).await;
        }
        done
    }

    /// Confirms that a lease holds, and promises that the task is not handed out anew for a moment.
    pub(crate) async fn lease_confirm(
        &self,
        principal: &Principal,
        token: &str,
        instance_id: &str,
    ) -> Result<Held, Error> {
        let lease = self.lease_of(principal, token).await?;
        let held = self.lease_held(lease.clone(), instance_id).await;
        if let Err(error) = &held {
            self.count_lost(&lease, "store_artifact", error).await;
        }
        held
    }

    async fn lease_held(&self, lease: Out, instance_id: &str) -> Result<Held, Error> {
        let snapshot = self.snapshot(&lease.tenant, lease.instance_id.as_str()).await?;
        let Some(task) = snapshot.instance.tasks.get(&lease.task) else {
            return Err(Rejection::LeaseLost(lease.task).into());
        };
        let lost =
            || Error::LeaseLost { task: lease.task.clone(), current: task.fencing, status: task.status };
        if !instance_id.is_empty() && instance_id != lease.instance_id.as_str() {
            return Err(lost());
        }
        let now = self.now();
        let hold = EventId::generate().into_string();
        if !self.store().lease_hold(lease.clone(), hold.clone(), now, now + HOLD).await? {
            return Err(lost());
        }
        let (phase, agent) = (task.phase.clone(), task.assignee.clone());
        Ok(Held { lease, phase, agent, hold })
    }

    /// Ends a lease whose time is over. Nothing happens when a heartbeat was faster.
    pub(crate) async fn lease_expire(&self, lease: &Out) -> Result<(), Error> {
        let (task, fencing) = (lease.task.clone(), lease.fencing);
        let jitter = rand::rng().random_range(0.0..1.0);
        let action = Action::ExpireLease { task: task.clone(), fencing, jitter };
        let mut order = Order::new(By::Somebody(crate::domain::Actor::engine()), Wish::fixed(action));
        order.guard = Some(Guard::Over { task, fencing });
        match self.execute(&lease.tenant, &lease.instance_id, &order, None).await {
            Ok(_) | Err(Error::LeaseLost { .. } | Error::Rejected(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Leases whose time is over, with when it was.
    pub(crate) async fn leases_due(&self, limit: u32) -> Result<Vec<(Out, Timestamp)>, Error> {
        let early = if planted::is(Bug::EarlyTimer) { EARLY } else { Duration::ZERO };
        Ok(self.store().lease_list_due(self.now() + early, limit).await?)
    }
}

/// A sign of life, as its worker gives it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BeatWish {
    pub(crate) progress: i32,
    pub(crate) message: String,
    pub(crate) details: Option<Map<String, Value>>,
    pub(crate) extend_by: Option<Duration>,
}

/// An object of a worker as it is kept. Refuses one that is too large, or that no reader could get through.
fn bytes_of(field: &'static str, object: &Map<String, Value>, max: usize) -> Result<Vec<u8>, Error> {
    if levels(object) > LEVELS_MAX {
        return Err(Error::OutputTooLarge { field, limit: "levels", max: LEVELS_MAX });
    }
    let bytes = serde_json::to_vec(object).map_err(|error| Error::Broken(error.to_string()))?;
    if bytes.len() > max { Err(Error::OutputTooLarge { field, limit: "bytes", max }) } else { Ok(bytes) }
}

/// What the call of an action is called in metrics.
#[expect(clippy::wildcard_enum_match_arm, reason = "workers make a few of many actions")]
const fn call_of(action: &Action) -> &'static str {
    match action {
        Action::HandIn { .. } => "complete",
        Action::Fail { .. } => "fail",
        Action::Release { .. } => "release",
        _ => "other",
    }
}

fn checkpoint_change(kept: Option<&Map<String, Value>>) -> Result<CheckpointChange, Error> {
    Ok(match kept {
        None => CheckpointChange::Keep,
        Some(kept) => CheckpointChange::Set(bytes_of("checkpoint", kept, CHECKPOINT_MAX)?),
    })
}

fn check_failure(wish: &FailWish) -> Result<(), Error> {
    let fault = |field: &str, message: String| Err(Invalid::new("FAILURE_INVALID", field, message).into());
    let is_kind = wish.kind.len() <= FAILURE_KIND_MAX
        && wish.kind.starts_with(|first: char| first.is_ascii_uppercase())
        && wish.kind.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if !is_kind {
        let message = format!("must be 1 to {FAILURE_KIND_MAX} upper-case letters, digits and underscores");
        return fault("failure.type", message);
    }
    if wish.message.trim().is_empty() || wish.message.len() > FAILURE_MAX {
        return fault("failure.message", format!("must be 1 to {FAILURE_MAX} bytes"));
    }
    Ok(())
}
