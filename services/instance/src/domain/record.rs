//! How each event reads in the feed and in the audit log: one table. These words are a contract; they never change.

use super::event::{Change, Event};
use super::fact::{Decision, Fact};
use super::request::ApprovalStatus;

/// How one event reads outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Type in the feed, such as `task.completed`.
    pub watch_type: &'static str,
    /// Kind in the audit log.
    pub audit_type: &'static str,
    /// What was done, past tense.
    pub action: &'static str,
    /// Task, approval, artifact, phase, gate, link, comment, notification or instance that it is about.
    pub subject: String,
}

/// Kinds of the audit log, as a filter may name them.
pub const AUDIT_TYPES: [&str; 12] = [
    "approval",
    "artifact",
    "comment",
    "context",
    "fact",
    "gate",
    "instance",
    "link",
    "notification",
    "phase_transition",
    "task",
    "task_completion",
];

/// Says how an event of the instance `instance_id` reads outside.
pub fn record(instance_id: &str, event: &Event) -> Record {
    let (watch_type, audit_type, action, subject) = match &event.change {
        Change::InstanceStarted(_) => ("instance.started", "instance", "started", instance_id),
        Change::InstancePaused { .. } => ("instance.paused", "instance", "paused", instance_id),
        Change::InstanceResumed { .. } => ("instance.resumed", "instance", "resumed", instance_id),
        Change::InstanceCompleted {} => ("instance.completed", "instance", "completed", instance_id),
        Change::InstanceCancelled { .. } => ("instance.cancelled", "instance", "cancelled", instance_id),
        Change::InstanceFailed { .. } => ("instance.failed", "instance", "failed", instance_id),
        Change::FactsSet { .. } => ("instance.facts_set", "fact", "set_facts", instance_id),
        Change::ContextChanged { .. } => {
            ("instance.context_changed", "context", "changed_context", instance_id)
        }
        Change::PhaseGated { phase } => ("phase.gated", "phase_transition", "reached_phase", phase.as_str()),
        Change::PhaseEntered { phase, .. } => {
            ("phase.entered", "phase_transition", "entered_phase", phase.as_str())
        }
        Change::PhaseAwaitingApproval { phase } => {
            ("phase.awaiting_approval", "phase_transition", "handed_in_phase", phase.as_str())
        }
        Change::PhaseActivated { phase } => {
            ("phase.activated", "phase_transition", "activated_phase", phase.as_str())
        }
        Change::PhaseBlocked { phase, .. } => {
            ("phase.blocked", "phase_transition", "blocked_phase", phase.as_str())
        }
        Change::PhaseCompleted { phase } => {
            ("phase.completed", "phase_transition", "completed_phase", phase.as_str())
        }
        Change::PhaseSkipped { phase, .. } => {
            ("phase.skipped", "phase_transition", "skipped_phase", phase.as_str())
        }
        Change::PhaseReopened { phase, .. } => {
            ("phase.reopened", "phase_transition", "reopened_phase", phase.as_str())
        }
        Change::GateOpened { gate, .. } => ("gate.opened", "gate", "opened_gate", gate.as_str()),
        Change::GateRejected { gate, .. } => ("gate.rejected", "gate", "rejected_gate", gate.as_str()),
        Change::ApprovalNeeded { approval, .. } => {
            ("approval.needed", "approval", "needed_approval", approval.as_str())
        }
        Change::RoundBegun { subject, .. } => ("review.round_begun", "approval", "began_round", subject.id()),
        Change::TaskReady { task } => ("task.ready", "task", "became_ready", task.as_str()),
        Change::TaskLeased { task, .. } => ("task.leased", "task", "leased_task", task.as_str()),
        Change::TaskHandedIn { task, .. } => ("task.handed_in", "task", "handed_in_task", task.as_str()),
        Change::TaskCompleted { task, .. } => {
            ("task.completed", "task_completion", "completed_task", task.as_str())
        }
        Change::TaskAttemptFailed { task, .. } => {
            ("task.attempt_failed", "task", "failed_attempt", task.as_str())
        }
        Change::TaskRetryScheduled { task, .. } => {
            ("task.retry_scheduled", "task", "scheduled_retry", task.as_str())
        }
        Change::TaskReleased { task, .. } => ("task.released", "task", "released_task", task.as_str()),
        Change::TaskEscalated { task, .. } => ("task.escalated", "task", "escalated_task", task.as_str()),
        Change::TaskFailed { task, .. } => ("task.failed", "task", "failed_task", task.as_str()),
        Change::TaskReturned { task, .. } => ("task.returned", "task", "returned_task", task.as_str()),
        Change::TaskBlocked { task, .. } => ("task.blocked", "task", "blocked_task", task.as_str()),
        Change::TaskRetried { task, .. } => ("task.retried", "task", "retried_task", task.as_str()),
        Change::TaskSkipped { task, .. } => {
            ("task.skipped", "task_completion", "skipped_task", task.as_str())
        }
        Change::TaskHeldBack { task, .. } => ("task.held_back", "task", "held_back_task", task.as_str()),
        Change::Heard(fact) => heard(fact),
    };
    Record { watch_type, audit_type, action, subject: subject.to_owned() }
}

fn heard(fact: &Fact) -> (&'static str, &'static str, &'static str, &str) {
    match fact {
        Fact::ApprovalRequested { approval, .. } => {
            ("approval.requested", "approval", "requested", approval.as_str())
        }
        Fact::ApprovalResponded { approval, decision, .. } => {
            let action = match decision {
                Decision::Approve => "approved",
                Decision::Reject => "rejected",
                Decision::RequestChanges => "requested_changes",
            };
            ("approval.responded", "approval", action, approval.as_str())
        }
        Fact::ApprovalSettled { approval, status, .. } => {
            let (watch_type, action) = settled(*status);
            (watch_type, "approval", action, approval.as_str())
        }
        Fact::ApprovalReminded { approval, .. } => {
            ("approval.reminded", "approval", "reminded", approval.as_str())
        }
        Fact::ApprovalEscalated { approval, .. } => {
            ("approval.escalated", "approval", "escalated", approval.as_str())
        }
        Fact::ArtifactStored { key, .. } => ("artifact.stored", "artifact", "stored_artifact", key.as_str()),
        Fact::CommentCreated { comment, .. } => ("comment.created", "comment", "commented", comment.as_str()),
        Fact::LinkCreated { link, .. } => ("link.created", "link", "created_link", link.as_str()),
        Fact::LinkRevoked { link, .. } => ("link.revoked", "link", "revoked_link", link.as_str()),
        Fact::LinkOpened { link, .. } => ("link.opened", "link", "opened_link", link.as_str()),
        Fact::LinkAsked { link, .. } => ("link.asked", "link", "asked_for_link", link.as_str()),
        Fact::NotificationSettled { notification, sent: true, .. } => {
            ("notification.sent", "notification", "sent_notification", notification.as_str())
        }
        Fact::NotificationSettled { notification, sent: false, .. } => {
            ("notification.failed", "notification", "gave_up_notification", notification.as_str())
        }
    }
}

fn settled(status: ApprovalStatus) -> (&'static str, &'static str) {
    match status {
        ApprovalStatus::Approved => ("approval.approved", "settled_approved"),
        ApprovalStatus::Rejected => ("approval.rejected", "settled_rejected"),
        ApprovalStatus::ChangesRequested => ("approval.changes_requested", "settled_changes_requested"),
        ApprovalStatus::Expired => ("approval.expired", "expired"),
        ApprovalStatus::Withdrawn => ("approval.withdrawn", "withdrawn"),
        ApprovalStatus::Superseded => ("approval.superseded", "superseded"),
        // A request that is not at its end is never told of as settled.
        ApprovalStatus::Needed | ApprovalStatus::Pending => ("approval.settled", "settled"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::super::tests::play::{Play, define};
    use super::*;

    #[test]
    fn the_words_of_the_page_are_there() {
        for kind in ["approval", "phase_transition", "task_completion"] {
            assert!(AUDIT_TYPES.contains(&kind));
        }
        assert!(AUDIT_TYPES.is_sorted());
    }

    #[test]
    fn every_record_has_a_known_kind_and_a_noun_in_the_past_tense() {
        let definition = define(json!({
            "phases": [{"id": "p", "requiredApprovals": ["ann"], "tasks": [{"id": "a", "requiredApprovals": ["ben"]}]},
                       {"id": "q", "tasks": [{"id": "b"}]}],
            "gates": [{"id": "m", "beforePhase": "q", "type": "manual"}],
        }));
        let mut play = Play::new(&definition);
        play.script(
            "start; pause; resume; lease a; release a; lease a; fail a; wait 5; lease a; hand a; asked task:a;
             changes task:a; lease a; hand a; reject task:a; retry a; lease a; hand a; approve task:a; fact x=true;
             context {}; stored doc@1; commented; linked; opened; unlinked; relinked; notified; answered legal; reminded legal;
             overdue legal; approve phase:p; advance; reopen p; advance force; skip b",
        );
        let words: BTreeSet<(&str, &str)> = play
            .events
            .iter()
            .map(|event| record("run-1", event))
            .inspect(|record| assert!(!record.subject.is_empty(), "{record:?}"))
            .map(|record| (record.watch_type, record.audit_type))
            .collect();
        for (watch_type, audit_type) in &words {
            assert!(watch_type.split_once('.').is_some(), "{watch_type}");
            assert!(AUDIT_TYPES.contains(audit_type), "{audit_type}");
        }
        assert!(words.len() > 20, "{words:?}");
    }
}
