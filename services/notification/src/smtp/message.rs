//! Builds the bytes of a message.
//!
//! Headers are made of typed parts by the mail library, never by joining text, and the same draft always gives the same
//! bytes: a provider that sees a message twice sees the same one.

use lettre::address::AddressError;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use phasegate_clock::Timestamp;

/// Everything that a message is built from.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    /// Who it is from.
    pub(crate) from: &'a Mailbox,
    /// Name of the person.
    pub(crate) to_name: &'a str,
    /// Address of the person.
    pub(crate) to: &'a str,
    /// Subject: one line.
    pub(crate) subject: &'a str,
    /// With angle brackets.
    pub(crate) message_id: &'a str,
    /// Separates the parts; must not occur in them.
    pub(crate) boundary: &'a str,
    /// When the message was made: the same for every try.
    pub(crate) date: Timestamp,
    /// Body as text.
    pub(crate) text: String,
    /// Body as HTML.
    pub(crate) html: String,
}

/// Why a message cannot be built. No further try would change that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// The address is not one.
    #[error("the address cannot be used")]
    Address(#[from] AddressError),
    /// The parts do not make a message.
    #[error("the message cannot be built")]
    Message(#[from] lettre::error::Error),
}

/// Builds a message.
pub(crate) fn build(draft: Draft<'_>) -> Result<Message, BuildError> {
    let address: Address = draft.to.parse()?;
    let name = (!draft.to_name.is_empty()).then(|| draft.to_name.to_owned());
    let seconds = u64::try_from(draft.date.as_micros() / 1_000_000).unwrap_or_default();
    let body = MultiPart::alternative()
        .boundary(draft.boundary)
        .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(draft.text))
        .singlepart(SinglePart::builder().header(ContentType::TEXT_HTML).body(draft.html));
    let message = Message::builder()
        .from(draft.from.clone())
        .to(Mailbox::new(name, address))
        .subject(draft.subject)
        .message_id(Some(draft.message_id.to_owned()))
        .date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
        .header(AutoSubmitted)
        .header(SuppressAutoReplies)
        .multipart(body)?;
    Ok(message)
}

/// Says that a program wrote it (RFC 3834), so that no absence note answers it.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AutoSubmitted)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// The same for the mail servers that do not know the other one.
#[derive(Clone)]
struct SuppressAutoReplies;

impl Header for SuppressAutoReplies {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("X-Auto-Response-Suppress")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(SuppressAutoReplies)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "All".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft<'a>(from: &'a Mailbox, to_name: &'a str, to: &'a str, subject: &'a str) -> Draft<'a> {
        Draft {
            from,
            to_name,
            to,
            subject,
            message_id: "<ntf-1@example.com>",
            boundary: "ntf-1",
            date: "2025-11-13T10:00:00.123456Z".parse().unwrap(),
            text: "Hi John,\n.\nA line with a dot, and grün.\n".to_owned(),
            html: "<p>Hi John,</p>".to_owned(),
        }
    }

    fn from() -> Mailbox {
        super::super::sender("Phasegate <phasegate@localhost>").unwrap()
    }

    fn bytes(draft: Draft<'_>) -> String {
        String::from_utf8(build(draft).unwrap().formatted()).unwrap()
    }

    #[test]
    fn the_same_draft_gives_the_same_bytes() {
        let from = from();
        let mail = || bytes(draft(&from, "John Smith", "john@example.com", "Approval Required: Grün"));
        assert_eq!(mail(), mail());
    }

    #[test]
    fn a_message_says_what_it_is() {
        let from = from();
        let mail = bytes(draft(
            &from,
            "John Smith",
            "john@example.com",
            "Approval Required: SSO Configuration Review",
        ));
        let (head, body) = mail.split_once("\r\n\r\n").unwrap();
        for line in [
            "From: Phasegate <phasegate@localhost>",
            "To: \"John Smith\" <john@example.com>",
            "Subject: Approval Required: SSO Configuration Review",
            "Message-ID: <ntf-1@example.com>",
            "Date: Thu, 13 Nov 2025 10:00:00 +0000",
            "Auto-Submitted: auto-generated",
            "X-Auto-Response-Suppress: All",
            "MIME-Version: 1.0",
        ] {
            assert!(head.lines().any(|l| l == line), "{line} is not in\n{head}");
        }
        assert!(body.find("text/plain").unwrap() < body.find("text/html").unwrap());
    }

    #[test]
    fn nothing_that_people_write_becomes_a_header() {
        let from = from();
        for evil in [
            "x\r\nBcc: victim@example.com",
            "x\nBcc: victim@example.com",
            "x\r\n\r\nBcc: victim@example.com",
            "x\" <victim@example.com>, \"y",
            "=?utf-8?Q?x=0D=0ABcc:_victim@example.com?=",
        ] {
            let name = crate::domain::one_line(evil);
            let message = build(draft(&from, &name, "john@example.com", &name)).unwrap();
            let recipients: Vec<String> = message.envelope().to().iter().map(ToString::to_string).collect();
            assert_eq!(recipients, ["john@example.com"]);
            let mail = String::from_utf8(message.formatted()).unwrap();
            let head = mail.split_once("\r\n\r\n").unwrap().0.to_lowercase();
            assert!(!head.lines().any(|line| line.starts_with("bcc:")), "{head}");
            assert_eq!(head.lines().filter(|line| line.starts_with("to:")).count(), 1);
        }
    }

    #[test]
    fn an_address_is_one_address() {
        let from = from();
        for bad in
            ["", "john", "a@b@c", "john@example.com\r\nRCPT TO:<x@y>", "john@example.com, x@y.z", "a b@c.d"]
        {
            assert!(build(draft(&from, "", bad, "x")).is_err(), "{bad:?}");
        }
    }
}
