//! `phasegate instance`: running processes.

mod show;
mod start;
mod timeline;
mod watch;

use clap::Subcommand;
use phasegate_client::request_id;
use phasegate_proto::instance::v1::{
    AdvancePhaseRequest, AdvancePhaseResponse, CancelInstanceRequest, GetInstanceRequest, GetTimelineRequest,
    InstanceStatus, ListInstancesRequest, PauseInstanceRequest, ProcessInstance, ResumeInstanceRequest,
};

use super::failure::Failure;
use super::output::{clean, word};
use super::session::Session;
use super::table::{Table, plain, short, state};
use super::{Page, moment};

/// Full name of an instance.
const INSTANCE: &str = "phasegate.instance.v1.ProcessInstance";

/// What can be done with instances.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Start an instance of a definition
    #[command(
        disable_version_flag = true,
        before_help = "Examples:\n  phasegate instance start enterprise_sso_deployment --name \"Acme Corp SSO Deployment\" \\\n    --context customerName=\"Acme Corporation\" --context userCount=5000 \\\n    --participant customer_it_admin=it-admin@acme.com:\"John Smith\" \\\n    --participant customer_ciso=ciso@acme.com:\"Jane Doe\"\n  phasegate instance start -f start.json"
    )]
    Start(start::Start),
    /// List instances, newest first
    #[command(before_help = "Example:\n  phasegate instance list --status running")]
    List {
        /// Of this definition only
        #[arg(long, default_value = "", hide_default_value = true)]
        process: String,
        /// In this state only
        #[arg(long, value_parser = ["running", "paused", "completed", "cancelled", "failed"])]
        status: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show where an instance stands, what it waits for, and what comes next
    #[command(before_help = "Example:\n  phasegate instance get proc-inst-123")]
    Get {
        /// Instance
        instance_id: String,
    },
    /// Move to the next phase
    #[command(
        before_help = "Examples:\n  phasegate instance advance proc-inst-123\n  phasegate instance advance proc-inst-123 --dry-run\n  phasegate instance advance proc-inst-123 --force --reason \"agreed with the customer\""
    )]
    Advance {
        /// Instance
        instance_id: String,
        /// Only if this is the current phase
        #[arg(long, default_value = "", hide_default_value = true, value_name = "PHASE")]
        from_phase: String,
        /// Skip what is left; needs --reason
        #[arg(long, requires = "reason")]
        force: bool,
        /// Why
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Say what is in the way, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Draw phases and tasks as bars over time
    #[command(before_help = "Example:\n  phasegate instance timeline proc-inst-123")]
    Timeline {
        /// Instance
        instance_id: String,
    },
    /// Print events as they happen, until the instance ends
    #[command(
        before_help = "Examples:\n  phasegate instance watch proc-inst-123\n  phasegate instance watch proc-inst-123 --type 'approval.*' -o jsonl"
    )]
    Watch(watch::Watch),
    /// Put an instance on hold
    #[command(before_help = "Example:\n  phasegate instance pause proc-inst-123 --reason \"change freeze\"")]
    Pause {
        /// Instance
        instance_id: String,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Take a paused instance up again
    #[command(
        before_help = "Example:\n  phasegate instance resume proc-inst-123 --reason \"the freeze is over\""
    )]
    Resume {
        /// Instance
        instance_id: String,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// End an instance: open requests are taken back, links revoked, work stopped
    #[command(
        before_help = "Example:\n  phasegate instance cancel proc-inst-123 --reason \"no longer wanted\""
    )]
    Cancel {
        /// Instance
        instance_id: String,
        /// Why
        #[arg(long)]
        reason: String,
    },
}

impl Verb {
    /// The instance that it is about.
    pub(super) fn instance_id(&self) -> Option<&str> {
        match self {
            Verb::Start(start) => start.id(),
            Verb::List { .. } => None,
            Verb::Watch(watch) => Some(watch.instance_id()),
            Verb::Get { instance_id }
            | Verb::Advance { instance_id, .. }
            | Verb::Timeline { instance_id }
            | Verb::Pause { instance_id, .. }
            | Verb::Resume { instance_id, .. }
            | Verb::Cancel { instance_id, .. } => Some(instance_id),
        }
    }
}

/// Does it.
pub(super) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::Start(start) => start::run(start, session).await,
        Verb::List { process, status, page } => list(process, status.as_deref(), page, session).await,
        Verb::Get { instance_id } => get(instance_id, session).await,
        Verb::Advance { instance_id, from_phase, force, reason, dry_run } => {
            let request = AdvancePhaseRequest {
                instance_id,
                from_phase,
                force,
                reason,
                validate_only: dry_run,
                request_id: if dry_run { String::new() } else { request_id() },
            };
            advance(request, session).await
        }
        Verb::Timeline { instance_id } => show_timeline(instance_id, session).await,
        Verb::Watch(watch) => watch::run(watch, session).await,
        Verb::Pause { instance_id, reason } => {
            let request = PauseInstanceRequest { instance_id, reason, request_id: request_id() };
            let answer = session
                .call(request, async |client, request| client.instances().pause_instance(request).await);
            changed(answer.await?.instance, session)
        }
        Verb::Resume { instance_id, reason } => {
            let request = ResumeInstanceRequest { instance_id, reason, request_id: request_id() };
            let answer = session
                .call(request, async |client, request| client.instances().resume_instance(request).await);
            changed(answer.await?.instance, session)
        }
        Verb::Cancel { instance_id, reason } => cancel(instance_id, reason, session).await,
    }
}

async fn list(
    process_id: String,
    status: Option<&str>,
    page: Page,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let status = status
        .and_then(|word| InstanceStatus::from_str_name(&format!("INSTANCE_STATUS_{}", word.to_uppercase())))
        .unwrap_or_default();
    let request = ListInstancesRequest {
        process_id,
        status: status.into(),
        page_size: page.limit,
        page_token: page.page_token,
    };
    let answer = session
        .call(request, async |client, request| client.instances().list_instances(request).await)
        .await?;
    if session.is_for_programs() {
        return session.output.items(&answer.instances, INSTANCE, &answer.next_page_token);
    }
    let now = moment::now();
    let mut table = Table::new(&["ID", "NAME", "PROCESS", "STATUS", "PHASE", "DONE", "HEALTH", "STARTED"]);
    for instance in &answer.instances {
        table.row(vec![
            plain(&instance.id),
            short(&instance.name, 32),
            plain(format!("{} {}", instance.process_id, instance.process_version)),
            state(&word(instance.status().as_str_name(), "INSTANCE_STATUS_")),
            plain(&instance.current_phase),
            plain(format!("{} %", instance.progress_percent)),
            state(&word(instance.health().as_str_name(), "INSTANCE_HEALTH_")),
            plain(moment::relative(instance.started_at.as_ref(), now)),
        ]);
    }
    session.output.lines(&table.render(session.output.ink))?;
    session.output.more(&answer.next_page_token);
    Ok(())
}

async fn get(instance_id: String, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = fetch(instance_id.clone(), session).await?;
    if session.is_for_programs() {
        return session.output.message(&instance, INSTANCE);
    }
    let request = GetTimelineRequest { instance_id };
    let timeline =
        session.call(request, async |client, request| client.instances().get_timeline(request).await).await?;
    let text = show::describe(&instance, &timeline.phases, moment::now(), session.output.ink);
    session.output.lines(&text)
}

/// Reads an instance.
async fn fetch(instance_id: String, session: &Session<'_>) -> Result<ProcessInstance, Failure> {
    let request = GetInstanceRequest { instance_id };
    let answer =
        session.call(request, async |client, request| client.instances().get_instance(request).await).await?;
    Ok(answer.instance.unwrap_or_default())
}

async fn advance(request: AdvancePhaseRequest, session: &mut Session<'_>) -> Result<(), Failure> {
    if request.force {
        session.confirm(&format!(
            "Skip everything that is left in the current phase of {}?",
            request.instance_id
        ))?;
    }
    let dry_run = request.validate_only;
    let answer = session
        .call(request, async |client, request| client.instances().advance_phase(request).await)
        .await?;
    if session.is_for_programs() {
        return session.output.message(&answer, "phasegate.instance.v1.AdvancePhaseResponse");
    }
    if dry_run {
        let lines: Vec<String> = answer.blockers.iter().map(show::blocker).collect();
        let text = if lines.is_empty() { "Nothing is in the way.".to_owned() } else { lines.join("\n") };
        return session.output.lines(&text);
    }
    session.output.lines(&moved(&answer))
}

async fn show_timeline(instance_id: String, session: &mut Session<'_>) -> Result<(), Failure> {
    let request = GetTimelineRequest { instance_id };
    let answer =
        session.call(request, async |client, request| client.instances().get_timeline(request).await).await?;
    if session.is_for_programs() {
        return session.output.message(&answer, "phasegate.instance.v1.GetTimelineResponse");
    }
    let text = timeline::draw(&answer.phases, moment::now(), session.output.columns, session.output.ink);
    session.output.lines(&text)
}

async fn cancel(instance_id: String, reason: String, session: &mut Session<'_>) -> Result<(), Failure> {
    session.confirm(&format!("End {instance_id} for good?"))?;
    let request = CancelInstanceRequest { instance_id, reason, request_id: request_id() };
    let answer =
        session.call(request, async |client, request| client.instances().cancel_instance(request).await);
    changed(answer.await?.instance, session)
}

/// Says what an advance has done.
fn moved(answer: &AdvancePhaseResponse) -> String {
    match (answer.previous_phase.as_str(), answer.current_phase.as_str()) {
        // A gate has opened, or the phase waited for nothing else than being looked at.
        (previous, current) if previous == current => format!("{current} goes on"),
        ("", current) => format!("{current} has begun"),
        (previous, "") => format!("{previous} → the end"),
        (previous, current) => format!("{previous} → {current}"),
    }
}

/// Says where an instance stands after a change.
fn changed(instance: Option<ProcessInstance>, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = instance.unwrap_or_default();
    if session.is_for_programs() {
        return session.output.message(&instance, INSTANCE);
    }
    let status = word(instance.status().as_str_name(), "INSTANCE_STATUS_");
    session.output.lines(&clean(&format!("{} {status}", instance.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advance_says_what_it_has_done() {
        for (previous, current, said) in [
            ("draft", "publish", "draft → publish"),
            ("publish", "publish", "publish goes on"),
            ("publish", "", "publish → the end"),
            ("", "draft", "draft has begun"),
        ] {
            let answer = AdvancePhaseResponse {
                previous_phase: previous.to_owned(),
                current_phase: current.to_owned(),
                ..AdvancePhaseResponse::default()
            };
            assert_eq!(moved(&answer), said);
        }
    }
}
