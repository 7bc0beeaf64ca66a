//! Effects become messages in the outbox, in the transaction of the change.

use phasegate_id::BoundaryId;
use phasegate_proto::actor::v1::Actor as ActorMessage;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{
    ApprovalEscalated, ApprovalReminded, ApprovalResponded, ApprovalSettled, ApprovalsRequested,
};
use prost::Message as _;

use super::message;
use crate::domain::{Effect, Event, invariant, react};
use crate::store::{Change, Commit, NewResponse, Record};

/// Adds events of one request to a transaction, with everything that must follow from them. Requests that are put to
/// people in the same transaction leave in one message, under `boundary`.
pub(super) fn add(
    commit: &mut Commit,
    actor: &ActorMessage,
    boundary: &BoundaryId,
    version: i64,
    after: &Record,
    events: Vec<Event>,
) {
    if events.is_empty() {
        return;
    }
    debug_assert_eq!(invariant::check(&after.approval), Ok(()), "{events:?}");
    for (version, event) in (version + 1..).zip(&events) {
        match react(event) {
            Effect::TellApprovers => ask(commit, actor, boundary, after),
            Effect::TellAnswer { approver } => {
                let one = after.approval.approver(&approver);
                if let Some((one, answer)) = one.and_then(|one| Some((one, one.answer()?))) {
                    let id = format!("{}.{version}", after.approval.request.id);
                    let mut response = message::response(id, after, one, answer);
                    commit.responses.push(NewResponse {
                        approval: after.approval.request.id.clone(),
                        approver: approver.clone(),
                        payload: response.encode_to_vec(),
                    });
                    let person = after.people.get(&approver).cloned().unwrap_or_default();
                    response.approver_email = person.email;
                    let responded = ApprovalResponded {
                        response: Some(response),
                        approval: Some(message::approval(after)),
                        remarks: answer.remarks.iter().map(message::remark).collect(),
                        assurance: message::assurance(answer.assurance).into(),
                    };
                    push(commit, actor, Payload::ApprovalResponded(responded));
                }
            }
            Effect::TellOutcome => settled(commit, actor, after, false),
            Effect::Remind { people } => {
                let reminded = ApprovalReminded {
                    approval: Some(message::approval(after)),
                    participant_ids: people.iter().map(ToString::to_string).collect(),
                };
                push(commit, actor, Payload::ApprovalReminded(reminded));
            }
            Effect::Escalate { added, overdue } => {
                let escalated = ApprovalEscalated {
                    approval: Some(message::approval(after)),
                    added_participant_ids: added.iter().map(ToString::to_string).collect(),
                    overdue,
                };
                push(commit, actor, Payload::ApprovalEscalated(escalated));
            }
        }
    }
    commit.changes.push(Change::new(version, events, after.approval.clone()));
}

/// Tells the engine how a request ended, and whether that was told before.
pub(super) fn settled(commit: &mut Commit, actor: &ActorMessage, after: &Record, again: bool) {
    let settled = ApprovalSettled {
        approval: Some(message::approval(after)),
        remarks: after.approval.remarks().into_iter().map(message::remark).collect(),
        again,
    };
    push(commit, actor, Payload::ApprovalSettled(settled));
}

/// Says under which lease people were asked: then instance need not keep the task from others any longer.
pub(super) fn under_lease(commit: &mut Commit, task: &str, hold: &str) {
    for message in &mut commit.outbox {
        if let Some(Payload::ApprovalsRequested(asked)) = &mut message.payload {
            task.clone_into(&mut asked.leased_task_id);
            hold.clone_into(&mut asked.hold_id);
        }
    }
}

fn ask(commit: &mut Commit, actor: &ActorMessage, boundary: &BoundaryId, after: &Record) {
    let approval = message::approval(after);
    for message in &mut commit.outbox {
        if let Some(Payload::ApprovalsRequested(asked)) = &mut message.payload {
            asked.approvals.push(approval);
            return;
        }
    }
    let asked = ApprovalsRequested {
        boundary_id: boundary.to_string(),
        approvals: vec![approval],
        ..ApprovalsRequested::default()
    };
    push(commit, actor, Payload::ApprovalsRequested(asked));
}

fn push(commit: &mut Commit, actor: &ActorMessage, payload: Payload) {
    let (tenant, instance, now) = (&commit.tenant, &commit.instance, commit.now);
    let event = phasegate_outbox::event(tenant, instance, actor.clone(), now, payload);
    commit.outbox.push(event);
}
