//! A small mail server that misbehaves on demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Takes it.
    Take,
    /// Takes it, and hangs up before it says so.
    TakeAndHangUp,
    /// Takes it, and says nothing for this long.
    TakeAndSay(Duration),
    /// Says this of the recipient.
    Refuse(&'static str),
    /// Hangs up at once.
    HangUp,
}

/// A message as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) recipients: Vec<String>,
    pub(super) bytes: String,
}

impl Arrived {
    /// The first header of that name, unfolded.
    pub(super) fn header(&self, name: &str) -> String {
        let head = self.bytes.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n ", " ");
        let prefix = format!("{}:", name.to_lowercase());
        head.lines()
            .find(|line| line.to_lowercase().starts_with(&prefix))
            .map(|line| line[prefix.len()..].trim().to_owned())
            .unwrap_or_default()
    }

    /// The bodies, with soft line breaks taken out.
    pub(super) fn body(&self) -> String {
        self.bytes.replace("=\r\n", "").replace("=3D", "=")
    }
}

/// The server. It ends with the test.
#[derive(Clone)]
pub(super) struct MailServer {
    pub(super) port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    manners: VecDeque<Manner>,
    arrived: Vec<Arrived>,
}

impl MailServer {
    /// Starts one that treats the first messages as told and takes the others.
    pub(super) async fn start(manners: &[Manner]) -> anyhow::Result<MailServer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state =
            Arc::new(Mutex::new(State { manners: manners.iter().copied().collect(), arrived: Vec::new() }));
        let server = MailServer { port, state };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move { server.converse(stream).await });
            }
        });
        Ok(server)
    }

    /// What has arrived so far.
    pub(super) fn arrived(&self) -> Vec<Arrived> {
        self.state.lock().unwrap().arrived.clone()
    }

    async fn converse(&self, stream: TcpStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"220 test\r\n").await?;
        let mut recipients = Vec::new();
        let mut manner = Manner::Take;
        while let Some(line) = lines.next_line().await? {
            let verb = line.to_uppercase();
            if verb.starts_with("MAIL") {
                manner = self.state.lock().unwrap().manners.pop_front().unwrap_or(Manner::Take);
                if manner == Manner::HangUp {
                    return Ok(());
                }
                recipients.clear();
                write.write_all(b"250 ok\r\n").await?;
            } else if verb.starts_with("RCPT") {
                if let Manner::Refuse(answer) = manner {
                    write.write_all(format!("{answer}\r\n").as_bytes()).await?;
                    continue;
                }
                let address = line.split(['<', '>']).nth(1).unwrap_or_default();
                recipients.push(address.to_owned());
                write.write_all(b"250 ok\r\n").await?;
            } else if verb.starts_with("DATA") {
                write.write_all(b"354 go\r\n").await?;
                let mut bytes = String::new();
                while let Some(line) = lines.next_line().await? {
                    if line == "." {
                        break;
                    }
                    bytes.push_str(line.strip_prefix('.').unwrap_or(&line));
                    bytes.push_str("\r\n");
                }
                let mail = Arrived { recipients: recipients.clone(), bytes };
                self.state.lock().unwrap().arrived.push(mail);
                match manner {
                    Manner::TakeAndHangUp => return Ok(()),
                    Manner::TakeAndSay(after) => tokio::time::sleep(after).await,
                    Manner::Take | Manner::Refuse(_) | Manner::HangUp => {}
                }
                write.write_all(b"250 taken\r\n").await?;
            } else if verb.starts_with("EHLO") {
                write.write_all(b"250-test\r\n250 8BITMIME\r\n").await?;
            } else if verb.starts_with("QUIT") {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            } else {
                write.write_all(b"250 ok\r\n").await?;
            }
        }
        Ok(())
    }
}
