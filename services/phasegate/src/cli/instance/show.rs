//! Where an instance stands, on one screen.

use std::fmt::Write as _;

use phasegate_clock::Timestamp;
use phasegate_proto::instance::v1::{
    BlockedTask, InstanceHealth, InstanceStatus, PendingApproval, PhaseStatus, PhaseTimeline,
    ProcessInstance, TaskStatus,
};

use crate::cli::moment;
use crate::cli::output::{Ink, Style, clean, style_of, word};

/// Columns of the words at the left.
const LABEL: usize = 11;

/// Describes an instance.
pub(super) fn describe(
    instance: &ProcessInstance,
    phases: &[PhaseTimeline],
    now: Timestamp,
    ink: Ink,
) -> String {
    let mut text = String::new();
    let status = word(instance.status().as_str_name(), "INSTANCE_STATUS_");
    let health = health(instance.health());
    let health = if health.is_empty() { String::new() } else { format!(" · {health}") };
    let headline = ink.paint(style_of(&status), &format!("{}{health}", status.to_uppercase()));
    // Writing to a text does not fail.
    let _ = writeln!(text, "{}  {headline}", ink.paint(Style::Strong, &clean(&instance.name)));
    let _ = writeln!(text, "{}", ink.paint(Style::Faint, &facts(instance, now)));
    if !instance.status_reason.is_empty() {
        line(&mut text, "Reason", &clean(&instance.status_reason));
    }
    let lane: Vec<String> = phases
        .iter()
        .map(|phase| {
            let state = word(phase.status().as_str_name(), "PHASE_STATUS_");
            ink.paint(style_of(&state), &format!("{} {}", phase_mark(phase.status()), phase.id))
        })
        .collect();
    line(&mut text, "Phases", &lane.join("   "));
    for (index, approval) in instance.pending_approvals.iter().enumerate() {
        line(&mut text, if index == 0 { "Waiting" } else { "" }, &waiting(approval, now));
    }
    for (index, task) in instance.blocked_tasks.iter().enumerate() {
        line(&mut text, if index == 0 { "Held up" } else { "" }, &blocker(task));
    }
    let current = phases.iter().find(|phase| phase.id == instance.current_phase);
    for (index, task) in current.map(|phase| phase.tasks.as_slice()).unwrap_or_default().iter().enumerate() {
        let state = word(task.status().as_str_name(), "TASK_STATUS_");
        let round = if task.round > 1 { format!(", round {}", task.round) } else { String::new() };
        let shown = format!("{} {} ({}, {state}{round})", task_mark(task.status()), task.id, task.assignee);
        line(&mut text, if index == 0 { "Tasks" } else { "" }, &ink.paint(style_of(&state), &clean(&shown)));
    }
    line(&mut text, "Next", &next(instance));
    text
}

fn line(text: &mut String, label: &str, value: &str) {
    let _ = writeln!(text, "{label:<LABEL$}{value}");
}

fn facts(instance: &ProcessInstance, now: Timestamp) -> String {
    let mut facts = vec![
        instance.id.clone(),
        format!("{} {}", instance.process_id, instance.process_version),
        format!("started {}", moment::relative(instance.started_at.as_ref(), now)),
        format!("{} %", instance.progress_percent),
    ];
    if instance.completed_at.is_some() {
        facts.push(format!("ended {}", moment::relative(instance.completed_at.as_ref(), now)));
    } else if instance.estimated_completion.is_some() {
        let likely = moment::relative(instance.estimated_completion.as_ref(), now);
        let late = moment::relative(instance.estimated_completion_late.as_ref(), now);
        let late = if late.is_empty() { String::new() } else { format!(", at the latest {late}") };
        facts.push(format!("done {likely}{late}"));
    }
    facts.join(" · ")
}

fn health(health: InstanceHealth) -> &'static str {
    match health {
        InstanceHealth::Unspecified | InstanceHealth::Ok => "",
        InstanceHealth::WaitingOnHuman => "waits for a person",
        InstanceHealth::Blocked => "blocked",
        InstanceHealth::NoWorker => "no agent polls for its work",
        InstanceHealth::Overdue => "an approval is overdue",
    }
}

fn waiting(approval: &PendingApproval, now: Timestamp) -> String {
    let due = match approval.expires_at.as_ref() {
        Some(at) => format!("  due {}", moment::relative(Some(at), now)),
        None => String::new(),
    };
    clean(&format!("{}  {}{due}  {}", approval.title, approval.waiting_on.join(", "), approval.approval_id))
}

/// What holds a task up, and who can change that.
pub(super) fn blocker(task: &BlockedTask) -> String {
    let subject = if task.task_id.is_empty() { &task.phase_id } else { &task.task_id };
    let by = if task.unblocked_by.is_empty() {
        String::new()
    } else {
        format!(" · up to {}", task.unblocked_by.join(", "))
    };
    clean(&format!("{subject}: {}{by}", task.message))
}

fn next(instance: &ProcessInstance) -> String {
    let id = &instance.id;
    match instance.status() {
        InstanceStatus::Paused => format!("phasegate instance resume {id}"),
        InstanceStatus::Completed | InstanceStatus::Cancelled | InstanceStatus::Failed => {
            format!("phasegate instance timeline {id}   ·   phasegate audit verify {id}")
        }
        InstanceStatus::Running | InstanceStatus::Unspecified => match instance.pending_approvals.first() {
            Some(first) => {
                format!("phasegate approval get {}   ·   phasegate instance watch {id}", first.approval_id)
            }
            None => format!("phasegate instance watch {id}"),
        },
    }
}

/// A sign for the state of a phase.
pub(super) fn phase_mark(status: PhaseStatus) -> char {
    match status {
        PhaseStatus::Unspecified | PhaseStatus::Pending => '○',
        PhaseStatus::Gated => '◇',
        PhaseStatus::Active => '▶',
        PhaseStatus::AwaitingApproval => '◆',
        PhaseStatus::Completed => '✓',
        PhaseStatus::Blocked => '✗',
        PhaseStatus::Skipped => '–',
    }
}

/// A sign for the state of a task.
pub(super) fn task_mark(status: TaskStatus) -> char {
    match status {
        TaskStatus::Unspecified | TaskStatus::Pending => '○',
        TaskStatus::Ready => '◌',
        TaskStatus::Running => '●',
        TaskStatus::AwaitingApproval => '◆',
        TaskStatus::Completed => '✓',
        TaskStatus::Blocked | TaskStatus::Failed => '✗',
        TaskStatus::Escalated => '↑',
        TaskStatus::Skipped | TaskStatus::Cancelled => '–',
    }
}

#[cfg(test)]
mod tests {
    use phasegate_proto::instance::v1::TaskTimeline;

    use super::*;

    fn at(text: &str) -> prost_types::Timestamp {
        text.parse::<Timestamp>().unwrap().to_proto()
    }

    fn phase(id: &str, status: PhaseStatus, tasks: Vec<TaskTimeline>) -> PhaseTimeline {
        PhaseTimeline { id: id.to_owned(), status: status.into(), tasks, ..PhaseTimeline::default() }
    }

    fn task(id: &str, status: TaskStatus, round: i32) -> TaskTimeline {
        TaskTimeline {
            id: id.to_owned(),
            status: status.into(),
            assignee: "sso_agent".to_owned(),
            round,
            ..TaskTimeline::default()
        }
    }

    #[test]
    fn one_screen_says_where_an_instance_stands() {
        let instance = ProcessInstance {
            id: "proc-inst-1".to_owned(),
            process_id: "sso".to_owned(),
            process_version: "1.0.0".to_owned(),
            name: "Acme Corp SSO Deployment".to_owned(),
            status: InstanceStatus::Running.into(),
            health: InstanceHealth::WaitingOnHuman.into(),
            current_phase: "configuration".to_owned(),
            progress_percent: 46,
            started_at: Some(at("2025-11-11T10:00:00Z")),
            estimated_completion: Some(at("2025-11-16T10:00:00Z")),
            pending_approvals: vec![PendingApproval {
                approval_id: "apr-1".to_owned(),
                title: "SSO Configuration Review".to_owned(),
                waiting_on: vec!["customer_it_admin".to_owned()],
                expires_at: Some(at("2025-11-14T17:00:00Z")),
                ..PendingApproval::default()
            }],
            blocked_tasks: vec![BlockedTask {
                task_id: "sso_setup".to_owned(),
                message: "It waits for an approval.".to_owned(),
                unblocked_by: vec!["customer_it_admin".to_owned()],
                ..BlockedTask::default()
            }],
            ..ProcessInstance::default()
        };
        let phases = [
            phase("discovery", PhaseStatus::Completed, Vec::new()),
            phase(
                "configuration",
                PhaseStatus::Active,
                vec![
                    task("sso_setup", TaskStatus::AwaitingApproval, 2),
                    task("scim_setup", TaskStatus::Running, 1),
                ],
            ),
            phase("production", PhaseStatus::Pending, Vec::new()),
        ];
        let now = "2025-11-13T10:00:00Z".parse().unwrap();
        let expected = "\
Acme Corp SSO Deployment  RUNNING · waits for a person
proc-inst-1 · sso 1.0.0 · started 2 d ago · 46 % · done in 3 d
Phases     ✓ discovery   ▶ configuration   ○ production
Waiting    SSO Configuration Review  customer_it_admin  due in 31 h  apr-1
Held up    sso_setup: It waits for an approval. · up to customer_it_admin
Tasks      ◆ sso_setup (sso_agent, awaiting_approval, round 2)
           ● scim_setup (sso_agent, running)
Next       phasegate approval get apr-1   ·   phasegate instance watch proc-inst-1
";
        assert_eq!(describe(&instance, &phases, now, Ink(false)), expected);
    }
}
