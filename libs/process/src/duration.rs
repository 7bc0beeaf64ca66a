//! Durations as authors write them: `48h`, `7d`, `1d12h` or `PT48H`.

use std::time::Duration;

/// A day has 24 hours here, whatever the calendar does.
const DAY: u64 = 24 * 60 * 60 * 1000;

/// Longest duration: a leap year.
const MAX: u64 = 366 * DAY;

/// Longest text that is looked at; the longest sensible one is far shorter.
const MAX_LENGTH: usize = 64;

/// Units of the short form with their milliseconds.
const UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", DAY), ("w", 7 * DAY)];

/// Text that is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationFault {
    /// It does not follow the grammar.
    #[error(
        "is no duration: write a number and ms, s, m, h, d or w, such as 48h, 7d or 1d12h, or ISO 8601 such as PT48H"
    )]
    Unreadable,
    /// It is nothing.
    #[error("must be more than zero")]
    Zero,
    /// It is more than 366 days.
    #[error("must be at most 366 days")]
    TooLong,
}

/// Reads a duration of more than zero and at most 366 days.
pub fn parse_duration(text: &str) -> Result<Duration, DurationFault> {
    if text.len() > MAX_LENGTH {
        return Err(DurationFault::Unreadable);
    }
    let milliseconds = if text.starts_with('P') { iso(text)? } else { short(text)? };
    match milliseconds {
        0 => Err(DurationFault::Zero),
        MAX.. if milliseconds > MAX => Err(DurationFault::TooLong),
        _ => Ok(Duration::from_millis(milliseconds)),
    }
}

/// Writes a duration in the short form, largest units first; weeks are written as days.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, milliseconds) in UNITS.iter().rev().filter(|(unit, _)| *unit != "w") {
        let count = rest / milliseconds;
        rest %= milliseconds;
        if count > 0 {
            text.push_str(&count.to_string());
            text.push_str(unit);
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `([0-9]+(ms|s|m|h|d|w))+`
fn short(text: &str) -> Result<u64, DurationFault> {
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (number, after) = digits(rest)?;
        let end = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        total = add(total, number, unit_of(unit)?)?;
        rest = next;
    }
    if text.is_empty() { Err(DurationFault::Unreadable) } else { Ok(total) }
}

/// `P[nW][nD][T[nH][nM][nS]]`, each part at most once and in this order. Years and months have no fixed length.
fn iso(text: &str) -> Result<u64, DurationFault> {
    let (date, time) = match text.strip_prefix('P').and_then(|rest| rest.split_once('T')) {
        Some((date, time)) if !time.is_empty() => (date, time),
        Some(_) => return Err(DurationFault::Unreadable),
        None => (text.strip_prefix('P').unwrap_or_default(), ""),
    };
    if date.is_empty() && time.is_empty() {
        return Err(DurationFault::Unreadable);
    }
    let days = iso_part(date, &[('W', 7 * DAY), ('D', DAY)])?;
    add(days, 1, iso_part(time, &[('H', 3_600_000), ('M', 60_000), ('S', 1000)])?)
}

fn iso_part(part: &str, designators: &[(char, u64)]) -> Result<u64, DurationFault> {
    let mut rest = part;
    let mut total = 0_u64;
    let mut left = designators;
    while !rest.is_empty() {
        let (number, after) = digits(rest)?;
        let designator = after.chars().next().ok_or(DurationFault::Unreadable)?;
        let at = left.iter().position(|(known, _)| *known == designator).ok_or(DurationFault::Unreadable)?;
        let milliseconds = left.get(at).map(|(_, milliseconds)| *milliseconds).unwrap_or_default();
        left = left.get(at + 1..).unwrap_or_default();
        total = add(total, number, milliseconds)?;
        rest = after.get(designator.len_utf8()..).unwrap_or_default();
    }
    Ok(total)
}

/// Splits leading ASCII digits off.
fn digits(text: &str) -> Result<(u64, &str), DurationFault> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    if number.is_empty() {
        return Err(DurationFault::Unreadable);
    }
    // Only digits, at most 64 of them: it can only fail by being too large.
    Ok((number.parse().map_err(|_| DurationFault::TooLong)?, rest))
}

fn unit_of(unit: &str) -> Result<u64, DurationFault> {
    UNITS.iter().find(|(known, _)| *known == unit).map(|(_, ms)| *ms).ok_or(DurationFault::Unreadable)
}

fn add(total: u64, count: u64, milliseconds: u64) -> Result<u64, DurationFault> {
    count.checked_mul(milliseconds).and_then(|more| total.checked_add(more)).ok_or(DurationFault::TooLong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_that_are_read() {
        for (text, seconds) in [
            ("48h", 48 * 3600),
            ("7d", 7 * 86400),
            ("1d12h", 36 * 3600),
            ("2w", 14 * 86400),
            ("90m", 5400),
            ("1s", 1),
            ("366d", 366 * 86400),
            ("007s", 7),
            ("PT48H", 48 * 3600),
            ("P2D", 2 * 86400),
            ("P1W", 7 * 86400),
            ("P1DT12H", 36 * 3600),
            ("PT1H30M5S", 5405),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn durations_that_are_refused() {
        use DurationFault::{TooLong, Unreadable, Zero};
        for (text, fault) in [
            ("", Unreadable),
            ("0h", Zero),
            ("0d0s", Zero),
            ("PT0S", Zero),
            ("-2h", Unreadable),
            ("2d3", Unreadable),
            ("99999999999d", TooLong),
            ("99999999999999999999999d", TooLong),
            ("367d", TooLong),
            ("366d1ms", TooLong),
            ("1e3h", Unreadable),
            ("２d", Unreadable),
            ("1.5h", Unreadable),
            ("48 h", Unreadable),
            (" 48h", Unreadable),
            ("48H", Unreadable),
            ("2 days", Unreadable),
            ("1y", Unreadable),
            ("P", Unreadable),
            ("PT", Unreadable),
            ("P1DT", Unreadable),
            ("P1M", Unreadable),
            ("P1Y", Unreadable),
            ("PT5M1H", Unreadable),
            ("PT1H1H", Unreadable),
            ("P-1D", Unreadable),
            ("p2d", Unreadable),
            ("PT48h", Unreadable),
        ] {
            assert_eq!(parse_duration(text), Err(fault), "{text:?}");
        }
        assert_eq!(parse_duration(&"1s".repeat(1000)), Err(Unreadable));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert!(duration > Duration::ZERO && duration <= Duration::from_millis(MAX));
            }
        }

        #[test]
        fn what_is_written_is_read_again(milliseconds in 1..=MAX) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn parts_add_up(parts in proptest::collection::vec((0_u64..50, 0_usize..5), 1..6)) {
            let written: Vec<String> = parts.iter().map(|(count, unit)| format!("{count}{}", UNITS[*unit].0)).collect();
            let text = written.concat();
            let sum: u64 = parts.iter().map(|(count, unit)| count * UNITS[*unit].1).sum();
            let expected = match sum {
                0 => Err(DurationFault::Zero),
                sum if sum > MAX => Err(DurationFault::TooLong),
                sum => Ok(Duration::from_millis(sum)),
            };
            prop_assert_eq!(parse_duration(&text), expected);
        }
    }
}
