//! `phasegate instance watch`: events as they happen, over any number of connections.

use std::time::Duration;

use clap::Args;
use phasegate_proto::instance::v1::{
    Event, InstanceStatus, ProcessInstance, WatchEventsRequest, WatchEventsResponse,
};
use tonic::{Code, Request, Streaming};

use super::fetch;
use crate::cli::failure::Failure;
use crate::cli::moment;
use crate::cli::output::{Ink, Style, clean, word};
use crate::cli::session::Session;

/// Shortest wait between two connections.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// Longest wait between two connections.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What to watch.
#[derive(Clone, Debug, Args)]
pub struct Watch {
    /// Instance
    instance_id: String,
    /// Only these events, such as task.completed or approval.*; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Begin with the first event instead of the next one
    #[arg(long, conflicts_with = "resume")]
    all: bool,
    /// Begin behind this event
    #[arg(long, value_name = "TOKEN")]
    resume: Option<String>,
}

impl Watch {
    /// The instance.
    pub(super) fn instance_id(&self) -> &str {
        &self.instance_id
    }
}

/// Watches until the instance ends.
pub(super) async fn run(watch: Watch, session: &mut Session<'_>) -> Result<(), Failure> {
    let timeout = session.global.timeout;
    let id = watch.instance_id.clone();
    let watching = Box::pin(follow(watch, session));
    match timeout {
        None => watching.await,
        Some(timeout) => match tokio::time::timeout(timeout, watching).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Pending(format!("{id} has not ended within {}", moment::length(timeout)))),
        },
    }
}

async fn follow(watch: Watch, session: &mut Session<'_>) -> Result<(), Failure> {
    let instance = fetch(watch.instance_id.clone(), session).await?;
    let mut position = match (&watch.resume, watch.all) {
        (Some(token), _) => token.clone(),
        (None, true) => "0".to_owned(),
        // Nothing that happens between this reading and the first message is missed.
        (None, false) => instance.as_of.clone(),
    };
    if has_ended(&instance) && position == instance.as_of {
        return outcome(&instance, session);
    }
    session.output.note(&clean(&format!("Watching {}; Ctrl-C ends it.", standing(&instance))));
    let mut wait = WAIT_MIN;
    loop {
        let before = position.clone();
        let is_complete = match connect(&watch, &position, session).await {
            Ok(stream) => read(stream, &mut position, session).await?,
            Err(error) if is_passing(error.code) => false,
            Err(error) => return Err(error.into()),
        };
        // A server that has just gone away is not there to say how the instance stands.
        match fetch(watch.instance_id.clone(), session).await {
            Ok(instance) if has_ended(&instance) && (is_complete || position == instance.as_of) => {
                return outcome(&instance, session);
            }
            Ok(_) => {}
            // One that goes just now may not even say so.
            Err(Failure::Server(error)) if is_passing(error.code) => {}
            Err(failure) => return Err(failure),
        }
        wait = if position == before { (wait * 2).min(WAIT_MAX) } else { WAIT_MIN };
        tokio::time::sleep(wait).await;
    }
}

/// What a server that is not there answers, or that goes while it is asked.
fn is_passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

async fn connect(
    watch: &Watch,
    position: &str,
    session: &Session<'_>,
) -> Result<Streaming<WatchEventsResponse>, phasegate_client::Error> {
    // Without a deadline: it lasts as long as the instance.
    let request = Request::new(WatchEventsRequest {
        instance_id: watch.instance_id.clone(),
        types: watch.types.clone(),
        resume_token: position.to_owned(),
        until_terminal: true,
    });
    Ok(session.client.events().watch_events(request).await?.into_inner())
}

/// Prints what comes until the stream ends, and then tells `true`, or breaks; `position` says how far it came.
async fn read(
    mut stream: Streaming<WatchEventsResponse>,
    position: &mut String,
    session: &mut Session<'_>,
) -> Result<bool, Failure> {
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(true),
            Err(status) => {
                let error = phasegate_client::Error::from(status);
                return if is_passing(error.code) { Ok(false) } else { Err(error.into()) };
            }
        };
        for event in &message.events {
            if session.is_for_programs() {
                session.output.message(event, "phasegate.instance.v1.Event")?;
            } else {
                let line = line(event, session.output.ink);
                session.output.lines(&line)?;
            }
        }
        if !message.resume_token.is_empty() {
            *position = message.resume_token;
        }
        if message.going_away {
            return Ok(false);
        }
    }
}

/// An event in one line.
fn line(event: &Event, ink: Ink) -> String {
    let style = match event.r#type.rsplit_once('.').map_or("", |(_, what)| what) {
        "completed" | "approved" | "opened" => Style::Good,
        "failed" | "rejected" | "blocked" | "expired" | "cancelled" | "escalated" | "attempt_failed" => {
            Style::Bad
        }
        "requested" | "reminded" | "awaiting_approval" => Style::Waiting,
        _ => Style::Plain,
    };
    let actor = event.actor.as_ref().map(|actor| actor.id.as_str()).unwrap_or_default();
    let behalf = event.actor.as_ref().map(|actor| actor.on_behalf_of.as_str()).unwrap_or_default();
    let by = match (actor, behalf) {
        ("", _) => String::new(),
        (actor, "") => format!("  by {actor}"),
        (actor, behalf) => format!("  by {actor} for {behalf}"),
    };
    let kind = ink.paint(style, &format!("{:<26}", clean(&event.r#type)));
    let time = ink.paint(Style::Faint, &moment::clock_time(event.occurred_at.as_ref()));
    format!("{time}  {kind}  {}{}", clean(&event.subject), ink.paint(Style::Faint, &clean(&by)))
        .trim_end()
        .to_owned()
}

/// An instance and where it stands, in a phrase.
fn standing(instance: &ProcessInstance) -> String {
    let status = word(instance.status().as_str_name(), "INSTANCE_STATUS_");
    let phase = match instance.current_phase.as_str() {
        "" => String::new(),
        phase => format!(" in {phase}"),
    };
    format!("{}, which is {status}{phase}", instance.id)
}

fn has_ended(instance: &ProcessInstance) -> bool {
    match instance.status() {
        InstanceStatus::Completed | InstanceStatus::Cancelled | InstanceStatus::Failed => true,
        InstanceStatus::Unspecified | InstanceStatus::Running | InstanceStatus::Paused => false,
    }
}

fn outcome(instance: &ProcessInstance, session: &mut Session<'_>) -> Result<(), Failure> {
    let status = word(instance.status().as_str_name(), "INSTANCE_STATUS_");
    let why = if instance.status_reason.is_empty() {
        String::new()
    } else {
        format!(": {}", instance.status_reason)
    };
    let message = clean(&format!("{} {status}{why}", instance.id));
    if instance.status() == InstanceStatus::Completed {
        session.output.note(&message);
        return Ok(());
    }
    Err(Failure::Unsuccessful(message))
}

#[cfg(test)]
mod tests {
    use phasegate_clock::Timestamp;
    use phasegate_proto::actor::v1::Actor;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let at: Timestamp = "2025-11-13T10:00:07Z".parse().unwrap();
        let mut event = Event {
            r#type: "task.completed".to_owned(),
            subject: "sso_setup".to_owned(),
            occurred_at: Some(at.to_proto()),
            actor: Some(Actor { id: "sso_agent".to_owned(), ..Actor::default() }),
            ..Event::default()
        };
        assert_eq!(line(&event, Ink(false)), "10:00:07  task.completed              sso_setup  by sso_agent");
        event.actor = Some(Actor {
            id: "dev".to_owned(),
            on_behalf_of: "customer_ciso".to_owned(),
            ..Actor::default()
        });
        assert!(line(&event, Ink(false)).ends_with("by dev for customer_ciso"));
        event.actor = None;
        assert!(line(&event, Ink(true)).contains("\u{1b}[32m"));
    }
}
