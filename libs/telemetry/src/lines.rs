//! Log lines as JSON, one object each. What a line says of the call that it belongs to comes from the spans around it,
//! and only what is on the list below: an address or a secret that somebody puts into a span does not get here.

use std::fmt::{self, Write as _};
use std::io::Write;

use phasegate_clock::{Clock as _, SystemClock};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, Scope};

use crate::span::Ids;

/// Fields of spans that lines show, and what they are called there.
const SHOWN: [(&str, &str); 12] = [
    ("phasegate.service", "service"),
    ("phasegate.request.id", "request_id"),
    ("phasegate.tenant.id", "tenant_id"),
    ("rpc.method", "rpc"),
    ("rpc.response.status_code", "code"),
    ("phasegate.actor.kind", "actor_kind"),
    ("phasegate.actor.id", "actor_id"),
    ("phasegate.instance.id", "instance_id"),
    ("phasegate.task.id", "task_id"),
    ("phasegate.approval.id", "approval_id"),
    ("error.type", "error.reason"),
    ("messaging.message.id", "event_id"),
];
/// Longest text of one field, in bytes.
const TEXT_MAX: usize = 4 * 1024;

/// Writes lines.
#[derive(Debug)]
pub(crate) struct Lines<W>(W);

/// What a span says, in the order in which it was said.
#[derive(Debug, Default)]
struct Said(Vec<(&'static str, Value)>);

impl<W> Lines<W> {
    /// Lines to what `writer` makes.
    pub(crate) fn new(writer: W) -> Self {
        Self(writer)
    }
}

impl Said {
    fn set(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }
}

/// Takes what a span says and lines show.
struct OfSpan<'a>(&'a mut Said);

/// Takes what an event says.
#[derive(Default)]
struct OfEvent {
    message: String,
    said: Said,
}

impl Visit for OfSpan<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some((_, shown)) = SHOWN.iter().find(|(name, _)| *name == field.name()) {
            self.0.set(shown, bounded(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl Visit for OfEvent {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.said.set(field.name(), bounded(value));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.said.set(field.name(), Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.said.set(field.name(), Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.said.set(field.name(), Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.said.set(field.name(), Value::from(value));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a string does not fail.
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.said.set(field.name(), bounded(&text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn bounded(text: &str) -> Value {
    let end = (0..=TEXT_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    Value::from(text.get(..end.unwrap_or(0)).unwrap_or_default())
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut said = Said::default();
        attributes.record(&mut OfSpan(&mut said));
        span.extensions_mut().replace(said);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(said) = span.extensions_mut().get_mut::<Said>() {
            values.record(&mut OfSpan(said));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut own = OfEvent::default();
        event.record(&mut own);
        let metadata = event.metadata();
        let mut line = Said::default();
        line.set("ts", Value::from(SystemClock.now().to_string()));
        line.set("level", Value::from(metadata.level().as_str().to_ascii_lowercase()));
        line.set("msg", bounded(&own.message));
        line.set("target", Value::from(metadata.target()));
        line.set("version", Value::from(env!("CARGO_PKG_VERSION")));
        for span in context.event_scope(event).into_iter().flat_map(Scope::from_root) {
            let extensions = span.extensions();
            if let Some(ids) = extensions.get::<Ids>() {
                line.set("trace_id", Value::from(ids.trace.clone()));
                line.set("span_id", Value::from(ids.span.clone()));
            }
            for (name, value) in extensions.get::<Said>().into_iter().flat_map(|said| &said.0) {
                line.set(name, value.clone());
            }
        }
        for (name, value) in own.said.0 {
            line.set(name, value);
        }
        // One write, so that lines of different threads do not mix. A log that cannot be written has nobody to tell.
        let _ = self.0.make_writer_for(metadata).write_all(object(&line).as_bytes());
    }
}

/// One line, its members in order.
fn object(line: &Said) -> String {
    let mut text = String::from("{");
    for (name, value) in &line.0 {
        if text.len() > 1 {
            text.push(',');
        }
        // Writing to a string does not fail.
        let _ = write!(text, "{}:{value}", Value::from(*name));
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_says_what_is_on_the_list_and_stays_one_line() {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::registry().with(Lines::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!(
                "call",
                rpc.method = "a.B/C",
                phasegate.tenant.id = tracing::field::Empty,
                email = "jane@example.com"
            );
            let _inside = span.enter();
            span.record("phasegate.tenant.id", "acme");
            tracing::warn!(duration_ms = 1.5, odd = "\"x\"\r\n\u{1b}[31m", "two\nlines");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("jane"), "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "warn");
        assert_eq!(line["msg"], "two\nlines");
        assert_eq!(line["rpc"], "a.B/C");
        assert_eq!(line["tenant_id"], "acme");
        assert_eq!(line["duration_ms"], 1.5);
        assert_eq!(line["odd"], "\"x\"\r\n\u{1b}[31m");
        assert!(text.starts_with("{\"ts\":\"2"), "{text}");
    }
}
