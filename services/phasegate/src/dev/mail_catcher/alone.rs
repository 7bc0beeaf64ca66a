//! The mail catcher in a process of its own, for trying the services of production without a mail server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::MailCatcher;

/// Where a mail catcher of its own works.
#[derive(Debug, Clone)]
pub struct Alone {
    /// Folder for the mails; made where it is missing.
    pub folder: PathBuf,
    /// Where mail is taken.
    pub smtp: SocketAddr,
    /// Where the pages are.
    pub listen: SocketAddr,
}

impl Alone {
    /// Takes mail and shows it until shutdown.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mail = MailCatcher::start_at(&self.folder, self.smtp, shutdown.clone()).await?;
        let pages = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("the pages of the mail catcher cannot listen on {}", self.listen))?;
        let router = mail.router().layer(from_fn(refuse_names));
        let waits = shutdown.clone();
        let served =
            axum::serve(pages, router).with_graceful_shutdown(async move { waits.cancelled().await });
        tokio::spawn(served.into_future());
        mail.run().await.context("mail can no longer be caught")
    }
}

/// Mails hold links that open an account. A web page elsewhere can lead a name of its own here, but no address: so whoever
/// comes by another name than this machine's is refused.
async fn refuse_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_plain(host) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "call the mail catcher by its address or by localhost\n")
            .into_response()
    }
}

/// Is it an address or `localhost`, with a port or without?
fn is_plain(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_answered() {
        for (host, plain) in [
            ("127.0.0.1:8025", true),
            ("127.0.0.1", true),
            ("localhost:8025", true),
            ("[::1]:8025", true),
            ("mail.example.com:8025", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com:8025", false),
            ("", false),
        ] {
            assert_eq!(is_plain(host), plain, "{host}");
        }
    }

    #[tokio::test]
    async fn mail_is_taken_and_shown_where_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let free = || {
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            taken.local_addr().unwrap()
        };
        let alone = Alone { folder: folder.path().to_owned(), smtp: free(), listen: free() };
        let (smtp, pages) = (alone.smtp, alone.listen);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(alone.run(shutdown.clone()));
        let url = format!("http://{pages}/dev/mail/messages");
        let client = reqwest::Client::new();
        let mut answer = client.get(&url).send().await;
        for _ in 0..100 {
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            answer = client.get(&url).send().await;
        }
        assert_eq!(answer.unwrap().text().await.unwrap(), "[]");
        tokio::net::TcpStream::connect(smtp).await.unwrap();
        let by_name = client.get(&url).header("host", "evil.example.com").send().await.unwrap();
        assert_eq!(by_name.status(), reqwest::StatusCode::MISDIRECTED_REQUEST);
        shutdown.cancel();
        running.await.unwrap().unwrap();
    }
}
