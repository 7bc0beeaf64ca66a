//! Until when an answer is wanted. It goes along with the work: a call to another service on the way gets what is left of
//! the time, so that nobody works for somebody who has gone.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// Header of gRPC: how long whoever calls waits.
pub const TIMEOUT_HEADER: &str = "grpc-timeout";

tokio::task_local! {
    static UNTIL: Instant;
}

/// Does something that is wanted until then, or until the end of what it is a part of, if that comes first.
pub fn within<F: Future>(until: Instant, work: F) -> impl Future<Output = F::Output> {
    let until = UNTIL.try_with(|outer| until.min(*outer)).unwrap_or(until);
    UNTIL.scope(until, work)
}

/// What is left of the time, where there is a limit.
pub fn remaining() -> Option<Duration> {
    UNTIL.try_with(|until| until.saturating_duration_since(Instant::now())).ok()
}

/// The time that a call gives in its headers. What cannot be read is nothing.
pub(crate) fn given(headers: &HeaderMap) -> Option<Duration> {
    headers.get(TIMEOUT_HEADER).and_then(|value| value.to_str().ok()).and_then(timeout)
}

/// Reads a time as gRPC writes it: up to eight digits and a unit.
pub fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_grpc_writes_them() {
        for (text, millis) in
            [("10S", 10_000), ("1500m", 1500), ("2M", 120_000), ("99999999H", 359_999_996_400_000), ("0n", 0)]
        {
            assert_eq!(timeout(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "S", "10", "10X", "-1S", "+1S", "1.5S", "123456789S", "１S", "é"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_part_has_no_more_time_than_the_whole() {
        assert_eq!(remaining(), None);
        let (long, short) = (Duration::from_mins(1), Duration::from_secs(5));
        let now = Instant::now();
        within(now + short, async {
            assert!(remaining().is_some_and(|left| left <= short));
            within(now + long, async { assert!(remaining().is_some_and(|left| left <= short)) }).await;
        })
        .await;
        within(now, async { assert_eq!(remaining(), Some(Duration::ZERO)) }).await;
    }
}
