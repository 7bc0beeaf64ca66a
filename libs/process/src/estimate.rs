//! Estimates as authors write them: `1 day`, `1-2 days`, `3 hours`. They plan, they bind nobody; what cannot be read is
//! shown as it stands.

use std::time::Duration;

use crate::definition::Estimate;

/// Longest text that is looked at.
const MAX_LENGTH: usize = 64;

/// Largest count of any unit: ten years of weeks.
const MAX_COUNT: u64 = 520;

/// Reads `N unit` or `N-M unit` with hours, days or weeks.
pub fn parse_estimate(text: &str) -> Option<Estimate> {
    let text = text.trim();
    if text.len() > MAX_LENGTH {
        return None;
    }
    let end = text.rfind(|c: char| !c.is_ascii_alphabetic()).map_or(0, |at| at + 1);
    let (numbers, unit) = (text.get(..end)?.trim_end(), text.get(end..)?);
    let seconds = match unit.to_ascii_lowercase().as_str() {
        "h" | "hour" | "hours" => 3600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    };
    // People write a hyphen, and their word processors an en dash.
    let (low, high) = match numbers.split_once(['-', '\u{2013}']) {
        Some((low, high)) => (count(low.trim_end())?, count(high.trim_start())?),
        None => (count(numbers)?, count(numbers)?),
    };
    (low <= high).then(|| Estimate {
        low: Duration::from_secs(low * seconds),
        high: Duration::from_secs(high * seconds),
    })
}

fn count(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|count| (1..=MAX_COUNT).contains(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn estimates_that_are_read() {
        for (text, low, high) in [
            ("1 day", 24, 24),
            ("1-2 days", 24, 48),
            ("2-3 days", 48, 72),
            ("3 hours", 3, 3),
            ("1 - 2 weeks", 168, 336),
            ("1\u{2013}2 Days", 24, 48),
            ("4h", 4, 4),
        ] {
            let hours = |hours: u64| Duration::from_secs(hours * 3600);
            assert_eq!(parse_estimate(text), Some(Estimate { low: hours(low), high: hours(high) }), "{text}");
        }
    }

    #[test]
    fn estimates_that_are_not_read() {
        for text in [
            "",
            "soon",
            "2",
            "days",
            "0 days",
            "3-2 days",
            "1-2-3 days",
            "-1 day",
            "1.5 days",
            "1 month",
            "２ days",
            "9999999999999999999999 days",
            "521 weeks",
        ] {
            assert_eq!(parse_estimate(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_left(text in ".{0,80}") {
            if let Some(estimate) = parse_estimate(&text) {
                prop_assert!(estimate.low > Duration::ZERO && estimate.low <= estimate.high);
            }
        }
    }
}
