//! Times and lengths of time, as people say them.

use std::time::Duration;

use phasegate_clock::{Clock as _, SystemClock, Timestamp};

/// The time.
pub(super) fn now() -> Timestamp {
    SystemClock.now()
}

/// Reads a length of time from the command line.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    phasegate_process::parse_duration(text)
        .map_err(|_| "expected a length of time such as 30s, 5m or 2h".to_owned())
}

/// A length of time in its largest unit: "5 min", "2 h", "3 d".
pub(super) fn length(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..1 => format!("{} ms", length.as_millis()),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A length of time to the nearest whole of its unit.
fn rounded(length: Duration) -> Duration {
    let half = match length.as_secs() {
        0..120 => 500,
        120..7_200 => 30 * 1_000,
        7_200..172_800 => 1_800 * 1_000,
        _ => 43_200 * 1_000,
    };
    length + Duration::from_millis(half)
}

/// A time seen from now: "2 h ago", "in 31 h"; empty where there is none.
pub(super) fn relative(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    let Some(time) = time.and_then(Timestamp::from_proto) else { return String::new() };
    let (past, future) = (now.duration_since(time), time.duration_since(now));
    if past < Duration::from_secs(1) && future < Duration::from_secs(1) {
        "now".to_owned()
    } else if future.is_zero() {
        format!("{} ago", length(past))
    } else {
        // What is a second short of seven days is not "in 6 d".
        format!("in {}", length(rounded(future)))
    }
}

/// The time of day, to the second, in UTC.
pub(super) fn clock_time(time: Option<&prost_types::Timestamp>) -> String {
    let text = time.and_then(Timestamp::from_proto).map(|time| time.to_string()).unwrap_or_default();
    text.split_once('T').map(|(_, time)| time.chars().take(8).collect()).unwrap_or_default()
}

/// Day and time, to the second, in UTC.
pub(super) fn full(time: Option<&prost_types::Timestamp>) -> String {
    let text = time.and_then(Timestamp::from_proto).map(|time| time.to_string()).unwrap_or_default();
    match text.split_once('T') {
        Some((day, time)) => format!("{day} {}", time.chars().take(8).collect::<String>()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seen_from_now() {
        let now: Timestamp = "2025-11-13T10:00:00Z".parse().unwrap();
        for (time, said) in [
            ("2025-11-13T10:00:00Z", "now"),
            ("2025-11-13T09:59:55Z", "5 s ago"),
            ("2025-11-13T09:55:00Z", "5 min ago"),
            ("2025-11-13T08:00:00Z", "2 h ago"),
            ("2025-11-10T10:00:00Z", "3 d ago"),
            ("2025-11-14T17:00:00Z", "in 31 h"),
            ("2025-11-13T10:01:59Z", "in 119 s"),
            ("2025-11-20T09:59:59Z", "in 7 d"),
            ("2025-11-15T09:59:59Z", "in 2 d"),
            ("2025-11-15T09:29:00Z", "in 47 h"),
            ("2025-11-13T11:59:31Z", "in 2 h"),
        ] {
            let time: Timestamp = time.parse().unwrap();
            assert_eq!(relative(Some(&time.to_proto()), now), said);
        }
        assert_eq!(relative(None, now), "");
        assert_eq!(clock_time(Some(&now.to_proto())), "10:00:00");
        assert_eq!(full(Some(&now.to_proto())), "2025-11-13 10:00:00");
    }

    #[test]
    fn lengths_of_time_have_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "x", "-5s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
