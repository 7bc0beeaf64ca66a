//! `phasegate task`: tasks of an instance.

use clap::Subcommand;
use phasegate_client::request_id;
use phasegate_clock::Timestamp;
use phasegate_proto::instance::v1::{ListTasksRequest, RetryTaskRequest, SkipTaskRequest, Task, TaskStatus};

use super::failure::Failure;
use super::output::{Ink, word};
use super::session::Session;
use super::table::{Table, plain, short, state};
use super::{Page, moment};

/// Full name of a task.
const TASK: &str = "phasegate.instance.v1.Task";

/// What can be done with tasks.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List the tasks of an instance, in the order of its definition
    #[command(
        before_help = "Examples:\n  phasegate task list proc-inst-123\n  phasegate task list proc-inst-123 --status blocked"
    )]
    List {
        /// Instance
        instance_id: String,
        /// In this state only
        #[arg(long, value_parser = [
            "pending", "ready", "running", "awaiting_approval", "completed", "blocked", "escalated", "failed", "skipped",
            "cancelled",
        ])]
        status: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Take a failed, escalated or blocked task up again
    #[command(
        before_help = "Example:\n  phasegate task retry proc-inst-123 sso_setup --reason \"credentials were renewed\""
    )]
    Retry {
        /// Instance
        instance_id: String,
        /// Task
        task_id: String,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Pass a task over; what comes after it sees it as done
    #[command(
        before_help = "Example:\n  phasegate task skip proc-inst-123 scim_setup --reason \"the customer has no SCIM\""
    )]
    Skip {
        /// Instance
        instance_id: String,
        /// Task
        task_id: String,
        /// Why
        #[arg(long)]
        reason: String,
    },
}

impl Verb {
    /// The instance that it is about.
    pub(super) fn instance_id(&self) -> &str {
        match self {
            Verb::List { instance_id, .. }
            | Verb::Retry { instance_id, .. }
            | Verb::Skip { instance_id, .. } => instance_id,
        }
    }
}

/// Does it.
pub(super) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::List { instance_id, status, page } => list(instance_id, status.as_deref(), page, session).await,
        Verb::Retry { instance_id, task_id, reason } => {
            let request = RetryTaskRequest { instance_id, task_id, reason, request_id: request_id() };
            let answer =
                session.call(request, async |client, request| client.tasks().retry_task(request).await);
            changed(answer.await?.task, session)
        }
        Verb::Skip { instance_id, task_id, reason } => {
            session.confirm(&format!("Pass over task {task_id} of {instance_id}?"))?;
            let request = SkipTaskRequest { instance_id, task_id, reason, request_id: request_id() };
            let answer =
                session.call(request, async |client, request| client.tasks().skip_task(request).await);
            changed(answer.await?.task, session)
        }
    }
}

async fn list(
    instance_id: String,
    status: Option<&str>,
    page: Page,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let status = status
        .and_then(|word| TaskStatus::from_str_name(&format!("TASK_STATUS_{}", word.to_uppercase())))
        .unwrap_or_default();
    let request = ListTasksRequest {
        instance_id,
        status: status.into(),
        page_size: page.limit,
        page_token: page.page_token,
    };
    let answer =
        session.call(request, async |client, request| client.tasks().list_tasks(request).await).await?;
    if session.is_for_programs() {
        return session.output.items(&answer.tasks, TASK, &answer.next_page_token);
    }
    let text = table(&answer.tasks, moment::now(), session.output.ink);
    session.output.lines(&text)?;
    session.output.more(&answer.next_page_token);
    Ok(())
}

/// Tasks for people.
fn table(tasks: &[Task], now: Timestamp, ink: Ink) -> String {
    let mut table = Table::new(&["TASK", "PHASE", "STATUS", "ASSIGNEE", "TRY", "ROUND", "NOTE"]);
    for task in tasks {
        table.row(vec![
            plain(&task.id),
            plain(&task.phase_id),
            state(&word(task.status().as_str_name(), "TASK_STATUS_")),
            plain(&task.assignee),
            plain(if task.attempt > 0 {
                format!("{}/{}", task.attempt, task.max_attempts)
            } else {
                String::new()
            }),
            plain(if task.round > 1 { task.round.to_string() } else { String::new() }),
            short(&note(task, now), 60),
        ]);
    }
    table.render(ink)
}

/// What is worth knowing of a task in its state.
fn note(task: &Task, now: Timestamp) -> String {
    match task.status() {
        TaskStatus::Running => {
            let lease = moment::relative(task.lease_expires_at.as_ref(), now);
            let message = if task.progress_message.is_empty() {
                String::new()
            } else {
                format!(" {}", task.progress_message)
            };
            format!("{} %{message}, lease ends {lease}", task.progress_percent)
        }
        TaskStatus::AwaitingApproval => task.approval_id.clone(),
        TaskStatus::Ready if task.next_attempt_at.is_some() => {
            format!("tried again {}", moment::relative(task.next_attempt_at.as_ref(), now))
        }
        TaskStatus::Failed | TaskStatus::Escalated | TaskStatus::Blocked => task
            .last_failure
            .as_ref()
            .map(|failure| format!("{}: {}", failure.r#type, failure.message))
            .unwrap_or_default(),
        TaskStatus::Completed => moment::relative(task.completed_at.as_ref(), now),
        TaskStatus::Unspecified
        | TaskStatus::Pending
        | TaskStatus::Ready
        | TaskStatus::Skipped
        | TaskStatus::Cancelled => String::new(),
    }
}

fn changed(task: Option<Task>, session: &mut Session<'_>) -> Result<(), Failure> {
    let task = task.unwrap_or_default();
    if session.is_for_programs() {
        return session.output.message(&task, TASK);
    }
    let status = word(task.status().as_str_name(), "TASK_STATUS_");
    session.output.lines(&format!("{} {status}", task.id))
}

#[cfg(test)]
mod tests {
    use phasegate_proto::instance::v1::Failure as TaskFailure;

    use super::*;

    #[test]
    fn a_task_says_what_matters_in_its_state() {
        let now: Timestamp = "2025-11-13T10:00:00Z".parse().unwrap();
        let task = |id: &str, status: TaskStatus| Task {
            id: id.to_owned(),
            phase_id: "configuration".to_owned(),
            status: status.into(),
            assignee: "sso_agent".to_owned(),
            attempt: 1,
            max_attempts: 4,
            round: 1,
            ..Task::default()
        };
        let tasks = [
            Task {
                progress_percent: 60,
                progress_message: "mapping groups".to_owned(),
                lease_expires_at: Some((now + std::time::Duration::from_secs(41)).to_proto()),
                ..task("sso_setup", TaskStatus::Running)
            },
            Task {
                approval_id: "apr-1".to_owned(),
                round: 2,
                ..task("scim_setup", TaskStatus::AwaitingApproval)
            },
            Task {
                last_failure: Some(TaskFailure {
                    r#type: "TOOL_ERROR".to_owned(),
                    message: "no answer".to_owned(),
                    ..TaskFailure::default()
                }),
                attempt: 4,
                ..task("validation", TaskStatus::Escalated)
            },
        ];
        let expected = "\
TASK        PHASE          STATUS             ASSIGNEE   TRY  ROUND  NOTE
sso_setup   configuration  running            sso_agent  1/4         60 % mapping groups, lease ends in 41 s
scim_setup  configuration  awaiting_approval  sso_agent  1/4  2      apr-1
validation  configuration  escalated          sso_agent  4/4         TOOL_ERROR: no answer
";
        assert_eq!(table(&tasks, now, Ink(false)), expected);
    }
}
