//! What is told without asking for anything.

use phasegate_clock::Timestamp;

use super::super::occasion::{Answer, Outcome, PhaseMove, Process, Request};
use super::super::words::{minute, one_line, paragraphs};
use super::{Details, Item, Letter, view_link};

/// The receipt of an answer.
pub(super) fn answered(
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

/// A phase has moved.
pub(super) fn phase_changed(
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

/// Work has gone up.
pub(super) fn task_escalated(
    letter: &mut Letter,
    process: &Process,
    (name, escalated_to, message): (&str, &str, &str),
    now: Timestamp,
) {
    let name = one_line(name);
    letter.subject = one_line(&format!("Needs attention: {name}, {}", process.instance_name));
    letter.heading = format!("{name} needs attention");
    letter.opening =
        format!("This could not be finished as planned, and has gone up to {}.", one_line(escalated_to));
    letter.items = vec![Item {
        title: "What happened".to_owned(),
        note: String::new(),
        paragraphs: paragraphs(message),
    }];
    letter.link = Some(view_link(now, "See the progress"));
    letter.because = "You are named to be told when this work gets stuck.";
}

/// The instance is over.
pub(super) fn ended(letter: &mut Letter, process: &Process, outcome: Outcome, reason: &str, now: Timestamp) {
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
