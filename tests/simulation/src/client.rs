//! Those who call: workers, people who decide, operators. They see what is committed now, or saw it a while ago; they ask
//! again under the same request id until they have an answer.

use std::collections::BTreeMap;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, InstanceId, TaskId};
use phasegate_instance::domain::{Action, Actor, ActorKind, Channel};
use serde_json::{Value, json};

use crate::ask::{Ask, Decision};
use crate::engine::Order;
use crate::kept::{Answer, Once};
use crate::people::Doing;
use crate::shelf::Put;
use crate::world::{Service, World};

/// Length of a lease.
pub(crate) const LEASE: Duration = Duration::from_secs(20);

/// What somebody calls for.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Engine(Order),
    Beat { instance: InstanceId, task: TaskId, fencing: u64 },
    Store(Put),
    Link(Doing),
    Ask(Ask),
    Decide(Decision),
    Withdraw(ApprovalId),
}

/// A call, until it is answered and after.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) body: Body,
    pub(crate) once: Once,
    /// It has a request id, and so can be asked again.
    pub(crate) is_repeatable: bool,
    /// The first answer that was given, whether or not it arrived.
    pub(crate) first: Option<Answer>,
    /// The answer that arrived.
    pub(crate) answer: Option<Answer>,
    not_before: Timestamp,
}

/// What the callers know.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// Commands that were given.
    pub(crate) given: usize,
    /// Leases that were granted to somebody who heard of it.
    pub(crate) tokens: Vec<(InstanceId, TaskId, u64)>,
    /// What people were shown, oldest first.
    pub(crate) seen: BTreeMap<ApprovalId, Vec<String>>,
    pub(crate) instances: u64,
    /// Nobody makes trouble any more.
    pub(crate) cooperative: bool,
}

impl Body {
    /// The service that it is for.
    pub(crate) fn service(&self) -> Service {
        match self {
            Self::Engine(_) | Self::Beat { .. } => Service::Instance,
            Self::Store(_) => Service::Artifact,
            Self::Link(_) => Service::Participant,
            Self::Ask(_) | Self::Decide(_) | Self::Withdraw(_) => Service::Approval,
        }
    }
}

impl Call {
    /// Whether its request id stands in the record once it has taken effect.
    fn leaves_a_mark(&self) -> bool {
        match &self.body {
            Body::Engine(_) => self.is_repeatable,
            Body::Decide(_) | Body::Withdraw(_) => true,
            Body::Store(put) => put.content == self.once.id,
            Body::Link(doing) => matches!(doing, Doing::Create(..)),
            Body::Ask(_) | Body::Beat { .. } => false,
        }
    }
}

/// The number in a request id.
pub(crate) fn number_of(once: &str) -> Option<u64> {
    once.strip_prefix('r')?.parse().ok()
}

impl World {
    /// Somebody calls, or calls again.
    pub(crate) fn client_acts(&mut self) {
        let waiting = self.open_calls();
        let due: Vec<u64> =
            waiting.iter().copied().filter(|id| self.calls[id].not_before <= self.now).collect();
        if !due.is_empty() && self.chance.percent(35) {
            let id = due[self.chance.below(due.len())];
            self.send(id);
            return;
        }
        if self.chance.percent(2) && self.reuses_an_id() {
            return;
        }
        if let Some((name, body)) = self.wish() {
            self.call(name, body);
        }
    }

    /// Somebody uses a request id for something else.
    fn reuses_an_id(&mut self) -> bool {
        let mut done = self.calls.values().filter(|call| {
            call.is_repeatable && matches!(call.answer, Some(Answer::Done(_))) && call.name == "pause"
        });
        let Some(call) = done.next_back().cloned() else { return false };
        let Body::Engine(order) = &call.body else { return false };
        let mut order = order.clone();
        order.actions = vec![Action::Cancel { reason: "another one".to_owned() }];
        order.once = Some(Once { id: call.once.id.clone(), fingerprint: "another".to_owned() });
        let answer = self.engine_prepare(0, &order);
        self.cover.note("request id: used for something else");
        if !matches!(&answer, crate::engine::Prepared::Answered(Answer::Refused(why)) if why == "RequestIdReused")
            && self.bug.is_none()
        {
            self.witness.accuse(format!("{} was used for something else: {answer:?}", call.once.id));
        }
        true
    }

    /// Gives a new command.
    pub(crate) fn call(&mut self, name: &'static str, body: Body) {
        let id = self.next_call();
        let body = marked(body, &format!("r{id}"));
        let fingerprint = format!("{name} {id}");
        let is_repeatable = !matches!(name, "lease" | "heartbeat");
        self.client.given += 1;
        if self.traces() {
            self.say(&format!("r{id} {name} {}", said(&body)));
        }
        let once = Once { id: format!("r{id}"), fingerprint };
        let not_before = self.now;
        let call = Call { name, body, once, is_repeatable, first: None, answer: None, not_before };
        self.calls.insert(id, call);
        self.send(id);
    }

    fn next_call(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// A call sets out, and may not arrive.
    pub(crate) fn send(&mut self, id: u64) {
        if !self.calm && self.chance.below(1_000) < self.plan.drop_call {
            self.cover.fault("a call is lost");
            self.unanswered(id);
            return;
        }
        let number = self.chance.below(2);
        self.handle(id, number);
    }

    /// Nobody answered: it is asked again after a moment, if it can be.
    pub(crate) fn unanswered(&mut self, id: u64) {
        let now = self.now;
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.is_repeatable {
            call.not_before = now + Duration::from_millis(300);
        } else {
            call.answer = Some(Answer::Refused("nobody answered".to_owned()));
        }
    }

    /// A service answers, and the answer may not arrive.
    pub(crate) fn reply(&mut self, id: u64, answer: Answer) {
        let Some(call) = self.calls.get(&id) else { return };
        let (once, service, repeats) = (call.once.clone(), call.body.service(), call.is_repeatable);
        let (name, first) = (call.name, call.first.clone());
        // What is in the way may be the effect of the first one, which was done meanwhile.
        let kept = if repeats { self.kept(service).answer(&once) } else { Ok(None) };
        let answer = match (answer, kept) {
            (Answer::Refused(_), Ok(Some(first))) => first,
            (answer, _) => answer,
        };
        if let Some(first) = first
            && first != answer
        {
            self.witness.accuse(format!("{} was answered {first:?}, and then {answer:?}", once.id));
        }
        if repeats && matches!(answer, Answer::Done(_)) {
            if let Some(call) = self.calls.get_mut(&id) {
                let is_repeated = call.first.is_some();
                call.first = Some(answer.clone());
                if is_repeated {
                    self.cover.note(format!("{name}: repeated"));
                }
            }
            if !self.calm && self.chance.below(1_000) < self.plan.swallow {
                self.cover.fault("a reply is lost");
                self.unanswered(id);
                return;
            }
        }
        match &answer {
            Answer::Done(_) => self.cover.note(format!("{name}: done")),
            Answer::Refused(why) => {
                self.cover.note(format!("{name}: refused"));
                self.cover.note(format!("refused: {why}"));
            }
        }
        if self.traces() {
            self.say(&format!("{} is answered {answer:?}", once.id));
        }
        if let Some(fault) = self.calls.get(&id).and_then(|call| self.answer_fault(call, &answer)) {
            self.witness.accuse(fault);
        }
        self.learn(id, &answer);
        if let Some(call) = self.calls.get_mut(&id) {
            call.answer = Some(answer);
        }
    }

    /// What is wrong with an answer: what is acknowledged stands in the record by then, once, and what is refused does not.
    pub(crate) fn answer_fault(&self, call: &Call, answer: &Answer) -> Option<String> {
        if !call.leaves_a_mark() {
            return None;
        }
        let count = self.witness.count(call.body.service(), &call.once.id);
        let wanted = match answer {
            Answer::Done(what) if what == "unchanged" => return None,
            Answer::Done(_) => 1,
            Answer::Refused(_) => 0,
        };
        let (id, name) = (&call.once.id, call.name);
        let fault = || format!("{id} {name} was answered {answer:?}, and stands in the record {count} times");
        (count != wanted).then(fault)
    }

    /// What a caller takes from an answer.
    fn learn(&mut self, id: u64, answer: &Answer) {
        let Some(call) = self.calls.get(&id) else { return };
        if let Body::Engine(order) = &call.body
            && let Some(Action::Lease { task, .. }) = order.actions.first()
            && let Answer::Done(token) = answer
            && let Some(fencing) = token.strip_prefix('#').and_then(|token| token.parse().ok())
        {
            self.client.tokens.push((order.instance.clone(), task.clone(), fencing));
        }
    }

    /// A sign of life: no transition, only the row.
    pub(crate) fn beat(&mut self, instance: &InstanceId, task: &TaskId, fencing: u64) -> Answer {
        let now = self.now;
        let lease = self.engine.rows.get_mut(instance).and_then(|row| row.leases.get_mut(task));
        match lease {
            Some(lease) if lease.fencing == fencing && lease.ends_at.is_some_and(|end| end > now) => {
                lease.ends_at = Some(now + lease.duration);
                self.witness.extended(instance, task, now + LEASE);
                Answer::Done("continue".to_owned())
            }
            Some(_) | None => Answer::Refused("Abandon".to_owned()),
        }
    }

    /// Leases that somebody holds and that are out.
    pub(crate) fn held(&self) -> Vec<(InstanceId, TaskId, u64)> {
        let tokens = self.client.tokens.iter().filter(|(instance, task, fencing)| {
            let lease = self.engine.rows.get(instance).and_then(|row| row.leases.get(task));
            lease.is_some_and(|lease| {
                lease.fencing == *fencing && lease.ends_at.is_some_and(|at| at > self.now)
            })
        });
        tokens.cloned().collect()
    }
}

pub(crate) fn hand_in(task: &TaskId, fencing: u64) -> Action {
    Action::HandIn {
        task: task.clone(),
        fencing,
        output: Some(json!({"done": true})),
        summary: String::new(),
    }
}

/// Writes the request id into what will stand in the record, so that the record can be held against what was acknowledged.
fn marked(mut body: Body, mark: &str) -> Body {
    match &mut body {
        Body::Engine(order) => {
            for action in &mut order.actions {
                mark_action(action, mark);
            }
        }
        Body::Store(put) if put.content.is_empty() => mark.clone_into(&mut put.content),
        Body::Ask(ask) => mark.clone_into(&mut ask.title),
        Body::Decide(decision) => mark.clone_into(&mut decision.comment),
        Body::Store(_) | Body::Beat { .. } | Body::Link(_) | Body::Withdraw(_) => {}
    }
    body
}

fn mark_action(action: &mut Action, mark: &str) {
    match action {
        Action::Start(start) => mark.clone_into(&mut start.name),
        Action::HandIn { summary, .. } => mark.clone_into(summary),
        Action::Fail { message, .. } => mark.clone_into(message),
        Action::SetFacts { facts, reason, .. } => {
            mark.clone_into(reason);
            facts.insert(mark.to_owned(), true);
        }
        Action::ChangeContext { context, reason, .. } => {
            mark.clone_into(reason);
            if let Value::Object(members) = context {
                members.insert(mark.to_owned(), Value::Null);
            }
        }
        Action::Release { reason, .. }
        | Action::Pause { reason }
        | Action::Resume { reason }
        | Action::Cancel { reason }
        | Action::RetryTask { reason, .. }
        | Action::SkipTask { reason, .. }
        | Action::Reopen { reason, .. }
        | Action::Advance { reason, .. } => mark.clone_into(reason),
        Action::Lease { .. }
        | Action::ExpireLease { .. }
        | Action::Hear { .. }
        | Action::HearAgain { .. } => {}
    }
}

/// A call in a line.
#[expect(clippy::wildcard_enum_match_arm, reason = "one of many kinds is long")]
fn said(body: &Body) -> String {
    match body {
        Body::Engine(order) => match order.actions.first() {
            Some(Action::Start(_)) | None => format!("{}", order.instance),
            Some(action) => format!("{} {action:?}", order.instance),
        },
        other => format!("{other:?}"),
    }
}

pub(crate) fn operator() -> Actor {
    Actor { kind: ActorKind::Operator, id: "dev".to_owned(), on_behalf_of: None, channel: Channel::Api }
}

pub(crate) fn participant(id: &str) -> Actor {
    Actor { kind: ActorKind::Participant, id: id.to_owned(), on_behalf_of: None, channel: Channel::Portal }
}
