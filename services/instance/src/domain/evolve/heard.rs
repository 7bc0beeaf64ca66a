//! What other services did. Their events come in no promised order: an answer may come before the question, and what
//! is settled stays settled.

use std::collections::BTreeMap;

use phasegate_id::ApprovalId;

use super::super::fact::{Fact, RemarkMade, RequestView};
use super::super::instance::Instance;
use super::super::request::{Approval, ApprovalStatus, Subject};
use super::super::task::{Remark, TaskStatus};
use super::boundary::slot;
use super::task::learn;

/// Takes what was heard into the state.
pub(super) fn evolve(instance: &mut Instance, fact: &Fact) {
    match fact {
        Fact::ApprovalRequested { approval, request } => {
            if let Some(known) = known(instance, approval, request) {
                refresh(known, request);
            }
        }
        Fact::ApprovalResponded { approval, waiting_on, .. } => {
            if let Some(known) = instance.approvals.get_mut(approval).filter(|known| known.status.is_open()) {
                known.waiting_on.clone_from(waiting_on);
            }
        }
        Fact::ApprovalSettled { approval, status, request, remarks, .. } => {
            let sequence = instance.version;
            if let Some(known) = known(instance, approval, request) {
                refresh(known, request);
                known.status = *status;
                known.remarks = remarks
                    .iter()
                    .enumerate()
                    .map(|(position, remark)| kept(remark, request.round, sequence, position))
                    .collect();
            }
            if matches!(request.subject, Subject::AdHoc(_)) {
                instance.approvals.remove(approval);
                instance.settled.insert(approval.clone());
                if !request.key.is_empty() {
                    instance.answers.insert(request.key.clone(), *status);
                }
            }
        }
        Fact::ApprovalEscalated { approval, waiting_on, overdue, .. } => {
            if let Some(known) = instance.approvals.get_mut(approval).filter(|known| known.status.is_open()) {
                known.waiting_on.clone_from(waiting_on);
                known.overdue |= *overdue;
            }
        }
        Fact::ArtifactStored { key, artifact, .. } => {
            learn(&mut instance.artifacts, &BTreeMap::from([(key.clone(), artifact.clone())]));
        }
        Fact::ApprovalReminded { .. }
        | Fact::CommentCreated { .. }
        | Fact::LinkCreated { .. }
        | Fact::LinkRevoked { .. }
        | Fact::LinkOpened { .. }
        | Fact::LinkAsked { .. }
        | Fact::NotificationSettled { .. } => {}
    }
}

/// The request to change: one that is open, or that becomes known by this. None for one that is settled, or that
/// belongs to a round that is over.
fn known<'a>(instance: &'a mut Instance, id: &ApprovalId, request: &RequestView) -> Option<&'a mut Approval> {
    if instance.status.is_terminal() {
        return None;
    }
    if !instance.approvals.contains_key(id) {
        if instance.settled.contains(id) || !adopts(instance, request) {
            return None;
        }
        if let Some(slot) = slot(instance, &request.subject) {
            *slot = Some(id.clone());
        }
        instance.approvals.insert(id.clone(), unknown(request));
    }
    instance.approvals.get_mut(id).filter(|known| known.status.is_open())
}

/// Whether a request that the engine did not ask for is to be kept: an ad-hoc one, or the one that an agent had made
/// for the round of its task before handing in.
fn adopts(instance: &Instance, request: &RequestView) -> bool {
    match &request.subject {
        Subject::AdHoc(_) => true,
        Subject::Task(id) => instance.tasks.get(id.as_str()).is_some_and(|task| {
            task.round == request.round
                && task.approval.is_none()
                && matches!(
                    task.status,
                    TaskStatus::Ready | TaskStatus::Running | TaskStatus::AwaitingApproval
                )
        }),
        Subject::Phase(_) | Subject::Gate(_) => false,
    }
}

fn unknown(request: &RequestView) -> Approval {
    Approval {
        subject: request.subject.clone(),
        round: request.round,
        title: String::new(),
        task: request.task.clone(),
        key: request.key.clone(),
        waiting_on: request.waiting_on.clone(),
        artifacts: BTreeMap::new(),
        status: ApprovalStatus::Needed,
        remarks: Vec::new(),
        requested_at: request.requested_at,
        expires_at: None,
        overdue: false,
    }
}

fn refresh(known: &mut Approval, request: &RequestView) {
    known.status = ApprovalStatus::Pending;
    known.title.clone_from(&request.title);
    known.key.clone_from(&request.key);
    known.waiting_on.clone_from(&request.waiting_on);
    known.artifacts.clone_from(&request.artifacts);
    known.requested_at = request.requested_at;
    known.expires_at = request.expires_at;
    known.overdue = false;
}

fn kept(remark: &RemarkMade, round: u32, sequence: u64, position: usize) -> Remark {
    Remark {
        round,
        participant: remark.participant.clone(),
        artifact: remark.artifact.clone(),
        path: remark.path.clone(),
        made_at: remark.made_at,
        sequence,
        position,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::tests::play::{Play, define};
    use super::*;

    fn reviewed() -> phasegate_process::Definition {
        define(json!({"phases": [{"id": "p", "requiredApprovals": ["ann"], "tasks": [
            {"id": "a", "requiredApprovals": ["ann"]}]}]}))
    }

    fn only(play: &Play<'_>) -> (&'static str, usize) {
        let mut all = play.instance.approvals.values();
        all.next().map_or(("none", 0), |approval| (approval.status.as_str(), approval.waiting_on.len()))
    }

    #[test]
    fn answers_may_come_before_questions() {
        let definition = reviewed();
        let mut play = Play::new(&definition);
        play.script("start; lease a; approve task:a");
        assert_eq!(only(&play), ("approved", 0));
        play.script("asked task:a");
        assert_eq!(only(&play), ("approved", 0), "what is settled stays settled");
        play.script("reject task:a");
        assert_eq!(only(&play), ("approved", 0), "what is settled stays settled");
    }

    #[test]
    fn a_request_may_be_put_to_people_anew() {
        let definition = reviewed();
        let mut play = Play::new(&definition);
        play.script("start; lease a; asked task:a on:doc@1; asked task:a on:doc@2");
        let approval = play.instance.approvals.values().next().expect("a request");
        assert_eq!(approval.artifacts["doc"], 2);
        assert_eq!(play.instance.tasks["a"].approval.iter().count(), 1);
    }

    #[test]
    fn requests_of_other_rounds_and_ended_instances_change_nothing() {
        let definition = reviewed();
        for script in ["asked task:a round:2", "approve phase:p", "approve gate:g", "cancel; asked task:a"] {
            let mut play = Play::new(&definition);
            play.script("start; lease a");
            play.script(script);
            assert_eq!(only(&play), ("none", 0), "{script:?}");
        }
    }

    #[test]
    fn open_ad_hoc_requests_are_kept_until_they_are_settled() {
        let definition = reviewed();
        let mut play = Play::new(&definition);
        play.script("start; asked legal");
        assert_eq!(only(&play), ("pending", 1));
        play.script("overdue legal");
        assert!(play.instance.approvals.values().all(|approval| approval.overdue));
        play.script("reject legal");
        assert_eq!(only(&play), ("none", 0));
        assert_eq!(play.instance.answers["legal"], ApprovalStatus::Rejected);
        play.script("asked legal");
        assert_eq!(only(&play), ("none", 0), "what is settled stays settled");
    }

    #[test]
    fn an_older_version_does_not_hide_a_newer_one() {
        let definition = reviewed();
        let mut play = Play::new(&definition);
        play.script("start; stored doc@2 a; stored doc@1 a");
        assert_eq!(play.instance.artifacts["doc"].version, 2);
        assert_eq!(play.instance.artifacts["doc"].task, "a");
    }
}
