//! Answers and withdrawals.

use std::time::Duration;

use phasegate_id::{ApprovalId, ParticipantId};
use phasegate_planted::{self as planted, Bug};
use phasegate_principal::Permission;
use phasegate_proto::instance::v1::InstanceStatus;

use super::{App, Call, Caller, Done, Error, message, rejected};
use crate::domain::{Actor, Answer, Command, ContentDigest, InstanceCondition, Rejection, Verdict, decide};
use crate::store::Record;

/// Nobody waits longer than this to learn whether the instance goes on.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

/// An answer for one approver.
#[derive(Debug, Clone)]
pub struct Decide {
    /// The request, as the caller names it.
    pub approval: String,
    /// The approver for whom the caller speaks; nothing for the caller itself.
    pub approver: Option<ParticipantId>,
    /// What the person says.
    pub verdict: Verdict,
    /// What the person saw.
    pub seen: ContentDigest,
}

/// A wish to take a request back.
#[derive(Debug, Clone)]
pub struct Withdraw {
    /// The request, as the caller names it.
    pub approval: String,
    /// Why.
    pub reason: String,
}

impl App {
    /// Answers for one approver.
    pub async fn decide(&self, caller: &Caller, wish: Decide, call: Option<&Call>) -> Result<Done, Error> {
        let record = self.visible(caller, &wish.approval).await?;
        caller.needs(Permission::Approve, "approve")?;
        let approver = approver_of(caller, &record, wish.approver)?;
        let done = self.decide_on(caller, record, approver, wish.verdict, wish.seen, call).await;
        // An answer to the same call is looked up only where it can be in the way: nothing is kept twice, and an answer
        // that stands is found by the rules.
        self.unless_repeated(call, done).await
    }

    async fn decide_on(
        &self,
        caller: &Caller,
        record: Record,
        approver: ParticipantId,
        verdict: Verdict,
        seen: ContentDigest,
        call: Option<&Call>,
    ) -> Result<Done, Error> {
        let mut answer = Answer {
            by: Actor { on_behalf_of: other_than_caller(caller, &approver), ..caller.actor() },
            approver,
            verdict,
            seen: if planted::is(Bug::StaleDigest) { record.approval.digest.clone() } else { seen },
            assurance: caller.assurance(),
            instance: record.instance,
        };
        let mut newest = None;
        if self.may_take_effect(&record, &answer)? {
            (answer.instance, newest) = self.prepare(&record).await?;
        }
        let known = answer.instance;
        let mut actor = caller.message();
        actor.on_behalf_of = message::bare_actor(&answer.by).on_behalf_of;
        let command = |record: &Record| {
            let instance = known.worse(record.instance);
            let mut answer = Answer { instance, ..answer.clone() };
            if planted::is(Bug::StaleDigest) {
                answer.seen = record.approval.digest.clone();
            }
            Some(Command::Answer(answer))
        };
        self.execute_on(newest.unwrap_or(record), &actor, call, command).await
    }

    /// Takes a request back.
    pub async fn withdraw(
        &self,
        caller: &Caller,
        wish: Withdraw,
        call: Option<&Call>,
    ) -> Result<Done, Error> {
        let record = self.visible(caller, &wish.approval).await?;
        if let Some(done) = self.answered_before(call).await? {
            return Ok(done);
        }
        let command =
            |_: &Record| Some(Command::Withdraw { by: caller.actor(), reason: wish.reason.clone() });
        let done = self.execute_on(record, &caller.message(), call, command).await;
        self.unless_repeated(call, done).await
    }

    /// Refuses early what the rules refuse whatever the other services say; true where their word matters.
    fn may_take_effect(&self, record: &Record, answer: &Answer) -> Result<bool, Error> {
        let command = Command::Answer(answer.clone());
        match decide(&record.approval, &command, self.now()) {
            Ok(events) => {
                Ok(events.iter().any(|event| matches!(event, crate::domain::Event::Responded { .. })))
            }
            // What is current may have moved on once more: the refusal is to name the newest.
            Err(Rejection::ContentChanged { .. }) => Ok(true),
            Err(rejection) => Err(rejected(record, rejection)),
        }
    }

    /// Compares what is asked with what there is, and asks again where it has changed: then there is a newer record. Tells
    /// how the instance stands: its end may be known there and not have arrived here.
    async fn prepare(&self, record: &Record) -> Result<(InstanceCondition, Option<Record>), Error> {
        let request = &record.approval.request;
        let keys = request.artifacts.iter().map(|bound| &bound.key);
        let current = self.peers.current_versions(&record.tenant, &request.instance, keys);
        let status = self.peers.status(&record.tenant, request.instance.as_str());
        let status = tokio::time::timeout(STATUS_PATIENCE, status);
        let (current, status) = tokio::join!(current, status);
        let current = current?;
        let is_newer = |bound: &crate::domain::ReviewedArtifact| {
            current.get(&bound.key).is_some_and(|newest| newest.version > bound.version)
        };
        let mut newest = None;
        if request.artifacts.iter().any(is_newer) {
            let actor = message::bare_actor(&Actor::system("approval"));
            let refresh = |_: &Record| Some(Command::Refresh { current: current.clone() });
            self.execute(&record.key(), &actor, None, refresh).await?;
            newest = Some(self.load(&record.key()).await?);
        }
        // Deciding does not depend on the engine being up: the request knows what it has heard.
        let condition = match status.ok().and_then(Result::ok) {
            Some(InstanceStatus::Completed | InstanceStatus::Cancelled | InstanceStatus::Failed) => {
                InstanceCondition::Ended
            }
            Some(InstanceStatus::Paused) => InstanceCondition::Paused.worse(record.instance),
            Some(InstanceStatus::Running | InstanceStatus::Unspecified) | None => record.instance,
        };
        Ok((condition, newest))
    }
}

/// A person decides for itself only; who else calls has to say for whom.
fn approver_of(
    caller: &Caller,
    record: &Record,
    named: Option<ParticipantId>,
) -> Result<ParticipantId, Error> {
    let approver = match (caller.person().or_else(|| caller.represents()), named) {
        (Some(person), None) => Ok(person),
        (Some(person), Some(named)) if person == named => Ok(person),
        (Some(_), Some(named)) => Err(named),
        (None, Some(named)) if caller.speaks_for_everybody() => Ok(named),
        // A program answers for the one whom its key names, and for nobody else.
        (None, Some(_)) => return Err(rejected(record, Rejection::HumanRequired)),
        (None, None) => Err(ParticipantId::trusted(caller.actor().id)),
    };
    approver.map_err(|who| rejected(record, Rejection::NotAnApprover(who)))
}

fn other_than_caller(caller: &Caller, approver: &ParticipantId) -> Option<ParticipantId> {
    (caller.person().as_ref() != Some(approver)).then(|| approver.clone())
}

impl App {
    /// The request, if the caller may see it.
    pub(super) async fn visible(&self, caller: &Caller, id: &str) -> Result<Record, Error> {
        let missing = || Error::NotFound(id.to_owned());
        // What is no id names nothing.
        let approval = ApprovalId::parse(id).map_err(|_| missing())?;
        let record = self.store.approval_load(&caller.tenant(), &approval).await?;
        record.filter(|record| caller.sees(record)).ok_or_else(missing)
    }
}
