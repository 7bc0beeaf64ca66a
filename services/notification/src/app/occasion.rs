//! Reads occasions from the events of the other services.

use std::collections::BTreeSet;

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, LinkId, ParticipantId};
use phasegate_proto::actor::v1::{Actor, ActorKind};
use phasegate_proto::approval::v1::{Approval, ApprovalStatus, ApproverStatus, Decision};
use phasegate_proto::instance::v1::{InstanceStatus, PhaseStatus};
use phasegate_proto::internal::event::v1 as wire;
use phasegate_proto::internal::event::v1::event::Payload;

use crate::domain::{Answer, Occasion, Outcome, PhaseMove, Request};

/// Reads the occasion of an event; `None` where nobody has to hear of it.
pub(super) fn occasion(payload: &Payload, at: Timestamp) -> Option<Occasion> {
    match payload {
        Payload::ApprovalsRequested(asked) => {
            let requests: Vec<Request> = asked.approvals.iter().filter_map(open_request).collect();
            (!requests.is_empty()).then_some(Occasion::Requested(requests))
        }
        Payload::ApprovalReminded(reminded) => Some(Occasion::Reminded {
            request: open_request(reminded.approval.as_ref()?)?,
            people: people(&reminded.participant_ids),
        }),
        Payload::ApprovalEscalated(escalated) => Some(Occasion::Escalated {
            request: open_request(escalated.approval.as_ref()?)?,
            people: people(&escalated.added_participant_ids),
            overdue: escalated.overdue,
        }),
        Payload::ApprovalResponded(responded) => answered(responded, at),
        Payload::PhaseChanged(changed) => phase_changed(changed),
        Payload::TaskEscalated(escalated) => Some(Occasion::TaskEscalated {
            name: escalated.name.clone(),
            escalated_to: escalated.escalated_to.clone(),
            people: people(&escalated.notify_participants),
            message: escalated.message.clone(),
        }),
        Payload::InstanceEnded(ended) => {
            let outcome = match ended.status() {
                InstanceStatus::Completed => Outcome::Completed,
                InstanceStatus::Cancelled => Outcome::Cancelled,
                InstanceStatus::Failed => Outcome::Failed,
                InstanceStatus::Unspecified | InstanceStatus::Running | InstanceStatus::Paused => {
                    return None;
                }
            };
            Some(Occasion::Ended { outcome, reason: ended.reason.clone() })
        }
        Payload::FreshLinkAsked(asked) => Some(Occasion::FreshLinkAsked {
            person: ParticipantId::parse(&asked.participant_id).ok()?,
            link: LinkId::parse(&asked.new_link_id).ok()?,
        }),
        Payload::InstanceStarted(_)
        | Payload::InstancePaused(_)
        | Payload::InstanceResumed(_)
        | Payload::ApprovalsNeeded(_)
        | Payload::ApprovalsMoot(_)
        | Payload::ApprovalSettled(_)
        | Payload::ArtifactStored(_)
        | Payload::CommentCreated(_)
        | Payload::LinkCreated(_)
        | Payload::LinkRevoked(_)
        | Payload::LinkOpened(_)
        | Payload::NotificationSettled(_) => None,
    }
}

fn phase_changed(changed: &wire::PhaseChanged) -> Option<Occasion> {
    let moved = match changed.status() {
        PhaseStatus::Active => PhaseMove::Began,
        PhaseStatus::Completed => PhaseMove::Completed,
        PhaseStatus::Blocked => PhaseMove::Blocked,
        PhaseStatus::Skipped => PhaseMove::Skipped,
        // Steps on the way that are nobody's news.
        PhaseStatus::Unspecified
        | PhaseStatus::Pending
        | PhaseStatus::Gated
        | PhaseStatus::AwaitingApproval => return None,
    };
    Some(Occasion::PhaseChanged {
        name: if changed.name.is_empty() { changed.phase_id.clone() } else { changed.name.clone() },
        moved,
        position: u32::try_from(changed.position).unwrap_or_default(),
        phases: u32::try_from(changed.phases).unwrap_or_default(),
    })
}

fn answered(responded: &wire::ApprovalResponded, at: Timestamp) -> Option<Occasion> {
    let response = responded.response.as_ref()?;
    let answer = match response.decision() {
        Decision::Approve => Answer::Approved,
        Decision::Reject => Answer::Rejected,
        Decision::RequestChanges => Answer::ChangesRequested,
        Decision::Unspecified => return None,
    };
    Some(Occasion::Answered {
        request: request(responded.approval.as_ref()?)?,
        person: ParticipantId::parse(&response.approver_id).ok()?,
        answer,
        comment: response.comments.clone(),
        at: response.timestamp.as_ref().and_then(Timestamp::from_proto).unwrap_or(at),
    })
}

/// A request that still waits for answers.
fn open_request(approval: &Approval) -> Option<Request> {
    if approval.status() == ApprovalStatus::Pending { request(approval) } else { None }
}

fn request(approval: &Approval) -> Option<Request> {
    let pending: BTreeSet<ParticipantId> = approval
        .approvers
        .iter()
        .filter(|approver| approver.status() == ApproverStatus::Pending)
        .filter_map(|approver| ParticipantId::parse(&approver.participant_id).ok())
        .collect();
    Some(Request {
        id: ApprovalId::parse(&approval.id).ok()?,
        title: approval.title.clone(),
        description: approval.description.clone(),
        asked_by: approval.requested_by.as_ref().map(asker).unwrap_or_default(),
        round: u32::try_from(approval.round).unwrap_or_default(),
        expires_at: approval.expires_at.as_ref().and_then(Timestamp::from_proto),
        pending,
    })
}

/// The engine asks on behalf of the definition: naming it would tell nobody anything.
fn asker(actor: &Actor) -> String {
    match actor.kind() {
        ActorKind::System | ActorKind::Unspecified => String::new(),
        ActorKind::Agent | ActorKind::Participant | ActorKind::Operator | ActorKind::Service => {
            if actor.name.is_empty() { actor.id.clone() } else { actor.name.clone() }
        }
    }
}

fn people(ids: &[String]) -> Vec<ParticipantId> {
    ids.iter().filter_map(|id| ParticipantId::parse(id).ok()).collect()
}

#[cfg(test)]
mod tests {
    use phasegate_proto::approval::v1::{ApprovalResponse, Approver};

    use super::*;

    fn at() -> Timestamp {
        "2025-11-13T10:00:00Z".parse().unwrap()
    }

    fn approval(id: &str, status: ApprovalStatus) -> Approval {
        let approver = |id: &str, status: ApproverStatus| Approver {
            participant_id: id.to_owned(),
            status: status.into(),
            ..Approver::default()
        };
        Approval {
            id: id.to_owned(),
            title: "Review".to_owned(),
            round: 1,
            status: status.into(),
            approvers: vec![
                approver("it_admin", ApproverStatus::Pending),
                approver("ciso", ApproverStatus::Approved),
            ],
            ..Approval::default()
        }
    }

    #[test]
    fn only_open_requests_and_missing_answers_are_mailed() {
        let asked = |approvals| {
            let asked =
                wire::ApprovalsRequested { boundary_id: "bnd-1".to_owned(), approvals, ..Default::default() };
            occasion(&Payload::ApprovalsRequested(asked), at())
        };
        let open = approval("apr-1", ApprovalStatus::Pending);
        let Some(Occasion::Requested(requests)) =
            asked(vec![open, approval("apr-2", ApprovalStatus::Approved)])
        else {
            panic!("nothing was asked")
        };
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].pending, BTreeSet::from([ParticipantId::trusted("it_admin")]));
        for gone in [ApprovalStatus::Rejected, ApprovalStatus::Withdrawn, ApprovalStatus::Superseded] {
            assert_eq!(asked(vec![approval("apr-1", gone)]), None, "{gone:?}");
        }
    }

    #[test]
    fn an_answer_names_its_person_and_its_time() {
        let responded = wire::ApprovalResponded {
            response: Some(ApprovalResponse {
                decision: Decision::RequestChanges.into(),
                approver_id: "ciso".to_owned(),
                comments: "Not yet".to_owned(),
                ..ApprovalResponse::default()
            }),
            approval: Some(approval("apr-1", ApprovalStatus::ChangesRequested)),
            ..wire::ApprovalResponded::default()
        };
        let Some(Occasion::Answered { person, answer, comment, at: when, .. }) =
            occasion(&Payload::ApprovalResponded(responded), at())
        else {
            panic!("nobody answered")
        };
        assert_eq!((person.as_str(), answer), ("ciso", Answer::ChangesRequested));
        assert_eq!((comment.as_str(), when), ("Not yet", at()));
    }

    #[test]
    fn phases_are_news_when_they_begin_end_or_stop() {
        for (status, moved) in [
            (PhaseStatus::Active, Some(PhaseMove::Began)),
            (PhaseStatus::Completed, Some(PhaseMove::Completed)),
            (PhaseStatus::Blocked, Some(PhaseMove::Blocked)),
            (PhaseStatus::Skipped, Some(PhaseMove::Skipped)),
            (PhaseStatus::Gated, None),
            (PhaseStatus::AwaitingApproval, None),
            (PhaseStatus::Pending, None),
        ] {
            let changed = wire::PhaseChanged {
                phase_id: "configuration".to_owned(),
                status: status.into(),
                ..wire::PhaseChanged::default()
            };
            let read = occasion(&Payload::PhaseChanged(changed), at());
            let read = if let Some(Occasion::PhaseChanged { name, moved, .. }) = read {
                Some((name, moved))
            } else {
                assert_eq!(read, None);
                None
            };
            assert_eq!(read, moved.map(|moved| ("configuration".to_owned(), moved)));
        }
    }
}
