//! A mail server that takes everything: SMTP (RFC 5321) as far as a sender on the same machine needs it. Every line, mail and
//! wait has a bound.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::mailbox::Mailbox;

/// Largest mail.
pub(super) const MAIL_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Longest line of a command; the standard says 512.
const COMMAND_BYTES_MAX: usize = 2_048;
/// Longest line of a mail that is held in memory at once.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Most recipients of one mail.
const RECIPIENTS_MAX: usize = 100;
/// Conversations at once; more are told to come back.
const CONVERSATIONS_MAX: usize = 64;
/// Longest wait for the other side.
const PATIENCE: Duration = Duration::from_mins(1);

/// Takes mail until shutdown.
pub(super) async fn serve(
    listener: TcpListener,
    mailbox: Arc<Mailbox>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
    let conversations = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Too many open files, or a sender that has gone: the next one may have more luck.
                    tracing::warn!(%error, "a mail connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (mailbox, room, shutdown) = (Arc::clone(&mailbox), Arc::clone(&room), shutdown.clone());
        conversations.spawn(async move {
            let Ok(_place) = room.try_acquire() else { return turn_away(stream).await };
            let conversation = converse(stream, &mailbox);
            if let Some(Err(error)) = shutdown.run_until_cancelled(conversation).await {
                tracing::debug!(%error, "a mail conversation ended early");
            }
        });
    }
    conversations.close();
    conversations.wait().await;
    Ok(())
}

async fn turn_away(mut stream: TcpStream) {
    // Whoever does not even read this is not helped by an error.
    let _ = stream.write_all(b"421 too many connections, try again later\r\n").await;
}

/// What was agreed on so far.
#[derive(Debug, Default)]
struct Envelope {
    has_sender: bool,
    recipients: Vec<String>,
}

async fn converse(stream: TcpStream, mailbox: &Mailbox) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    say(&mut write, "220 phasegate mail catcher").await?;
    let mut envelope = Envelope::default();
    loop {
        let line = match within(read_line(&mut read, COMMAND_BYTES_MAX)).await? {
            Line::Whole(line) => line,
            Line::TooLong => return say(&mut write, "500 line too long").await,
            Line::End => return Ok(()),
        };
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => {
                envelope = Envelope::default();
                let size =
                    format!("250-SIZE {MAIL_BYTES_MAX}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING");
                say(&mut write, &format!("250-phasegate\r\n{size}")).await?;
            }
            "HELO" => {
                envelope = Envelope::default();
                say(&mut write, "250 phasegate").await?;
            }
            "MAIL" => say(&mut write, envelope.sender(&line)).await?,
            "RCPT" => say(&mut write, envelope.recipient(&line)).await?,
            "DATA" if envelope.recipients.is_empty() => say(&mut write, "503 need RCPT first").await?,
            "DATA" => {
                say(&mut write, "354 end with a line that is a dot").await?;
                let answer = take(&mut read, &envelope.recipients, mailbox).await?;
                envelope = Envelope::default();
                say(&mut write, answer).await?;
            }
            "RSET" => {
                envelope = Envelope::default();
                say(&mut write, "250 forgotten").await?;
            }
            "NOOP" => say(&mut write, "250 here").await?,
            "VRFY" => say(&mut write, "252 everybody lives here").await?,
            "QUIT" => return say(&mut write, "221 goodbye").await,
            _ => say(&mut write, "502 unknown command").await?,
        }
    }
}

impl Envelope {
    fn sender(&mut self, line: &str) -> &'static str {
        let Some(rest) = after(line, "MAIL FROM:") else { return "501 expected MAIL FROM:<address>" };
        let announced = rest.split(' ').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.eq_ignore_ascii_case("SIZE").then(|| value.parse::<usize>().ok())?
        });
        if announced.is_some_and(|size| size > MAIL_BYTES_MAX) {
            return "552 the mail is too large";
        }
        if path(rest).is_none() {
            return "501 expected MAIL FROM:<address>";
        }
        *self = Envelope { has_sender: true, recipients: Vec::new() };
        "250 go on"
    }

    fn recipient(&mut self, line: &str) -> &'static str {
        if !self.has_sender {
            return "503 need MAIL first";
        }
        let address = after(line, "RCPT TO:").and_then(path).filter(|address| !address.is_empty());
        let Some(address) = address else { return "501 expected RCPT TO:<address>" };
        if self.recipients.len() >= RECIPIENTS_MAX {
            return "452 too many recipients";
        }
        self.recipients.push(address.to_owned());
        "250 go on"
    }
}

/// What follows a command, whatever its case.
fn after<'a>(line: &'a str, command: &str) -> Option<&'a str> {
    let begin = line.get(..command.len())?;
    begin.eq_ignore_ascii_case(command).then(|| line[command.len()..].trim_start())
}

/// The address between the angle brackets; empty for the null sender. Nothing with control characters or separators, which
/// could not be told apart from several addresses later.
fn path(text: &str) -> Option<&str> {
    let (address, _) = text.strip_prefix('<')?.split_once('>')?;
    let is_plain = !address.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, ',' | ';'));
    is_plain.then_some(address)
}

/// Reads a mail to its end and keeps it. A mail that is too large is read to its end, too, so that the sender hears why.
async fn take(
    read: &mut (impl AsyncBufRead + Unpin),
    recipients: &[String],
    mailbox: &Mailbox,
) -> io::Result<&'static str> {
    let mut mail = Vec::new();
    let mut is_too_large = false;
    let mut follows_line_end = true;
    loop {
        let line = match within(read_line(read, LINE_BYTES_MAX)).await? {
            Line::Whole(line) => line,
            Line::TooLong => return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without end")),
            Line::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        // Only a dot between two whole line ends closes a mail: whoever takes less lets a text smuggle in another mail.
        if line == b".\r\n" && follows_line_end {
            break;
        }
        follows_line_end = line.ends_with(b"\r\n");
        let content = line.strip_prefix(b".").unwrap_or(&line);
        is_too_large |= mail.len() + content.len() > MAIL_BYTES_MAX;
        if is_too_large {
            mail.clear();
        } else {
            mail.extend_from_slice(content);
        }
    }
    if is_too_large {
        return Ok("552 the mail is too large");
    }
    match mailbox.add(recipients, &mail).await {
        Ok(()) => Ok("250 kept"),
        Err(error) => {
            tracing::error!(%error, "a mail could not be kept");
            Ok("451 cannot be kept now, try again")
        }
    }
}

/// One line with its end.
enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

async fn read_line(read: &mut (impl AsyncBufRead + Unpin), limit: usize) -> io::Result<Line> {
    let mut line = Vec::new();
    loop {
        let buffer = read.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(Line::End);
        }
        let (taken, is_whole) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (buffer.len(), false),
        };
        line.extend_from_slice(&buffer[..taken]);
        read.consume(taken);
        if line.len() > limit {
            return Ok(Line::TooLong);
        }
        if is_whole {
            return Ok(Line::Whole(line));
        }
    }
}

async fn say(write: &mut (impl AsyncWrite + Unpin), answer: &str) -> io::Result<()> {
    within(async {
        write.write_all(answer.as_bytes()).await?;
        write.write_all(b"\r\n").await?;
        write.flush().await
    })
    .await
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
