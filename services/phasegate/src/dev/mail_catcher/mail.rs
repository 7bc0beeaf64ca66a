//! One mail, read from its bytes.

use mail_parser::{Address, MessageParser};
use phasegate_clock::Timestamp;
use serde::Serialize;

/// One mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mail {
    /// Number, as text; grows with every mail.
    pub(super) id: String,
    /// Addresses that it was delivered to.
    pub(super) to: String,
    /// Subject.
    pub(super) subject: String,
    /// Body as text.
    pub(super) text: String,
    /// Body as HTML; empty where there is none.
    pub(super) html: String,
    /// The link that it carries; empty where there is none.
    pub(super) link: String,
    /// When it came.
    pub(super) received_at: Timestamp,
    /// Who it says it is from.
    #[serde(skip)]
    pub(super) from: String,
    /// Its headers as they came.
    #[serde(skip)]
    pub(super) headers: Vec<(String, String)>,
}

impl Mail {
    /// Reads a mail. What cannot be read as a mail is shown as text.
    pub(super) fn read(id: u64, recipients: &[String], bytes: &[u8], received_at: Timestamp) -> Mail {
        let mut mail = Mail {
            id: id.to_string(),
            to: recipients.join(", "),
            subject: String::new(),
            text: String::new(),
            html: String::new(),
            link: String::new(),
            received_at,
            from: String::new(),
            headers: Vec::new(),
        };
        match MessageParser::default().parse(bytes) {
            Some(message) => {
                message.subject().unwrap_or_default().clone_into(&mut mail.subject);
                mail.text = message.body_text(0).unwrap_or_default().replace("\r\n", "\n");
                let has_html = message.html_bodies().any(mail_parser::MessagePart::is_text_html);
                if has_html {
                    mail.html = message.body_html(0).unwrap_or_default().replace("\r\n", "\n");
                }
                mail.from = message.from().map(address).unwrap_or_default();
                mail.headers =
                    message.headers_raw().map(|(name, value)| (name.to_owned(), unfolded(value))).collect();
            }
            None => mail.text = String::from_utf8_lossy(bytes).into_owned(),
        }
        mail.link = link(&mail.text).or_else(|| link(&mail.html)).unwrap_or_default();
        mail
    }
}

fn address(address: &Address<'_>) -> String {
    let Some(first) = address.first() else { return String::new() };
    match (first.name(), first.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (None, Some(address)) => address.to_owned(),
        (name, None) => name.unwrap_or_default().to_owned(),
    }
}

fn unfolded(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first magic link in a text, else its first link.
fn link(text: &str) -> Option<String> {
    let links: Vec<&str> = text
        .match_indices("http")
        .filter(|(start, _)| {
            let rest = &text[*start..];
            rest.starts_with("http://") || rest.starts_with("https://")
        })
        .map(|(start, _)| {
            let rest = &text[start..];
            let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`'));
            &rest[..end.unwrap_or(rest.len())]
        })
        .collect();
    let magic = links.iter().find(|link| link.contains("/external/approve?token="));
    let link = magic.or_else(|| links.first())?;
    Some(link.trim_end_matches(['.', ',', ')', ';']).replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &str) -> Mail {
        Mail::read(7, &["john@example.com".to_owned()], bytes.as_bytes(), Timestamp::default())
    }

    #[test]
    fn a_mail_of_two_parts_is_read() {
        let mail = read(concat!(
            "From: Phasegate <phasegate@localhost>\r\n",
            "To: \"John Smith\" <john@example.com>\r\n",
            "Subject: =?utf-8?b?R3LDvG4=?=\r\n",
            "MIME-Version: 1.0\r\n",
            "Content-Type: multipart/alternative; boundary=\"x\"\r\n\r\n",
            "--x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
            "Hi John,\r\n\r\nhttps://a.example/external/approve?token=3Dabc=\r\ndef\r\n",
            "--x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Hi John,</p>\r\n--x--\r\n",
        ));
        assert_eq!((mail.id.as_str(), mail.to.as_str()), ("7", "john@example.com"));
        assert_eq!(mail.subject, "Grün");
        assert_eq!(mail.from, "Phasegate <phasegate@localhost>");
        assert!(mail.text.starts_with("Hi John,\n\nhttps://"), "{:?}", mail.text);
        assert_eq!(mail.html.trim(), "<p>Hi John,</p>");
        assert_eq!(mail.link, "https://a.example/external/approve?token=abcdef");
        assert!(mail.headers.iter().any(|(name, value)| name == "MIME-Version" && value == "1.0"));
    }

    #[test]
    fn a_mail_of_text_alone_has_no_html() {
        let mail = read("Subject: x\r\n\r\nSee http://first.example/a, and (https://b.example/).\r\n");
        assert_eq!(mail.html, "");
        assert_eq!(mail.link, "http://first.example/a");
    }

    #[test]
    fn links_are_found_where_people_would_see_them() {
        for (text, found) in [
            ("", None),
            ("httpd is no link", None),
            ("ends here: https://a.example/b.", Some("https://a.example/b")),
            (
                "http://a.example/ and http://b.example/external/approve?token=t",
                Some("http://b.example/external/approve?token=t"),
            ),
            ("<a href=\"https://a.example/?b=1&amp;c=2\">", Some("https://a.example/?b=1&c=2")),
        ] {
            assert_eq!(link(text).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn nothing_is_too_broken_to_show() {
        for bytes in [
            "",
            "\r\n\r\n",
            "no header at all",
            "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x",
            "\0\0\0",
        ] {
            let mail = read(bytes);
            assert_eq!(mail.to, "john@example.com", "{bytes:?}");
        }
    }
}
