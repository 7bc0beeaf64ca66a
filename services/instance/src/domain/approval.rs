//! What the request of a subject means for it: whether it may take effect, and what it needs first.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_clock::Timestamp;
use phasegate_id::{ApprovalId, ArtifactKey, ParticipantId};

use super::command::{Action, Actor};
use super::event::{Change, Event};
use super::fact::Fact;
use super::instance::{GateStatus, Instance};
use super::planted::{self, Bug};
use super::request::{Approval, ApprovalStatus, Subject};
use super::round::facts_of;
use super::task::TaskStatus;
use super::work::{Work, written_task};

/// What the request of a subject means for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody has been asked.
    Unasked,
    /// People have to answer.
    Open,
    /// It may take effect.
    Approved,
    /// It was approved, but what was approved has a newer version.
    OutOfDate,
    /// It goes back.
    ChangesRequested,
    /// Rejected, withdrawn or timed out.
    Refused(ApprovalStatus),
    /// It ended without an answer; it is asked again.
    Superseded,
}

/// How the request in a subject's slot stands at this moment.
pub(super) fn standing(work: &Work<'_>, slot: Option<&ApprovalId>) -> Standing {
    let Some(approval) = slot.and_then(|id| work.instance.approvals.get(id)) else {
        return Standing::Unasked;
    };
    match approval.status {
        ApprovalStatus::Needed | ApprovalStatus::Pending => Standing::Open,
        ApprovalStatus::Approved if is_out_of_date(work, approval) => Standing::OutOfDate,
        ApprovalStatus::Approved => Standing::Approved,
        ApprovalStatus::ChangesRequested => Standing::ChangesRequested,
        status @ (ApprovalStatus::Rejected | ApprovalStatus::Expired | ApprovalStatus::Withdrawn) => {
            Standing::Refused(status)
        }
        ApprovalStatus::Superseded => Standing::Superseded,
    }
}

/// Whether anything that was reviewed has a newer version: as artifact said just now, or as was heard from it.
fn is_out_of_date(work: &Work<'_>, approval: &Approval) -> bool {
    if planted::is(Bug::ContentUnchecked) {
        return false;
    }
    approval.artifacts.iter().any(|(key, reviewed)| newest(work, key) > *reviewed)
}

fn newest(work: &Work<'_>, key: &ArtifactKey) -> u32 {
    let said = work.current.get(key).map_or(0, |current| current.version);
    let heard = work.instance.artifacts.get(key).map_or(0, |known| known.version);
    said.max(heard)
}

/// Asks for a decision about a subject in its running round.
pub(super) fn ask(work: &mut Work<'_>, subject: Subject, round: u32, approvers: &[String]) {
    let left_out = usize::from(planted::is(Bug::ApproverIgnored) && approvers.len() > 1);
    let asked = &approvers[..approvers.len() - left_out];
    let needed = Change::ApprovalNeeded {
        approval: ApprovalId::derive(&work.instance.id, subject.kind(), subject.id(), round),
        subject,
        round,
        approvers: asked.iter().map(ParticipantId::trusted).collect(),
    };
    work.follow(needed);
}

/// Why a request that was refused holds its subject, as a sentence.
pub(super) fn refusal(what: &str, status: ApprovalStatus) -> String {
    let how = match status {
        ApprovalStatus::Expired => "ran out of time",
        ApprovalStatus::Withdrawn => "was withdrawn",
        ApprovalStatus::Rejected
        | ApprovalStatus::Needed
        | ApprovalStatus::Pending
        | ApprovalStatus::Approved
        | ApprovalStatus::ChangesRequested
        | ApprovalStatus::Superseded => "was rejected",
    };
    format!("the approval of {what} {how}")
}

/// Records how a request ended that somebody asked before the engine did, unless the engine has been able to use it when
/// it was told first.
pub(super) fn hear_again(work: &mut Work<'_>, actor: &Actor, fact: &Fact, at: Timestamp) {
    if status_before(&work.instance, fact).is_some_and(ApprovalStatus::is_open) {
        hear(work, actor, fact, at);
    }
}

/// Records what happened in another service, and sets the fact that an approval brings.
pub(super) fn hear(work: &mut Work<'_>, actor: &Actor, fact: &Fact, at: Timestamp) {
    let before = status_before(&work.instance, fact);
    if let Fact::ApprovalSettled { status, .. } = fact
        && !status.is_open()
        && before == Some(*status)
    {
        // Told again first, and in the order of things only then: it is on record.
        return;
    }
    work.push(Event { at, actor: actor.clone(), change: Change::Heard(fact.clone()) });
    if work.instance.status.is_terminal() {
        return;
    }
    let Fact::ApprovalSettled { approval, status: ApprovalStatus::Approved, request, .. } = fact else {
        return;
    };
    let counts = match &request.subject {
        Subject::AdHoc(_) => true,
        Subject::Task(_) | Subject::Phase(_) | Subject::Gate(_) => {
            before.is_none_or(ApprovalStatus::is_open) && standing(work, Some(approval)) == Standing::Approved
        }
    };
    if !counts {
        return;
    }
    let known = &work.instance.facts;
    let names = facts_of(&request.subject, &request.key).into_iter();
    let facts: BTreeMap<String, bool> =
        names.filter(|name| known.get(name) != Some(&true)).map(|name| (name, true)).collect();
    if !facts.is_empty() {
        work.follow(Change::FactsSet { facts, reason: String::new() });
    }
}

fn status_before(instance: &Instance, fact: &Fact) -> Option<ApprovalStatus> {
    let Fact::ApprovalSettled { approval, .. } = fact else { return None };
    let known = instance.approvals.get(approval).map(|known| known.status);
    known.or_else(|| instance.replaced.get(approval).copied())
}

/// Names the artifacts whose newest versions `decide` wants to know for this action: what must be there when work is
/// handed in, and what was reviewed by anybody whose approval may take effect now. None, most of the time.
pub fn content_keys(
    definition: &phasegate_process::Definition,
    instance: &Instance,
    action: &Action,
) -> BTreeSet<ArtifactKey> {
    let undone = instance.approvals.values().filter(|approval| {
        approval.status == ApprovalStatus::Approved && is_without_effect(instance, &approval.subject)
    });
    let mut keys: BTreeSet<ArtifactKey> =
        undone.flat_map(|approval| approval.artifacts.keys().cloned()).collect();
    if let Action::HandIn { task, .. } = action
        && let Some(written) = written_task(definition, task.as_str())
    {
        keys.extend(written.artifacts.iter().map(ArtifactKey::trusted));
    }
    if let Action::Hear { fact: Fact::ApprovalSettled { request, .. }, .. }
    | Action::HearAgain { fact: Fact::ApprovalSettled { request, .. }, .. } = action
    {
        keys.extend(request.artifacts.keys().cloned());
    }
    keys
}

/// Whether an approval of this subject has still to open something.
fn is_without_effect(instance: &Instance, subject: &Subject) -> bool {
    match subject {
        Subject::Task(id) => instance.tasks.get(id).is_some_and(|task| task.status != TaskStatus::Completed),
        Subject::Phase(id) => instance.phases.get(id).is_some_and(|phase| !phase.status.is_over()),
        Subject::Gate(id) => instance.gates.get(id).is_some_and(|gate| gate.status != GateStatus::Open),
        Subject::AdHoc(_) => false,
    }
}
