//! Messages and what they mean here. What an author wrote goes the same way as over REST, by its JSON: so both doors
//! give the same content the same digest.

use phasegate_clock::Timestamp;
use phasegate_process::{Draft, Issue, Severity, TeamDraft};
use phasegate_proto::actor::v1::Actor;
use phasegate_proto::definition::v1 as proto;
use phasegate_proto_json::{from_json, to_brief_json};
use prost::Message;
use prost_types::Struct;
use serde_json::Value;

use crate::app::StoreError;
use crate::app::definition::Findings;
use crate::app::template::Made;
use crate::app::{Error, Subject};
use crate::domain::{Status, Template, Version, Warning};

const DEFINITION: &str = "phasegate.definition.v1.ProcessDefinition";
const TEMPLATE: &str = "phasegate.definition.v1.TeamTemplate";
const TEAM: &str = "phasegate.definition.v1.Team";
const STRUCT: &str = "google.protobuf.Struct";

/// Largest message that is turned into JSON; one of a definition that is not too large is far smaller.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Reads what an author wrote. Fields that only the server sets are left aside.
pub(super) fn draft(message: proto::ProcessDefinition) -> Result<Draft, Error> {
    let message = proto::ProcessDefinition {
        status: 0,
        created_at: None,
        published_at: None,
        created_by: None,
        content_digest: String::new(),
        warnings: Vec::new(),
        ..message
    };
    let json = written(&message, DEFINITION, Subject::Definition)?;
    Draft::from_json(json).map_err(|error| unreadable(Subject::Definition, &error))
}

/// Reads what an author wrote. Fields that only the server sets are left aside.
pub(super) fn team_draft(message: proto::TeamTemplate) -> Result<TeamDraft, Error> {
    let message = proto::TeamTemplate { created_at: None, warnings: Vec::new(), ..message };
    let json = written(&message, TEMPLATE, Subject::Template)?;
    TeamDraft::from_json(json).map_err(|error| unreadable(Subject::Template, &error))
}

/// Reads free JSON.
pub(super) fn structure(message: &Struct) -> Result<Value, Error> {
    to_brief_json(message, STRUCT).map_err(|error| unreadable(Subject::Definition, &error))
}

/// Writes a version as readers get it.
pub(super) fn definition(version: &Version) -> Result<proto::ProcessDefinition, Error> {
    let broken = || inconsistent("definition", format!("{} {}", version.process_id, version.version));
    let message: proto::ProcessDefinition = read(&version.content, DEFINITION).ok_or_else(broken)?;
    let created_by = Actor::decode(version.created_by.0.as_slice()).map_err(|_| broken())?;
    Ok(proto::ProcessDefinition {
        draft: version.status == Status::Draft,
        status: match version.status {
            Status::Draft => proto::DefinitionStatus::Draft.into(),
            Status::Published => proto::DefinitionStatus::Published.into(),
        },
        created_at: Some(version.created_at.to_proto()),
        published_at: version.published_at.map(Timestamp::to_proto),
        created_by: Some(created_by),
        content_digest: version.digest.clone(),
        warnings: version.warnings.iter().map(warning).collect(),
        ..message
    })
}

/// Writes a template as readers get it.
pub(super) fn template(template: &Template) -> Result<proto::TeamTemplate, Error> {
    let broken = || inconsistent("team_template", template.id.clone());
    let message: proto::TeamTemplate = read(&template.content, TEMPLATE).ok_or_else(broken)?;
    Ok(proto::TeamTemplate {
        created_at: Some(template.created_at.to_proto()),
        warnings: template.warnings.iter().map(warning).collect(),
        ..message
    })
}

/// Writes a team as readers get it.
pub(super) fn team(made: &Made) -> Result<proto::Team, Error> {
    let broken = || inconsistent("team_template", made.template.id.clone());
    let template: proto::TeamTemplate = read(&made.template.canonical(), TEMPLATE).ok_or_else(broken)?;
    let values: proto::Team =
        from_json(&serde_json::json!({"onboarding": made.onboarding}), TEAM).map_err(|_| broken())?;
    Ok(proto::Team {
        id: made.id.as_str().to_owned(),
        team_template_id: template.id,
        name: made.name.clone(),
        onboarding: values.onboarding,
        agents: template.agents,
        orchestration: template.orchestration,
        interaction_rules: template.interaction_rules,
        created_at: Some(made.created_at.to_proto()),
    })
}

/// Writes what a check found.
pub(super) fn findings(found: Findings) -> proto::ValidateProcessDefinitionResponse {
    proto::ValidateProcessDefinitionResponse {
        valid: found.issues.iter().all(|issue| issue.severity == Severity::Warning),
        issues: found.issues.into_iter().map(issue).collect(),
        execution_order: found.execution_order,
    }
}

fn issue(issue: Issue) -> proto::ValidationIssue {
    proto::ValidationIssue {
        severity: match issue.severity {
            Severity::Error => proto::Severity::Error.into(),
            Severity::Warning => proto::Severity::Warning.into(),
        },
        code: issue.code.to_owned(),
        path: issue.path,
        message: issue.message,
    }
}

fn warning(warning: &Warning) -> proto::ValidationIssue {
    proto::ValidationIssue {
        severity: proto::Severity::Warning.into(),
        code: warning.code.clone(),
        path: warning.path.clone(),
        message: warning.message.clone(),
    }
}

fn written(message: &impl Message, name: &str, subject: Subject) -> Result<Value, Error> {
    let bytes = message.encoded_len();
    if bytes > MESSAGE_BYTES_MAX {
        let limit = Issue {
            severity: Severity::Error,
            code: match subject {
                Subject::Definition => "DEFINITION_TOO_LARGE",
                Subject::Template => "TEAM_TEMPLATE_TOO_LARGE",
            },
            path: String::new(),
            message: format!("the message has {bytes} bytes, and {MESSAGE_BYTES_MAX} are read"),
            max: Some(MESSAGE_BYTES_MAX),
        };
        return Err(Error::TooLarge { subject, limits: vec![limit] });
    }
    to_brief_json(message, name).map_err(|error| unreadable(subject, &error))
}

fn read<M: Message + Default>(content: &[u8], name: &str) -> Option<M> {
    let value: Value = serde_json::from_slice(content).ok()?;
    from_json(&value, name).ok()
}

/// A message that has no JSON: a number that is none, or nesting without end.
fn unreadable(subject: Subject, error: &dyn std::error::Error) -> Error {
    let fault = Issue {
        severity: Severity::Error,
        code: "CONTENT_UNREADABLE",
        path: String::new(),
        message: format!("it cannot be read as JSON: {error}"),
        max: None,
    };
    Error::ValidationFailed { subject, faults: vec![fault] }
}

fn inconsistent(table: &'static str, row: String) -> Error {
    Error::Store(StoreError::Inconsistent { table, row })
}
