//! Times and lengths of time as text, as proto JSON has them.

use prost_types::Timestamp;

/// Reads an RFC 3339 time: seconds and nanoseconds since the epoch.
pub(crate) fn timestamp_from_text(text: &str) -> Option<(i64, i32)> {
    // The parser below also reads dates alone and other separators; only the strict form is ours.
    let bytes = text.as_bytes();
    let digits_at = |range: std::ops::Range<usize>| {
        bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let shape = digits_at(0..4)
        && bytes.get(4) == Some(&b'-')
        && digits_at(5..7)
        && bytes.get(7) == Some(&b'-')
        && digits_at(8..10)
        && bytes.get(10) == Some(&b'T')
        && digits_at(11..13)
        && bytes.get(13) == Some(&b':')
        && digits_at(14..16)
        && bytes.get(16) == Some(&b':')
        && digits_at(17..19);
    let rest = text.get(19..)?;
    let fraction =
        rest.strip_prefix('.').map_or(0, |digits| digits.bytes().take_while(u8::is_ascii_digit).count());
    let zone = if rest.starts_with('.') { rest.get(fraction + 1..)? } else { rest };
    let fraction_fits = !rest.starts_with('.') || (1..=9).contains(&fraction);
    let zone_fits = zone == "Z" || is_offset(zone.as_bytes());
    if !(shape && fraction_fits && zone_fits) {
        return None;
    }
    let timestamp: Timestamp = text.parse().ok()?;
    (0..=9999).contains(&year_of(&timestamp)).then_some((timestamp.seconds, timestamp.nanos))
}

/// Writes an RFC 3339 time in UTC, or nothing where it has no such text.
pub(crate) fn timestamp_to_text(seconds: i64, nanos: i32) -> Option<String> {
    let timestamp = Timestamp { seconds, nanos };
    let fits = (0..1_000_000_000).contains(&nanos) && (0..=9999).contains(&year_of(&timestamp));
    fits.then(|| timestamp.to_string())
}

/// Reads "1.5s": seconds and nanoseconds.
pub(crate) fn duration_from_text(text: &str) -> Option<(i64, i32)> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let text = text.strip_suffix('s')?;
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole)
        || whole.len() > 12
        || fraction.is_some_and(|part| !is_digits(part) || part.len() > 9)
    {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: i32 = format!("{:0<9}", fraction.unwrap_or("0")).parse().ok()?;
    Some(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// Writes "1.5s".
pub(crate) fn duration_to_text(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let fraction = if nanos == 0 { String::new() } else { format!(".{:09}", nanos.unsigned_abs()) };
    format!("{sign}{}{}s", seconds.unsigned_abs(), fraction.trim_end_matches('0'))
}

fn is_offset(zone: &[u8]) -> bool {
    matches!(zone, [b'+' | b'-', h1, h2, b':', m1, m2]
        if [h1, h2, m1, m2].into_iter().all(u8::is_ascii_digit))
}

/// Gives the year closely enough to tell whether it has four digits.
fn year_of(timestamp: &Timestamp) -> i64 {
    // 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
    match timestamp.seconds {
        -62_167_219_200..=253_402_300_799 => 2000,
        _ => -1,
    }
}
