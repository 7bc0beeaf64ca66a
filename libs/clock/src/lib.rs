//! What time it is, as an input: the only caller of `now` in the house. Timers and sleeping are elsewhere.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant, in microseconds since the Unix epoch. Written as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// A text that is no RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTimestamp;

/// Tells the time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time.
    fn now(&self) -> Timestamp;

    /// What the clock of the machine says, for what machines agree on among themselves within moments.
    fn machine(&self) -> Timestamp {
        self.now()
    }
}

/// A clock that many share.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// A clock that is set by another one, which several machines share: what one of them finds due, all of them do. Between
/// two settings it runs on, however the clock of its own machine jumps; before the first it is that.
#[derive(Debug)]
pub struct FollowingClock {
    since: Instant,
    /// What the time was at `since`, in microseconds since the epoch.
    start: AtomicI64,
}

/// A clock that a test winds.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

// === impl Timestamp ===

impl Timestamp {
    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; nothing if it is before.
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// As protobuf writes it.
    pub fn to_proto(self) -> prost_types::Timestamp {
        let nanos = i32::try_from(self.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0);
        prost_types::Timestamp { seconds: self.0.div_euclid(1_000_000), nanos }
    }

    /// From what protobuf writes; nothing for a time out of range.
    pub fn from_proto(time: &prost_types::Timestamp) -> Option<Self> {
        if !(0..1_000_000_000).contains(&time.nanos) {
            return None;
        }
        let micros = time.seconds.checked_mul(1_000_000)?.checked_add(i64::from(time.nanos) / 1_000)?;
        jiff::Timestamp::from_microsecond(micros).ok()?;
        Some(Self(micros))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{} us", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let time: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        Ok(Self(time.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// === impl InvalidTimestamp ===

impl fmt::Display for InvalidTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an RFC 3339 time")
    }
}

impl std::error::Error for InvalidTimestamp {}

// === impl SystemClock ===

impl SystemClock {
    /// The clock of the machine, to share.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_microsecond())
    }
}

// === impl FollowingClock ===

impl FollowingClock {
    /// A difference that nobody needs to hear of.
    const CLOSE: Duration = Duration::from_millis(100);

    /// Sets it by an answer that came `took` after the question, where it is not close anyway. Returns by how much it was off:
    /// too late or too early. When within `took` the answer was given nobody knows, so that a difference of up to half of it
    /// says nothing.
    pub fn follow(&self, answer: Timestamp, took: Duration) -> Option<Duration> {
        let time = answer + took / 2;
        let now = self.now();
        let off = now.duration_since(time).max(time.duration_since(now));
        if off <= Self::CLOSE.max(took / 2) {
            return None;
        }
        self.start.store(time.0.saturating_sub(micros(self.since.elapsed())), Ordering::SeqCst);
        Some(off)
    }
}

impl Default for FollowingClock {
    fn default() -> Self {
        Self { since: Instant::now(), start: AtomicI64::new(SystemClock.now().0) }
    }
}

impl Clock for FollowingClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.start.load(Ordering::SeqCst)) + self.since.elapsed()
    }

    fn machine(&self) -> Timestamp {
        SystemClock.now()
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.0))
    }

    /// Winds it forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(micros(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let time = Timestamp::from_micros(1_731_510_000_123_456);
        assert_eq!(time.to_string(), "2024-11-13T15:00:00.123456Z");
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2024-11-13T15:00:00.123456Z\"");
        assert_eq!("yesterday".parse::<Timestamp>(), Err(InvalidTimestamp));
    }

    #[test]
    fn protobuf_and_back() {
        for micros in [0, 1, -1, -1_000_001, 1_731_510_000_123_456] {
            let time = Timestamp::from_micros(micros);
            assert_eq!(Timestamp::from_proto(&time.to_proto()), Some(time));
        }
        for (seconds, nanos) in [(i64::MAX, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(Timestamp::from_proto(&prost_types::Timestamp { seconds, nanos }), None);
        }
    }

    #[test]
    fn a_clock_follows_another_one_however_far_that_is() {
        let clock = FollowingClock::default();
        let machine = clock.machine();
        assert_eq!(clock.follow(machine, Duration::ZERO), None, "it begins as the clock of the machine");
        let slow = Duration::from_millis(800);
        for answer in [machine - slow * 9 / 10, machine] {
            assert_eq!(clock.follow(answer, slow), None, "it may have been right when it answered");
        }
        assert!(clock.follow(machine - slow * 2, slow).is_some());
        let minutes = Duration::from_mins(10);
        for time in [machine + minutes, machine - minutes, machine] {
            assert!(clock.follow(time, Duration::ZERO).is_some_and(|off| off > minutes / 2));
            let now = clock.now();
            assert!(now >= time && now.duration_since(time) < minutes / 2, "{now}");
        }
        assert!(clock.machine().duration_since(machine) < minutes / 2);
    }

    #[test]
    fn arithmetic_does_not_overflow() {
        let last = Timestamp::from_micros(i64::MAX);
        assert_eq!(last + Duration::MAX, last);
        assert_eq!(Timestamp::default().duration_since(last), Duration::ZERO);
    }

    #[test]
    fn a_manual_clock_stands_until_wound() {
        let clock = ManualClock::new(Timestamp::from_micros(5));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now().as_micros(), 1_000_005);
    }
}
