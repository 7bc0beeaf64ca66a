//! When a call is made again. Only a client does that, at the edge: if every service on the way did, one that is in trouble
//! would get the product of all their tries.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::error::code;

/// Tries of a call, the first one included.
pub(crate) const TRIES: u32 = 4;
/// Wait before the second try; doubles with every further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Whoever is told to wait longer tells its own caller.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Calls for each repetition: of ten that are made, one may be made again.
const CALLS_PER_TRY: u32 = 10;
/// Repetitions that are saved up at most, and there from the beginning: few calls may be repeated more freely.
const SAVED_MAX: u32 = 20;

/// How often calls may still be repeated. Copies of a client share it.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Mutex<u32>>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(SAVED_MAX * CALLS_PER_TRY)))
    }
}

impl Budget {
    /// A call is made.
    pub(crate) fn earn(&self) {
        let mut saved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *saved = (*saved + 1).min(SAVED_MAX * CALLS_PER_TRY);
    }

    /// Says whether a call may be made again.
    pub(crate) fn spend(&self) -> bool {
        let mut saved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = saved.checked_sub(CALLS_PER_TRY);
        *saved = left.unwrap_or(*saved);
        left.is_some()
    }
}

/// How long to wait before a call is made again for so many times; nothing if it must not be. A server that was not there has
/// begun nothing or is asked with the same request id; one that has enough to do says when to come back.
pub(crate) fn wait(status: &Status, again: u32) -> Option<Duration> {
    let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let least = match (code(status), told) {
        (Code::Unavailable, told) => told.unwrap_or_default(),
        (Code::ResourceExhausted, Some(told)) => told,
        _ => return None,
    };
    let wait = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(again));
    // Half of it is left to chance, so that those who failed together do not come back together; never is it nearly nothing.
    let wait = wait / 2 + (wait / 2).mul_f64(rand::random_range(0.0..1.0));
    (least <= WAIT_MAX).then(|| wait.max(least + wait / 2))
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, told: Option<Duration>) -> Status {
        let mut details = ErrorDetails::new();
        if told.is_some() {
            details.set_retry_info(told);
        }
        Status::with_error_details(code, "no", details)
    }

    #[test]
    fn only_what_passes_is_tried_again_and_not_too_early() {
        let second = Duration::from_secs(1);
        for (code, told, waits) in [
            (Code::Unavailable, None, true),
            (Code::Unavailable, Some(second), true),
            (Code::Unavailable, Some(60 * second), false),
            (Code::ResourceExhausted, Some(second), true),
            (Code::ResourceExhausted, Some(11 * second), false),
            (Code::ResourceExhausted, None, false),
            (Code::DeadlineExceeded, None, false),
            (Code::Aborted, Some(second), false),
            (Code::Internal, None, false),
        ] {
            for again in 0..3 {
                let wait = wait(&status(code, told), again);
                assert_eq!(wait.is_some(), waits, "{code:?} {told:?}");
                let least = told.unwrap_or(FIRST_WAIT * 2_u32.pow(again) / 2);
                assert!(wait.is_none_or(|wait| wait >= least && wait <= least + second), "{code:?} {wait:?}");
            }
        }
    }

    #[test]
    fn one_call_in_ten_is_made_again() {
        let budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 20);
        let mut again = 0;
        for _ in 0..1_000 {
            budget.earn();
            again += u32::from(budget.clone().spend());
        }
        assert_eq!(again, 100);
    }
}
