//! Requests as messages: for callers, for watchers and for the other services.

use phasegate_proto::actor::v1 as actor_v1;
use phasegate_proto::approval::v1 as approval_v1;
use phasegate_proto::definition::v1::TimeoutAction;
use phasegate_proto::instance::v1 as instance_v1;

use crate::domain::{
    Actor, ActorKind, Answered, Approval, Approver, Assurance, Channel, Decision, OnTimeout, Outcome, Remark,
    ReviewedArtifact, SettledBy, Standing, State, SubjectKind,
};
use crate::store::Record;

/// The request as its readers see it.
pub fn approval(record: &Record) -> approval_v1::Approval {
    let approval = &record.approval;
    let request = &approval.request;
    let settlement = approval.settlement();
    let superseded_by = match settlement.map(|end| &end.by) {
        Some(SettledBy::Replacement(Some(id))) => id.to_string(),
        Some(
            SettledBy::Replacement(None)
            | SettledBy::Answer(_)
            | SettledBy::Deadline
            | SettledBy::Withdrawal(_),
        )
        | None => String::new(),
    };
    approval_v1::Approval {
        id: request.id.to_string(),
        instance_id: request.instance.to_string(),
        subject_kind: subject_kind(request.subject.kind).into(),
        subject_id: request.subject.id.clone(),
        task_id: request.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        phase_id: request.phase.as_ref().map(ToString::to_string).unwrap_or_default(),
        gate_id: request.gate.as_ref().map(ToString::to_string).unwrap_or_default(),
        round: number(request.round),
        title: request.title.clone(),
        description: request.description.clone(),
        artifacts: request.artifacts.iter().map(artifact).collect(),
        status: status(approval).into(),
        approvers: approval.approvers.iter().map(|one| approver(record, one)).collect(),
        requested_by: Some(actor(record, &request.requested_by)),
        requested_at: Some(approval.requested_at.to_proto()),
        expires_at: approval.expires_at.map(phasegate_clock::Timestamp::to_proto),
        escalates_at: approval.escalates_at.map(phasegate_clock::Timestamp::to_proto),
        decided_at: settlement.map(|end| end.at.to_proto()),
        content_digest: approval.digest.to_string(),
        overdue: approval.overdue && approval.is_pending(),
        key: request.key.clone().unwrap_or_default(),
        boundary_id: request.boundary.to_string(),
        supersedes: request.supersedes.as_ref().map(ToString::to_string).unwrap_or_default(),
        superseded_by,
        status_reason: settlement.map(|end| end.reason.clone()).unwrap_or_default(),
        on_timeout: timeout_action(request.timing.on_timeout).into(),
    }
}

/// One answer as a watcher sees it, without the address of the person.
pub fn response(
    id: String,
    record: &Record,
    one: &Approver,
    answer: &Answered,
) -> approval_v1::ApprovalResponse {
    let request = &record.approval.request;
    approval_v1::ApprovalResponse {
        id,
        approval_id: request.id.to_string(),
        instance_id: request.instance.to_string(),
        task_id: request.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        approved: answer.decision == Decision::Approve,
        decision: decision(answer.decision).into(),
        approver_id: one.id.to_string(),
        approver_email: String::new(),
        comments: answer.comment.clone(),
        timestamp: Some(answer.at.to_proto()),
        status: status(&record.approval).into(),
    }
}

/// A remark as the engine hands it to whoever does the work again.
pub fn remark(remark: &Remark) -> instance_v1::Remark {
    instance_v1::Remark {
        round: number(remark.round),
        participant_id: remark.participant.to_string(),
        artifact_key: remark.artifact_key.clone(),
        path: remark.path.clone(),
        text: remark.text.clone(),
        made_at: Some(remark.made_at.to_proto()),
    }
}

/// How sure we are who answered.
pub fn assurance(assurance: Assurance) -> actor_v1::Assurance {
    match assurance {
        Assurance::Link => actor_v1::Assurance::Link,
        Assurance::Api => actor_v1::Assurance::Api,
    }
}

/// An actor without a name: of a machine, or of somebody whose name is not known here.
pub fn bare_actor(actor: &Actor) -> actor_v1::Actor {
    let kind = match actor.kind {
        ActorKind::Agent => actor_v1::ActorKind::Agent,
        ActorKind::Participant => actor_v1::ActorKind::Participant,
        ActorKind::Operator => actor_v1::ActorKind::Operator,
        ActorKind::Service => actor_v1::ActorKind::Service,
        ActorKind::System => actor_v1::ActorKind::System,
    };
    let channel = match actor.channel {
        Channel::Api => actor_v1::Channel::Api,
        Channel::Portal => actor_v1::Channel::Portal,
        Channel::Engine => actor_v1::Channel::Engine,
    };
    actor_v1::Actor {
        kind: kind.into(),
        id: actor.id.clone(),
        name: String::new(),
        email: String::new(),
        channel: channel.into(),
        on_behalf_of: actor.on_behalf_of.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn actor(record: &Record, actor: &Actor) -> actor_v1::Actor {
    let mut message = bare_actor(actor);
    if actor.kind == ActorKind::Participant
        && let Some(person) = record.people.get(actor.id.as_str())
    {
        message.name.clone_from(&person.name);
        message.email.clone_from(&person.email);
    }
    message
}

fn approver(record: &Record, approver: &Approver) -> approval_v1::Approver {
    let person = record.people.get(&approver.id).cloned().unwrap_or_default();
    let answer = approver.answer();
    approval_v1::Approver {
        participant_id: approver.id.to_string(),
        name: person.name,
        email: person.email,
        status: standing(&approver.standing).into(),
        comment: answer.map(|given| given.comment.clone()).unwrap_or_default(),
        remarks: answer.map(|given| given.remarks.iter().map(remark).collect()).unwrap_or_default(),
        responded_at: answer.map(|given| given.at.to_proto()),
        assurance: answer.map_or(actor_v1::Assurance::Unspecified, |given| assurance(given.assurance)).into(),
        decided_by: answer.map(|given| actor(record, &given.by)),
        escalated: approver.escalated,
    }
}

fn artifact(artifact: &ReviewedArtifact) -> approval_v1::ReviewedArtifact {
    approval_v1::ReviewedArtifact {
        key: artifact.key.to_string(),
        version: number(artifact.version),
        digest: artifact.digest.clone(),
        previous_version: number(artifact.previous_version),
    }
}

fn status(approval: &Approval) -> approval_v1::ApprovalStatus {
    match &approval.state {
        State::Pending => approval_v1::ApprovalStatus::Pending,
        State::Settled(end) => match end.outcome {
            Outcome::Approved => approval_v1::ApprovalStatus::Approved,
            Outcome::Rejected => approval_v1::ApprovalStatus::Rejected,
            Outcome::ChangesRequested => approval_v1::ApprovalStatus::ChangesRequested,
            Outcome::Expired => approval_v1::ApprovalStatus::Expired,
            Outcome::Withdrawn => approval_v1::ApprovalStatus::Withdrawn,
            Outcome::Superseded => approval_v1::ApprovalStatus::Superseded,
        },
    }
}

fn standing(standing: &Standing) -> approval_v1::ApproverStatus {
    match standing {
        Standing::Pending => approval_v1::ApproverStatus::Pending,
        Standing::NotNeeded => approval_v1::ApproverStatus::NotNeeded,
        Standing::Answered(answer) => match answer.decision {
            Decision::Approve => approval_v1::ApproverStatus::Approved,
            Decision::Reject => approval_v1::ApproverStatus::Rejected,
            Decision::RequestChanges => approval_v1::ApproverStatus::ChangesRequested,
        },
    }
}

fn decision(decision: Decision) -> approval_v1::Decision {
    match decision {
        Decision::Approve => approval_v1::Decision::Approve,
        Decision::Reject => approval_v1::Decision::Reject,
        Decision::RequestChanges => approval_v1::Decision::RequestChanges,
    }
}

fn subject_kind(kind: SubjectKind) -> approval_v1::SubjectKind {
    match kind {
        SubjectKind::Task => approval_v1::SubjectKind::Task,
        SubjectKind::Phase => approval_v1::SubjectKind::Phase,
        SubjectKind::Gate => approval_v1::SubjectKind::Gate,
        SubjectKind::AdHoc => approval_v1::SubjectKind::AdHoc,
    }
}

fn timeout_action(action: OnTimeout) -> TimeoutAction {
    match action {
        OnTimeout::Escalate => TimeoutAction::Escalate,
        OnTimeout::Reject => TimeoutAction::Reject,
        OnTimeout::Block => TimeoutAction::Block,
    }
}

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
