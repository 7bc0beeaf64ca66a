//! States in words and signs: never colour alone.

use phasegate_clock::Timestamp;
use phasegate_proto::actor::v1::{Actor, ActorKind};
use phasegate_proto::approval::v1::{Approval, ApprovalStatus, ApproverStatus, Decision, SubjectKind};
use phasegate_proto::instance::v1::{
    InstanceStatus, PhaseStatus, PhaseTimeline, ProcessInstance, TaskStatus,
};

use super::when::When;

/// A phase in the list of steps.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) class: &'static str,
    pub(super) icon: &'static str,
    pub(super) word: &'static str,
    pub(super) tasks: Vec<StepTask>,
}

/// A task below its phase.
#[derive(Debug)]
pub(super) struct StepTask {
    pub(super) name: String,
    pub(super) icon: &'static str,
    pub(super) word: &'static str,
}

impl Step {
    /// Tasks are shown for the phase that is under way.
    pub(super) fn new(phase: &PhaseTimeline) -> Self {
        let (class, icon, word) = match phase.status() {
            PhaseStatus::Unspecified | PhaseStatus::Pending => ("later", "○", "not begun"),
            PhaseStatus::Gated => ("now", "◇", "waits at a gate"),
            PhaseStatus::Active => ("now", "●", "under way"),
            PhaseStatus::AwaitingApproval => ("now", "◔", "waits for approval"),
            PhaseStatus::Completed => ("done", "✓", "complete"),
            PhaseStatus::Blocked => ("held", "!", "held up"),
            PhaseStatus::Skipped => ("done", "–", "passed over"),
        };
        let tasks = if class == "now" || class == "held" {
            phase.tasks.iter().map(|task| StepTask::new(task.name.clone(), task.status())).collect()
        } else {
            Vec::new()
        };
        Self { name: phase.name.clone(), class, icon, word, tasks }
    }
}

impl StepTask {
    fn new(name: String, status: TaskStatus) -> Self {
        let (icon, word) = match status {
            TaskStatus::Unspecified | TaskStatus::Pending => ("○", "not begun"),
            TaskStatus::Ready => ("○", "about to begin"),
            TaskStatus::Running => ("●", "under way"),
            TaskStatus::AwaitingApproval => ("◔", "waits for approval"),
            TaskStatus::Completed => ("✓", "complete"),
            TaskStatus::Blocked => ("!", "held up"),
            TaskStatus::Escalated => ("!", "somebody was called to help"),
            TaskStatus::Failed => ("!", "failed"),
            TaskStatus::Skipped => ("–", "passed over"),
            TaskStatus::Cancelled => ("–", "cancelled"),
        };
        Self { name, icon, word }
    }
}

/// What a request is about, in a phrase.
pub(super) fn subject(approval: &Approval, phases: &[PhaseTimeline]) -> String {
    let position = phases.iter().position(|phase| phase.id == approval.phase_id);
    let place = position.map_or_else(String::new, |index| {
        format!(" · {}, phase {} of {}", phases[index].name, index + 1, phases.len())
    });
    let what = match approval.subject_kind() {
        SubjectKind::Task => "Task",
        SubjectKind::Phase => "End of the phase",
        SubjectKind::Gate => "Gate before the next phase",
        SubjectKind::Unspecified | SubjectKind::AdHoc => "Question",
    };
    format!("{what}{place}")
}

/// Who did something, by name where there is one.
pub(super) fn actor(actor: Option<&Actor>) -> String {
    let Some(actor) = actor else { return "the process".to_owned() };
    let name = if actor.name.is_empty() { &actor.id } else { &actor.name };
    match actor.kind() {
        ActorKind::Agent => format!("{name} (agent)"),
        ActorKind::System | ActorKind::Unspecified => "the process".to_owned(),
        ActorKind::Participant | ActorKind::Operator | ActorKind::Service => name.clone(),
    }
}

/// Where one approver stands: class and word.
pub(super) fn answer(status: ApproverStatus) -> (&'static str, &'static str) {
    match status {
        ApproverStatus::Unspecified | ApproverStatus::Pending => ("warn", "has not answered"),
        ApproverStatus::Approved => ("good", "approved"),
        ApproverStatus::Rejected => ("bad", "rejected"),
        ApproverStatus::ChangesRequested => ("warn", "requested changes"),
        ApproverStatus::NotNeeded => ("warn", "no longer needed"),
    }
}

/// A decision as a verb, and on a button.
pub(super) fn verb(decision: Decision) -> Option<(&'static str, &'static str)> {
    match decision {
        Decision::Approve => Some(("approve", "Approve")),
        Decision::Reject => Some(("reject", "Reject")),
        Decision::RequestChanges => Some(("request changes to", "Request changes")),
        Decision::Unspecified => None,
    }
}

/// Reads the value of a form.
pub(super) fn decision(text: &str) -> Decision {
    match text {
        "approve" => Decision::Approve,
        "reject" => Decision::Reject,
        "request_changes" => Decision::RequestChanges,
        _ => Decision::Unspecified,
    }
}

/// Whether it is this person's turn to answer.
pub(super) fn waits_for(approval: &Approval, me: &str) -> bool {
    let mut own = approval.approvers.iter().filter(|approver| approver.participant_id == me);
    approval.status() == ApprovalStatus::Pending
        && own.any(|approver| approver.status() == ApproverStatus::Pending)
}

/// Why somebody who looks at a request cannot answer it.
pub(super) fn why_not(approval: &Approval, me: &str, may_approve: bool, now: Timestamp) -> String {
    let ended = || {
        let when = When::from_proto(approval.decided_at.as_ref(), now);
        when.map_or_else(String::new, |when| format!(" on {}", when.people))
    };
    let own = approval.approvers.iter().find(|approver| approver.participant_id == me);
    match approval.status() {
        ApprovalStatus::Pending => {}
        ApprovalStatus::Withdrawn => {
            return format!("This request was taken back{}{}.", ended(), because(&approval.status_reason));
        }
        ApprovalStatus::Superseded => {
            return "A newer version is waiting: this one needs no answer any more.".to_owned();
        }
        ApprovalStatus::Expired => {
            return format!("The time to decide ended{}; the team was told.", ended());
        }
        ApprovalStatus::Approved | ApprovalStatus::Rejected | ApprovalStatus::ChangesRequested
            if own.is_none_or(|own| own.status() == ApproverStatus::NotNeeded) =>
        {
            let needed = if own.is_some() { " Your answer is no longer needed." } else { "" };
            return format!("{}{needed}", decided_by(approval, now));
        }
        ApprovalStatus::Unspecified
        | ApprovalStatus::Approved
        | ApprovalStatus::Rejected
        | ApprovalStatus::ChangesRequested => {}
    }
    match own {
        None => {
            let names: Vec<&str> = approval
                .approvers
                .iter()
                .map(|approver| name(&approver.name, &approver.participant_id))
                .collect();
            format!("This is for {}.", names.join(" and "))
        }
        Some(own) if own.status() != ApproverStatus::Pending => {
            let when = When::from_proto(own.responded_at.as_ref(), now);
            let when = when.map_or_else(String::new, |when| format!(" on {}", when.people));
            let comment = if own.comment.is_empty() {
                ".".to_owned()
            } else {
                format!(", with the comment: {}", own.comment)
            };
            format!("You {}{when}{comment}", done(own.status()))
        }
        Some(_) if !may_approve => {
            "You can view this but not decide: your link does not allow it.".to_owned()
        }
        Some(_) => "This process has ended.".to_owned(),
    }
}

/// Whose answer settled a request: who said no, or who was the last to say yes.
fn decided_by(approval: &Approval, now: Timestamp) -> String {
    let said_no = approval.approvers.iter().find(|approver| {
        matches!(approver.status(), ApproverStatus::Rejected | ApproverStatus::ChangesRequested)
    });
    let said_yes = approval.approvers.iter().filter(|approver| approver.status() == ApproverStatus::Approved);
    let last_yes = said_yes.max_by_key(|approver| {
        approver.responded_at.as_ref().and_then(Timestamp::from_proto).map(Timestamp::as_micros)
    });
    let Some(approver) = said_no.or(last_yes) else { return "This has been decided.".to_owned() };
    let when = When::from_proto(approver.responded_at.as_ref(), now);
    let when = when.map_or_else(String::new, |when| format!(" {}", when.relative));
    format!("{} {}{when}.", name(&approver.name, &approver.participant_id), done(approver.status()))
}

fn done(status: ApproverStatus) -> &'static str {
    match status {
        ApproverStatus::Approved => "approved this",
        ApproverStatus::Rejected => "rejected this",
        ApproverStatus::ChangesRequested => "requested changes",
        ApproverStatus::NotNeeded | ApproverStatus::Unspecified | ApproverStatus::Pending => {
            "were no longer needed"
        }
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {}", reason.trim_end_matches('.')) }
}

/// A banner where the instance does not simply run.
pub(super) fn notice(instance: &ProcessInstance, now: Option<&When>) -> Option<String> {
    match instance.status() {
        InstanceStatus::Paused => {
            let since = now.map_or_else(String::new, |when| format!(" since {}", when.people));
            Some(format!(
                "This process is on hold{since}. You can still decide; it takes effect when the process goes on."
            ))
        }
        InstanceStatus::Completed => Some("This process is complete.".to_owned()),
        InstanceStatus::Cancelled => {
            Some(format!("This process was cancelled{}.", because(&instance.status_reason)))
        }
        InstanceStatus::Failed => {
            Some(format!("This process has failed{}.", because(&instance.status_reason)))
        }
        InstanceStatus::Running | InstanceStatus::Unspecified => None,
    }
}

/// Whether an instance goes on.
pub(super) fn is_open(instance: &ProcessInstance) -> bool {
    matches!(instance.status(), InstanceStatus::Running | InstanceStatus::Paused)
}

/// A name, or the id where there is none.
pub(super) fn name<'a>(name: &'a str, id: &'a str) -> &'a str {
    if name.is_empty() { id } else { name }
}
