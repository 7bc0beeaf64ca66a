//! What the service writes, worked out of what it has loaded. Pure: loading stands before it and committing after it, so
//! that a simulation can do both its own way.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_clock::Timestamp;
use phasegate_id::{ArtifactKey, BoundaryId, InstanceId, ParticipantId, TenantId};
use phasegate_proto::actor::v1::Actor as ActorMessage;
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{ApprovalsMoot, ApprovalsNeeded, InstanceEnded};

use super::inbox::request_of;
use super::request::{follow, opened};
use super::{Call, Envelope, Error, Wanted, message, rejected, tell};
use crate::domain::{
    Actor, Command, CurrentArtifact, Event, InstanceCondition, Request, decide as decide_command,
};
use crate::store::{Commit, InstanceChange, InstanceState, Person, Record};

/// What a command comes to.
#[derive(Debug)]
pub struct Step {
    /// The request after it.
    pub after: Record,
    /// Nothing changed.
    pub repeated: bool,
    /// An answer came too late, and what is written tells so: it is to be tried on that.
    pub lapsed: bool,
    /// What is written; nothing where nothing is.
    pub commit: Option<Commit>,
}

/// What is known of a request that the engine needs.
#[derive(Debug, Default)]
pub struct Found {
    /// The request, where somebody asked before the engine did.
    pub first: Option<Record>,
    /// It was called off before it arrived.
    pub is_moot: bool,
    /// The request of the round before.
    pub before: Option<Record>,
}

/// What an event asks of the requests that wait.
#[derive(Debug)]
pub enum Taken {
    /// Requests are to be put to people.
    Needed(ApprovalsNeeded),
    /// These are needed no more: all that wait where none is named.
    Moot(ApprovalsMoot),
    /// These are the newest versions of artifacts.
    Refresh(BTreeMap<ArtifactKey, CurrentArtifact>),
    /// The instance was put on hold or taken up again, as of its version.
    Paused {
        /// On hold.
        paused: bool,
        /// Version of the instance.
        version: i64,
    },
    /// The instance is over: what waits is taken back, for this reason.
    Ended(String),
}

/// Decides a command on a request.
pub fn step(
    record: &Record,
    actor: &ActorMessage,
    command: &Command,
    call: Option<&Call>,
    now: Timestamp,
) -> Result<Step, Error> {
    let events =
        decide_command(&record.approval, command, now).map_err(|rejection| rejected(record, rejection))?;
    // A late answer first tells that the time ran out, and is then refused by what it told.
    let lapsed = matches!(command, Command::Answer(_))
        && events.iter().any(|event| matches!(event, Event::TimedOut { .. }));
    let repeated = events.is_empty();
    let after = record.after(&events);
    let mut commit = Commit::new(record.tenant.clone(), after.approval.request.instance.clone(), now);
    // Whether time passes depends on the instance, which must not have been put on hold meanwhile.
    commit.at_revision = matches!(command, Command::Elapse).then_some(record.revision);
    commit.repeat = call.filter(|_| !lapsed).map(|call| call.answer(&after));
    if repeated && commit.repeat.is_none() {
        return Ok(Step { after, repeated, lapsed, commit: None });
    }
    tell::add(&mut commit, actor, &BoundaryId::generate(), record.version, &after, events);
    Ok(Step { after, repeated, lapsed, commit: Some(commit) })
}

/// Gives commands to the waiting requests of an instance. `state` was read before `pending`.
pub fn pending(
    wanted: &Wanted<'_>,
    state: InstanceState,
    pending: &[Record],
    choose: &impl Fn(&Record) -> Option<Command>,
    now: Timestamp,
) -> Result<Commit, Error> {
    let mut commit = Commit::new(wanted.tenant.clone(), wanted.instance.clone(), now);
    commit.receipt = Some(wanted.receipt.clone());
    commit.instance_change = wanted.instance_change;
    commit.moot.clone_from(&wanted.moot);
    commit.at_revision = Some(state.revision);
    let boundary = BoundaryId::generate();
    for record in pending {
        let Some(command) = choose(record) else { continue };
        let events = decide_command(&record.approval, &command, now)
            .map_err(|rejection| rejected(record, rejection))?;
        let after = record.after(&events);
        tell::add(&mut commit, wanted.actor, &boundary, record.version, &after, events);
    }
    Ok(commit)
}

/// The requests of a boundary, with the artifacts that there are.
pub fn requests(
    instance: &InstanceId,
    needed: &ApprovalsNeeded,
    current: &BTreeMap<ArtifactKey, CurrentArtifact>,
) -> Vec<Request> {
    needed.needs.iter().map(|need| request_of(instance, needed, need, current)).collect()
}

/// Puts the requests of a boundary to people, all in one transaction. `state` was read before what was `found`.
pub fn needed(
    event: &Envelope,
    boundary: &BoundaryId,
    requests: &[(Request, Found)],
    people: &BTreeMap<ParticipantId, Person>,
    state: InstanceState,
    now: Timestamp,
) -> Result<Commit, Error> {
    let mut commit = Commit::new(event.tenant.clone(), event.instance.clone(), now);
    commit.at_revision = Some(state.revision);
    commit.receipt = Some(event.receipt.clone());
    if state.condition == InstanceCondition::Ended {
        return Ok(commit);
    }
    for (request, found) in requests {
        if let Some(first) = &found.first {
            // Somebody asked before the engine did, and the answer may have come before the engine waited for it. Who
            // hands in has not decided anything.
            if !first.approval.is_pending() {
                let ourselves = message::bare_actor(&Actor::system("approval"));
                tell::settled(&mut commit, &ourselves, first, true);
            }
        } else if !found.is_moot {
            let mut request = request.clone();
            follow(&mut request, found.before.as_ref());
            if let Some(before) = &found.before {
                replace_round(event, &mut commit, &request, before)?;
            }
            let (record, events) = opened(&event.tenant, request, people, state, now)?;
            tell::add(&mut commit, &event.actor, boundary, 0, &record, events);
        }
    }
    if !commit.changes.is_empty() {
        commit.people = people.clone().into_iter().collect();
    }
    Ok(commit)
}

/// Puts one request to people. `state` was read before what is known of the request.
pub fn open(
    tenant: &TenantId,
    request: &Request,
    before: Option<&Record>,
    people: &BTreeMap<ParticipantId, Person>,
    state: InstanceState,
    actor: &ActorMessage,
    now: Timestamp,
) -> Result<(Record, Commit), Error> {
    let mut request = request.clone();
    follow(&mut request, before);
    let boundary = request.boundary.clone();
    let (record, events) = opened(tenant, request, people, state, now)?;
    let mut commit = Commit::new(tenant.clone(), record.approval.request.instance.clone(), now);
    commit.at_revision = Some(state.revision);
    commit.people = people.clone().into_iter().collect();
    tell::add(&mut commit, actor, &boundary, 0, &record, events);
    Ok((record, commit))
}

/// The round before ends with the next one, if people still had to answer it.
fn replace_round(
    event: &Envelope,
    commit: &mut Commit,
    request: &Request,
    before: &Record,
) -> Result<(), Error> {
    let by = Some(request.id.clone());
    let command = Command::Supersede { by, reason: "another round took its place".to_owned() };
    let events = decide_command(&before.approval, &command, commit.now)
        .map_err(|rejection| Error::Rejected { approval: before.approval.request.id.clone(), rejection })?;
    let after = before.after(&events);
    tell::add(commit, &event.actor, &request.boundary, before.version, &after, events);
    Ok(())
}

/// What an event is to this service; nothing where it is not for it.
pub fn taken(payload: &Payload) -> Option<Taken> {
    match payload {
        Payload::ApprovalsNeeded(needed) => Some(Taken::Needed(needed.clone())),
        Payload::ApprovalsMoot(moot) => Some(Taken::Moot(moot.clone())),
        Payload::ArtifactStored(stored) => {
            let version = u32::try_from(stored.version).unwrap_or_default();
            let newest = CurrentArtifact { version, digest: stored.digest.clone() };
            Some(Taken::Refresh(BTreeMap::from([(ArtifactKey::trusted(stored.key.clone()), newest)])))
        }
        Payload::InstancePaused(change) => {
            Some(Taken::Paused { paused: true, version: change.instance_version })
        }
        Payload::InstanceResumed(change) => {
            Some(Taken::Paused { paused: false, version: change.instance_version })
        }
        Payload::InstanceEnded(ended) => Some(Taken::Ended(end_of(ended))),
        Payload::InstanceStarted(_)
        | Payload::PhaseChanged(_)
        | Payload::TaskEscalated(_)
        | Payload::ApprovalsRequested(_)
        | Payload::ApprovalResponded(_)
        | Payload::ApprovalSettled(_)
        | Payload::ApprovalReminded(_)
        | Payload::ApprovalEscalated(_)
        | Payload::CommentCreated(_)
        | Payload::LinkCreated(_)
        | Payload::LinkRevoked(_)
        | Payload::LinkOpened(_)
        | Payload::FreshLinkAsked(_)
        | Payload::NotificationSettled(_) => None,
    }
}

fn end_of(ended: &InstanceEnded) -> String {
    let how = match ended.status() {
        InstanceStatus::Completed => "completed",
        InstanceStatus::Cancelled => "cancelled",
        InstanceStatus::Failed => "failed",
        InstanceStatus::Running | InstanceStatus::Paused | InstanceStatus::Unspecified => "over",
    };
    match ended.reason.as_str() {
        "" => format!("the instance is {how}"),
        why => format!("the instance is {how}: {why}"),
    }
}

impl Taken {
    /// What it changes about the instance itself.
    pub fn instance_change(&self) -> Option<InstanceChange> {
        match self {
            Self::Paused { paused, version } => {
                Some(InstanceChange::Paused { paused: *paused, version: *version })
            }
            Self::Ended(_) => Some(InstanceChange::Ended),
            Self::Needed(_) | Self::Moot(_) | Self::Refresh(_) => None,
        }
    }

    /// What it wants of a request that waits.
    pub fn command(&self, record: &Record) -> Option<Command> {
        match self {
            Self::Needed(_) | Self::Paused { .. } => None,
            Self::Moot(moot) => {
                let id = record.approval.request.id.as_str();
                let is_meant = moot.approval_ids.is_empty() || moot.approval_ids.iter().any(|one| one == id);
                is_meant.then(|| Command::Supersede { by: None, reason: moot.reason.clone() })
            }
            Self::Refresh(current) => Some(Command::Refresh { current: current.clone() }),
            Self::Ended(reason) => {
                Some(Command::Withdraw { by: Actor::system("instance"), reason: reason.clone() })
            }
        }
    }

    /// The requests that it calls off, and why.
    pub fn called_off(&self) -> (BTreeSet<String>, String) {
        match self {
            Self::Moot(moot) => (moot.approval_ids.iter().cloned().collect(), moot.reason.clone()),
            Self::Needed(_) | Self::Refresh(_) | Self::Paused { .. } | Self::Ended(_) => {
                (BTreeSet::new(), String::new())
            }
        }
    }
}
