//! Looks after every step. It keeps a state of its own, folded from what is in the histories as JSON, and holds each new
//! entry against what was promised.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_approval::domain::{Approval, Event as VoteEvent, evolve as evolve_vote, fold, invariant};
use phasegate_bus::Receiver;
use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, InstanceId, TaskId};
use phasegate_instance::domain::{
    Action, ActorKind, Change, Event, Fact, Failure, Instance, Rejection, check, evolve,
};
use phasegate_instance::unwired::Script;
use phasegate_notification::unwired::messages;

use crate::client::{Body, number_of};
use crate::engine::Order;
use crate::kept::Once;
use crate::shelf::Put;
use crate::world::{Service, World};

/// What the witness knows.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// The first promise that was broken.
    pub(crate) broken: Option<String>,
    /// Who sent each event.
    pub(crate) senders: BTreeMap<String, Service>,
    instances: BTreeMap<InstanceId, Told>,
    requests: BTreeMap<ApprovalId, (usize, Approval)>,
    /// How often each request id stands in the records of each service.
    marks: BTreeMap<(Service, String), u32>,
}

/// An instance as its history tells it.
#[derive(Debug)]
pub(crate) struct Told {
    entries: usize,
    ids: BTreeSet<String>,
    state: Instance,
    /// The newest lease of each task, and its end.
    leases: BTreeMap<TaskId, (u64, Timestamp)>,
    /// Requests whose end is on record.
    settled: BTreeSet<ApprovalId>,
}

impl Witness {
    /// Notes a broken promise, unless one was noted before.
    pub(crate) fn accuse(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// A lease was extended.
    pub(crate) fn extended(&mut self, instance: &InstanceId, task: &TaskId, end: Timestamp) {
        let lease = self.instances.get_mut(instance).and_then(|told| told.leases.get_mut(task));
        if let Some(lease) = lease {
            lease.1 = end;
        }
    }

    /// How often a request id stands in the records of a service.
    pub(crate) fn count(&self, service: Service, mark: &str) -> u32 {
        self.marks.get(&(service, mark.to_owned())).copied().unwrap_or_default()
    }

    fn mark(&mut self, service: Service, mark: &str) {
        let count = self.marks.entry((service, mark.to_owned())).or_default();
        *count += 1;
        if *count > 1 {
            self.accuse(format!("{mark} took effect twice in {service:?}"));
        }
    }
}

impl World {
    /// Something was written about an instance; `current` is what artifact had when it was decided.
    pub(crate) fn witness_instance(&mut self, id: &InstanceId, current: &BTreeMap<ArtifactKey, u32>) {
        let Some(row) = self.engine.rows.get(id) else { return };
        let told = self.witness.instances.remove(id);
        let mut told = told.unwrap_or_else(|| Told {
            entries: 0,
            ids: BTreeSet::new(),
            state: Instance::unstarted(),
            leases: BTreeMap::new(),
            settled: BTreeSet::new(),
        });
        let mut faults = Vec::new();
        let mut marks = BTreeSet::new();
        let mut events: Vec<Event> = Vec::new();
        for entry in row.history.iter().skip(told.entries) {
            told.entries += 1;
            if !told.ids.insert(entry.event_id.clone()) {
                faults.push(format!("{} took effect twice in {id}", entry.event_id));
            }
            match serde_json::from_slice(&entry.body) {
                Ok(event) => events.push(event),
                Err(error) => faults.push(format!("an entry of {id} cannot be read: {error}")),
            }
        }
        let is_forced = events.iter().any(|event| {
            matches!(event.change, Change::GateOpened { forced: true, .. } | Change::PhaseSkipped { .. })
        });
        for event in &events {
            marks.extend(mark_of(&event.change));
            faults.extend(self.lease_faults(&mut told, event));
            if let Change::Heard(Fact::ApprovalSettled { approval, .. }) = &event.change
                && !told.settled.insert(approval.clone())
                // What could not be used when it was told is told again once it can, by the service itself.
                && event.actor.kind != ActorKind::System
            {
                faults.push(format!("{approval} ended twice in {id}"));
            }
            let opens = matches!(
                event.change,
                Change::GateOpened { .. }
                    | Change::TaskCompleted { .. }
                    | Change::PhaseCompleted { .. }
                    | Change::PhaseEntered { .. }
            );
            let before = opens.then(|| told.state.clone());
            told.state = evolve(told.state, event);
            let Some(before) = before else { continue };
            let opening = crate::evidence::Opening {
                definition: row.script.definition(),
                before: &before,
                after: &told.state,
                current,
                is_forced,
            };
            faults.extend(self.opening_faults(&opening, event));
        }
        if told.state != *row.state {
            faults.push(format!("{id} is not what its history tells"));
        }
        if told.state.version != u64::try_from(told.entries).unwrap_or_default() {
            faults.push(format!("{id} is at {} with {} entries", told.state.version, told.entries));
        }
        if let Err(broken) = check(row.script.definition(), &row.state) {
            faults.push(format!("{id}: {broken}"));
        }
        self.witness.instances.insert(id.clone(), told);
        if self.traces() {
            let names = events.iter().map(|event| crate::engine::variant(&event.change));
            self.say(&format!("    {id} {}", names.collect::<Vec<_>>().join(" ")));
        }
        for mark in marks {
            self.witness.mark(Service::Instance, &mark);
        }
        for fault in faults {
            self.witness.accuse(fault);
        }
    }

    /// What is wrong with an entry about a lease.
    #[expect(clippy::wildcard_enum_match_arm, reason = "looks for a few of many kinds")]
    fn lease_faults(&self, told: &mut Told, event: &Event) -> Vec<String> {
        let mut faults = Vec::new();
        let mut ends = |task: &TaskId, fencing: u64, mark: &str, is_expiry: bool| {
            let newest = told.leases.get(task).copied();
            let Some((granted, end)) = newest else {
                return faults.push(format!("{task} had no lease"));
            };
            if granted != fencing {
                faults.push(format!("lease #{fencing} of {task} counted when #{granted} was the newest"));
            }
            if is_expiry && told.state.paused_at.is_some() {
                faults.push(format!("lease #{fencing} of {task} ran out while the instance was on hold"));
            }
            if is_expiry && end > event.at {
                faults.push(format!("lease #{fencing} of {task} ended before its time"));
            }
            if !is_expiry && end <= event.at {
                faults.push(format!("lease #{fencing} of {task} counted after its end"));
            }
            let shown = number_of(mark).and_then(|id| self.calls.get(&id)).and_then(|call| shown(&call.body));
            if !is_expiry && shown != Some(fencing) {
                faults.push(format!("{mark} showed lease {shown:?} and counted as #{fencing}"));
            }
        };
        match &event.change {
            Change::TaskHandedIn { task, fencing, summary, .. } => ends(task, *fencing, summary, false),
            Change::TaskReleased { task, fencing, reason } => ends(task, *fencing, reason, false),
            Change::TaskAttemptFailed { task, fencing, kind, message, .. } => {
                ends(task, *fencing, message, kind == Failure::LEASE_EXPIRED);
            }
            _ => {}
        }
        if let Change::TaskLeased { task, fencing, until, .. } = &event.change {
            let state = told.state.tasks.get(task);
            if state.and_then(|task| task.ready_at).is_none_or(|at| at > event.at) {
                faults.push(format!("{task} was handed out before its time"));
            }
            if told.state.paused_at.is_some() {
                faults.push(format!("{task} was handed out while the instance was on hold"));
            }
            if told.leases.get(task).is_some_and(|(newest, _)| newest >= fencing) {
                faults.push(format!("the lease of {task} did not get a higher token"));
            }
            told.leases.insert(task.clone(), (*fencing, *until));
        }
        faults
    }

    /// A refusal must not rest on a state that another copy has made old.
    pub(crate) fn witness_refusal(&mut self, script: &Script, order: &Order, rejection: &Rejection) {
        let Some(row) = self.engine.rows.get(&order.instance) else { return };
        let state = std::sync::Arc::clone(&row.state);
        if let Ok((_, events, _)) = self.engine_decide(script, &state, order)
            && !events.is_empty()
        {
            self.witness.accuse(format!("a refusal rests on an old state: {rejection:?} of {order:?}"));
        }
    }

    /// Something was written about a request.
    pub(crate) fn witness_request(&mut self, id: &ApprovalId) {
        let Some(stored) = self.desk.requests.get(id) else { return };
        let (known, mut state) = match self.witness.requests.remove(id) {
            Some((known, state)) => (known, Some(state)),
            None => (0, None),
        };
        let mut faults = Vec::new();
        let mut marks = Vec::new();
        let mut happened = Vec::new();
        for body in stored.history.iter().skip(known) {
            let event: VoteEvent = match serde_json::from_slice(body) {
                Ok(event) => event,
                Err(error) => {
                    faults.push(format!("an event of {id} cannot be read: {error}"));
                    continue;
                }
            };
            happened.push(crate::engine::variant(&event));
            faults.extend(self.vote_faults(state.as_ref(), &event, &mut marks));
            state = match state {
                Some(state) => Some(evolve_vote(state, &event)),
                None => fold([&event]),
            };
        }
        let entries = stored.history.len();
        match state {
            Some(state) => {
                if state != stored.approval {
                    faults.push(format!("{id} is not what its history tells"));
                }
                if let Err(broken) = invariant::check(&state) {
                    faults.push(format!("{id}: {broken}"));
                }
                self.witness.requests.insert(id.clone(), (entries, state));
            }
            None => faults.push(format!("{id} has no beginning")),
        }
        let subject = stored.approval.request.subject.clone();
        if self.traces() {
            let (kind, about) = (subject.kind, subject.id);
            self.say(&format!("    {id} {kind:?} {about} {}", happened.join(" ")));
        }
        for mark in marks {
            self.witness.mark(Service::Approval, &mark);
        }
        for fault in faults {
            self.witness.accuse(fault);
        }
    }

    /// What is wrong with an event of a request.
    fn vote_faults(
        &self,
        before: Option<&Approval>,
        event: &VoteEvent,
        marks: &mut Vec<String>,
    ) -> Vec<String> {
        let mut faults = Vec::new();
        if let VoteEvent::Requested { request, .. } = event {
            if number_of(&request.title).is_some() {
                marks.push(request.title.clone());
            }
            return faults;
        }
        let Some(before) = before else { return vec!["a request begins with an answer".to_owned()] };
        let id = &before.request.id;
        let is_due =
            |due: Option<Timestamp>, at: Timestamp| due.is_some_and(|due| due <= at && due <= self.now);
        match event {
            VoteEvent::Responded { approver, answer } => {
                marks.push(answer.comment.clone());
                if !before.is_pending() {
                    faults.push(format!("{approver} decided {id} after its end"));
                }
                if before.approver(approver).is_none_or(|one| one.answer().is_some()) {
                    faults.push(format!("{approver} decided {id} twice"));
                }
                let call = number_of(&answer.comment).and_then(|id| self.calls.get(&id));
                match call.map(|call| &call.body) {
                    Some(Body::Decide(meant)) => {
                        if meant.seen != before.digest {
                            faults.push(format!("{approver} decided {id} on what is not shown any more"));
                        }
                        if meant.person != *approver || meant.choice != answer.decision {
                            faults.push(format!("{approver} did not decide {id} like that"));
                        }
                    }
                    Some(_) | None => faults.push(format!("nobody decided {id} for {approver}")),
                }
            }
            VoteEvent::TimedOut { at, .. } if !is_due(before.expires_at, *at) => {
                faults.push(format!("the time of {id} ran out early"));
            }
            VoteEvent::Escalated { at, overdue, .. } => {
                let is_time =
                    is_due(before.escalates_at, *at) || (*overdue && is_due(before.expires_at, *at));
                if !is_time {
                    faults.push(format!("{id} went up early"));
                }
            }
            VoteEvent::Reminded { at, .. } if !is_due(before.reminds_at.first().copied(), *at) => {
                faults.push(format!("{id} was brought to mind early"));
            }
            VoteEvent::Withdrawn { reason, .. } if number_of(reason).is_some() => marks.push(reason.clone()),
            VoteEvent::Requested { .. }
            | VoteEvent::AskedAgain { .. }
            | VoteEvent::Settled { .. }
            | VoteEvent::Reminded { .. }
            | VoteEvent::TimedOut { .. }
            | VoteEvent::Withdrawn { .. }
            | VoteEvent::Superseded { .. } => {}
        }
        faults
    }

    /// A version was stored.
    pub(crate) fn witness_version(&mut self, put: &Put, once: &Once) {
        self.witness.mark(Service::Artifact, &once.id);
        let Some((task, fencing)) = &put.lease else { return };
        let told = self.witness.instances.get(&put.instance);
        let newest = told.and_then(|told| told.leases.get(task)).map(|lease| lease.0);
        if newest != Some(*fencing) {
            let key = &put.key;
            self.witness
                .accuse(format!("lease #{fencing} of {task} stored {key} when {newest:?} was granted"));
        }
    }

    /// Something was written for a request that leaves no other mark.
    pub(crate) fn witness_marker(&mut self, once: &Once, _what: &str) {
        self.witness.mark(Service::Participant, &once.id);
    }

    /// A receiver says that it has taken an event: then the effect must be durable.
    pub(crate) fn witness_confirmation(&mut self, event: &str, receiver: Receiver) {
        let service = Service::of(receiver);
        if self.kept(service).inbox.contains(event) || self.kept(service).letters.contains_key(event) {
            return;
        }
        if receiver == Receiver::Notification {
            let now = self.now;
            let sender = self.witness.senders.get(event).copied().unwrap_or(Service::Instance);
            let row = self.kept(sender).outbox.values().find(|row| row.event.event_id == event);
            let payload = row.and_then(|row| row.event.payload.clone());
            let told = payload.and_then(|payload| messages(&payload, now, &[]));
            if told.is_none_or(|told| told.people.is_empty() || told.template != "approval_requested") {
                return;
            }
        }
        self.witness
            .accuse(format!("{receiver:?} confirmed {event}, and has neither taken it nor set it aside"));
    }
}

/// The fencing token that a call shows.
#[expect(clippy::wildcard_enum_match_arm, reason = "looks for a few of many kinds")]
fn shown(body: &Body) -> Option<u64> {
    let Body::Engine(order) = body else { return None };
    match order.actions.first()? {
        Action::HandIn { fencing, .. } | Action::Fail { fencing, .. } | Action::Release { fencing, .. } => {
            Some(*fencing)
        }
        _ => None,
    }
}

/// The request id in an entry.
#[expect(clippy::wildcard_enum_match_arm, reason = "looks for a few of many kinds")]
fn mark_of(change: &Change) -> Option<String> {
    let text = match change {
        Change::InstanceStarted(started) => &started.name,
        Change::InstancePaused { reason }
        | Change::InstanceResumed { reason }
        | Change::InstanceCancelled { reason }
        | Change::ContextChanged { reason, .. }
        | Change::PhaseEntered { reason, .. }
        | Change::PhaseSkipped { reason, .. }
        | Change::PhaseReopened { reason, .. }
        | Change::GateOpened { reason, .. }
        | Change::TaskReleased { reason, .. }
        | Change::TaskRetried { reason, .. }
        | Change::TaskSkipped { reason, .. } => reason,
        Change::TaskHandedIn { summary, .. } => summary,
        Change::TaskAttemptFailed { message, .. } => message,
        Change::FactsSet { facts, .. } => return facts.keys().find(|key| number_of(key).is_some()).cloned(),
        _ => return None,
    };
    number_of(text).map(|_| text.clone())
}
