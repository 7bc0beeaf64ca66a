//! The only writer of [`Approval`]. What has happened cannot be refused: all checks are in `decide`.

use super::approval::{Approval, Approver, Outcome, SettledBy, Settlement, Standing, State};
use super::digest;
use super::event::Event;

/// The request after the event.
pub fn evolve(approval: Approval, event: &Event) -> Approval {
    let mut next = approval;
    match event {
        Event::Requested { request, at } => next = Approval::asked((**request).clone(), *at),
        Event::AskedAgain { artifacts, at } => {
            next.request.artifacts.clone_from(artifacts);
            next.digest = digest::content(&next.request);
            next.edition = next.edition.saturating_add(1);
            for approver in &mut next.approvers {
                approver.standing = Standing::Pending;
            }
            let due = next.request.timing.from(*at);
            next.expires_at = due.deadline;
            next.escalates_at = due.escalation;
            next.reminds_at = due.reminders;
            next.overdue = false;
        }
        Event::Responded { approver, answer } => {
            if let Some(one) = next.approvers.iter_mut().find(|one| &one.id == approver) {
                one.standing = Standing::Answered((**answer).clone());
            }
        }
        Event::Settled { outcome, by, at } => {
            let settlement = settlement(*outcome, SettledBy::Answer(by.clone()), "", *at);
            settle(&mut next, settlement);
        }
        Event::Reminded { at, .. } => next.reminds_at.retain(|due| due > at),
        Event::Escalated { added, overdue, .. } => {
            next.escalates_at = None;
            next.overdue |= overdue;
            let is_known = |id| next.approvers.iter().any(|one| &one.id == id);
            if let Some(id) = added.as_ref().filter(|id| !is_known(*id)) {
                next.approvers.push(Approver::pending(id.clone(), true));
            }
        }
        Event::TimedOut { outcome, at } => {
            let settlement = settlement(*outcome, SettledBy::Deadline, "the time ran out", *at);
            settle(&mut next, settlement);
        }
        Event::Withdrawn { by, reason, at } => {
            let by = SettledBy::Withdrawal(by.clone());
            settle(&mut next, settlement(Outcome::Withdrawn, by, reason, *at));
        }
        Event::Superseded { by, reason, at } => {
            let by = SettledBy::Replacement(by.clone());
            settle(&mut next, settlement(Outcome::Superseded, by, reason, *at));
        }
    }
    next
}

/// The request that a history tells of; nothing where it does not begin with the request.
pub fn fold<'e>(history: impl IntoIterator<Item = &'e Event>) -> Option<Approval> {
    let mut history = history.into_iter();
    let first = match history.next()? {
        Event::Requested { request, at } => Approval::asked((**request).clone(), *at),
        Event::AskedAgain { .. }
        | Event::Responded { .. }
        | Event::Settled { .. }
        | Event::Reminded { .. }
        | Event::Escalated { .. }
        | Event::TimedOut { .. }
        | Event::Withdrawn { .. }
        | Event::Superseded { .. } => return None,
    };
    Some(history.fold(first, evolve))
}

fn settle(approval: &mut Approval, settlement: Settlement) {
    for approver in &mut approval.approvers {
        if approver.standing == Standing::Pending {
            approver.standing = Standing::NotNeeded;
        }
    }
    approval.escalates_at = None;
    approval.reminds_at.clear();
    approval.state = State::Settled(settlement);
}

fn settlement(outcome: Outcome, by: SettledBy, reason: &str, at: phasegate_clock::Timestamp) -> Settlement {
    Settlement { outcome, by, reason: reason.to_owned(), at }
}
