//! Times as people read them: absolute with the zone named, and relative.

use std::time::Duration;

use phasegate_clock::Timestamp;

/// One time, three ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct When {
    /// RFC 3339, for `<time datetime>`.
    pub(super) machine: String,
    /// "Thu 13 Nov 2025, 15:00 UTC".
    pub(super) people: String,
    /// "in 31 hours", "2 days ago".
    pub(super) relative: String,
}

impl When {
    /// A time as seen at `now`.
    pub(super) fn new(time: Timestamp, now: Timestamp) -> Self {
        let people = match jiff::Timestamp::from_microsecond(time.as_micros()) {
            Ok(time) => time.strftime("%a %-d %b %Y, %H:%M UTC").to_string(),
            Err(_) => time.to_string(),
        };
        Self { machine: time.to_string(), people, relative: relative(time, now) }
    }

    /// From a message; nothing where it has none.
    pub(super) fn from_proto(time: Option<&prost_types::Timestamp>, now: Timestamp) -> Option<Self> {
        time.and_then(Timestamp::from_proto).map(|time| Self::new(time, now))
    }
}

fn relative(time: Timestamp, now: Timestamp) -> String {
    if time > now {
        format!("in {}", span(time.duration_since(now)))
    } else if now.duration_since(time) < Duration::from_mins(1) {
        "just now".to_owned()
    } else {
        format!("{} ago", span(now.duration_since(time)))
    }
}

/// In the largest unit that gives at least two, rounded; minutes at least.
fn span(duration: Duration) -> String {
    let minutes = (duration.as_secs() + 30) / 60;
    let (count, unit) = match minutes {
        0..=119 => (minutes.max(1), "minute"),
        120..=2_879 => ((minutes + 30) / 60, "hour"),
        _ => ((minutes + 720) / 1_440, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_it() {
        let now = Timestamp::from_micros(1_763_000_000_000_000);
        let check = |seconds: i64, expected: &str| {
            let time = Timestamp::from_micros(now.as_micros() + seconds * 1_000_000);
            assert_eq!(When::new(time, now).relative, expected);
        };
        check(0, "just now");
        check(-59, "just now");
        check(-61, "1 minute ago");
        check(48 * 3_600, "in 2 days");
        check(31 * 3_600, "in 31 hours");
        check(-7 * 86_400, "7 days ago");
        assert_eq!(When::new(now, now).people, "Thu 13 Nov 2025, 02:13 UTC");
    }
}
