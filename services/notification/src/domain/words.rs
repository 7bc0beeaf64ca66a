//! Small pieces of wording: names, lengths of time, and text that is safe in a header.

use std::time::Duration;

use phasegate_clock::Timestamp;

/// Longest subject line, in characters.
pub(super) const LINE_MAX: usize = 200;

/// Longest description in a message, in characters; the page that the link opens has all of it.
const DESCRIPTION_MAX: usize = 4_000;

/// Makes one line of a text: line breaks, control characters and characters that turn the reading direction become a space,
/// spaces run together, and what is too long is cut. Nothing that comes out of this can begin another header.
pub(crate) fn one_line(text: &str) -> String {
    line_within(text, LINE_MAX)
}

/// The same of at most `max` characters.
pub(super) fn line_within(text: &str, max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max * 4));
    let mut length = 0;
    for word in text.split(|c: char| c.is_whitespace() || is_unprintable(c)).filter(|word| !word.is_empty()) {
        if !line.is_empty() && length + 1 < max {
            line.push(' ');
            length += 1;
        }
        for c in word.chars() {
            if length + 1 >= max {
                line.push('…');
                return line;
            }
            line.push(c);
            length += 1;
        }
    }
    line
}

/// Characters that show nothing, or that change how their neighbours show.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

/// The name to greet a person by; `None` where there is only an id.
pub(super) fn first_name(name: &str, id: &str) -> Option<String> {
    let name = one_line(name);
    if name.is_empty() || name == id {
        return None;
    }
    // "Smith, John" is written the other way round.
    let given = name.split_once(',').map_or(name.as_str(), |(_, given)| given.trim());
    given.split(' ').find(|word| !word.is_empty()).map(str::to_owned)
}

/// Hides an address, so that it can be recognised but not used: `j***@example.com`.
pub(crate) fn masked(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => {
            let first: String = local.chars().take(1).collect();
            format!("{first}***@{domain}")
        }
        None if address.is_empty() => String::new(),
        None => "***".to_owned(),
    }
}

/// A length of time in words, rounded down so that nobody is promised more than there is: "48 hours", "7 days".
pub(super) fn in_words(length: Duration) -> String {
    // A few seconds pass between a request and its message; they are not worth an hour less.
    let minutes = length.as_secs().div_ceil(60);
    let (count, unit) = match minutes {
        0..120 => (minutes.max(1), "minute"),
        120..4_320 => (minutes / 60, "hour"),
        _ => (minutes / 1_440, "day"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

/// Cuts a text into paragraphs at its empty lines, and each into its lines.
pub(super) fn paragraphs(text: &str) -> Vec<Vec<String>> {
    let mut shown: String = text.chars().take(DESCRIPTION_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str(" …");
    }
    let mut paragraphs = Vec::new();
    let mut lines = Vec::new();
    for line in shown.lines() {
        let line: String = line.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect();
        let line = line.trim_end();
        if line.is_empty() {
            if !lines.is_empty() {
                paragraphs.push(std::mem::take(&mut lines));
            }
        } else {
            lines.push(line.to_owned());
        }
    }
    if !lines.is_empty() {
        paragraphs.push(lines);
    }
    paragraphs
}

/// A time to the minute, in UTC.
pub(super) fn minute(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('T') {
        Some((day, time)) => format!("{day} {} UTC", time.chars().take(5).collect::<String>()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line() {
        for (text, line) in [
            ("SSO Configuration Review", "SSO Configuration Review"),
            ("  two \t words ", "two words"),
            ("a\r\nBcc: everybody@example.com", "a Bcc: everybody@example.com"),
            ("a\0b\u{7f}c\u{85}d", "a b c d"),
            ("pay\u{202e}lanif", "pay lanif"),
            ("zero\u{200b}width", "zero width"),
            ("line\u{2028}separator", "line separator"),
            ("Prüfung – ‘fertig’ ✓", "Prüfung – ‘fertig’ ✓"),
            ("", ""),
        ] {
            assert_eq!(one_line(text), line, "{text:?}");
        }
        let long = one_line(&"word ".repeat(100));
        assert_eq!(long.chars().count(), LINE_MAX);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn people_are_greeted_by_their_first_name() {
        for (name, id, first) in [
            ("John Smith", "customer_it_admin", Some("John")),
            ("Smith, John", "x", Some("John")),
            ("  Jane  ", "x", Some("Jane")),
            ("Zoë-Marie van Dyk", "x", Some("Zoë-Marie")),
            ("", "customer_ciso", None),
            ("customer_ciso", "customer_ciso", None),
            ("Ev\r\nil", "x", Some("Ev")),
        ] {
            assert_eq!(first_name(name, id).as_deref(), first, "{name:?}");
        }
    }

    #[test]
    fn addresses_are_hidden() {
        for (address, hidden) in [
            ("john@example.com", "j***@example.com"),
            ("j@example.com", "j***@example.com"),
            ("", ""),
            ("nonsense", "***"),
            ("@example.com", "***@example.com"),
        ] {
            assert_eq!(masked(address), hidden);
        }
    }

    #[test]
    fn lengths_of_time_read_like_a_persons() {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 3_600;
        const DAY: u64 = 86_400;
        for (seconds, words) in [
            (0, "1 minute"),
            (30, "1 minute"),
            (MINUTE, "1 minute"),
            (5 * MINUTE, "5 minutes"),
            (90 * MINUTE, "90 minutes"),
            (2 * HOUR, "2 hours"),
            (4 * HOUR - 1, "4 hours"),
            (24 * HOUR, "24 hours"),
            (48 * HOUR, "48 hours"),
            (48 * HOUR - 3, "48 hours"),
            (48 * HOUR - 120, "47 hours"),
            (3 * DAY, "3 days"),
            (7 * DAY, "7 days"),
            (7 * DAY - 3, "7 days"),
            (7 * DAY - HOUR, "6 days"),
        ] {
            assert_eq!(in_words(Duration::from_secs(seconds)), words, "{seconds} s");
        }
    }

    #[test]
    fn paragraphs_keep_their_lines() {
        assert_eq!(paragraphs("a\r\nb\n\n\n c \n"), vec![vec!["a", "b"], vec![" c"]]);
        assert!(paragraphs(" \n ").is_empty());
        let long = paragraphs(&"é".repeat(5_000));
        assert_eq!(long[0][0].chars().count(), DESCRIPTION_MAX + 2);
    }
}
