//! The troubles end. Everything must come to rest: nothing unsent, nothing unconfirmed, nothing half done; the services
//! agree; whatever can move has moved. Then everybody does what is asked for, and it must come to rest again.

use std::collections::BTreeMap;
use std::time::Duration;

use phasegate_approval::domain::{Outcome, due_next};
use phasegate_clock::Timestamp;
use phasegate_id::InstanceId;
use phasegate_instance::domain::{Action, ApprovalStatus, Status, Subject, blockers, ready_work};

use crate::client::{Body, hand_in, operator};
use crate::engine::{By, Order};
use crate::kept::Answer;
use crate::mail::State;
use crate::people::Doing;
use crate::world::{Service, Violation, World};

/// Rounds after which it will never come to rest.
const ROUNDS_MAX: usize = 3_000;
/// How long everything may take once the troubles have ended; timers that lie further ahead are not waited for.
const REST_WITHIN: Duration = Duration::from_mins(30);
/// Rounds in which everybody does what is asked for.
const COOPERATIVE: usize = 8;

impl World {
    /// Ends the troubles and demands that everything comes to rest.
    pub(crate) fn settle_down(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.say("the troubles end");
        self.poisoned.clear();
        self.replay();
        self.rest()?;
        self.agree()?;
        self.client.cooperative = true;
        for _ in 0..COOPERATIVE {
            self.everybody_helps();
            self.rest()?;
        }
        self.agree()?;
        self.nobody_is_stuck()
    }

    /// Goes on until nothing is left to do.
    fn rest(&mut self) -> Result<(), Violation> {
        let until = self.now + REST_WITHIN;
        for _ in 0..ROUNDS_MAX {
            while !self.flights.is_empty() {
                self.fly();
            }
            for service in Service::ALL {
                while self.relay_of(service) {}
            }
            for _ in 0..self.bus.waiting.len() {
                self.deliver();
            }
            self.confirm();
            self.send_again();
            self.try_anew();
            for call in self.open_calls() {
                self.send(call);
            }
            self.timers();
            self.post();
            self.verdict()?;
            let is_busy = !self.flights.is_empty() || !self.confirmations.is_empty();
            let now = self.now;
            if is_busy || self.bus.waiting.iter().any(|delivery| delivery.not_before <= now) {
                continue;
            }
            if Service::ALL.into_iter().any(|service| !self.kept(service).heads(now).is_empty()) {
                continue;
            }
            match self.next_due() {
                Some(due) if due <= until => self.now = due,
                Some(_) | None => return Ok(()),
            }
        }
        Err(Violation("it does not come to rest".to_owned()))
    }

    /// When something happens by itself next.
    fn next_due(&mut self) -> Option<Timestamp> {
        let now = self.now;
        let mut due: Vec<Timestamp> =
            Service::ALL.into_iter().filter_map(|service| self.kept(service).next_due(now)).collect();
        due.extend(self.bus.next_due(now));
        due.extend(Service::ALL.into_iter().filter_map(|service| self.kept(service).next_letter(now)));
        due.extend(self.desk.timers.values().filter(|timer| !timer.paused).map(|timer| timer.due_at));
        let leases = self.engine.rows.values().flat_map(|row| row.leases.values());
        due.extend(leases.filter_map(|lease| lease.ends_at));
        due.extend(self.mail.messages.values().filter_map(|message| match message.state {
            State::Due(at) => Some(at),
            State::Sent | State::Failed | State::Pointless => None,
        }));
        due.into_iter().filter(|at| *at > now).min()
    }

    /// What must be true once nothing is left to do.
    fn agree(&mut self) -> Result<(), Violation> {
        let mut faults = Vec::new();
        for service in Service::ALL {
            for row in self.kept(service).outbox.values() {
                if !row.sent || row.left != 0 {
                    let (event, left) = (&row.event.event_id, row.left);
                    let what = crate::world::kind(&row.event);
                    faults.push(format!("{service:?} never got rid of {event} {what}: {left} left"));
                }
            }
        }
        for service in Service::ALL {
            let letters = self.kept(service).letters.keys();
            faults
                .extend(letters.map(|event| format!("{service:?} never took {event}, which was set aside")));
        }
        faults.extend(self.requests_disagree());
        faults.extend(self.artifacts_disagree());
        faults.extend(self.messages_are_missing());
        faults.extend(self.acknowledged_is_missing());
        faults.extend(self.could_have_moved());
        match faults.into_iter().next() {
            Some(fault) => Err(Violation(fault)),
            None => Ok(()),
        }
    }

    fn requests_disagree(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (id, row) in &self.engine.rows {
            let is_over = row.state.status.is_terminal();
            for (request, known) in &row.state.approvals {
                let stored = self.desk.requests.get(request);
                let theirs = stored.map(|stored| stored.approval.settlement().map(|end| end.outcome));
                let fits = match (known.status, theirs) {
                    (ApprovalStatus::Pending, Some(None))
                    | (ApprovalStatus::Approved, Some(Some(Outcome::Approved)))
                    | (ApprovalStatus::Rejected, Some(Some(Outcome::Rejected)))
                    | (ApprovalStatus::ChangesRequested, Some(Some(Outcome::ChangesRequested)))
                    | (ApprovalStatus::Expired, Some(Some(Outcome::Expired)))
                    | (ApprovalStatus::Withdrawn, Some(Some(Outcome::Withdrawn)))
                    | (ApprovalStatus::Superseded, Some(Some(Outcome::Superseded))) => true,
                    (ApprovalStatus::Needed, None) => is_over,
                    (
                        ApprovalStatus::Needed
                        | ApprovalStatus::Pending
                        | ApprovalStatus::Approved
                        | ApprovalStatus::Rejected
                        | ApprovalStatus::ChangesRequested
                        | ApprovalStatus::Expired
                        | ApprovalStatus::Withdrawn
                        | ApprovalStatus::Superseded,
                        _,
                    ) => is_over && !known.status.is_open(),
                };
                if !fits {
                    let status = known.status.as_str();
                    faults
                        .push(format!("{id}: the engine has {request} as {status}, approval as {theirs:?}"));
                }
            }
        }
        for (request, stored) in &self.desk.requests {
            let approval = &stored.approval;
            let row = self.engine.rows.get(&approval.request.instance);
            let Some(row) = row else {
                faults.push(format!("{request} is about no instance"));
                continue;
            };
            if approval.is_pending() {
                let known = row.state.approvals.get(request).map(|known| known.status);
                if row.state.status.is_terminal() || known != Some(ApprovalStatus::Pending) {
                    let status = row.state.status.as_str();
                    faults.push(format!(
                        "{request} waits for people; the engine, {status}, has it as {known:?}"
                    ));
                }
                for bound in &approval.request.artifacts {
                    let newest = self.shelf.current(&approval.request.instance, &bound.key);
                    if newest.is_some_and(|newest| newest.version > bound.version) {
                        let (key, version) = (&bound.key, bound.version);
                        faults
                            .push(format!("{request} shows people {key} {version}, which is not the newest"));
                    }
                }
            }
            let timer = self.desk.timers.get(request).map(|timer| timer.due_at);
            if timer != due_next(approval) {
                faults.push(format!("{request} has a timer at {timer:?}, not {:?}", due_next(approval)));
            }
            let is_paused = row.state.status == Status::Paused;
            if self.desk.timers.get(request).is_some_and(|timer| timer.paused != is_paused) {
                faults.push(format!(
                    "the timer of {request} does not know that the instance is on hold, or not"
                ));
            }
        }
        faults
    }

    fn artifacts_disagree(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for ((instance, key), versions) in &self.shelf.versions {
            let newest = versions.last().and_then(|newest| u32::try_from(newest.number).ok());
            let row = self.engine.rows.get(instance);
            let known = row.and_then(|row| row.state.artifacts.get(key)).map(|known| known.version);
            if known != newest {
                faults.push(format!("{instance}: the engine has {key} at {known:?}, artifact at {newest:?}"));
            }
            let gaps = versions.iter().zip(1..).any(|(version, number)| version.number != number);
            if gaps {
                faults.push(format!("{instance}: {key} has a gap"));
            }
        }
        for (id, row) in &self.engine.rows {
            let is_called_off = matches!(row.state.status, Status::Cancelled | Status::Failed);
            if is_called_off && self.people.live(id) > 0 {
                faults.push(format!("{id} was called off and has links that work"));
            }
            if self.people.people(id).is_empty() {
                faults.push(format!("participant has never heard of {id}"));
            }
        }
        faults
    }

    fn messages_are_missing(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut sent: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for message in self.mail.messages.values() {
            *sent.entry((message.event.as_str(), message.person.as_str())).or_default() += 1;
            if matches!(message.state, State::Due(_)) {
                faults.push(format!("a message to {} about {} is still due", message.person, message.event));
            }
            if message.state == State::Sent && message.taken == 0 {
                faults.push(format!("a message to {} was never sent", message.person));
            }
        }
        if let Some(((event, person), count)) = sent.into_iter().find(|(_, count)| *count > 1) {
            faults.push(format!("{person} was written to {count} times about {event}"));
        }
        for (id, stored) in self.desk.requests.iter().filter(|(_, stored)| stored.approval.is_pending()) {
            for person in stored.approval.waits_for() {
                let is_told = self.mail.messages.values().any(|message| {
                    message.person == *person
                        && message.approvals.contains(id)
                        && matches!(message.state, State::Sent)
                });
                if !is_told {
                    faults.push(format!("{person} has to decide {id} and was not written to"));
                }
            }
        }
        faults
    }

    /// What was acknowledged stands in the record, once.
    fn acknowledged_is_missing(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for call in self.calls.values() {
            let Some(answer) = &call.answer else {
                faults.push(format!("{} was never answered", call.once.id));
                continue;
            };
            faults.extend(self.answer_fault(call, answer));
            let is_there = match (&call.body, answer) {
                (Body::Ask(_), Answer::Done(what)) => {
                    let id = what.strip_prefix("asked ").unwrap_or_default();
                    self.desk.requests.contains_key(id)
                }
                (Body::Link(Doing::Revoke(link)), Answer::Done(_)) => {
                    self.people.links.get(link).is_some_and(|link| link.revoked.is_some())
                }
                (_, Answer::Done(_) | Answer::Refused(_)) => true,
            };
            if !is_there {
                faults.push(format!("{} {} was acknowledged, and did not last", call.once.id, call.name));
            }
        }
        faults
    }

    /// Instances that have not moved although they could: anything more than a fact follows from a fact that nobody reads.
    fn could_have_moved(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (id, row) in self.engine.rows.iter().filter(|(_, row)| row.state.status == Status::Running) {
            let facts = BTreeMap::from([("nobody_reads_this".to_owned(), true)]);
            let action = Action::SetFacts { facts, lease: None, reason: "a probe".to_owned() };
            let order = Order::new(id, By::Somebody(operator()), action);
            match self.engine_decide(&row.script, &row.state, &order) {
                Ok((_, events, _)) if events.len() == 1 => {}
                Ok((_, events, _)) => {
                    let last = events.last().map(|event| crate::engine::variant(&event.change));
                    faults.push(format!("{id} could have moved: {last:?}"));
                }
                Err(rejection) => faults.push(format!("{id} refuses a fact: {rejection}")),
            }
        }
        faults
    }

    /// Everybody does what is asked for: work is taken, done and handed in, and people approve what they are shown.
    fn everybody_helps(&mut self) {
        let instances: Vec<InstanceId> = self.going_on();
        for instance in &instances {
            let row = self.engine.rows.get(instance);
            if row.is_some_and(|row| row.state.status == Status::Paused) {
                let action = Action::Resume { reason: String::new() };
                let order = Order::new(instance, By::Somebody(operator()), action);
                self.call("resume", Body::Engine(order));
            }
            for _ in 0..3 {
                if let Some((name, body)) = self.lease(instance) {
                    self.call(name, body);
                }
            }
        }
        for (instance, task, fencing) in self.held() {
            while let Some(key) = self.missing(&instance, &task) {
                let mut put = self.put(&instance, key.clone(), Some((task.clone(), fencing)));
                put.if_version = None;
                self.call("store", Body::Store(put));
                if self.shelf.current(&instance, &key).is_none() {
                    break;
                }
            }
            let (name, body) =
                Self::under_lease(&instance, &task, fencing, ("hand in", hand_in(&task, fencing)));
            self.call(name, body);
        }
        let waiting: Vec<_> = self
            .desk
            .requests
            .values()
            .filter(|stored| stored.approval.is_pending())
            .flat_map(|stored| {
                let approval = &stored.approval;
                let people: Vec<_> = approval.waits_for().cloned().collect();
                people.into_iter().map(|one| (approval.request.id.clone(), one, approval.digest.clone()))
            })
            .collect();
        for (approval, person, seen) in waiting {
            let by = phasegate_approval::domain::Actor {
                kind: phasegate_approval::domain::ActorKind::Participant,
                id: person.to_string(),
                channel: phasegate_approval::domain::Channel::Portal,
                on_behalf_of: None,
            };
            let choice = phasegate_approval::domain::Decision::Approve;
            let comment = String::new();
            self.call(
                "approve",
                Body::Decide(crate::ask::Decision { approval, person, choice, seen, by, comment }),
            );
        }
    }

    /// Whoever asks why an instance does not move gets an answer.
    fn nobody_is_stuck(&mut self) -> Result<(), Violation> {
        for (id, row) in &self.engine.rows {
            if row.state.status == Status::Completed {
                self.cover.completed += 1;
            }
            if row.state.status != Status::Running {
                continue;
            }
            let definition = row.script.definition();
            let has_work = !ready_work(definition, &row.state).is_empty();
            let waits = row
                .state
                .approvals
                .values()
                .any(|one| one.status.is_open() && !matches!(one.subject, Subject::AdHoc(_)));
            if !has_work && !waits && blockers(definition, &row.state).is_empty() {
                return Err(Violation(format!("{id} does not move, and nobody can say why")));
            }
        }
        Ok(())
    }
}
