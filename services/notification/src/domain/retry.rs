//! When a message that was not taken is tried again.

use std::time::Duration;

/// How often, and with which waits, delivery is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Wait after the first failed try; it doubles with every further one.
    pub first_wait: Duration,
    /// Longest wait.
    pub longest_wait: Duration,
    /// Tries in all.
    pub tries: u32,
}

impl Default for RetryPolicy {
    /// One second, doubling to a quarter of an hour, for a day: a mail server may be away overnight, and whoever was not
    /// asked by then holds a process up.
    fn default() -> Self {
        Self { first_wait: Duration::from_secs(1), longest_wait: Duration::from_mins(15), tries: 107 }
    }
}

impl RetryPolicy {
    /// The wait after `attempts` failed tries; `None` once no try is left. `seed` spreads messages that failed together: the
    /// wait is between four fifths and the whole of the nominal one.
    pub fn wait_after(&self, attempts: u32, seed: u64) -> Option<Duration> {
        if attempts >= self.tries {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(31);
        let nominal = self.first_wait.saturating_mul(1 << doublings).min(self.longest_wait);
        let spread = u32::try_from(seed % 1_000).unwrap_or_default();
        Some(nominal.saturating_sub(nominal / 5 * spread / 1_000))
    }

    /// The wait after a try that never came as far as the mail server. Such tries use nothing up.
    pub fn wait_for_others(&self, seed: u64) -> Duration {
        let spread = u32::try_from(seed % 1_000).unwrap_or_default();
        let nominal = self.first_wait.saturating_mul(5).min(self.longest_wait);
        nominal.saturating_sub(nominal / 5 * spread / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let policy = RetryPolicy::default();
        let waits: Vec<u64> = (1..12).map(|tries| policy.wait_after(tries, 0).unwrap().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]);
        let all: Duration = (1..policy.tries).map(|tries| policy.wait_after(tries, 999).unwrap()).sum();
        assert!(all >= Duration::from_hours(19), "{all:?}");
        let all: Duration = (1..policy.tries).map(|tries| policy.wait_after(tries, 0).unwrap()).sum();
        assert!(all >= Duration::from_hours(24), "{all:?}");
        assert_eq!(policy.wait_after(policy.tries, 0), None);
        assert_eq!(policy.wait_after(u32::MAX, 0), None);
    }

    #[test]
    fn jitter_shortens_a_wait_by_a_fifth_at_most() {
        let policy = RetryPolicy::default();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..2_000 {
            let wait = policy.wait_after(5, seed).unwrap();
            assert!(wait <= Duration::from_secs(16), "{wait:?}");
            assert!(wait >= Duration::from_millis(12_800), "{wait:?}");
            seen.insert(wait);
        }
        assert_eq!(seen.len(), 1_000);
    }
}
