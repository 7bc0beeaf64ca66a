//! What another service says has happened, as the engine's own words. Personal data is taken out here.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_clock::Timestamp;
use phasegate_id::{
    ApprovalId, ArtifactKey, CommentId, GateId, InstanceId, LinkId, NotificationId, ParticipantId, PhaseId,
    TaskId,
};
use phasegate_proto::actor::v1 as proto_actor;
use phasegate_proto::approval::v1 as approval;
use phasegate_proto::instance::v1 as instance;
use phasegate_proto::internal::event::v1 as bus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::participant::v1::LinkPermission;

use crate::domain::{
    Actor, ActorKind, ApprovalStatus, Assurance, Channel, CurrentVersion, Decision, Fact, Personal,
    RemarkMade, RequestView, Subject,
};
use crate::store::Written;

/// What an event says about an instance.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Heard {
    pub(super) instance_id: InstanceId,
    pub(super) actor: Actor,
    pub(super) at: Timestamp,
    /// In order; never empty.
    pub(super) facts: Vec<(Fact, Personal)>,
    /// It was told before, and may be known.
    pub(super) again: bool,
    /// The write that it tells of, where that was made under a lease.
    pub(super) written: Option<Written>,
}

/// Why an event cannot be taken.
pub(super) type Unreadable = String;

/// Reads an event. Nothing for one that is not for the record: our own, or one of a kind that nobody knows here.
pub(super) fn read(event: &bus::Event) -> Result<Option<Heard>, Unreadable> {
    let Some(payload) = &event.payload else { return Ok(None) };
    let at = event.occurred_at.as_ref().and_then(Timestamp::from_proto);
    let at = at.ok_or_else(|| "the event has no time".to_owned())?;
    let facts = facts(payload, at)?;
    if facts.is_empty() {
        return Ok(None);
    }
    let instance_id = id("instance_id", InstanceId::parse(&event.instance_id))?;
    let actor = event.actor.as_ref().map_or_else(|| Ok(Actor::engine()), actor)?;
    let again = matches!(payload, Payload::ApprovalSettled(settled) if settled.again);
    let written = if let Payload::ArtifactStored(stored) = payload {
        written(&stored.task_id, &stored.hold_id)?
    } else if let Payload::ApprovalsRequested(asked) = payload {
        written(&asked.leased_task_id, &asked.hold_id)?
    } else {
        None
    };
    Ok(Some(Heard { instance_id, actor, at, facts, again, written }))
}

fn written(task: &str, hold: &str) -> Result<Option<Written>, Unreadable> {
    let task = optional("task_id", task, TaskId::parse)?;
    Ok(task.filter(|_| !hold.is_empty()).map(|task| Written { task, hold: hold.to_owned() }))
}

fn facts(payload: &Payload, at: Timestamp) -> Result<Vec<(Fact, Personal)>, Unreadable> {
    let plain = |fact: Fact| Ok(vec![(fact, Personal::default())]);
    match payload {
        Payload::ApprovalsRequested(requested) => {
            requested.approvals.iter().map(|approval| Ok((asked(approval)?, Personal::default()))).collect()
        }
        Payload::ApprovalResponded(responded) => Ok(vec![answered(responded, at)?]),
        Payload::ApprovalSettled(settled) => Ok(vec![ended(settled, at)?]),
        Payload::ApprovalReminded(reminded) => plain(Fact::ApprovalReminded {
            approval: approval_id(reminded.approval.as_ref())?,
            participants: participants(&reminded.participant_ids)?,
        }),
        Payload::ApprovalEscalated(escalated) => plain(Fact::ApprovalEscalated {
            approval: approval_id(escalated.approval.as_ref())?,
            added: participants(&escalated.added_participant_ids)?,
            waiting_on: escalated.approval.as_ref().map_or_else(|| Ok(BTreeSet::new()), waiting_on)?,
            overdue: escalated.overdue,
        }),
        Payload::ArtifactStored(stored) => plain(Fact::ArtifactStored {
            key: id("key", ArtifactKey::parse(&stored.key))?,
            artifact: CurrentVersion {
                version: unsigned("version", stored.version)?,
                kind: stored.r#type.clone(),
                digest: stored.digest.clone(),
                phase: stored.phase_id.clone(),
                task: stored.task_id.clone(),
            },
            size_bytes: u64::try_from(stored.size_bytes).unwrap_or(0),
        }),
        Payload::CommentCreated(comment) => Ok(vec![(
            Fact::CommentCreated {
                comment: id("comment_id", CommentId::parse(&comment.comment_id))?,
                subject: comment.subject.clone(),
                internal: comment.internal,
            },
            Personal { text: comment.body.clone(), ..Personal::default() },
        )]),
        Payload::LinkCreated(link) => plain(link_created(link)?),
        Payload::LinkRevoked(link) => plain(Fact::LinkRevoked {
            link: id("link_id", LinkId::parse(&link.link_id))?,
            participant: id("participant_id", ParticipantId::parse(&link.participant_id))?,
            reason: link.reason.clone(),
        }),
        Payload::LinkOpened(link) => plain(Fact::LinkOpened {
            link: id("link_id", LinkId::parse(&link.link_id))?,
            participant: id("participant_id", ParticipantId::parse(&link.participant_id))?,
        }),
        Payload::FreshLinkAsked(asked) => plain(Fact::LinkAsked {
            link: id("old_link_id", LinkId::parse(&asked.old_link_id))?,
            participant: id("participant_id", ParticipantId::parse(&asked.participant_id))?,
        }),
        Payload::NotificationSettled(settled) => Ok(vec![notified(settled)?]),
        // Our own.
        Payload::InstanceStarted(_)
        | Payload::InstancePaused(_)
        | Payload::InstanceResumed(_)
        | Payload::InstanceEnded(_)
        | Payload::PhaseChanged(_)
        | Payload::TaskEscalated(_)
        | Payload::ApprovalsNeeded(_)
        | Payload::ApprovalsMoot(_) => Ok(Vec::new()),
    }
}

fn asked(request: &approval::Approval) -> Result<Fact, Unreadable> {
    Ok(Fact::ApprovalRequested { approval: approval_id(Some(request))?, request: view(request)? })
}

fn answered(responded: &bus::ApprovalResponded, at: Timestamp) -> Result<(Fact, Personal), Unreadable> {
    let response = responded.response.as_ref().ok_or("the event has no response")?;
    let request = responded.approval.as_ref().ok_or("the event has no approval")?;
    let (remarks, texts) = remarks(&responded.remarks, at)?;
    let fact = Fact::ApprovalResponded {
        approval: approval_id(Some(request))?,
        response: response.id.clone(),
        task: optional("task_id", &response.task_id, TaskId::parse)?,
        participant: id("approver_id", ParticipantId::parse(&response.approver_id))?,
        decision: match response.decision() {
            approval::Decision::Approve => Decision::Approve,
            approval::Decision::Reject => Decision::Reject,
            approval::Decision::RequestChanges => Decision::RequestChanges,
            approval::Decision::Unspecified => return Err("the decision is not set".to_owned()),
        },
        assurance: match responded.assurance() {
            proto_actor::Assurance::Link => Assurance::Link,
            proto_actor::Assurance::Api | proto_actor::Assurance::Unspecified => Assurance::Api,
        },
        content_digest: request.content_digest.clone(),
        waiting_on: waiting_on(request)?,
        status: status(request.status())?,
        remarks,
    };
    let personal = Personal { text: response.comments.clone(), remarks: texts, ..Personal::default() };
    Ok((fact, personal))
}

fn ended(settled: &bus::ApprovalSettled, at: Timestamp) -> Result<(Fact, Personal), Unreadable> {
    let request = settled.approval.as_ref().ok_or("the event has no approval")?;
    let (remarks, texts) = remarks(&settled.remarks, at)?;
    let fact = Fact::ApprovalSettled {
        approval: approval_id(Some(request))?,
        status: status(request.status())?,
        request: view(request)?,
        remarks,
        reason: request.status_reason.clone(),
    };
    Ok((fact, Personal { remarks: texts, ..Personal::default() }))
}

fn link_created(link: &bus::LinkCreated) -> Result<Fact, Unreadable> {
    let expires_at = link.expires_at.as_ref().and_then(Timestamp::from_proto);
    let word = |permission| match permission {
        LinkPermission::View => Some("view"),
        LinkPermission::Approve => Some("approve"),
        LinkPermission::Comment => Some("comment"),
        LinkPermission::Delegate => Some("delegate"),
        LinkPermission::Unspecified => None,
    };
    Ok(Fact::LinkCreated {
        link: id("link_id", LinkId::parse(&link.link_id))?,
        participant: id("participant_id", ParticipantId::parse(&link.participant_id))?,
        expires_at: expires_at.ok_or("the link has no end")?,
        permissions: link.permissions().filter_map(word).map(str::to_owned).collect(),
    })
}

fn notified(settled: &bus::NotificationSettled) -> Result<(Fact, Personal), Unreadable> {
    let approvals = settled.approval_ids.iter().map(|text| id("approval_ids", ApprovalId::parse(text)));
    let fact = Fact::NotificationSettled {
        notification: id("notification_id", NotificationId::parse(&settled.notification_id))?,
        participant: id("participant_id", ParticipantId::parse(&settled.participant_id))?,
        template: settled.template.clone(),
        sent: settled.sent,
        approvals: approvals.collect::<Result<_, _>>()?,
    };
    Ok((fact, Personal { text: settled.error.clone(), ..Personal::default() }))
}

/// A request without the names and words in it.
fn view(request: &approval::Approval) -> Result<RequestView, Unreadable> {
    let subject = match request.subject_kind() {
        approval::SubjectKind::Task => Subject::Task(id("subject_id", TaskId::parse(&request.subject_id))?),
        approval::SubjectKind::Phase => {
            Subject::Phase(id("subject_id", PhaseId::parse(&request.subject_id))?)
        }
        approval::SubjectKind::Gate => Subject::Gate(id("subject_id", GateId::parse(&request.subject_id))?),
        approval::SubjectKind::AdHoc => Subject::AdHoc(request.key.clone()),
        approval::SubjectKind::Unspecified => return Err("the subject is not set".to_owned()),
    };
    let mut artifacts = BTreeMap::new();
    for artifact in &request.artifacts {
        let key = id("artifacts.key", ArtifactKey::parse(&artifact.key))?;
        artifacts.insert(key, unsigned("artifacts.version", artifact.version)?);
    }
    let approvers = request.approvers.iter();
    let approvers = approvers.map(|one| id("participant_id", ParticipantId::parse(&one.participant_id)));
    let requested_at = request.requested_at.as_ref().and_then(Timestamp::from_proto);
    Ok(RequestView {
        subject,
        round: unsigned("round", request.round)?,
        title: request.title.clone(),
        task: optional("task_id", &request.task_id, TaskId::parse)?,
        key: request.key.clone(),
        approvers: approvers.collect::<Result<_, _>>()?,
        waiting_on: waiting_on(request)?,
        artifacts,
        content_digest: request.content_digest.clone(),
        requested_at: requested_at.ok_or("the request has no time")?,
        expires_at: request.expires_at.as_ref().and_then(Timestamp::from_proto),
    })
}

fn waiting_on(request: &approval::Approval) -> Result<BTreeSet<ParticipantId>, Unreadable> {
    let pending = request.approvers.iter().filter(|one| one.status() == approval::ApproverStatus::Pending);
    pending.map(|one| id("participant_id", ParticipantId::parse(&one.participant_id))).collect()
}

fn status(status: approval::ApprovalStatus) -> Result<ApprovalStatus, Unreadable> {
    Ok(match status {
        approval::ApprovalStatus::Pending => ApprovalStatus::Pending,
        approval::ApprovalStatus::Approved => ApprovalStatus::Approved,
        approval::ApprovalStatus::Rejected => ApprovalStatus::Rejected,
        approval::ApprovalStatus::ChangesRequested => ApprovalStatus::ChangesRequested,
        approval::ApprovalStatus::Expired => ApprovalStatus::Expired,
        approval::ApprovalStatus::Withdrawn => ApprovalStatus::Withdrawn,
        approval::ApprovalStatus::Superseded => ApprovalStatus::Superseded,
        approval::ApprovalStatus::Unspecified => return Err("the status is not set".to_owned()),
    })
}

/// Remarks without their texts, and the texts in the same order.
fn remarks(
    remarks: &[instance::Remark],
    at: Timestamp,
) -> Result<(Vec<RemarkMade>, Vec<String>), Unreadable> {
    let mut made = Vec::with_capacity(remarks.len());
    let mut texts = Vec::with_capacity(remarks.len());
    for remark in remarks {
        made.push(RemarkMade {
            participant: id("participant_id", ParticipantId::parse(&remark.participant_id))?,
            artifact: optional("artifact_key", &remark.artifact_key, ArtifactKey::parse)?,
            path: remark.path.clone(),
            made_at: remark.made_at.as_ref().and_then(Timestamp::from_proto).unwrap_or(at),
        });
        texts.push(remark.text.clone());
    }
    Ok((made, texts))
}

fn actor(actor: &proto_actor::Actor) -> Result<Actor, Unreadable> {
    let kind = match actor.kind() {
        proto_actor::ActorKind::Agent => ActorKind::Agent,
        proto_actor::ActorKind::Participant => ActorKind::Participant,
        proto_actor::ActorKind::Operator => ActorKind::Operator,
        proto_actor::ActorKind::Service => ActorKind::Service,
        proto_actor::ActorKind::System | proto_actor::ActorKind::Unspecified => ActorKind::System,
    };
    let channel = match actor.channel() {
        proto_actor::Channel::Api => Channel::Api,
        proto_actor::Channel::Portal => Channel::Portal,
        proto_actor::Channel::Engine | proto_actor::Channel::Unspecified => Channel::Engine,
    };
    let on_behalf_of = optional("on_behalf_of", &actor.on_behalf_of, ParticipantId::parse)?;
    Ok(Actor { kind, id: actor.id.clone(), on_behalf_of, channel })
}

fn approval_id(request: Option<&approval::Approval>) -> Result<ApprovalId, Unreadable> {
    let request = request.ok_or("the event has no approval")?;
    id("approval.id", ApprovalId::parse(&request.id))
}

fn participants(ids: &[String]) -> Result<BTreeSet<ParticipantId>, Unreadable> {
    ids.iter().map(|text| id("participant_ids", ParticipantId::parse(text))).collect()
}

fn id<T>(field: &str, parsed: Result<T, phasegate_id::InvalidId>) -> Result<T, Unreadable> {
    parsed.map_err(|error| format!("{field}: {error}"))
}

fn optional<T>(
    field: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, phasegate_id::InvalidId>,
) -> Result<Option<T>, Unreadable> {
    if text.is_empty() { Ok(None) } else { id(field, parse(text)).map(Some) }
}

fn unsigned(field: &str, number: i32) -> Result<u32, Unreadable> {
    u32::try_from(number).map_err(|_| format!("{field} is negative"))
}
