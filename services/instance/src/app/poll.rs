//! Handing out work: a long poll that claims what is due and grants leases.

use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_database::Reach;
use phasegate_principal::Principal;
use rand::Rng as _;
use rand::seq::SliceRandom as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::execute::{By, Order, Wish};
use super::offers::{Known, Offer, Wants};
use super::order::Shows;
use super::{App, Error, Outcome, TaskToken};
use crate::domain::{Action, Actor, Rejection};
use crate::store::{self, CandidatePosition, Guard, LeaseRow, Look, Out, WorkFilter};

/// Looks again this often for what another process made ready.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Candidates that are read at once, beside those wanted: some are lost to other workers.
const SPARE: usize = 16;
/// Candidates of a queue that one poll looks through for a task that fits the worker.
const LOOKED_THROUGH_MAX: usize = 2_000;

/// Who asks for work, and for which.
#[derive(Debug, Clone)]
pub(crate) struct Poll {
    pub(crate) worker: String,
    /// When not empty, only tasks whose tools are among them.
    pub(crate) tools: Vec<String>,
    pub(crate) queues: Vec<String>,
    /// When not empty, only tasks of this instance.
    pub(crate) instance: String,
    pub(crate) tasks_max: usize,
    pub(crate) wait: Duration,
    pub(crate) lease: Duration,
}

/// A task that was handed out.
#[derive(Debug, Clone)]
pub(crate) struct Leased {
    pub(crate) token: TaskToken,
    pub(crate) lease: Out,
    pub(crate) queue: String,
    pub(crate) duration: Duration,
    /// What the attempt before left behind.
    pub(crate) row: Option<LeaseRow>,
    pub(crate) outcome: Outcome,
}

impl App {
    /// Waits for work. Nothing came when the answer is empty. Whoever asked may hang up at any moment: what is leased for
    /// them just then is taken back, so that no task waits for the end of a lease that nobody knows of.
    pub(crate) async fn poll(&self, principal: &Principal, poll: Poll) -> Result<Vec<Leased>, Error> {
        let (app, principal) = (self.clone(), principal.clone());
        let (answer, heard) = oneshot::channel();
        let reach = Reach::of_tenant(&principal.tenant);
        let gone = CancellationToken::new();
        let _told = gone.clone().drop_guard();
        let polling = async move {
            let polled = app.wait_for_work(&principal, &poll, &gone).await;
            if let Err(Ok(unheard)) = answer.send(polled) {
                app.take_back(unheard).await;
            }
        };
        tokio::spawn(reach.within(polling).in_current_span());
        heard.await.map_err(|_| Error::Broken("a poll ended without an answer".to_owned()))?
    }

    /// Ends leases that nobody has heard of. The engine does, not the agent, who never had the work.
    async fn take_back(&self, unheard: Vec<Leased>) {
        for Leased { lease, .. } in unheard {
            let Out { tenant, instance_id, task, fencing, .. } = lease;
            let reason = "whoever asked for work has gone".to_owned();
            let action = Action::Release { task: task.clone(), fencing, reason };
            let mut order = Order::new(By::Somebody(Actor::engine()), Wish::fixed(action));
            order.guard = Some(Guard::Holds { task, fencing });
            if let Err(error) = self.execute(&tenant, &instance_id, &order, None).await {
                let error = &error as &dyn std::error::Error;
                tracing::info!(error, "a lease that nobody has heard of was not taken back, and runs out");
            }
        }
    }

    async fn wait_for_work(
        &self,
        principal: &Principal,
        poll: &Poll,
        gone: &CancellationToken,
    ) -> Result<Vec<Leased>, Error> {
        if principal.participation.is_some() {
            return Err(Rejection::RoleForbidden.into());
        }
        let tenant = &principal.tenant;
        self.0.workers.note(&poll.queues, &poll.worker, poll.tasks_max, self.now());
        let deadline = tokio::time::Instant::now() + poll.wait;
        let wants =
            Wants { tools: poll.tools.clone(), instance: poll.instance.clone(), offers_max: poll.tasks_max };
        // Begun before looking, so that what becomes ready meanwhile is not missed.
        let seated = self.0.offers.sit(tenant, &poll.queues, wants.clone());
        let mut offered = Vec::new();
        loop {
            if self.shutdown().is_cancelled() {
                return Err(Error::Draining);
            }
            self.note_poll(tenant, &poll.queues).await?;
            let is_offered = !offered.is_empty();
            let (candidates, next_due) =
                if is_offered { (offered, None) } else { self.candidates(tenant, poll, &wants).await? };
            let count = candidates.len();
            let leased = self.claim(principal, poll, candidates).await?;
            if leased.len() < count {
                // Some of it may be there still.
                self.0.offers.doubt(tenant, &poll.queues);
            }
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if !leased.is_empty() || left.is_zero() {
                return Ok(leased);
            }
            offered = Vec::new();
            if is_offered {
                // It went to somebody else: there may be more.
                continue;
            }
            let pause = self.pause(next_due).min(left);
            tokio::select! {
                () = self.shutdown().cancelled() => {}
                () = gone.cancelled() => return Ok(Vec::new()),
                offers = seated.next() => offered = offers,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// How long nothing can be due, as far as this process can tell.
    fn pause(&self, next_due: Option<Timestamp>) -> Duration {
        let pause = LOOK_AGAIN.mul_f64(rand::rng().random_range(0.7..1.3));
        next_due.map_or(pause, |due| pause.min(due.duration_since(self.now())))
    }

    /// Leases what is due, the most urgent first.
    async fn claim(
        &self,
        principal: &Principal,
        poll: &Poll,
        mut candidates: Vec<Offer>,
    ) -> Result<Vec<Leased>, Error> {
        // Chance decides between equals, so that workers do not all run for the same one.
        candidates.shuffle(&mut rand::rng());
        candidates.sort_by_key(|offer| (-offer.candidate.priority, offer.candidate.ready_at));
        let mut candidates = candidates.into_iter();
        let mut leased = Vec::new();
        while leased.len() < poll.tasks_max {
            let next: Vec<_> = candidates.by_ref().take(poll.tasks_max - leased.len()).collect();
            if next.is_empty() {
                break;
            }
            // Side by side, so that they are written together.
            let leasing = next.into_iter().map(|offer| self.lease(principal, poll, offer));
            let mut failed = None;
            for outcome in futures::future::join_all(leasing).await {
                match outcome {
                    Ok(one) => leased.extend(one),
                    Err(error) => failed = Some(error),
                }
            }
            match failed {
                Some(error) if leased.is_empty() => return Err(error),
                // What was leased is handed out; the worker asks for the rest again.
                Some(_) => break,
                None => {}
            }
        }
        Ok(leased)
    }

    /// What a worker could take, and when there may be more.
    async fn candidates(
        &self,
        tenant: &str,
        poll: &Poll,
        wants: &Wants,
    ) -> Result<(Vec<Offer>, Option<Timestamp>), Error> {
        let mut candidates = Vec::new();
        let mut next_due = None;
        for queue in &poll.queues {
            let doubts = match self.0.offers.known(tenant, queue, self.now()) {
                Known::Empty(next) => {
                    next_due = next_due.into_iter().chain(next).min();
                    continue;
                }
                Known::Perhaps(doubts) => doubts,
            };
            let Look { due, next_due: next } = self.look(tenant, queue, poll, wants).await?;
            if due.is_empty() && poll.instance.is_empty() && poll.tools.is_empty() {
                self.0.offers.found_nothing(tenant, queue, doubts, next);
            }
            candidates.extend(due.into_iter().map(|candidate| Offer { queue: queue.clone(), candidate }));
            next_due = next_due.into_iter().chain(next).min();
        }
        Ok((candidates, next_due))
    }

    async fn look(&self, tenant: &str, queue: &str, poll: &Poll, wants: &Wants) -> Result<Look, Error> {
        let filter = WorkFilter { tenant, queue, instance: &poll.instance };
        let wanted = poll.tasks_max + SPARE;
        let now = self.now();
        let mut found = Look::default();
        let mut looked_through = 0;
        let mut after: Option<CandidatePosition> = None;
        while found.due.len() < wanted && looked_through < LOOKED_THROUGH_MAX {
            let page = self.store().work_list(filter, now, after.as_ref(), wanted).await?;
            found.next_due = found.next_due.or(page.next_due);
            looked_through += page.due.len();
            after = page.due.last().map(CandidatePosition::from);
            let is_last = page.due.len() < wanted;
            found.due.extend(page.due.into_iter().filter(|candidate| wants.fits(candidate)));
            if is_last {
                break;
            }
        }
        Ok(found)
    }

    /// Leases one task; nothing when it went to somebody else, or may not be handed out after all.
    async fn lease(
        &self,
        principal: &Principal,
        poll: &Poll,
        Offer { queue, candidate }: Offer,
    ) -> Result<Option<Leased>, Error> {
        let tenant = &principal.tenant;
        let task = candidate.task_id;
        let (worker, duration, id) = (poll.worker.clone(), poll.lease, task.clone());
        let action = Wish::Made(Box::new(move |_, _, now| {
            Ok(Action::Lease { task: id.clone(), worker: worker.clone(), until: now + duration })
        }));
        let mut order = Order::new(By::AgentOf(task.clone()), action);
        order.lease_duration = poll.lease;
        order.shows = Shows::Task(task.clone());
        let outcome = match self.execute(tenant, &candidate.instance_id, &order, None).await {
            Ok(outcome) => outcome,
            Err(Error::Rejected(_) | Error::Busy | Error::LeaseLost { .. } | Error::NotFound(_)) => {
                return Ok(None);
            }
            Err(Error::Store(error)) if matches!(error, store::Error::Inconsistent { .. }) => {
                // One instance that cannot be read must not keep a whole queue from its workers.
                tracing::error!(%error, instance_id = %candidate.instance_id, "work cannot be handed out");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(state) = outcome.after.tasks.get(&task) else { return Ok(None) };
        let lease = Out {
            tenant: tenant.clone(),
            instance_id: candidate.instance_id,
            fencing: state.fencing,
            task: task.clone(),
        };
        let token = self.tokens().encode(&lease, &queue);
        let row = outcome.around.leases.get(&task).cloned();
        Ok(Some(Leased { token, lease, queue, duration: poll.lease, row, outcome }))
    }
}
