//! Calls that are sent while somebody counts them: those that had an answer in time, and what became of the others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use std::time::Duration;

use crate::ledger::Call;
use crate::run::{Outcome, reason};

/// Who waits longer for an answer has given up.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Calls that are sent while somebody counts them.
#[derive(Debug, Default)]
pub struct Window {
    is_open: AtomicBool,
    succeeded: AtomicU64,
    /// By what became of them.
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Window {
    /// Begins to count.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }

    /// Ends it. What was sent by then still counts once it is over.
    pub fn close(&self) {
        self.is_open.store(false, Ordering::SeqCst);
    }

    /// Whether a call that is sent now counts.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::SeqCst)
    }

    /// Calls that had an answer, and calls that had none, or late, or were put off.
    pub fn calls(&self) -> (u64, BTreeMap<String, u64>) {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.succeeded.load(Ordering::SeqCst), failed)
    }

    pub(crate) fn count(&self, call: &Call, outcome: &Outcome, took: Duration) {
        let what = match outcome {
            Outcome::Answered(..) if took > PATIENCE => "late".to_owned(),
            Outcome::Answered(status, answer) if *status >= 500 || *status == 429 => {
                format!(
                    "{status} {} {}",
                    reason(answer),
                    answer["error"]["message"].as_str().unwrap_or_default()
                )
            }
            Outcome::Answered(..) => {
                self.succeeded.fetch_add(1, Ordering::SeqCst);
                return;
            }
            Outcome::NotSent => "not sent".to_owned(),
            Outcome::Unanswered(_) => "unanswered".to_owned(),
            Outcome::Abandoned => return,
        };
        let what = format!("{} {}: {what}", call.method, without_ids(&call.path));
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }
}

/// A path with "*" for each id in it, by their digits.
fn without_ids(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    let has_digit = |part: &str| part.bytes().any(|byte| byte.is_ascii_digit());
    path.split('/').map(|part| if has_digit(part) { "*" } else { part }).collect::<Vec<_>>().join("/")
}
