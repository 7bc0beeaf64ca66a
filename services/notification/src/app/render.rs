//! Lays a letter out as text and HTML. Both carry a placeholder where the link goes; [`Rendered::with_link`] puts it in.

use askama::Template;

use crate::domain::Letter;

/// Layout as text: the first-class one.
#[derive(Template)]
#[template(path = "letter.txt")]
struct Text<'a> {
    letter: &'a Letter,
    placeholder: &'a str,
}

/// Layout as HTML, with every value escaped.
#[derive(Template)]
#[template(path = "letter.html")]
struct Html<'a> {
    letter: &'a Letter,
    placeholder: &'a str,
}

/// The bodies of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// As text.
    pub(crate) text: String,
    /// As HTML.
    pub(crate) html: String,
}

/// Lays a letter out. The same letter gives the same bytes.
pub(crate) fn render(letter: &Letter, placeholder: &str) -> Result<Rendered, askama::Error> {
    let text = Text { letter, placeholder }.render()?;
    let html = Html { letter, placeholder }.render()?;
    Ok(Rendered { text, html })
}

/// Puts the URL where the placeholder stands.
pub(crate) fn with_link(text: &str, html: &str, placeholder: &str, url: &str) -> Rendered {
    let escaped = url.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;");
    Rendered { text: text.replace(placeholder, url), html: html.replace(placeholder, &escaped) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use phasegate_clock::Timestamp;
    use phasegate_id::{ApprovalId, ParticipantId};

    use super::*;
    use crate::domain::{Occasion, Person, Process, Request, letter};

    const URL: &str = "https://app.example.com/external/approve?token=eyJhbGc.abc-_";

    fn requests(count: usize, description: &str) -> Letter {
        let now: Timestamp = "2025-11-13T10:00:00Z".parse().unwrap();
        let id = ParticipantId::trusted("customer_it_admin");
        let request = |n: usize| Request {
            id: ApprovalId::trusted(format!("apr-{n}")),
            title: ["SSO Configuration Review", "Exit of Configuration", "Configuration Approval"][n]
                .to_owned(),
            description: description.to_owned(),
            asked_by: "sso_agent".to_owned(),
            round: 1,
            expires_at: Some(now + Duration::from_hours(48)),
            pending: BTreeSet::from([id.clone()]),
        };
        let person = Person {
            id: id.clone(),
            name: "John Smith".to_owned(),
            email: "it-admin@acme.com".to_owned(),
            wants_mail: true,
        };
        let process = Process {
            instance_name: "Acme Corp SSO Deployment".to_owned(),
            definition_name: "Enterprise SSO Deployment".to_owned(),
            informed: Vec::new(),
            people: BTreeSet::new(),
        };
        let occasion = Occasion::Requested((0..count).map(request).collect());
        letter(&occasion, &person, &process, &BTreeSet::new(), now).unwrap()
    }

    fn rendered(letter: &Letter) -> Rendered {
        let draft = render(letter, "[[link:ntf-1]]").unwrap();
        with_link(&draft.text, &draft.html, "[[link:ntf-1]]", URL)
    }

    #[test]
    fn the_text_reads_as_promised() {
        let text =
            rendered(&requests(1, "The SSO configuration for your deployment is ready for review.")).text;
        let expected = "Hi John,

The SSO configuration for your deployment is ready for review.

Review and Approve:
https://app.example.com/external/approve?token=eyJhbGc.abc-_

This link expires in 48 hours.
Following it settles nothing: you choose on the page that it leads to. It works for you alone, so please keep it to yourself.

-- 
Process: Acme Corp SSO Deployment (Enterprise SSO Deployment)
Asked by: sso_agent
Your approval was asked for.";
        assert_eq!(text.trim_end(), expected);
    }

    #[test]
    fn several_requests_are_listed_with_their_titles() {
        let text = rendered(&requests(2, "Please look.\n\nAt both.")).text;
        let expected = "Hi John,

SSO Configuration Review
------------------------

Please look.

At both.

Exit of Configuration
---------------------

Please look.

At both.

Review and Approve:
";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn the_html_has_one_link_and_nothing_that_is_fetched() {
        let html = rendered(&requests(3, "Please look.")).html;
        assert_eq!(html.matches("<a ").count(), 1);
        assert_eq!(html.matches(&format!("href=\"{URL}\"")).count(), 1);
        for foreign in ["<img", "<script", "<link", "url(", "src=", "[[link"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn whatever_people_write_stays_text() {
        let letter = requests(1, "<script>alert(1)</script> & \"quotes\" [[link:ntf-2]]");
        let rendered = rendered(&letter);
        assert!(!rendered.html.contains("<script>"), "{}", rendered.html);
        assert!(rendered.html.contains("alert(1)"));
        assert!(rendered.text.contains("<script>alert(1)</script> & \"quotes\" [[link:ntf-2]]"));
    }

    #[test]
    fn the_same_letter_gives_the_same_bytes() {
        let letter = requests(3, "Please look.");
        assert_eq!(rendered(&letter), rendered(&letter));
    }
}
