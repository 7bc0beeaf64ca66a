//! Something that everybody leans on is away: told once when it goes and once when it is back, and counted in between. A
//! loop that asks four times a second would otherwise say so four times a second, on every copy, just when somebody
//! needs to read the log.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Counter;

static FAILURES: Counter<1> = Counter::new(
    "phasegate_dependency_failures_total",
    "Tries that failed because a database or Redis did not answer.",
    ["dependency"],
);

/// What goes again this soon after it was back has not really been back.
const QUIET: Duration = Duration::from_secs(10);

/// Whether one thing is there. Shared by all who ask it.
#[derive(Debug)]
pub struct Outage {
    /// As the log calls it.
    name: String,
    /// As the metric calls it: one of few words.
    kind: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    away: Option<Away>,
    /// When it was back the last time.
    back: Option<Instant>,
}

#[derive(Debug)]
struct Away {
    since: Instant,
    failures: u64,
    is_told: bool,
}

impl Outage {
    /// Something that is there as far as is known. `name` is for people, `kind` one of few words for the metric.
    pub fn new(name: impl Into<String>, kind: &'static str) -> Self {
        Self { name: name.into(), kind, state: Mutex::default() }
    }

    /// It did not answer.
    pub fn failed(&self, error: &dyn Error) {
        FAILURES.add(1, [self.kind]);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // What comes and goes is not told each time.
        let is_news = state.back.is_none_or(|back| back.elapsed() > QUIET);
        let fresh = Away { since: Instant::now(), failures: 0, is_told: false };
        let away = state.away.get_or_insert(fresh);
        away.failures += 1;
        if away.is_told || !(is_news || away.since.elapsed() > QUIET) {
            return;
        }
        away.is_told = true;
        drop(state);
        let (what, error) = (self.name.as_str(), Chain(error));
        tracing::warn!(what, %error, "does not answer; work waits until it is back, and only that is told");
    }

    /// It answered.
    pub fn passed(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(away) = state.away.take() else { return };
        state.back = Some(Instant::now());
        drop(state);
        if !away.is_told {
            return;
        }
        let (what, failures, seconds) = (self.name.as_str(), away.failures, away.since.elapsed().as_secs());
        tracing::info!(what, failures, seconds, "answers again");
    }
}

/// An error with all its causes in one line.
struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn an_outage_is_told_when_it_begins_and_when_it_is_over() {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt().with_writer(kept.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, || {
            let outage = Outage::new("the test", "test");
            outage.passed();
            for _ in 0..1_000 {
                outage.failed(&io::Error::other("away"));
            }
            outage.passed();
            outage.passed();
            // A moment later: nobody wants to read that.
            outage.failed(&io::Error::other("away again"));
            outage.passed();
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let [gone, back] = lines.as_slice() else { panic!("{text}") };
        assert!(gone.contains("WARN") && gone.contains("error=away"), "{gone}");
        assert!(back.contains("INFO") && back.contains("failures=1000"), "{back}");
    }
}
