//! A mail server, which can misbehave: it hangs, refuses, hangs up, and takes mail without saying so.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// How one message fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mood {
    /// Mail is taken.
    Takes,
    /// Nothing is said, and then the connection ends.
    Hangs,
    /// Every recipient is turned away for now.
    Refuses,
    /// The mail is taken, and the connection ends without a word.
    TakesAndDrops,
    /// The connection ends in the middle of the mail.
    Drops,
}

/// A mail server.
#[derive(Debug)]
pub struct Sink {
    misbehaves: AtomicBool,
    /// Keeps what the mail says, and not only how much came.
    keeps: bool,
    taken: AtomicUsize,
    seen: Mutex<Seen>,
}

/// What it has seen.
#[derive(Debug)]
struct Seen {
    random: StdRng,
    moods: BTreeMap<Mood, u64>,
    /// Mail that was taken: how often, and the texts that came under one id.
    mail: BTreeMap<String, Vec<String>>,
}

impl Sink {
    /// Listens on a port of the loopback address, and keeps all mail.
    pub async fn start(port: u16, seed: u64) -> anyhow::Result<Arc<Self>> {
        Self::listen(port, seed, true).await
    }

    /// Listens on a port of the loopback address, takes everything and only counts it.
    pub async fn counting(port: u16) -> anyhow::Result<Arc<Self>> {
        Self::listen(port, 0, false).await
    }

    async fn listen(port: u16, seed: u64, keeps: bool) -> anyhow::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let random = StdRng::seed_from_u64(seed);
        let nothing = Seen { random, moods: BTreeMap::new(), mail: BTreeMap::new() };
        let sink = Arc::new(Self {
            misbehaves: AtomicBool::new(false),
            keeps,
            taken: AtomicUsize::new(0),
            seen: Mutex::new(nothing),
        });
        let own = sink.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let own = own.clone();
                // How a connection ends is the client's to notice.
                tokio::spawn(async move { drop(own.serve(stream).await) });
            }
        });
        Ok(sink)
    }

    /// From now on it misbehaves, or does not.
    pub fn misbehave(&self, misbehaves: bool) {
        self.misbehaves.store(misbehaves, Ordering::SeqCst);
    }

    /// How often each mood came, as words.
    pub fn moods(&self) -> BTreeMap<Mood, u64> {
        self.seen().moods.clone()
    }

    /// Ids of the mail that was taken, and how often each came.
    pub fn mail(&self) -> BTreeMap<String, Vec<String>> {
        self.seen().mail.clone()
    }

    /// How much mail was taken, the repeats included.
    pub fn count(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mood(&self) -> Mood {
        let mut seen = self.seen();
        let roll = seen.random.random_range(0..100);
        let mood = match roll {
            _ if !self.misbehaves.load(Ordering::SeqCst) => Mood::Takes,
            0..6 => Mood::Hangs,
            6..20 => Mood::Refuses,
            20..28 => Mood::TakesAndDrops,
            28..34 => Mood::Drops,
            _ => Mood::Takes,
        };
        *seen.moods.entry(mood).or_default() += 1;
        mood
    }

    async fn serve(&self, stream: TcpStream) -> anyhow::Result<()> {
        let mut mood = Mood::Takes;
        let (from, mut to) = stream.into_split();
        let mut lines = BufReader::new(from).lines();
        to.write_all(b"220 sink\r\n").await?;
        while let Some(line) = lines.next_line().await? {
            let verb: String = line.chars().take(4).collect::<String>().to_uppercase();
            if verb == "MAIL" {
                // Clients keep their connections, so that each message has a mood of its own.
                mood = self.mood();
            }
            if mood == Mood::Hangs {
                let patience = self.seen().random.random_range(3..15);
                tokio::time::sleep(Duration::from_secs(patience)).await;
                return Ok(());
            }
            let answer: &[u8] = match verb.as_str() {
                "RCPT" if mood == Mood::Refuses => b"451 later\r\n",
                "DATA" => {
                    to.write_all(b"354 go ahead\r\n").await?;
                    if mood == Mood::Drops {
                        lines.next_line().await?;
                        return Ok(());
                    }
                    let mut text = String::new();
                    loop {
                        // Half a message is none.
                        let Some(line) = lines.next_line().await? else { return Ok(()) };
                        if line == "." {
                            break;
                        }
                        text.push_str(&line);
                        text.push('\n');
                    }
                    self.take(text);
                    if mood == Mood::TakesAndDrops {
                        return Ok(());
                    }
                    b"250 taken\r\n"
                }
                "QUIT" => {
                    to.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => b"250 fine\r\n",
            };
            to.write_all(answer).await?;
        }
        Ok(())
    }

    fn take(&self, text: String) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        if !self.keeps {
            return;
        }
        let id = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("message-id").then(|| value.trim().to_owned())
        });
        self.seen().mail.entry(id.unwrap_or_default()).or_default().push(text);
    }
}
