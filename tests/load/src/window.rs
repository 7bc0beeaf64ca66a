//! Calls while somebody counts them: those that had an answer, and what became of the others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::ledger::Call;
use crate::run::{Outcome, reason};

/// Calls while somebody counts them.
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

    /// Ends it: calls that had an answer, and calls that had none or were put off.
    pub fn close(&self) -> (u64, BTreeMap<String, u64>) {
        self.is_open.store(false, Ordering::SeqCst);
        let failed = std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner));
        (self.succeeded.swap(0, Ordering::SeqCst), failed)
    }

    pub(crate) fn count(&self, call: &Call, outcome: &Outcome) {
        if !self.is_open.load(Ordering::SeqCst) {
            return;
        }
        let what = match outcome {
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
