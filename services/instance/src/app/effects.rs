//! What must follow outside, in the words that services tell each other.

use std::collections::BTreeMap;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::ParticipantId;
use phasegate_process::{Definition, Human, OnTimeout, RaidRole};
use phasegate_proto::actor::v1 as proto_actor;
use phasegate_proto::approval::v1::SubjectKind;
use phasegate_proto::definition::v1 as proto_definition;
use phasegate_proto::instance::v1 as proto;
use phasegate_proto::internal::event::v1 as bus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::participant::v1::Participant;

use super::Outcome;
use crate::domain::{
    Actor, ActorKind, Channel, Effect, Need, NeedTiming, Person, PhaseStatus, Status, Subject,
};

/// The events for the others, in order. The people are those of an instance that begins.
pub(super) fn to_bus(
    tenant: &str,
    outcome: &Outcome,
    people: &BTreeMap<ParticipantId, Person>,
    actor: &Actor,
    effects: Vec<Effect>,
) -> Vec<bus::Event> {
    let payloads = effects.into_iter().map(|effect| payload(outcome, people, effect));
    payloads
        .map(|payload| {
            phasegate_outbox::event(
                tenant,
                outcome.after.id.as_str(),
                actor_to_proto(actor),
                outcome.now,
                payload,
            )
        })
        .collect()
}

/// Who did something, as others know it. Names are for those to add who keep them.
pub(crate) fn actor_to_proto(actor: &Actor) -> proto_actor::Actor {
    let kind = match actor.kind {
        ActorKind::Agent => proto_actor::ActorKind::Agent,
        ActorKind::Participant => proto_actor::ActorKind::Participant,
        ActorKind::Operator => proto_actor::ActorKind::Operator,
        ActorKind::Service => proto_actor::ActorKind::Service,
        ActorKind::System => proto_actor::ActorKind::System,
    };
    let channel = match actor.channel {
        Channel::Api => proto_actor::Channel::Api,
        Channel::Portal => proto_actor::Channel::Portal,
        Channel::Engine => proto_actor::Channel::Engine,
    };
    proto_actor::Actor {
        kind: kind.into(),
        id: actor.id.clone(),
        name: String::new(),
        email: String::new(),
        channel: channel.into(),
        on_behalf_of: actor.on_behalf_of.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn version(outcome: &Outcome) -> i64 {
    i64::try_from(outcome.after.version).unwrap_or(i64::MAX)
}

fn payload(outcome: &Outcome, people: &BTreeMap<ParticipantId, Person>, effect: Effect) -> Payload {
    match effect {
        Effect::InstanceStarted => Payload::InstanceStarted(started(outcome, people)),
        Effect::InstancePaused { reason } => {
            Payload::InstancePaused(bus::InstancePaused { reason, instance_version: version(outcome) })
        }
        Effect::InstanceResumed => {
            Payload::InstanceResumed(bus::InstanceResumed { instance_version: version(outcome) })
        }
        Effect::InstanceEnded { status, reason } => {
            Payload::InstanceEnded(bus::InstanceEnded { status: status_to_proto(status).into(), reason })
        }
        Effect::PhaseChanged { phase, name, status, position, phases } => {
            Payload::PhaseChanged(bus::PhaseChanged {
                phase_id: phase.to_string(),
                name,
                status: phase_status_to_proto(status).into(),
                position: count(position),
                phases: count(phases),
            })
        }
        Effect::WorkEscalated { task, phase, name, escalated_to, notify_participants, message } => {
            Payload::TaskEscalated(bus::TaskEscalated {
                task_id: task.as_ref().map(ToString::to_string).unwrap_or_default(),
                phase_id: phase.to_string(),
                name,
                escalated_to,
                notify_participants: notify_participants.iter().map(ToString::to_string).collect(),
                message,
            })
        }
        Effect::AskApprovals { boundary, needs } => Payload::ApprovalsNeeded(bus::ApprovalsNeeded {
            boundary_id: boundary.to_string(),
            needs: needs.into_iter().map(need).collect(),
            process_id: outcome.after.process_id.to_string(),
        }),
        Effect::WithdrawApprovals { approvals, reason } => Payload::ApprovalsMoot(bus::ApprovalsMoot {
            approval_ids: approvals.iter().map(ToString::to_string).collect(),
            reason,
        }),
    }
}

fn started(outcome: &Outcome, people: &BTreeMap<ParticipantId, Person>) -> bus::InstanceStarted {
    let definition = &outcome.pinned.definition;
    bus::InstanceStarted {
        process_id: definition.id.clone(),
        process_version: definition.version.clone(),
        process_name: definition.name.clone(),
        instance_name: outcome.after.name.clone(),
        participants: participants(outcome.after.id.as_str(), definition, people, outcome.now),
    }
}

/// The people of an instance: what the definition says of them, and who they are.
pub(super) fn participants(
    instance_id: &str,
    definition: &Definition,
    people: &BTreeMap<ParticipantId, Person>,
    began: Timestamp,
) -> Vec<Participant> {
    let participant = |(id, human): (&String, &Human)| {
        let person = people.get(id.as_str()).cloned().unwrap_or_default();
        Participant {
            id: id.clone(),
            instance_id: instance_id.to_owned(),
            name: if person.name.is_empty() { human.name.clone() } else { person.name },
            email: person.email,
            role: human.role.clone(),
            raid_role: raid_to_proto(human.raid_role).into(),
            external: person.external,
            required_approvals: human.required_approvals.clone(),
            notification_preferences: Some(proto_definition::NotificationPreferences {
                email: Some(human.email_wanted),
                slack: Some(human.slack_wanted),
                in_app: Some(human.in_app_wanted),
            }),
            can_delegate: human.can_delegate,
            created_at: Some(began.to_proto()),
        }
    };
    definition.humans.iter().map(participant).collect()
}

fn need(need: Need) -> bus::approvals_needed::Need {
    let kind = match need.subject {
        Subject::Task(_) => SubjectKind::Task,
        Subject::Phase(_) => SubjectKind::Phase,
        Subject::Gate(_) => SubjectKind::Gate,
        Subject::AdHoc(_) => SubjectKind::AdHoc,
    };
    bus::approvals_needed::Need {
        approval_id: need.approval.to_string(),
        subject_kind: kind.into(),
        subject_id: need.subject.id().to_owned(),
        task_id: need.task.map(|task| task.to_string()).unwrap_or_default(),
        phase_id: need.phase.to_string(),
        gate_id: need.gate.map(|gate| gate.to_string()).unwrap_or_default(),
        round: i32::try_from(need.round).unwrap_or(i32::MAX),
        approver_ids: need.approvers.iter().map(ToString::to_string).collect(),
        title: need.title,
        description: need.description,
        artifact_keys: need.artifacts.iter().map(ToString::to_string).collect(),
        timing: Some(timing(&need.timing)),
        produced_by: need.produced_by.into_iter().collect(),
    }
}

/// How long a request may take, as the approval service reads it.
pub(crate) fn timing(timing: &NeedTiming) -> bus::Timing {
    let action = match timing.on_timeout {
        OnTimeout::Escalate => proto_definition::TimeoutAction::Escalate,
        OnTimeout::Reject => proto_definition::TimeoutAction::Reject,
        OnTimeout::Block => proto_definition::TimeoutAction::Block,
    };
    bus::Timing {
        timeout_ms: timing.timeout.map_or(0, millis),
        escalate_after_ms: timing.escalate_after.map_or(0, millis),
        escalate_to: timing.escalate_to.iter().map(ToString::to_string).collect(),
        reminders_ms: timing.reminders.iter().copied().map(millis).collect(),
        on_timeout: action.into(),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The life cycle of an instance.
pub(crate) fn status_to_proto(status: Status) -> proto::InstanceStatus {
    match status {
        Status::Unstarted => proto::InstanceStatus::Unspecified,
        Status::Running => proto::InstanceStatus::Running,
        Status::Paused => proto::InstanceStatus::Paused,
        Status::Completed => proto::InstanceStatus::Completed,
        Status::Cancelled => proto::InstanceStatus::Cancelled,
        Status::Failed => proto::InstanceStatus::Failed,
    }
}

/// The life cycle of a phase.
pub(crate) fn phase_status_to_proto(status: PhaseStatus) -> proto::PhaseStatus {
    match status {
        PhaseStatus::Pending => proto::PhaseStatus::Pending,
        PhaseStatus::Gated => proto::PhaseStatus::Gated,
        PhaseStatus::Active => proto::PhaseStatus::Active,
        PhaseStatus::AwaitingApproval => proto::PhaseStatus::AwaitingApproval,
        PhaseStatus::Completed => proto::PhaseStatus::Completed,
        PhaseStatus::Blocked => proto::PhaseStatus::Blocked,
        PhaseStatus::Skipped => proto::PhaseStatus::Skipped,
    }
}

fn raid_to_proto(role: RaidRole) -> proto_definition::RaidRole {
    match role {
        RaidRole::Responsible => proto_definition::RaidRole::Responsible,
        RaidRole::Approver => proto_definition::RaidRole::Approver,
        RaidRole::Informed => proto_definition::RaidRole::Informed,
        RaidRole::Delegator => proto_definition::RaidRole::Delegator,
    }
}
