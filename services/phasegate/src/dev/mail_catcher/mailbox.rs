//! Keeps the newest mails, in memory and as files that any mail program opens.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use phasegate_clock::{SharedClock, Timestamp};

use super::mail::Mail;

/// Mails that are kept; older ones go.
pub(super) const KEPT: usize = 1_000;

/// Headers in front of a file, because the envelope of a mail is not part of the mail.
const DELIVERED_TO: &str = "Delivered-To: ";
const RECEIVED_AT: &str = "X-Received-At: ";

/// The mails.
#[derive(Debug)]
pub(super) struct Mailbox {
    folder: PathBuf,
    clock: SharedClock,
    state: Mutex<State>,
    /// Taken while a mail is written, so that files appear in the order of their numbers.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first, with the number of each.
    mails: VecDeque<(u64, Arc<Mail>)>,
    last: u64,
}

impl Mailbox {
    /// Opens a folder, which is made where it is missing, and reads what is there.
    pub(super) async fn open(folder: &Path, clock: SharedClock) -> io::Result<Mailbox> {
        tokio::fs::create_dir_all(folder).await?;
        let mut numbers = Vec::new();
        let mut entries = tokio::fs::read_dir(folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".eml")?.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        let mailbox = Mailbox {
            folder: folder.to_owned(),
            clock,
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        };
        let skipped = numbers.len().saturating_sub(KEPT);
        for number in numbers.drain(..).skip(skipped) {
            let bytes = tokio::fs::read(mailbox.file(number)).await?;
            let (recipients, received_at, mail) = unwrapped(&bytes);
            mailbox.remember(number, Mail::read(number, &recipients, mail, received_at));
        }
        Ok(mailbox)
    }

    /// Takes a mail. Once this returns it is in its file.
    pub(super) async fn add(&self, recipients: &[String], bytes: &[u8]) -> io::Result<()> {
        let _turn = self.writing.lock().await;
        let number = self.state().last + 1;
        let received_at = self.clock.now();
        let file = self.file(number);
        let draft = file.with_extension("draft");
        tokio::fs::write(&draft, wrapped(recipients, received_at, bytes)).await?;
        tokio::fs::rename(&draft, &file).await?;
        for old in self.remember(number, Mail::read(number, recipients, bytes, received_at)) {
            // One that stays behind costs a little space until it is older than all that are read.
            let _ = tokio::fs::remove_file(self.file(old)).await;
        }
        Ok(())
    }

    /// All mails, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Mail>> {
        self.state().mails.iter().map(|(_, mail)| Arc::clone(mail)).collect()
    }

    /// One mail.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Mail>> {
        self.state().mails.iter().find(|(_, mail)| mail.id == id).map(|(_, mail)| Arc::clone(mail))
    }

    /// Keeps a mail in memory, and tells which ones had to go for it.
    fn remember(&self, number: u64, mail: Mail) -> Vec<u64> {
        let mut state = self.state();
        state.last = state.last.max(number);
        state.mails.push_back((number, Arc::new(mail)));
        let surplus = state.mails.len().saturating_sub(KEPT);
        state.mails.drain(..surplus).map(|(number, _)| number).collect()
    }

    fn file(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:06}.eml"))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a file: the envelope as headers, then the mail as it came.
fn wrapped(recipients: &[String], received_at: Timestamp, bytes: &[u8]) -> Vec<u8> {
    let mut file =
        format!("{DELIVERED_TO}{}\r\n{RECEIVED_AT}{received_at}\r\n", recipients.join(", ")).into_bytes();
    file.extend_from_slice(bytes);
    file
}

/// Takes the envelope off again. A file that somebody else put there has none.
fn unwrapped(file: &[u8]) -> (Vec<String>, Timestamp, &[u8]) {
    let without = || -> Option<(Vec<String>, Timestamp, &[u8])> {
        let (to, rest) = line(file)?;
        let recipients = to.strip_prefix(DELIVERED_TO)?.split(", ").map(str::to_owned).collect();
        let (at, rest) = line(rest)?;
        Some((recipients, at.strip_prefix(RECEIVED_AT)?.parse().ok()?, rest))
    };
    without().unwrap_or((Vec::new(), Timestamp::default(), file))
}

fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 2..]))
}

#[cfg(test)]
mod tests {
    use phasegate_clock::SystemClock;

    use super::*;

    async fn open(folder: &Path) -> Mailbox {
        Mailbox::open(folder, SystemClock::shared()).await.unwrap()
    }

    #[tokio::test]
    async fn mails_are_there_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path()).await;
        let to = ["a@example.com".to_owned(), "b@example.com".to_owned()];
        first.add(&to, b"Subject: One\r\n\r\nFirst\r\n").await.unwrap();
        first.add(&to[..1], b"Subject: Two\r\n\r\nSecond\r\n").await.unwrap();
        let before = first.all();
        drop(first);
        std::fs::write(folder.path().join("notes.txt"), "not a mail").unwrap();
        let second = open(folder.path()).await;
        assert_eq!(second.all(), before);
        assert_eq!(before[0].to, "a@example.com, b@example.com");
        second.add(&to, b"Subject: Three\r\n\r\n").await.unwrap();
        let ids: Vec<String> = second.all().iter().map(|mail| mail.id.clone()).collect();
        assert_eq!(ids, ["1", "2", "3"]);
        assert_eq!(second.find("2").unwrap().subject, "Two");
        assert_eq!(second.find("4"), None);
    }

    #[tokio::test]
    async fn only_the_newest_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mailbox = open(folder.path()).await;
        for _ in 0..KEPT + 5 {
            mailbox.add(&["a@example.com".to_owned()], b"Subject: x\r\n\r\n").await.unwrap();
        }
        let all = mailbox.all();
        assert_eq!((all.len(), all[0].id.as_str()), (KEPT, "6"));
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, KEPT);
    }
}
