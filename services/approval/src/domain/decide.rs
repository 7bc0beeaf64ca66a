//! What happens to a request when somebody, or time, wants something: the only place that says no.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, ParticipantId};

use super::actor::{Actor, ActorKind};
use super::approval::{Answered, Approval, Outcome, Request, ReviewedArtifact, SettledBy, Settlement, State};
use super::command::{Answer, Command, CurrentArtifact, InstanceCondition, Remark, Wish};
use super::digest::ContentDigest;
use super::event::Event;
use super::evolve::evolve;
use super::policy::{Tally, tally};
use super::timing::OnTimeout;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Nobody is asked.
    #[error("a request needs at least one approver")]
    NobodyAsked,
    /// Agents and machines never decide.
    #[error("only a person decides")]
    HumanRequired,
    /// The person is not asked.
    #[error("{0} is not an approver of this request")]
    NotAnApprover(ParticipantId),
    /// The person asked for it or produced what it is about.
    #[error("{0} asked for this or produced what it is about")]
    SelfApprovalForbidden(ParticipantId),
    /// Another decision stands.
    #[error("{decided_by} decided {decision} at {decided_at}")]
    AlreadyDecided {
        /// The decision, or the outcome.
        decision: &'static str,
        /// Who.
        decided_by: String,
        /// When.
        decided_at: Timestamp,
    },
    /// The time had run out.
    #[error("the time ran out at {at}")]
    Expired {
        /// When.
        at: Timestamp,
    },
    /// It was taken back.
    #[error("the request was withdrawn at {at}")]
    Withdrawn {
        /// When.
        at: Timestamp,
    },
    /// Nobody needs it any more.
    #[error("the request was superseded at {at}")]
    Superseded {
        /// The request that replaced it.
        by: Option<ApprovalId>,
        /// When.
        at: Timestamp,
    },
    /// The person saw another content.
    #[error("the content has changed, and is {current} now")]
    ContentChanged {
        /// The content that is asked about.
        current: ContentDigest,
        /// The artifacts whose version changed when people were asked last.
        changed: Vec<Renewed>,
    },
    /// The instance is over.
    #[error("the instance has ended")]
    InstanceEnded,
    /// Only who asked and operators take a request back.
    #[error("only who asked and operators withdraw a request")]
    RoleForbidden,
}

/// An artifact whose version under review has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Key.
    pub key: ArtifactKey,
    /// Version that was under review before.
    pub from: u32,
    /// Version that is.
    pub to: u32,
}

/// Puts a request to its approvers.
pub fn request(request: Request, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    if request.approvers.is_empty() {
        return Err(Rejection::NobodyAsked);
    }
    let mut request = request;
    let mut seen = BTreeSet::new();
    request.approvers.retain(|person| seen.insert(person.clone()));
    Ok(vec![Event::Requested { request: Box::new(request), at: now }])
}

/// Answers `command` with the events that would happen at `now`, or says why none may.
pub fn decide(approval: &Approval, command: &Command, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    match (&approval.state, command) {
        (State::Pending | State::Settled(_), Command::Answer(answer)) => decide_answer(approval, answer, now),
        (State::Pending, Command::Withdraw { by, reason }) => {
            may_withdraw(approval, by)?;
            Ok(vec![Event::Withdrawn { by: by.clone(), reason: reason.clone(), at: now }])
        }
        (State::Settled(settlement), Command::Withdraw { by, .. }) => {
            may_withdraw(approval, by)?;
            match settlement.outcome {
                Outcome::Withdrawn => Ok(Vec::new()),
                Outcome::Approved
                | Outcome::Rejected
                | Outcome::ChangesRequested
                | Outcome::Expired
                | Outcome::Superseded => Err(decided(approval, settlement)),
            }
        }
        (State::Pending, Command::Supersede { by, reason }) => {
            Ok(vec![Event::Superseded { by: by.clone(), reason: reason.clone(), at: now }])
        }
        (State::Pending, Command::Refresh { current }) => Ok(refresh(approval, current, now)),
        (State::Pending, Command::Elapse) => Ok(elapse(approval, now)),
        // These three race with answers; losing a race is not a mistake.
        (State::Settled(_), Command::Supersede { .. } | Command::Refresh { .. } | Command::Elapse) => {
            Ok(Vec::new())
        }
    }
}

/// The order matters: who may not answer at all learns nothing about the state, and whose answer stands gets it back
/// even if the request has ended since.
fn decide_answer(approval: &Approval, answer: &Answer, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    match answer.by.kind {
        ActorKind::Agent | ActorKind::System => return Err(Rejection::HumanRequired),
        ActorKind::Participant | ActorKind::Operator | ActorKind::Service => {}
    }
    let person = &answer.approver;
    let Some(approver) = approval.approver(person) else {
        return Err(Rejection::NotAnApprover(person.clone()));
    };
    if approval.is_own_work_of(person) {
        return Err(Rejection::SelfApprovalForbidden(person.clone()));
    }
    if let Some(given) = approver.answer() {
        return if given.decision == answer.verdict.decision() {
            Ok(Vec::new())
        } else {
            Err(Rejection::AlreadyDecided {
                decision: given.decision.as_str(),
                decided_by: person.to_string(),
                decided_at: given.at,
            })
        };
    }
    match &approval.state {
        State::Settled(settlement) => Err(too_late(approval, settlement, answer.instance)),
        State::Pending => answer_pending(approval, answer, now),
    }
}

fn answer_pending(approval: &Approval, answer: &Answer, now: Timestamp) -> Result<Vec<Event>, Rejection> {
    match answer.instance {
        InstanceCondition::Ended => return Err(Rejection::InstanceEnded),
        // A deadline that no timer has told of yet counts all the same, so that it does not depend on who is faster.
        InstanceCondition::Running => {
            if let Some(event) = time_out(approval, now) {
                return Ok(vec![event]);
            }
        }
        InstanceCondition::Paused => {}
    }
    if answer.seen != approval.digest {
        let (current, changed) = (approval.digest.clone(), renewed(approval));
        return Err(Rejection::ContentChanged { current, changed });
    }
    let person = &answer.approver;
    let remark = |wish: &Wish| Remark {
        round: approval.request.round,
        participant: person.clone(),
        artifact_key: wish.artifact_key.clone(),
        path: wish.path.clone(),
        text: wish.text.clone(),
        made_at: now,
    };
    let given = Answered {
        decision: answer.verdict.decision(),
        comment: answer.verdict.comment().to_owned(),
        remarks: answer.verdict.wishes().iter().map(remark).collect(),
        assurance: answer.assurance,
        by: answer.by.clone(),
        at: now,
    };
    let responded = Event::Responded { approver: person.clone(), answer: Box::new(given) };
    let after = evolve(approval.clone(), &responded);
    let settled = |outcome| Event::Settled { outcome, by: person.clone(), at: now };
    Ok(match tally(&after.approvers) {
        Tally::Open => vec![responded],
        Tally::Approved => vec![responded, settled(Outcome::Approved)],
        Tally::Rejected => vec![responded, settled(Outcome::Rejected)],
        Tally::ChangesRequested => vec![responded, settled(Outcome::ChangesRequested)],
    })
}

fn too_late(approval: &Approval, settlement: &Settlement, instance: InstanceCondition) -> Rejection {
    let at = settlement.at;
    match (settlement.outcome, &settlement.by) {
        (Outcome::Expired, _) | (Outcome::Rejected, SettledBy::Deadline) => {
            Rejection::Expired { at: approval.expires_at.unwrap_or(at) }
        }
        (Outcome::Approved | Outcome::Rejected | Outcome::ChangesRequested, _) => {
            decided(approval, settlement)
        }
        (Outcome::Withdrawn | Outcome::Superseded, _) if instance == InstanceCondition::Ended => {
            Rejection::InstanceEnded
        }
        (Outcome::Withdrawn, _) => Rejection::Withdrawn { at },
        (Outcome::Superseded, SettledBy::Replacement(by)) => Rejection::Superseded { by: by.clone(), at },
        (Outcome::Superseded, SettledBy::Answer(_) | SettledBy::Deadline | SettledBy::Withdrawal(_)) => {
            Rejection::Superseded { by: None, at }
        }
    }
}

fn decided(approval: &Approval, settlement: &Settlement) -> Rejection {
    let (decision, decided_by) = match &settlement.by {
        SettledBy::Answer(person) => {
            let answer = approval.approver(person).and_then(|one| one.answer());
            let decision = answer.map_or(settlement.outcome.as_str(), |given| given.decision.as_str());
            (decision, person.to_string())
        }
        SettledBy::Deadline => (settlement.outcome.as_str(), "deadline".to_owned()),
        SettledBy::Withdrawal(actor) => (settlement.outcome.as_str(), actor.id.clone()),
        SettledBy::Replacement(_) => (settlement.outcome.as_str(), "engine".to_owned()),
    };
    Rejection::AlreadyDecided { decision, decided_by, decided_at: settlement.at }
}

fn may_withdraw(approval: &Approval, by: &Actor) -> Result<(), Rejection> {
    match by.kind {
        ActorKind::Operator | ActorKind::Service | ActorKind::System => Ok(()),
        ActorKind::Participant | ActorKind::Agent if approval.request.requested_by.is_same_as(by) => Ok(()),
        ActorKind::Participant | ActorKind::Agent => Err(Rejection::RoleForbidden),
    }
}

fn refresh(
    approval: &Approval,
    current: &BTreeMap<ArtifactKey, CurrentArtifact>,
    now: Timestamp,
) -> Vec<Event> {
    let mut is_stale = false;
    let mut renew = |bound: &ReviewedArtifact| {
        let newer = current.get(&bound.key).filter(|newest| newest.version > bound.version);
        is_stale |= newer.is_some();
        ReviewedArtifact {
            key: bound.key.clone(),
            version: newer.map_or(bound.version, |newest| newest.version),
            digest: newer.map_or_else(|| bound.digest.clone(), |newest| newest.digest.clone()),
            previous_version: bound.version,
        }
    };
    let artifacts = approval.request.artifacts.iter().map(&mut renew).collect();
    if is_stale { vec![Event::AskedAgain { artifacts, at: now }] } else { Vec::new() }
}

/// What was renewed when people were asked last; nothing while they were asked once.
fn renewed(approval: &Approval) -> Vec<Renewed> {
    let bound = approval.request.artifacts.iter().filter(|_| approval.edition > 1);
    let newer = bound.filter(|one| one.previous_version != one.version);
    let renewed = |one: &ReviewedArtifact| Renewed {
        key: one.key.clone(),
        from: one.previous_version,
        to: one.version,
    };
    newer.map(renewed).collect()
}

/// A deadline comes before everything that was due earlier and was missed; reminders that were missed are one.
fn elapse(approval: &Approval, now: Timestamp) -> Vec<Event> {
    if let Some(event) = time_out(approval, now) {
        return vec![event];
    }
    let is_due = |time: Option<Timestamp>| time.is_some_and(|due| due <= now);
    let overdue = is_due(approval.expires_at) && !approval.overdue;
    let mut events = Vec::new();
    if overdue || is_due(approval.escalates_at) {
        let added = next_target(approval);
        events.push(Event::Escalated { added, overdue, at: now });
    }
    if is_due(approval.reminds_at.first().copied()) {
        events.push(Event::Reminded { people: approval.waits_for().cloned().collect(), at: now });
    }
    events
}

/// The end that the deadline brings, if it has passed and brings one.
fn time_out(approval: &Approval, now: Timestamp) -> Option<Event> {
    approval.expires_at.filter(|deadline| *deadline <= now)?;
    let outcome = match approval.request.timing.on_timeout {
        OnTimeout::Escalate => return None,
        OnTimeout::Reject => Outcome::Rejected,
        OnTimeout::Block => Outcome::Expired,
    };
    Some(Event::TimedOut { outcome, at: now })
}

/// The nearest person who is not asked yet and may answer.
fn next_target(approval: &Approval) -> Option<ParticipantId> {
    let targets = approval.request.timing.escalate_to.iter();
    let mut fresh = targets.filter(|id| approval.approver(id).is_none() && !approval.is_own_work_of(id));
    fresh.next().cloned()
}

#[cfg(test)]
mod tests;
