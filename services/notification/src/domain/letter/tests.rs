//! What messages say.

use phasegate_id::{LinkId, ParticipantId};

use super::super::occasion::{Answer, Outcome, PhaseMove, Request};
use super::super::words::LINE_MAX;
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
        Occasion::PhaseChanged { name: evil.to_owned(), moved: PhaseMove::Blocked, position: 1, phases: 2 },
        Occasion::TaskEscalated {
            name: evil.to_owned(),
            escalated_to: evil.to_owned(),
            people: vec![john().id],
            message: evil.to_owned(),
        },
        Occasion::Ended { outcome: Outcome::Failed, reason: evil.to_owned() },
        Occasion::FreshLinkAsked { person: john().id, link: LinkId::trusted("lnk-1") },
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
fn a_subject_is_no_longer_than_a_line() {
    let long = request(&"word ".repeat(100));
    let requests = vec![long.clone(), request("Second"), request("The third")];
    let subject = write(&Occasion::Requested(requests)).subject;
    assert_eq!(subject.chars().count(), LINE_MAX);
    assert!(
        subject.starts_with("Approval Required: word") && subject.ends_with("… (and 2 more)"),
        "{subject}"
    );
    let reminded = Occasion::Reminded { request: long.clone(), people: vec![john().id] };
    let escalated = Occasion::Escalated { request: long, people: vec![john().id], overdue: false };
    for occasion in [reminded, escalated] {
        assert_eq!(write(&occasion).subject.chars().count(), LINE_MAX);
    }
}
