//! The catcher as a sender and a browser meet it.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tower::ServiceExt as _;

use super::*;

struct Sender {
    stream: BufReader<TcpStream>,
}

impl Sender {
    async fn connect(address: SocketAddr) -> Sender {
        let mut sender = Sender { stream: BufReader::new(TcpStream::connect(address).await.unwrap()) };
        assert!(sender.answer().await.starts_with("220 "));
        sender
    }

    /// Says something and returns the last line of the answer.
    async fn say(&mut self, line: &str) -> String {
        self.stream.write_all(line.as_bytes()).await.unwrap();
        self.stream.write_all(b"\r\n").await.unwrap();
        self.answer().await
    }

    async fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line);
            tokio::time::timeout(Duration::from_secs(5), read).await.unwrap().unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }
}

async fn catcher(folder: &Path) -> (SocketAddr, axum::Router, CancellationToken) {
    let shutdown = CancellationToken::new();
    let catcher = MailCatcher::start(folder, shutdown.clone()).await.unwrap();
    let (address, router) = (catcher.smtp_address(), catcher.router());
    tokio::spawn(catcher.run());
    (address, router, shutdown)
}

async fn get(router: &axum::Router, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn a_mail_goes_in_and_shows() {
    let folder = tempfile::tempdir().unwrap();
    let (address, router, _) = catcher(folder.path()).await;
    assert!(get(&router, "/dev/mail").await.1.contains("No mail yet"));

    let mut sender = Sender::connect(address).await;
    assert_eq!(sender.say("EHLO test").await, "250 PIPELINING");
    assert!(sender.say("mail from:<phasegate@localhost> SIZE=100").await.starts_with("250 "));
    assert!(sender.say("RCPT TO:<john@example.com>").await.starts_with("250 "));
    assert!(sender.say("DATA").await.starts_with("354 "));
    let mail = "Subject: <b>Bold</b>\r\n\r\nHi John,\r\n..hidden dot\r\nhttps://a.example/external/approve?token=t\r\n.";
    assert!(sender.say(mail).await.starts_with("250 "));
    assert!(sender.say("NOOP").await.starts_with("250 "));
    assert!(sender.say("QUIT").await.starts_with("221 "));

    let (status, json) = get(&router, "/dev/mail/messages").await;
    assert_eq!(status, StatusCode::OK);
    let mails: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(mails[0]["id"], "1");
    assert_eq!(mails[0]["to"], "john@example.com");
    assert_eq!(mails[0]["subject"], "<b>Bold</b>");
    assert_eq!(mails[0]["link"], "https://a.example/external/approve?token=t");
    assert!(mails[0]["text"].as_str().unwrap().contains("\n.hidden dot"), "{mails}");
    let mut keys: Vec<&String> = mails[0].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["html", "id", "link", "receivedAt", "subject", "text", "to"]);

    let (_, list) = get(&router, "/dev/mail").await;
    assert!(list.contains("href=\"/dev/mail/1\"") && !list.contains("<b>"), "{list}");
    let (status, page) = get(&router, "/dev/mail/1").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("href=\"https://a.example/external/approve?token=t\""), "{page}");
    for id in ["2", "x", "%2e%2e"] {
        assert_eq!(get(&router, &format!("/dev/mail/{id}")).await.0, StatusCode::NOT_FOUND, "{id}");
    }
}

#[tokio::test]
async fn html_of_a_mail_stays_in_its_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox::open(folder.path(), SystemClock::shared()).await.unwrap();
    let mail = b"Subject: x\r\nContent-Type: text/html\r\n\r\n<script>alert(1)</script>\"></iframe><a href=\"javascript:1\">x</a>";
    mailbox.add(&["a@example.com".to_owned()], mail).await.unwrap();
    let (_, page) = get(&page::router(Arc::new(mailbox)), "/dev/mail/1").await;
    assert!(!page.contains("<script>"), "{page}");
    assert_eq!(page.matches("</iframe>").count(), 1);
    assert!(page.contains("sandbox=\"allow-popups allow-popups-to-escape-sandbox\""));
    assert!(!page.contains("Open its link"), "only http links become a button");
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused_and_the_conversation_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (address, router, _) = catcher(folder.path()).await;
    let mut sender = Sender::connect(address).await;
    for (line, code) in [
        ("", "502"),
        ("FOO", "502"),
        ("DATA", "503"),
        ("RCPT TO:<a@b.c>", "503"),
        ("MAIL FROM:nobody", "501"),
        ("MAIL FROM:<a@b.c> SIZE=99999999", "552"),
        ("MAIL FROM:<>", "250"),
        ("RCPT TO:<>", "501"),
        ("RCPT TO:<a@b.c, d@e.f>", "501"),
        ("RCPT TO:", "501"),
        ("RCPT TO:<a@b.c>", "250"),
        ("RSET", "250"),
        ("DATA", "503"),
        ("HELO x", "250"),
        ("VRFY a@b.c", "252"),
    ] {
        let answer = sender.say(line).await;
        assert!(answer.starts_with(code), "{line:?} was answered {answer:?}");
    }
    assert_eq!(get(&router, "/dev/mail/messages").await.1, "[]");
}

#[tokio::test]
async fn a_text_smuggles_no_second_mail() {
    let folder = tempfile::tempdir().unwrap();
    let (address, router, _) = catcher(folder.path()).await;
    let mut sender = Sender::connect(address).await;
    sender.say("MAIL FROM:<a@b.c>").await;
    sender.say("RCPT TO:<a@b.c>").await;
    sender.say("DATA").await;
    let smuggled = "Subject: x\r\n\r\none\n.\nMAIL FROM:<x@y.z>\n.\r\n.";
    assert!(sender.say(smuggled).await.starts_with("250 kept"));
    let mails: serde_json::Value = serde_json::from_str(&get(&router, "/dev/mail/messages").await.1).unwrap();
    assert_eq!(mails.as_array().unwrap().len(), 1);
    assert!(mails[0]["text"].as_str().unwrap().contains("MAIL FROM:<x@y.z>"));
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_the_next_one_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (address, router, _) = catcher(folder.path()).await;
    let mut sender = Sender::connect(address).await;
    let line = format!("{}\r\n", "x".repeat(998));
    for (lines, code) in [(smtp::MAIL_BYTES_MAX / 1_000 + 1, "552"), (10, "250")] {
        sender.say("MAIL FROM:<a@b.c>").await;
        sender.say("RCPT TO:<a@b.c>").await;
        sender.say("DATA").await;
        for _ in 0..lines {
            sender.stream.write_all(line.as_bytes()).await.unwrap();
        }
        let answer = sender.say(".").await;
        assert!(answer.starts_with(code), "{answer}");
    }
    let mails: serde_json::Value = serde_json::from_str(&get(&router, "/dev/mail/messages").await.1).unwrap();
    assert_eq!(mails.as_array().unwrap().len(), 1);
    // A command has a bound, too.
    assert!(sender.say(&"x".repeat(5_000)).await.starts_with("500 "));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_senders() {
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let catcher = MailCatcher::start(folder.path(), shutdown.clone()).await.unwrap();
    let address = catcher.smtp_address();
    let running = tokio::spawn(catcher.run());
    let _idle = Sender::connect(address).await;
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(2), running).await.unwrap().unwrap().unwrap();
}
