//! What a request must fulfil before anybody is asked.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_id::{ArtifactKey, InstanceId, ParticipantId};
use phasegate_proto::instance::v1::{InstanceStatus, TaskStatus};
use phasegate_proto::internal::instance::v1::DescribeInstanceResponse;
use phasegate_proto::internal::instance::v1::describe_instance_response::TaskDescription;
use phasegate_rpc_error::Invalid;

use super::{Ask, Error};
use crate::domain::{APPROVERS_MAX, CurrentArtifact, Request, ReviewedArtifact};

/// The RAID role that decides.
const APPROVER: &str = "approver";

/// Refuses an instance that is over.
pub(super) fn running(instance: &InstanceId, described: &DescribeInstanceResponse) -> Result<(), Error> {
    let status = match described.status() {
        InstanceStatus::Completed => "completed",
        InstanceStatus::Cancelled => "cancelled",
        InstanceStatus::Failed => "failed",
        InstanceStatus::Running | InstanceStatus::Paused | InstanceStatus::Unspecified => return Ok(()),
    };
    Err(Error::InstanceTerminal { instance: instance.clone(), status })
}

/// The task that a request is about. Refuses one that is unknown or over.
pub(super) fn task<'d>(
    ask: &Ask,
    described: &'d DescribeInstanceResponse,
) -> Result<Option<&'d TaskDescription>, Error> {
    if ask.task.is_none() {
        return Ok(None);
    }
    let Some(task) = &described.task else {
        return Err(Invalid::new("TASK_UNKNOWN", "task_id", "names no task of the instance").into());
    };
    let status = match task.status() {
        TaskStatus::Completed => "completed",
        TaskStatus::Skipped => "skipped",
        TaskStatus::Failed => "failed",
        TaskStatus::Cancelled => "cancelled",
        TaskStatus::Pending
        | TaskStatus::Ready
        | TaskStatus::Running
        | TaskStatus::AwaitingApproval
        | TaskStatus::Blocked
        | TaskStatus::Escalated
        | TaskStatus::Unspecified => return Ok(Some(task)),
    };
    Err(Error::TaskClosed { status })
}

/// Those who are named, or everybody who lists the key: people of the definition whose role is to decide.
pub(super) fn approvers(
    ask: &Ask,
    described: &DescribeInstanceResponse,
) -> Result<Vec<ParticipantId>, Error> {
    let wrong = |field: String, message: &str| Error::from(Invalid::new("APPROVER_INVALID", field, message));
    let may_approve =
        |id: &str| described.humans.iter().any(|human| human.id == id && human.raid_role == APPROVER);
    if ask.approvers.is_empty() {
        let lists = |key: &String| {
            let listing = described.humans.iter().filter(|human| human.required_approvals.contains(key));
            let listing = listing.filter(|human| human.raid_role == APPROVER);
            listing.filter_map(|human| ParticipantId::parse(&human.id).ok()).collect::<Vec<_>>()
        };
        let listed = ask.key.as_ref().map(lists).unwrap_or_default();
        return match listed.len() {
            0 => Err(wrong(
                "approver_ids".to_owned(),
                "must name an approver, or the key must be one that a person of the definition lists",
            )),
            1..=APPROVERS_MAX => Ok(listed),
            _ => Err(wrong("key".to_owned(), "is listed by more than 20 people")),
        };
    }
    for (index, approver) in ask.approvers.iter().enumerate() {
        let field = || format!("approver_ids[{index}]");
        if ask.approvers[..index].contains(approver) {
            return Err(wrong(field(), "is named twice"));
        }
        if !may_approve(approver.as_str()) {
            return Err(wrong(field(), "must be a person of the definition whose role is approver"));
        }
    }
    Ok(ask.approvers.clone())
}

/// The lease of one task asks for nothing about another: the round's request would be taken from whoever works on that.
pub(super) fn own_task(request: &Request, leased: &str) -> Result<(), Error> {
    match &request.task {
        Some(task) if task.as_str() != leased => {
            Err(Invalid::new("TOKEN_MALFORMED", "task_token", "is for another task than task_id").into())
        }
        Some(_) | None => Ok(()),
    }
}

/// Nobody is asked about the own work.
pub(super) fn own_work(request: &Request) -> Result<(), Error> {
    match request.approvers.iter().position(|one| request.is_own_work_of(one)) {
        None => Ok(()),
        Some(index) => {
            let message = "asked for this or does the work that it is about";
            Err(Invalid::new("APPROVER_INVALID", format!("approver_ids[{index}]"), message).into())
        }
    }
}

/// The newest version of each key. Refuses a key that does not exist.
pub(super) fn artifacts(
    keys: &[ArtifactKey],
    current: &BTreeMap<ArtifactKey, CurrentArtifact>,
) -> Result<Vec<ReviewedArtifact>, Error> {
    let bound = bind(keys, current);
    match keys.iter().position(|key| !current.contains_key(key)) {
        None => Ok(bound),
        Some(index) => {
            let message = "names no artifact of the instance";
            Err(Invalid::new("ARTIFACT_UNKNOWN", format!("artifacts[{index}]"), message).into())
        }
    }
}

/// The newest version of each key that exists, once.
pub(super) fn bind(
    keys: &[ArtifactKey],
    current: &BTreeMap<ArtifactKey, CurrentArtifact>,
) -> Vec<ReviewedArtifact> {
    let mut seen = BTreeSet::new();
    let distinct = keys.iter().filter(|key| seen.insert(*key));
    let found = distinct.filter_map(|key| Some((key, current.get(key)?)));
    let bound = found.map(|(key, newest)| ReviewedArtifact {
        key: key.clone(),
        version: newest.version,
        digest: newest.digest.clone(),
        previous_version: 0,
    });
    bound.collect()
}

/// Whether a request is the one that a task needs in its round: the work is being done or was just handed in, it has to
/// be approved, and all who have to are asked.
pub(super) fn is_for_round(task: &TaskDescription, approvers: &[ParticipantId]) -> bool {
    let asked = |id: &String| approvers.iter().any(|one| one.as_str() == id);
    let is_under_way = match task.status() {
        TaskStatus::Ready | TaskStatus::Running | TaskStatus::AwaitingApproval => true,
        TaskStatus::Pending
        | TaskStatus::Blocked
        | TaskStatus::Escalated
        | TaskStatus::Completed
        | TaskStatus::Skipped
        | TaskStatus::Failed
        | TaskStatus::Cancelled
        | TaskStatus::Unspecified => false,
    };
    is_under_way && !task.required_approvals.is_empty() && task.required_approvals.iter().all(asked)
}
