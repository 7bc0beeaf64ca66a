//! The one owner of standard output and standard error.

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use super::failure::Failure;
use super::{Color, Format, Global};

/// Where a command writes.
pub(super) struct Output {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// A person sees the data at once, and nothing keeps it.
    pub(super) is_terminal: bool,
    format: Format,
    quiet: bool,
    /// Colour of the data.
    pub(super) ink: Ink,
    /// Colour of the rest.
    err_ink: Ink,
    /// Columns to write in.
    pub(super) columns: usize,
}

/// Colours, where they are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ink(pub(super) bool);

/// How a text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Not at all.
    Plain,
    /// Bold.
    Strong,
    /// Faint.
    Faint,
    /// Done well.
    Good,
    /// Under way.
    Busy,
    /// Waits for somebody.
    Waiting,
    /// Went wrong.
    Bad,
}

impl Ink {
    /// Paints a text.
    pub(super) fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => "",
            Style::Strong => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Busy => "36",
            Style::Waiting => "33",
            Style::Bad => "31",
        };
        if self.0 && !code.is_empty() && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

impl Output {
    /// Writes to the process's own streams.
    pub(super) fn open(global: &Global) -> Output {
        let colour = |is_terminal: bool| match global.color.unwrap_or(Color::Auto) {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => is_terminal && global.no_color.as_deref().is_none_or(str::is_empty),
        };
        let (out, err) = (std::io::stdout(), std::io::stderr());
        Output {
            ink: Ink(colour(out.is_terminal())),
            err_ink: Ink(colour(err.is_terminal())),
            is_terminal: out.is_terminal(),
            out: Box::new(out),
            err: Box::new(err),
            format: global.format(),
            quiet: global.quiet,
            columns: global.columns.clamp(40, 240),
        }
    }

    /// Writes to buffers of a test.
    #[cfg(test)]
    pub(super) fn to(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, format: Format) -> Output {
        let plain = Ink(false);
        Output {
            out,
            err,
            is_terminal: false,
            format,
            quiet: false,
            ink: plain,
            err_ink: plain,
            columns: 100,
        }
    }

    /// Writes lines of data for people.
    pub(super) fn lines(&mut self, text: &str) -> Result<(), Failure> {
        let text = text.trim_end_matches('\n');
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes data as it is.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|error| {
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                Failure::NobodyReads
            } else {
                Failure::local("write", &error)
            }
        })
    }

    /// Writes one message for programs.
    pub(super) fn message<M: prost::Message>(&mut self, message: &M, name: &str) -> Result<(), Failure> {
        let value = document(message, name)?;
        self.value(&value)
    }

    /// Writes one document for programs.
    pub(super) fn value(&mut self, value: &Value) -> Result<(), Failure> {
        let text = match self.format {
            Format::Jsonl => value.to_string(),
            Format::Json | Format::Table => {
                serde_json::to_string_pretty(value).map_err(|error| Failure::local("write JSON", &error))?
            }
        };
        self.lines(&text)
    }

    /// Writes a page of a list for programs: one document, or one entry a line.
    pub(super) fn items<M: prost::Message>(
        &mut self,
        items: &[M],
        name: &str,
        next_page_token: &str,
    ) -> Result<(), Failure> {
        let items = items.iter().map(|item| document(item, name)).collect::<Result<Vec<Value>, _>>()?;
        if self.format == Format::Jsonl {
            return items.iter().try_for_each(|item| self.value(item));
        }
        self.value(&json!({"items": items, "nextPageToken": next_page_token}))
    }

    /// Says something that is not data.
    pub(super) fn note(&mut self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Says where a list goes on.
    pub(super) fn more(&mut self, next_page_token: &str) {
        if !next_page_token.is_empty() {
            self.note(&format!("There is more: --page-token {next_page_token}"));
        }
    }

    /// Begins a question; the answer is typed behind it.
    pub(super) fn ask(&mut self, question: &str) -> Result<(), Failure> {
        let written = self.err.write_all(question.as_bytes()).and_then(|()| self.err.flush());
        written.map_err(|error| Failure::local("ask", &error))
    }

    /// Says why a command failed. `instance_id` is what it was about.
    pub(super) fn failure(&mut self, failure: &Failure, instance_id: Option<&str>) {
        if failure.message().is_empty() {
            return;
        }
        if self.format != Format::Table {
            let document = failure.document();
            return self.say(&document.to_string());
        }
        let ink = self.err_ink;
        self.say(&format!("{} {}", ink.paint(Style::Bad, "error:"), clean(&failure.message())));
        for detail in failure.details() {
            self.say(&format!("  {}", clean(&detail)));
        }
        if let Some(hint) = failure.hint(instance_id) {
            self.say(&format!("{} {}", ink.paint(Style::Busy, "hint:"), clean(&hint)));
        }
    }

    fn say(&mut self, text: &str) {
        // Where even this cannot be written nobody is left to tell.
        let _ = writeln!(self.err, "{text}").and_then(|()| self.err.flush());
    }
}

/// A message as JSON.
pub(super) fn document<M: prost::Message>(message: &M, name: &str) -> Result<Value, Failure> {
    phasegate_proto_json::to_json(message, name).map_err(|error| Failure::local("write JSON", &error))
}

/// Takes out of a text what a terminal would obey instead of show.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            let obeyed = c.is_control() && c != '\n' && c != '\t';
            if obeyed || phasegate_plain_text::is_turning(c) { '\u{fffd}' } else { c }
        })
        .collect()
}

/// How the state of something stands out.
pub(super) fn style_of(state: &str) -> Style {
    match state {
        "completed" | "approved" | "open" | "published" | "ok" | "active_link" => Style::Good,
        "running" | "active" | "ready" => Style::Busy,
        "awaiting_approval" | "waiting_on_human" | "gated" | "paused" | "changes_requested" | "no_worker"
        | "draft" => Style::Waiting,
        "blocked" | "failed" | "rejected" | "expired" | "escalated" | "cancelled" | "overdue" | "revoked" => {
            Style::Bad
        }
        "skipped" | "superseded" | "withdrawn" | "pending" | "not_needed" => Style::Faint,
        _ => Style::Plain,
    }
}

/// The word of an enum value: "running" for `INSTANCE_STATUS_RUNNING`.
pub(super) fn word(name: &str, prefix: &str) -> String {
    let word = name.strip_prefix(prefix).unwrap_or(name).to_lowercase();
    if word == "unspecified" { String::new() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_never_ordered_about() {
        assert_eq!(clean("a\u{1b}[2Jb\r\u{7}\u{202e}c\n\td"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c\n\td");
    }

    #[test]
    fn words_are_what_the_api_writes() {
        assert_eq!(word("INSTANCE_STATUS_RUNNING", "INSTANCE_STATUS_"), "running");
        assert_eq!(word("TASK_STATUS_AWAITING_APPROVAL", "TASK_STATUS_"), "awaiting_approval");
        assert_eq!(word("TASK_STATUS_UNSPECIFIED", "TASK_STATUS_"), "");
    }
}
