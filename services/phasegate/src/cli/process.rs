//! `phasegate process`: definitions.

use clap::Subcommand;
use phasegate_client::request_id;
use phasegate_proto::definition::v1::{
    CreateProcessDefinitionRequest, GetProcessDefinitionRequest, ListProcessDefinitionsRequest,
    ProcessDefinition, Severity, ValidateProcessDefinitionRequest, ValidateProcessDefinitionResponse,
    ValidationIssue,
};

use super::failure::Failure;
use super::output::{Ink, Output, Style, clean, word};
use super::session::Session;
use super::table::{Table, plain, short, state};
use super::{Page, input, moment};

/// Full name of a definition.
const DEFINITION: &str = "phasegate.definition.v1.ProcessDefinition";

/// What can be done with definitions.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List definitions, the newest version of each
    #[command(before_help = "Example:\n  phasegate process list")]
    List {
        /// With drafts
        #[arg(long)]
        drafts: bool,
        #[command(flatten)]
        page: Page,
    },
    /// Show one definition
    #[command(
        disable_version_flag = true,
        before_help = "Examples:\n  phasegate process get enterprise_sso_deployment\n  phasegate process get enterprise_sso_deployment -o json > process.json"
    )]
    Get {
        /// Definition
        process_id: String,
        /// Version; the latest published one when not given
        #[arg(long, default_value = "", hide_default_value = true)]
        version: String,
    },
    /// Store a definition and publish it, unless it says "draft": true
    #[command(
        before_help = "Examples:\n  phasegate process create -f process.json\n  generate-process | phasegate process create -f -"
    )]
    Create {
        /// JSON file; - for standard input
        #[arg(short, long, value_name = "FILE")]
        file: String,
        /// Check only, store nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Check a definition and show every fault and warning, without storing anything
    #[command(before_help = "Example:\n  phasegate process validate -f process.json")]
    Validate {
        /// JSON file; - for standard input
        #[arg(short, long, value_name = "FILE")]
        file: String,
        /// Check this context, too: a JSON object, @file, or key=value
        #[arg(long, value_name = "CONTEXT")]
        context: Vec<String>,
    },
}

/// Does it.
pub(super) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::List { drafts, page } => list(drafts, page, session).await,
        Verb::Get { process_id, version } => get(process_id, version, session).await,
        Verb::Create { file, dry_run } => create(&file, dry_run, session).await,
        Verb::Validate { file, context } => validate(&file, &context, session).await,
    }
}

async fn list(include_drafts: bool, page: Page, session: &mut Session<'_>) -> Result<(), Failure> {
    let request =
        ListProcessDefinitionsRequest { page_size: page.limit, page_token: page.page_token, include_drafts };
    let answer = session
        .call(request, async |client, request| client.definitions().list_process_definitions(request).await)
        .await?;
    if session.is_for_programs() {
        return session.output.items(&answer.processes, DEFINITION, &answer.next_page_token);
    }
    let now = moment::now();
    let mut table = Table::new(&["ID", "VERSION", "NAME", "PHASES", "STATUS", "CREATED"]);
    for process in &answer.processes {
        table.row(vec![
            plain(&process.id),
            plain(&process.version),
            short(&process.name, 40),
            plain(process.phases.len().to_string()),
            state(&word(process.status().as_str_name(), "DEFINITION_STATUS_")),
            plain(moment::relative(process.created_at.as_ref(), now)),
        ]);
    }
    session.output.lines(&table.render(session.output.ink))?;
    session.output.more(&answer.next_page_token);
    if answer.processes.is_empty() {
        session.output.note("No definition yet. Store one with: phasegate process create -f process.json");
    }
    Ok(())
}

async fn get(process_id: String, version: String, session: &mut Session<'_>) -> Result<(), Failure> {
    let request = GetProcessDefinitionRequest { process_id, version };
    let answer = session
        .call(request, async |client, request| client.definitions().get_process_definition(request).await)
        .await?;
    let process = answer.process_definition.unwrap_or_default();
    if session.is_for_programs() {
        return session.output.message(&process, DEFINITION);
    }
    let text = describe(&process, session.output.ink);
    session.output.lines(&text)?;
    session.output.note(&format!("Start it with: phasegate instance start {}", process.id));
    Ok(())
}

/// A definition on a screen: its phases with their gates, tasks and approvers.
pub(super) fn describe(process: &ProcessDefinition, ink: Ink) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    let status = word(process.status().as_str_name(), "DEFINITION_STATUS_");
    let name = ink.paint(Style::Strong, &clean(&process.name));
    // Writing to a text does not fail.
    let _ = writeln!(text, "{name}\n{} {} · {status}", process.id, process.version);
    if let Some(description) = &process.description {
        let _ = writeln!(text, "{}", clean(description));
    }
    let mut phases: Vec<_> = process.phases.iter().collect();
    phases.sort_by_key(|phase| phase.order);
    for phase in phases {
        for gate in process.gates.iter().filter(|gate| gate.before_phase == phase.id) {
            let kind = word(gate.r#type().as_str_name(), "GATE_TYPE_");
            let opens = gate.condition.clone().unwrap_or_else(|| gate.approvers.join(", "));
            let opens = if opens.is_empty() { String::new() } else { format!(": {}", clean(&opens)) };
            let _ = writeln!(text, "\n  ◇ {} ({kind}{opens})", clean(&gate.name));
        }
        let estimate =
            phase.estimated_duration.as_deref().map(|text| format!(" · {}", clean(text))).unwrap_or_default();
        let manner = if phase.parallel_execution == Some(true) { " · in parallel" } else { "" };
        let _ = writeln!(
            text,
            "\n{} ({}){estimate}{manner}",
            ink.paint(Style::Strong, &clean(&phase.name)),
            phase.id
        );
        let mut table = Table::new(&["  TASK", "ASSIGNEE", "AFTER", "APPROVED BY", "ARTIFACTS"]);
        for task in &phase.tasks {
            table.row(vec![
                plain(format!("  {}", task.id)),
                plain(&task.assignee),
                plain(task.dependencies.join(", ")),
                plain(task.required_approvals.join(", ")),
                plain(task.artifacts.join(", ")),
            ]);
        }
        if !phase.tasks.is_empty() {
            text.push_str(&table.render(ink));
        }
        if !phase.required_approvals.is_empty() {
            let _ = writeln!(text, "  Its end is approved by {}", phase.required_approvals.join(", "));
        }
    }
    let people = people(process);
    if !people.is_empty() {
        let _ = write!(text, "\n{}", people.render(ink));
    }
    text
}

/// Who takes part: agents by the queue that they poll, humans by what they may do.
fn people(process: &ProcessDefinition) -> Table {
    let mut table = Table::new(&["WHO", "WHAT", "HOW"]);
    let mut agents: Vec<_> = process.agents.iter().collect();
    agents.sort_by_key(|(id, _)| id.as_str());
    for (id, agent) in agents {
        let queue = agent.queue.as_deref().unwrap_or(&agent.template_id);
        table.row(vec![plain(id), plain("agent"), plain(format!("polls queue {queue}"))]);
    }
    let mut humans: Vec<_> = process.humans.iter().collect();
    humans.sort_by_key(|(id, _)| id.as_str());
    for (id, human) in humans {
        table.row(vec![
            plain(id),
            plain("human"),
            plain(word(human.raid_role().as_str_name(), "RAID_ROLE_")),
        ]);
    }
    table
}

async fn create(file: &str, validate_only: bool, session: &mut Session<'_>) -> Result<(), Failure> {
    let process: ProcessDefinition = input::message(file, DEFINITION, session.output)?;
    let request = CreateProcessDefinitionRequest {
        process_definition: Some(process),
        validate_only,
        request_id: if validate_only { String::new() } else { request_id() },
    };
    let answer = session
        .call(request, async |client, request| client.definitions().create_process_definition(request).await)
        .await?;
    let process = answer.process_definition.unwrap_or_default();
    note_issues(file, &process.warnings, session.output);
    if session.is_for_programs() {
        return session.output.message(&process, DEFINITION);
    }
    session.output.lines(&format!("{} {}", process.id, process.version))?;
    session.output.note(&if validate_only {
        "It has no fault; nothing was stored.".to_owned()
    } else {
        format!("Start it with: phasegate instance start {}", process.id)
    });
    Ok(())
}

async fn validate(file: &str, context: &[String], session: &mut Session<'_>) -> Result<(), Failure> {
    let mut value = input::json(file, session.output)?;
    let unread = match phasegate_proto_json::from_json::<ProcessDefinition>(&value, DEFINITION) {
        Ok(_) => Vec::new(),
        // What is not understood is taken out, so that it hides no other fault.
        Err(faults) => {
            faults.0.iter().for_each(|fault| input::take_out(&mut value, &fault.path));
            faults.0.into_iter().map(unreadable).collect()
        }
    };
    let process = phasegate_proto_json::from_json::<ProcessDefinition>(&value, DEFINITION).ok();
    let mut answer = match process {
        Some(process) => check(process, context, session).await?,
        None => ValidateProcessDefinitionResponse::default(),
    };
    answer.valid = answer.valid && unread.is_empty();
    answer.issues.splice(0..0, unread);
    if session.is_for_programs() {
        session.output.message(&answer, "phasegate.definition.v1.ValidateProcessDefinitionResponse")?;
    } else {
        let text = findings(file, &answer);
        session.output.lines(&text)?;
    }
    if answer.valid { Ok(()) } else { Err(Failure::Faulty(format!("{file} has faults"))) }
}

/// A fault of the JSON, as the service would write it.
fn unreadable(fault: phasegate_proto_json::Fault) -> ValidationIssue {
    ValidationIssue {
        severity: Severity::Error.into(),
        code: fault.reason.as_str().to_owned(),
        path: fault.path,
        message: fault.message,
    }
}

/// Has a definition checked by the service.
async fn check(
    process: ProcessDefinition,
    context: &[String],
    session: &mut Session<'_>,
) -> Result<ValidateProcessDefinitionResponse, Failure> {
    let context = match context {
        [] => None,
        parts => Some(input::structure(input::context(parts, session.output)?)?),
    };
    let request = ValidateProcessDefinitionRequest { process_definition: Some(process), context };
    let answer = session
        .call(request, async |client, request| {
            client.definitions().validate_process_definition(request).await
        })
        .await?;
    Ok(answer)
}

/// What a check found, one line for each.
fn findings(file: &str, answer: &ValidateProcessDefinitionResponse) -> String {
    let mut lines: Vec<String> = answer.issues.iter().map(|issue| finding(file, issue)).collect();
    if answer.valid {
        let order = answer.execution_order.join(", ");
        lines.push(format!("No fault. Tasks could run in this order: {order}"));
    }
    lines.join("\n")
}

fn finding(file: &str, issue: &ValidationIssue) -> String {
    let severity = match issue.severity() {
        Severity::Warning => "warning",
        Severity::Error | Severity::Unspecified => "error",
    };
    let path = if issue.path.is_empty() { "/" } else { &issue.path };
    clean(&format!("{file}:{path}  {severity}  {}  {}", issue.code, issue.message))
}

fn note_issues(file: &str, issues: &[ValidationIssue], output: &mut Output) {
    for issue in issues {
        output.note(&finding(file, issue));
    }
}

#[cfg(test)]
mod tests {
    use phasegate_proto::definition::v1::{
        AgentDefinition, GateType, HumanParticipant, ProcessGate, ProcessPhase, ProcessTask, RaidRole,
    };

    use super::*;

    fn agent(template_id: &str, queue: Option<&str>) -> AgentDefinition {
        AgentDefinition {
            template_id: template_id.to_owned(),
            queue: queue.map(str::to_owned),
            ..AgentDefinition::default()
        }
    }

    #[test]
    fn a_definition_shows_its_phases_gates_and_tasks() {
        let process = ProcessDefinition {
            id: "sso".to_owned(),
            name: "SSO Deployment".to_owned(),
            version: "1.0.0".to_owned(),
            phases: vec![
                ProcessPhase {
                    id: "review".to_owned(),
                    name: "Review".to_owned(),
                    order: 2,
                    required_approvals: vec!["ciso".to_owned()],
                    ..ProcessPhase::default()
                },
                ProcessPhase {
                    id: "discovery".to_owned(),
                    name: "Discovery".to_owned(),
                    order: 1,
                    parallel_execution: Some(true),
                    estimated_duration: Some("1-2 days".to_owned()),
                    tasks: vec![ProcessTask {
                        id: "gather".to_owned(),
                        assignee: "agent".to_owned(),
                        artifacts: vec!["doc".to_owned()],
                        ..ProcessTask::default()
                    }],
                    ..ProcessPhase::default()
                },
            ],
            gates: vec![ProcessGate {
                name: "Go".to_owned(),
                before_phase: "review".to_owned(),
                r#type: GateType::Approval.into(),
                approvers: vec!["it_admin".to_owned()],
                ..ProcessGate::default()
            }],
            agents: [
                ("b_agent".to_owned(), agent("specialist", None)),
                ("agent".to_owned(), agent("lead", Some("own"))),
            ]
            .into(),
            humans: [(
                "ciso".to_owned(),
                HumanParticipant { raid_role: RaidRole::Approver.into(), ..Default::default() },
            )]
            .into(),
            ..ProcessDefinition::default()
        };
        let expected = "\
SSO Deployment
sso 1.0.0 · 

Discovery (discovery) · 1-2 days · in parallel
  TASK    ASSIGNEE  AFTER  APPROVED BY  ARTIFACTS
  gather  agent                         doc

  ◇ Go (approval: it_admin)

Review (review)
  Its end is approved by ciso

WHO      WHAT   HOW
agent    agent  polls queue own
b_agent  agent  polls queue specialist
ciso     human  approver
";
        assert_eq!(describe(&process, Ink(false)), expected);
    }

    #[test]
    fn findings_name_their_place() {
        let answer = ValidateProcessDefinitionResponse {
            valid: false,
            issues: vec![
                ValidationIssue {
                    severity: Severity::Error.into(),
                    code: "DEPENDENCY_CYCLE".to_owned(),
                    path: "/phases/0/tasks/1/dependencies/0".to_owned(),
                    message: "a waits for b".to_owned(),
                },
                ValidationIssue {
                    severity: Severity::Warning.into(),
                    code: "HUMAN_UNUSED".to_owned(),
                    message: "nobody asks x".to_owned(),
                    ..ValidationIssue::default()
                },
            ],
            execution_order: Vec::new(),
        };
        let expected = "\
p.json:/phases/0/tasks/1/dependencies/0  error  DEPENDENCY_CYCLE  a waits for b
p.json:/  warning  HUMAN_UNUSED  nobody asks x";
        assert_eq!(findings("p.json", &answer), expected);
    }
}
