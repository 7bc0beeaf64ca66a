//! What a request for a decision says.

use std::collections::BTreeSet;
use std::time::Duration;

use phasegate_clock::Timestamp;

use super::super::occasion::{Process, Request};
use super::super::words::{LINE_MAX, in_words, line_within, one_line, paragraphs};
use super::{Details, Item, LINK_LIFE_MIN, Letter, LinkNeed};

/// Longest life of a link, whatever is asked for. Who needs it after that asks for a fresh one on the page of the old one.
const LINK_LIFE_MAX: Duration = Duration::from_hours(14 * 24);

/// How long a link outlives the requests that it leads to, so that a late visitor reads what became of them.
const LINK_LIFE_AFTER_REQUEST: Duration = Duration::from_hours(2 * 24);

/// Adds what every request for a decision has: the button, the deadline, who asked.
pub(super) fn ask(letter: &mut Letter, requests: &[&Request], now: Timestamp) {
    let askers: BTreeSet<String> = requests
        .iter()
        .map(|request| one_line(&request.asked_by))
        .filter(|asker| !asker.is_empty())
        .collect();
    if !askers.is_empty() {
        let text = askers.into_iter().collect::<Vec<_>>().join(", ");
        letter.details.push(Details { label: "Asked by", text });
    }
    let soonest = requests.iter().filter_map(|request| request.expires_at).min();
    let latest = requests.iter().filter_map(|request| request.expires_at).max();
    let (shortest, longest) = (now + LINK_LIFE_MIN, now + LINK_LIFE_MAX);
    let wanted = latest.map_or(shortest, |end| end + LINK_LIFE_AFTER_REQUEST);
    let expires_at = wanted.clamp(shortest, longest);
    // An overdue request is still open, and its link works: there is no deadline left to name.
    let promised = soonest.filter(|end| *end > now).map_or(expires_at, |end| end.min(expires_at));
    letter.link = Some(LinkNeed {
        button: "Review and Approve",
        expiry: format!("This link expires in {}.", in_words(promised.duration_since(now))),
        expires_at,
        caution: "Following it settles nothing: you choose on the page that it leads to. It works for you \
                  alone, so please keep it to yourself.",
    });
    letter.because = "Your approval was asked for.";
}

/// The subject of a request, and of how many more.
pub(super) fn subject(words: &str, title: &str, more: usize) -> String {
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    let room = LINE_MAX.saturating_sub(words.chars().count() + more.chars().count());
    format!("{words}{}{more}", line_within(title, room))
}

/// What the HTML shows above the requests.
pub(super) fn heading(requests: &[&Request]) -> String {
    match requests {
        [only] => one_line(&only.title),
        several => format!("{} requests for your approval", several.len()),
    }
}

/// One request among those of a message.
pub(super) fn item(request: &Request, process: &Process, asked_before: bool) -> Item {
    let note = if asked_before {
        "What you are asked to review has changed since the last message, so any earlier answer was set aside."
    } else if request.round > 1 {
        "It has been reworked after the last review."
    } else {
        ""
    };
    let mut text = paragraphs(&request.description);
    if text.is_empty() {
        text = vec![vec![format!("{} waits for your review.", one_line(&process.instance_name))]];
    }
    Item { title: one_line(&request.title), note: note.to_owned(), paragraphs: text }
}
