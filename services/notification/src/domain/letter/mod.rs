//! What a message says, before it is laid out as text and HTML: what all of them have stands here, what asks for a
//! decision in [`request`], and what only tells of something in [`news`].

mod news;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::ApprovalId;

use super::occasion::{Occasion, Person, Process};
use super::words::{first_name, in_words, one_line};

/// Shortest life of the link in a message.
const LINK_LIFE_MIN: Duration = Duration::from_hours(7 * 24);

/// One thing that a message is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Its title.
    pub(crate) title: String,
    /// What to mind, above the description.
    pub(crate) note: String,
    /// Paragraphs, each of one or more lines.
    pub(crate) paragraphs: Vec<Vec<String>>,
}

/// A line of small print: what, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Details {
    /// What.
    pub(crate) label: &'static str,
    /// Its value.
    pub(crate) text: String,
}

/// The link that a message needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkNeed {
    /// Words on the button.
    pub(crate) button: &'static str,
    /// What is said of its end.
    pub(crate) expiry: String,
    /// How long it has to work.
    pub(crate) expires_at: Timestamp,
    /// What to know about it.
    pub(crate) caution: &'static str,
}

/// A message to one person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    /// Subject line.
    pub(crate) subject: String,
    /// First words.
    pub(crate) greeting: String,
    /// What the HTML shows as heading.
    pub(crate) heading: String,
    /// A sentence before the items; may be empty.
    pub(crate) opening: String,
    /// What it is about.
    pub(crate) items: Vec<Item>,
    /// The one link, if any.
    pub(crate) link: Option<LinkNeed>,
    /// Small print.
    pub(crate) details: Vec<Details>,
    /// Why the person gets it.
    pub(crate) because: &'static str,
    /// Requests that it is about, in order.
    pub(crate) approval_ids: Vec<ApprovalId>,
}

/// Writes the message of an occasion to one person. `asked_before` are requests that the person has had a message about.
/// `None` where there is nothing to say to that person.
pub(crate) fn letter(
    occasion: &Occasion,
    person: &Person,
    process: &Process,
    asked_before: &BTreeSet<ApprovalId>,
    now: Timestamp,
) -> Option<Letter> {
    let greeting = match first_name(&person.name, person.id.as_str()) {
        Some(name) => format!("Hi {name},"),
        None => "Hello,".to_owned(),
    };
    let requests = occasion.requests_for(&person.id);
    let mut letter = Letter {
        subject: String::new(),
        greeting,
        heading: String::new(),
        opening: String::new(),
        items: Vec::new(),
        link: None,
        details: vec![Details { label: "Process", text: process_line(process) }],
        because: "",
        approval_ids: requests.iter().map(|request| request.id.clone()).collect(),
    };
    match occasion {
        Occasion::Requested(_) => {
            let first = requests.first()?;
            letter.subject = request::subject("Approval Required: ", &first.title, requests.len() - 1);
            letter.heading = request::heading(&requests);
            letter.items = requests
                .iter()
                .map(|request| request::item(request, process, asked_before.contains(&request.id)))
                .collect();
            request::ask(&mut letter, &requests, now);
        }
        Occasion::Reminded { request, .. } => {
            letter.subject = request::subject("Reminder: Approval Required: ", &request.title, 0);
            letter.heading = one_line(&request.title);
            letter.opening = "Your answer is still missing.".into();
            letter.items = vec![request::item(request, process, false)];
            request::ask(&mut letter, &requests, now);
        }
        Occasion::Escalated { request, overdue, .. } => {
            letter.subject = request::subject("Approval Required: ", &request.title, 0);
            letter.heading = one_line(&request.title);
            letter.opening = if *overdue {
                "Nobody answered this request in time, so it has come to you."
            } else {
                "This request has waited a while for its answer, so it has come to you as well."
            }
            .into();
            letter.items = vec![request::item(request, process, false)];
            request::ask(&mut letter, &requests, now);
        }
        Occasion::Answered { request, answer, comment, at, .. } => {
            news::answered(&mut letter, request, *answer, comment, *at, now);
        }
        Occasion::PhaseChanged { name, moved, position, phases } => {
            news::phase_changed(&mut letter, process, name, *moved, (*position, *phases), now);
        }
        Occasion::TaskEscalated { name, escalated_to, message, .. } => {
            news::task_escalated(&mut letter, process, (name, escalated_to, message), now);
        }
        Occasion::Ended { outcome, reason } => news::ended(&mut letter, process, *outcome, reason, now),
        Occasion::FreshLinkAsked { .. } => {
            letter.subject = one_line(&format!("Your new link: {}", process.instance_name));
            "Your new link".clone_into(&mut letter.heading);
            letter.opening =
                "Here is the fresh link that was asked for. Use it instead of the earlier one.".into();
            letter.link = Some(view_link(now, "Open"));
            letter.because = "Somebody asked for it on the page of your earlier link.";
        }
    }
    Some(letter)
}

/// A link to look at how things stand.
fn view_link(now: Timestamp, button: &'static str) -> LinkNeed {
    LinkNeed {
        button,
        expiry: format!("This link expires in {}.", in_words(LINK_LIFE_MIN)),
        expires_at: now + LINK_LIFE_MIN,
        caution: "It works for you alone, so please keep it to yourself.",
    }
}

fn process_line(process: &Process) -> String {
    let name = one_line(&process.instance_name);
    let kind = one_line(&process.definition_name);
    if kind.is_empty() || kind == name { name } else { format!("{name} ({kind})") }
}
