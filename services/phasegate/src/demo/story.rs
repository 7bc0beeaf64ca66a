//! How the story is told: as lines for people, in colour on a terminal, or as one JSON object a line.

use std::io::{self, IsTerminal, Write};

use phasegate_clock::Timestamp;
use phasegate_proto::instance::v1::Event;
use serde_json::{Value, json};

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Lines, with or without colour.
    People {
        /// Use colour.
        colour: bool,
    },
    /// One JSON object a line.
    Json,
}

/// Columns that a line may have.
pub(super) const WIDTH: usize = 100;

/// Tells it on standard output.
#[derive(Debug, Clone)]
pub struct Story {
    style: Style,
}

/// Colours of a terminal.
mod ink {
    pub(super) const BOLD: &str = "1";
    pub(super) const DIM: &str = "2";
    pub(super) const RED: &str = "31";
    pub(super) const GREEN: &str = "32";
    pub(super) const YELLOW: &str = "33";
    pub(super) const BLUE: &str = "34";
    pub(super) const MAGENTA: &str = "35";
    pub(super) const CYAN: &str = "36";
}

impl Style {
    /// For people, in colour where standard output is a terminal and nobody minds.
    pub fn people(no_colour: bool) -> Self {
        Self::People { colour: !no_colour && io::stdout().is_terminal() }
    }
}

impl Story {
    /// Tells it in a style.
    pub fn new(style: Style) -> Self {
        Self { style }
    }

    /// Something beside the story.
    pub fn note(&self, text: &str) -> anyhow::Result<()> {
        self.people(ink::DIM, text)
    }

    /// A heading.
    pub fn heading(&self, text: &str) -> anyhow::Result<()> {
        self.people("", "")?;
        self.people(ink::BOLD, text)
    }

    /// A line as it is.
    pub fn plain(&self, text: &str) -> anyhow::Result<()> {
        self.people("", text)
    }

    /// The good end.
    pub fn done(&self, text: &str) -> anyhow::Result<()> {
        self.people("", "")?;
        self.people(ink::GREEN, &format!("✓ {text}"))
    }

    /// The last object, for programs.
    pub fn last(&self, object: &Value) -> anyhow::Result<()> {
        self.object(object)
    }

    /// Something that is done from outside.
    pub fn scene(&self, kind: &str, text: &str) -> anyhow::Result<()> {
        self.people(ink::BOLD, text)?;
        self.object(&json!({ "type": kind, "text": text }))
    }

    /// Something that a person does.
    pub fn person(&self, kind: &str, person: &str, text: &str) -> anyhow::Result<()> {
        self.people(ink::MAGENTA, &format!("           ☞ {person} {text}"))?;
        self.object(&json!({ "type": kind, "person": person, "text": text }))
    }

    /// Something that happened in the instance.
    pub fn event(&self, event: &Event) -> anyhow::Result<()> {
        let at = event.occurred_at.as_ref().and_then(Timestamp::from_proto).unwrap_or_default();
        let actor = event.actor.as_ref();
        let who = actor.map_or("", |actor| actor.id.as_str());
        self.object(&json!({
            "type": event.r#type,
            "at": at,
            "sequence": event.sequence,
            "subject": event.subject,
            "actor": who,
        }))?;
        let Some((colour, sign, words)) = words(&event.r#type) else { return Ok(()) };
        let clock = at.to_string();
        let clock = clock.get(11..19).unwrap_or_default();
        let by = if who.is_empty() || who == "instance" { String::new() } else { format!("  {who}") };
        self.people(colour, &format!("{clock}  {sign} {} {words}{by}", about(event)))
    }

    fn people(&self, colour: &str, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let line = match self.style {
            Style::Json => return Ok(()),
            Style::People { colour: true } if !colour.is_empty() => {
                format!("\u{1b}[{colour}m{text}\u{1b}[0m")
            }
            Style::People { .. } => text.to_owned(),
        };
        writeln!(out, "{line}")?;
        out.flush()?;
        Ok(())
    }

    fn object(&self, object: &Value) -> anyhow::Result<()> {
        if self.style == Style::Json {
            let mut out = io::stdout().lock();
            writeln!(out, "{object}")?;
            out.flush()?;
        }
        Ok(())
    }
}

/// What an event is about, in words that mean something to people: requests and mails have ids that do not.
fn about(event: &Event) -> String {
    let data = event
        .data
        .as_ref()
        .and_then(|data| phasegate_proto_json::to_json(data, "google.protobuf.Struct").ok());
    let data = data.unwrap_or_default();
    let text = |path: &str| data.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let subject = text("/request/subject/id");
    if event.r#type.starts_with("approval.") && !subject.is_empty() {
        return format!(
            "the review of {} {subject}",
            text("/request/subject/kind").replace("ad_hoc", "question")
        );
    }
    if event.r#type.starts_with("notification.") {
        return format!("mail to {}", text("/participant"));
    }
    if event.r#type.starts_with("instance.") {
        return "the process".to_owned();
    }
    event.subject.clone()
}

/// What people are told of an event: colour, sign and words after its subject. Nothing of what only machines care for.
fn words(kind: &str) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match kind {
        "instance.started" => (ink::BOLD, "▶", "has started"),
        "instance.completed" => (ink::GREEN, "■", "is complete"),
        "instance.cancelled" => (ink::RED, "■", "was cancelled"),
        "instance.failed" => (ink::RED, "■", "has failed"),
        "phase.entered" => (ink::BLUE, "▶", "begins"),
        "phase.awaiting_approval" => (ink::YELLOW, "◔", "waits for approval"),
        "phase.completed" => (ink::BLUE, "✓", "is complete"),
        "phase.blocked" => (ink::RED, "!", "is held up"),
        "gate.opened" => (ink::GREEN, "◆", "is open"),
        "gate.rejected" => (ink::RED, "◆", "was rejected"),
        "task.leased" => (ink::CYAN, "●", "is taken up by a worker"),
        "task.attempt_failed" => (ink::RED, "✗", "failed at this attempt"),
        "task.retry_scheduled" => (ink::YELLOW, "↻", "will be tried again"),
        "task.handed_in" => (ink::CYAN, "↑", "is handed in"),
        "task.completed" => (ink::GREEN, "✓", "is complete"),
        "task.reworked" | "task.rework_requested" => (ink::YELLOW, "↻", "goes back for another round"),
        "artifact.stored" => (ink::DIM, "▤", "is stored"),
        "approval.requested" => (ink::YELLOW, "?", "is asked for"),
        "approval.approved" => (ink::GREEN, "✓", "says yes"),
        "approval.rejected" => (ink::RED, "✗", "says no"),
        "approval.changes_requested" => (ink::YELLOW, "✎", "wants changes"),
        "notification.sent" => (ink::DIM, "✉", "is on its way"),
        _ => return None,
    })
}
