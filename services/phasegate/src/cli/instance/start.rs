//! `phasegate instance start`.

use clap::Args;
use phasegate_client::request_id;
use phasegate_proto::instance::v1::{ExternalParticipant, StartInstanceRequest};
use serde_json::{Map, Value};

use super::INSTANCE;
use crate::cli::failure::Failure;
use crate::cli::input;
use crate::cli::output::word;
use crate::cli::session::Session;

/// What to start.
#[derive(Clone, Debug, Args)]
pub struct Start {
    /// Definition
    #[arg(required_unless_present = "file")]
    process_id: Option<String>,
    /// The whole request as JSON; what is given beside it wins. - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Name to show
    #[arg(long)]
    name: Option<String>,
    /// Shared context: a JSON object, @file, or key=value; may be repeated
    #[arg(long, value_name = "CONTEXT")]
    context: Vec<String>,
    /// A person: id=email or id=email:name; may be repeated
    #[arg(long, value_parser = participant, value_name = "ID=EMAIL[:NAME]")]
    participant: Vec<ExternalParticipant>,
    /// Version; the latest published one when not given
    #[arg(long)]
    version: Option<String>,
    /// Id of your choice
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Team that serves it
    #[arg(long, value_name = "TEAM")]
    team: Option<String>,
    /// Free label; may be repeated
    #[arg(long, value_parser = input::pair, value_name = "KEY=VALUE")]
    label: Vec<(String, String)>,
    /// Check only, start nothing
    #[arg(long)]
    dry_run: bool,
}

impl Start {
    /// The id that was chosen for the instance.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

/// Starts it.
pub(super) async fn run(start: Start, session: &mut Session<'_>) -> Result<(), Failure> {
    let request = request(start, session)?;
    let dry_run = request.validate_only;
    let answer = session
        .call(request, async |client, request| client.instances().start_instance(request).await)
        .await?;
    let instance = answer.instance.unwrap_or_default();
    if session.is_for_programs() {
        return session.output.message(&instance, INSTANCE);
    }
    if dry_run {
        session.output.note("It could be started; nothing was.");
        return Ok(());
    }
    session.output.lines(&instance.id)?;
    let status = word(instance.status().as_str_name(), "INSTANCE_STATUS_");
    session.output.note(&format!(
        "{status} in phase {}. Follow it with: phasegate instance watch {}",
        instance.phase, instance.id
    ));
    Ok(())
}

fn request(start: Start, session: &mut Session<'_>) -> Result<StartInstanceRequest, Failure> {
    const NAME: &str = "phasegate.instance.v1.StartInstanceRequest";
    let mut request: StartInstanceRequest = match &start.file {
        Some(file) => input::message(file, NAME, session.output)?,
        None => StartInstanceRequest::default(),
    };
    if let Some(process_id) = start.process_id {
        request.process_id = process_id;
    }
    if request.process_id.is_empty() {
        return Err(Failure::Usage("say which definition: phasegate instance start <PROCESS_ID>".to_owned()));
    }
    if !start.context.is_empty() {
        let mut context: Map<String, Value> = match &request.context {
            Some(given) => match phasegate_proto_json::to_json(given, "google.protobuf.Struct") {
                Ok(Value::Object(map)) => map,
                Ok(_) | Err(_) => Map::new(),
            },
            None => Map::new(),
        };
        context.extend(input::context(&start.context, session.output)?);
        request.context = Some(input::structure(context)?);
    }
    request.external_participants.extend(start.participant);
    request.name = start.name.unwrap_or(request.name);
    request.version = start.version.unwrap_or(request.version);
    request.instance_id = start.id.unwrap_or(request.instance_id);
    request.team_id = start.team.unwrap_or(request.team_id);
    request.labels.extend(start.label);
    request.validate_only |= start.dry_run;
    if request.request_id.is_empty() && !request.validate_only {
        request.request_id = request_id();
    }
    Ok(request)
}

/// Reads "id=email" or "id=email:name".
fn participant(text: &str) -> Result<ExternalParticipant, String> {
    let wrong = || format!("{text} is not id=email or id=email:name");
    let (id, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (email, name) = rest.split_once(':').unwrap_or((rest, ""));
    if id.is_empty() || !email.contains('@') {
        return Err(wrong());
    }
    Ok(ExternalParticipant {
        participant_id: id.to_owned(),
        email: email.to_owned(),
        name: name.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_read_from_the_command_line() {
        let person = participant("customer_it_admin=it-admin@acme.com:John Smith").unwrap();
        assert_eq!(person.participant_id, "customer_it_admin");
        assert_eq!((person.email.as_str(), person.name.as_str()), ("it-admin@acme.com", "John Smith"));
        assert_eq!(participant("a=b@c.d").unwrap().name, "");
        for bad in ["", "a", "a=", "=b@c.d", "a=b", "a:b@c.d"] {
            assert!(participant(bad).is_err(), "{bad:?}");
        }
    }
}
