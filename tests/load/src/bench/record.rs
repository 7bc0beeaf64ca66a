//! What was measured: latencies by what was waited for, and counts of what became durable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// Of one instance of the page's process: tasks handed out and completed, approvals requested, votes, phases moved.
pub(super) const TRANSITIONS_EACH: u64 = 7 + 7 + 8 + 9 + 4;

/// State changes that were acknowledged, or seen, and are durable.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) handed_out: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) requested: AtomicU64,
    pub(super) voted: AtomicU64,
    /// Instances that ended, each with four phases behind it.
    pub(super) ended: AtomicU64,
    /// Calls, of all kinds.
    pub(super) calls: AtomicU64,
}

/// The counts at a moment.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counted {
    pub(super) transitions: u64,
    pub(super) ended: u64,
    pub(super) calls: u64,
}

/// Takes latencies while its window is open, and counts always.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) counts: Counts,
    is_open: AtomicBool,
    /// In microseconds.
    samples: Mutex<BTreeMap<&'static str, Vec<u32>>>,
}

/// Latencies of one kind, in microseconds, from the shortest to the longest.
#[derive(Debug, Default, Clone)]
pub(super) struct Latencies(Vec<u32>);

// === impl Counts ===

impl Counts {
    pub(super) fn now(&self) -> Counted {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let ended = read(&self.ended);
        let transitions = read(&self.handed_out)
            + read(&self.completed)
            + read(&self.requested)
            + read(&self.voted)
            + 4 * ended;
        Counted { transitions, ended, calls: read(&self.calls) }
    }
}

impl Counted {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            transitions: self.transitions - earlier.transitions,
            ended: self.ended - earlier.ended,
            calls: self.calls - earlier.calls,
        }
    }
}

// === impl Recorder ===

impl Recorder {
    /// From now on latencies are kept.
    pub(super) fn open(&self) {
        self.samples().clear();
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// What was kept since [`Self::open`].
    pub(super) fn close(&self) -> BTreeMap<&'static str, Latencies> {
        self.is_open.store(false, Ordering::Relaxed);
        let samples = std::mem::take(&mut *self.samples());
        samples.into_iter().map(|(what, samples)| (what, Latencies::of(samples))).collect()
    }

    /// Something that was due at a moment is done.
    pub(super) fn took(&self, what: &'static str, due: Instant) {
        if self.is_open.load(Ordering::Relaxed) {
            let micros = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
            self.samples().entry(what).or_default().push(micros);
        }
    }

    fn samples(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<u32>>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Latencies ===

impl Latencies {
    pub(super) fn of(mut samples: Vec<u32>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The latency that so many of a thousand do not exceed.
    pub(super) fn per_mille(&self, per_mille: usize) -> Duration {
        let at = (self.0.len() * per_mille / 1_000).min(self.0.len().saturating_sub(1));
        Duration::from_micros(self.0.get(at).copied().unwrap_or_default().into())
    }

    pub(super) fn p50(&self) -> Duration {
        self.per_mille(500)
    }

    pub(super) fn p99(&self) -> Duration {
        self.per_mille(990)
    }

    pub(super) fn to_json(&self) -> Value {
        let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
        json!({
            "count": self.len(),
            "p50Ms": millis(self.p50()),
            "p90Ms": millis(self.per_mille(900)),
            "p99Ms": millis(self.p99()),
            "maxMs": millis(self.per_mille(1_000)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let latencies = Latencies::of((1..=1_000).rev().collect());
        assert_eq!(latencies.p50(), Duration::from_micros(501));
        assert_eq!(latencies.p99(), Duration::from_micros(991));
        assert_eq!(latencies.per_mille(1_000), Duration::from_millis(1));
        assert_eq!(Latencies::default().p99(), Duration::ZERO);
    }

    #[test]
    fn only_what_ends_in_the_window_is_kept_and_all_is_counted() {
        let recorder = Recorder::default();
        recorder.took("before", Instant::now());
        recorder.open();
        recorder.took("within", Instant::now());
        let kept = recorder.close();
        recorder.took("after", Instant::now());
        assert_eq!(kept.keys().collect::<Vec<_>>(), [&"within"]);
        let before = recorder.counts.now();
        recorder.counts.voted.fetch_add(9, Ordering::Relaxed);
        recorder.counts.ended.fetch_add(1, Ordering::Relaxed);
        assert_eq!(recorder.counts.now().since(before).transitions, 9 + 4);
    }
}
