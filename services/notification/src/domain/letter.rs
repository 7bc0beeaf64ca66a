//! What a message says, before it is laid out as text and HTML.

use std::collections::BTreeSet;
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::ApprovalId;

use super::occasion::{Answer, Occasion, Outcome, Person, PhaseMove, Process, Request};
use super::words::{first_name, in_words, is_unprintable, one_line};

/// Shortest life of the link in a message.
const LINK_LIFE_MIN: Duration = Duration::from_hours(7 * 24);

/// Longest life of a link, whatever is asked for. Who needs it after that asks for a fresh one on the page of the old one.
const LINK_LIFE_MAX: Duration = Duration::from_hours(14 * 24);

/// How long a link outlives the requests that it leads to, so that a late visitor reads what became of them.
const LINK_LIFE_AFTER_REQUEST: Duration = Duration::from_hours(2 * 24);

/// Longest description in a message, in characters; the page that the link opens has all of it.
const DESCRIPTION_MAX: usize = 4_000;

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
            letter.subject = format!("Approval Required: {}", several(&first.title, requests.len()));
            letter.heading = heading(&requests);
            letter.items = requests
                .iter()
                .map(|request| item(request, process, asked_before.contains(&request.id)))
                .collect();
            ask(&mut letter, &requests, now);
        }
        Occasion::Reminded { request, .. } => {
            letter.subject = format!("Reminder: Approval Required: {}", one_line(&request.title));
            letter.heading = one_line(&request.title);
            letter.opening = "Your answer is still missing.".into();
            letter.items = vec![item(request, process, false)];
            ask(&mut letter, &requests, now);
        }
        Occasion::Escalated { request, overdue, .. } => {
            letter.subject = format!("Approval Required: {}", one_line(&request.title));
            letter.heading = one_line(&request.title);
            letter.opening = if *overdue {
                "Nobody answered this request in time, so it has come to you."
            } else {
                "This request has waited a while for its answer, so it has come to you as well."
            }
            .into();
            letter.items = vec![item(request, process, false)];
            ask(&mut letter, &requests, now);
        }
        Occasion::Answered { request, answer, comment, at, .. } => {
            answered(&mut letter, request, *answer, comment, *at, now);
        }
        Occasion::PhaseChanged { name, moved, position, phases } => {
            phase_changed(&mut letter, process, name, *moved, (*position, *phases), now);
        }
        Occasion::TaskEscalated { name, escalated_to, message, .. } => {
            task_escalated(&mut letter, process, (name, escalated_to, message), now);
        }
        Occasion::Ended { outcome, reason } => ended(&mut letter, process, *outcome, reason, now),
        Occasion::FreshLinkAsked(_) => {
            letter.subject = one_line(&format!("Your new link: {}", process.instance_name));
            "Your new link".clone_into(&mut letter.heading);
            letter.opening =
                "Here is the fresh link that was asked for. The earlier one stays closed.".into();
            letter.link = Some(view_link(now, "Open"));
            letter.because = "Somebody asked for it on the page of your earlier link.";
        }
    }
    Some(letter)
}

/// Adds what every request for a decision has: the button, the deadline, who asked.
fn ask(letter: &mut Letter, requests: &[&Request], now: Timestamp) {
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

fn answered(
    letter: &mut Letter,
    request: &Request,
    answer: Answer,
    comment: &str,
    at: Timestamp,
    now: Timestamp,
) {
    let (short, sentence) = match answer {
        Answer::Approved => ("Approved", "Your approval has been recorded."),
        Answer::Rejected => ("Rejected", "Your rejection has been recorded."),
        Answer::ChangesRequested => ("Changes requested", "Your wish for changes has been recorded."),
    };
    letter.subject = one_line(&format!("{short}: {}", request.title));
    letter.heading = one_line(&request.title);
    letter.opening = sentence.into();
    if !comment.trim().is_empty() {
        letter.items = vec![Item {
            title: "Your comment".to_owned(),
            note: String::new(),
            paragraphs: paragraphs(comment),
        }];
    }
    letter.details.push(Details { label: "Answered", text: format!("{short}, {}", minute(at)) });
    letter.link = Some(view_link(now, "See the decision"));
    letter.because = "It is the receipt of your answer. If it was not yours, tell the sender of the request.";
}

fn phase_changed(
    letter: &mut Letter,
    process: &Process,
    name: &str,
    moved: PhaseMove,
    (position, phases): (u32, u32),
    now: Timestamp,
) {
    let (short, sentence) = match moved {
        PhaseMove::Began => ("has begun", "Its tasks are under way."),
        PhaseMove::Completed => ("is complete", "Its work is done, and its approvals are given."),
        PhaseMove::Blocked => ("is blocked", "It does not move until somebody looks after it."),
        PhaseMove::Skipped => ("was skipped", "It was passed over, with a reason in the record."),
    };
    let name = one_line(name);
    letter.subject = one_line(&format!("{}: {name} {short}", process.instance_name));
    letter.heading = format!("{name} {short}");
    letter.opening = sentence.into();
    letter.details.push(Details { label: "Phase", text: format!("{name}, {position} of {phases}") });
    letter.link = Some(view_link(now, "See the progress"));
    letter.because = "You are kept informed about this process.";
}

fn task_escalated(
    letter: &mut Letter,
    process: &Process,
    (name, escalated_to, message): (&str, &str, &str),
    now: Timestamp,
) {
    let name = one_line(name);
    letter.subject = one_line(&format!("Needs attention: {name}, {}", process.instance_name));
    letter.heading = format!("{name} needs attention");
    letter.opening =
        format!("This task could not be finished, and has gone up to {}.", one_line(escalated_to));
    letter.items = vec![Item {
        title: "What happened".to_owned(),
        note: String::new(),
        paragraphs: paragraphs(message),
    }];
    letter.link = Some(view_link(now, "See the progress"));
    letter.because = "You are named to be told when this work gets stuck.";
}

fn ended(letter: &mut Letter, process: &Process, outcome: Outcome, reason: &str, now: Timestamp) {
    let (short, sentence) = match outcome {
        Outcome::Completed => ("is complete", "All its phases are done."),
        Outcome::Cancelled => {
            ("was cancelled", "Nothing more will happen in it, and open requests were taken back.")
        }
        Outcome::Failed => {
            ("has failed", "Nothing more will happen in it, and open requests were taken back.")
        }
    };
    letter.subject = one_line(&format!("{} {short}", process.instance_name));
    letter.heading.clone_from(&letter.subject);
    letter.opening = sentence.into();
    if !reason.trim().is_empty() {
        letter.items =
            vec![Item { title: "Why".to_owned(), note: String::new(), paragraphs: paragraphs(reason) }];
    }
    // The links of an instance that ended badly are revoked: a button would lead nowhere.
    letter.link = (outcome == Outcome::Completed).then(|| view_link(now, "See the outcome"));
    letter.because = "You are kept informed about this process.";
}

fn view_link(now: Timestamp, button: &'static str) -> LinkNeed {
    LinkNeed {
        button,
        expiry: format!("This link expires in {}.", in_words(LINK_LIFE_MIN)),
        expires_at: now + LINK_LIFE_MIN,
        caution: "It works for you alone, so please keep it to yourself.",
    }
}

fn item(request: &Request, process: &Process, asked_before: bool) -> Item {
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

fn heading(requests: &[&Request]) -> String {
    match requests {
        [only] => one_line(&only.title),
        several => format!("{} requests for your approval", several.len()),
    }
}

fn several(first: &str, count: usize) -> String {
    let first = one_line(first);
    if count > 1 { format!("{first} (and {} more)", count - 1) } else { first }
}

fn process_line(process: &Process) -> String {
    let name = one_line(&process.instance_name);
    let kind = one_line(&process.definition_name);
    if kind.is_empty() || kind == name { name } else { format!("{name} ({kind})") }
}

/// Cuts a text into paragraphs at its empty lines, and each into its lines.
fn paragraphs(text: &str) -> Vec<Vec<String>> {
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
fn minute(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('T') {
        Some((day, time)) => format!("{day} {} UTC", time.chars().take(5).collect::<String>()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use phasegate_id::ParticipantId;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn now() -> Timestamp {
        "2025-11-13T10:00:00Z".parse().unwrap()
    }

    fn john() -> Person {
        Person {
            id: ParticipantId::trusted("customer_it_admin"),
            name: "John Smith".to_owned(),
            email: "it-admin@acme.com".to_owned(),
            wants_mail: true,
        }
    }

    fn process() -> Process {
        Process {
            instance_name: "Acme Corp SSO Deployment".to_owned(),
            definition_name: "Enterprise SSO Deployment".to_owned(),
            informed: Vec::new(),
            people: BTreeSet::new(),
        }
    }

    fn request(title: &str) -> Request {
        Request {
            id: ApprovalId::trusted(format!("apr-{}", title.len())),
            title: title.to_owned(),
            description: "The SSO configuration for your deployment is ready for review.".to_owned(),
            asked_by: "sso_agent".to_owned(),
            round: 1,
            expires_at: Some(now() + HOUR * 48),
            pending: BTreeSet::from([john().id]),
        }
    }

    fn write(occasion: &Occasion) -> Letter {
        letter(occasion, &john(), &process(), &BTreeSet::new(), now()).unwrap()
    }

    #[test]
    fn a_request_reads_as_promised() {
        let letter = write(&Occasion::Requested(vec![request("SSO Configuration Review")]));
        assert_eq!(letter.subject, "Approval Required: SSO Configuration Review");
        assert_eq!(letter.greeting, "Hi John,");
        assert_eq!(
            letter.items[0].paragraphs,
            [["The SSO configuration for your deployment is ready for review."]]
        );
        let link = letter.link.unwrap();
        assert_eq!(link.button, "Review and Approve");
        assert_eq!(link.expiry, "This link expires in 48 hours.");
        assert_eq!(link.expires_at, now() + HOUR * 24 * 7);
    }

    #[test]
    fn several_requests_share_a_message() {
        let requests = vec![request("One"), request("Second"), request("The third")];
        let letter = write(&Occasion::Requested(requests));
        assert_eq!(letter.subject, "Approval Required: One (and 2 more)");
        let titles: Vec<&str> = letter.items.iter().map(|item| item.title.as_str()).collect();
        assert_eq!(titles, ["One", "Second", "The third"]);
        assert_eq!(letter.approval_ids.len(), 3);
    }

    #[test]
    fn the_soonest_deadline_is_named_and_the_link_outlives_the_latest() {
        let mut late = request("Late");
        late.expires_at = Some(now() + HOUR * 24 * 10);
        let mut soon = request("Sooner");
        soon.expires_at = Some(now() + HOUR * 4);
        let link = write(&Occasion::Requested(vec![late, soon])).link.unwrap();
        assert_eq!(link.expiry, "This link expires in 4 hours.");
        assert_eq!(link.expires_at, now() + HOUR * 24 * 12);
    }

    #[test]
    fn no_more_is_promised_than_a_link_can_live() {
        let mut request = request("In a quarter");
        request.expires_at = Some(now() + HOUR * 24 * 90);
        let link = write(&Occasion::Requested(vec![request])).link.unwrap();
        assert_eq!(link.expiry, "This link expires in 14 days.");
        assert_eq!(link.expires_at, now() + HOUR * 24 * 14);
    }

    #[test]
    fn without_a_deadline_the_links_own_end_is_named() {
        let mut open = request("Open");
        open.expires_at = None;
        let mut overdue = request("Overdue");
        overdue.expires_at = Some(now() - HOUR);
        for request in [open, overdue] {
            let link = write(&Occasion::Requested(vec![request])).link.unwrap();
            assert_eq!(link.expiry, "This link expires in 7 days.");
        }
    }

    #[test]
    fn a_request_that_is_asked_again_says_so() {
        let again = request("Changed");
        let before = BTreeSet::from([again.id.clone()]);
        let occasion = Occasion::Requested(vec![again]);
        let letter = letter(&occasion, &john(), &process(), &before, now()).unwrap();
        assert!(letter.items[0].note.contains("has changed"), "{}", letter.items[0].note);
        assert_eq!(letter.subject, "Approval Required: Changed");

        let mut round = request("Reworked");
        round.round = 2;
        let note = write(&Occasion::Requested(vec![round])).items.remove(0).note;
        assert!(note.contains("reworked"), "{note}");
    }

    #[test]
    fn nobody_hears_of_requests_that_are_not_theirs() {
        let mut other = request("Other");
        other.pending = BTreeSet::from([ParticipantId::trusted("customer_ciso")]);
        let occasion = Occasion::Requested(vec![other]);
        assert_eq!(letter(&occasion, &john(), &process(), &BTreeSet::new(), now()), None);
    }

    #[test]
    fn an_instance_that_ended_badly_has_no_button() {
        for (outcome, button) in
            [(Outcome::Completed, true), (Outcome::Cancelled, false), (Outcome::Failed, false)]
        {
            let letter = write(&Occasion::Ended { outcome, reason: "because".to_owned() });
            assert_eq!(letter.link.is_some(), button, "{outcome:?}");
            assert!(letter.subject.starts_with("Acme Corp SSO Deployment "));
            assert_eq!(letter.items[0].paragraphs, [["because"]]);
        }
    }

    #[test]
    fn no_subject_can_begin_another_header() {
        let evil = "x\r\nBcc: victim@example.com\r\n\r\nbody";
        let mut process = process();
        process.instance_name = evil.to_owned();
        let mut asked = request(evil);
        asked.asked_by = evil.to_owned();
        let occasions = [
            Occasion::Requested(vec![asked.clone()]),
            Occasion::Reminded { request: asked.clone(), people: vec![john().id] },
            Occasion::Escalated { request: asked.clone(), people: vec![john().id], overdue: true },
            Occasion::Answered {
                request: asked,
                person: john().id,
                answer: Answer::Rejected,
                comment: evil.to_owned(),
                at: now(),
            },
            Occasion::PhaseChanged {
                name: evil.to_owned(),
                moved: PhaseMove::Blocked,
                position: 1,
                phases: 2,
            },
            Occasion::TaskEscalated {
                name: evil.to_owned(),
                escalated_to: evil.to_owned(),
                people: vec![john().id],
                message: evil.to_owned(),
            },
            Occasion::Ended { outcome: Outcome::Failed, reason: evil.to_owned() },
            Occasion::FreshLinkAsked(john().id),
        ];
        for occasion in occasions {
            let letter = letter(&occasion, &john(), &process, &BTreeSet::new(), now()).unwrap();
            assert!(!letter.subject.contains(['\r', '\n']), "{:?}", letter.subject);
            assert!(!letter.heading.contains(['\r', '\n']), "{:?}", letter.heading);
            for item in &letter.items {
                assert!(item.paragraphs.iter().flatten().all(|line| !line.contains(['\r', '\n'])));
            }
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
