//! One budget of calls: how many a second, and how many at once. Arithmetic only; whoever asks says what time it is.

use std::time::Duration;

use tokio::time::Instant;

/// Calls that somebody may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// A second, for as long as one likes; at least 1.
    pub per_second: u32,
    /// At once, after a pause; at least 1.
    pub burst: u32,
}

/// What has been spent of a rate: the time at which all of it will have come back, and nothing else (the generic cell rate
/// algorithm, by which Redis counts, too).
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    full_at: Instant,
}

impl Rate {
    /// Twice as many at once as a second; none for 0, which is no limit.
    pub fn per_second(per_second: u32) -> Option<Self> {
        (per_second > 0).then(|| Self { per_second, burst: per_second.saturating_mul(2) })
    }

    /// From one call to the next.
    pub(super) fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }

    /// Until a budget that is used up is full again.
    fn refill(self) -> Duration {
        self.interval().saturating_mul(self.burst.max(1))
    }

    /// How many calls a copy of the gateway takes out of the common budget at once: those of a twentieth of a second, and
    /// never more than a tenth of what may come at once.
    pub(super) fn batch(self) -> u32 {
        (self.per_second / 20).min(self.burst / 10).max(1)
    }
}

impl Budget {
    /// Nothing is spent.
    pub(super) fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Spends a call, or says when there is one again.
    pub(super) fn spend(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + rate.interval();
        match full_at.saturating_duration_since(now).checked_sub(rate.refill()) {
            Some(wait) if !wait.is_zero() => Err(wait),
            Some(_) | None => {
                self.full_at = full_at;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate { per_second: 10, burst: 5 };
        let start = Instant::now();
        let mut budget = Budget::full(start);
        for _ in 0..5 {
            assert_eq!(budget.spend(rate, start), Ok(()));
        }
        // What is refused costs nothing.
        for _ in 0..3 {
            assert_eq!(budget.spend(rate, start), Err(Duration::from_millis(100)));
        }
        let mut passed = 0;
        for millis in 1..=1_000 {
            passed += u32::from(budget.spend(rate, start + Duration::from_millis(millis)).is_ok());
        }
        assert_eq!(passed, 10);
        // It never holds more than a burst, however long the pause.
        let later = start + Duration::from_hours(1);
        assert_eq!((0..100).filter(|_| budget.spend(rate, later).is_ok()).count(), 5);
    }

    #[test]
    fn few_are_taken_at_once() {
        for (per_second, burst, batch) in [(1, 1, 1), (2_000, 4_000, 100), (1_000, 100, 10), (30, 60, 1)] {
            assert_eq!(Rate { per_second, burst }.batch(), batch);
        }
        assert_eq!(Rate::per_second(0), None);
    }
}
