//! Watchers: they follow one instance across the kills with nothing but the resume token, over both faces of the server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use phasegate_client::Client;
use phasegate_proto::instance::v1::WatchEventsRequest;
use serde_json::Value;

use crate::run::Run;

/// A stream that says nothing for longer than it promises is dead.
const SILENCE: Duration = Duration::from_secs(20);
/// Before it tries again.
const PAUSE: Duration = Duration::from_millis(30);
/// How often what it saw is compared with the log, and the time between: it may be a moment behind, and so may the log.
const COMPARED_MAX: u32 = 50;
const COMPARES: Duration = Duration::from_millis(100);

/// Which face is watched.
#[derive(Debug, Clone, Copy)]
pub enum Face {
    /// A stream of gRPC.
    Grpc,
    /// Events over HTTP.
    ServerSentEvents,
}

/// What one watcher has seen.
#[derive(Debug)]
pub struct Watcher {
    /// Instance that it follows.
    pub instance: String,
    face: Face,
    run: Arc<Run>,
    seen: Mutex<Seen>,
}

/// Where it has got to.
#[derive(Debug)]
struct Seen {
    token: String,
    /// Ids, in the order in which they came.
    ids: Vec<String>,
    streams: u64,
}

impl Watcher {
    /// Of an instance, from its beginning.
    pub fn new(run: Arc<Run>, instance: String, face: Face) -> Self {
        let seen = Seen { token: "0".to_owned(), ids: Vec::new(), streams: 0 };
        Self { instance, face, run, seen: Mutex::new(seen) }
    }

    /// Ids of the events that came, in order.
    pub fn ids(&self) -> Vec<String> {
        self.seen().ids.clone()
    }

    /// How often it began, or came back.
    pub fn streams(&self) -> u64 {
        self.seen().streams
    }

    /// Watches until it is stopped from outside.
    pub async fn watches(self: Arc<Self>) -> anyhow::Result<()> {
        loop {
            let address = self.run.address().await?;
            let token = self.seen().token.clone();
            // How a stream ends says nothing: the server may have been killed.
            let _ended = match self.face {
                Face::Grpc => self.over_grpc(&address, token).await,
                Face::ServerSentEvents => self.over_sse(&address, token).await,
            };
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Compares what it saw with the log as it is now; what differs is a fault.
    pub async fn compare(&self) -> anyhow::Result<()> {
        let path = format!("/api/processes/instances/{}/audit", self.instance);
        for _ in 0..COMPARED_MAX {
            let log = self.run.ask_all(&path, "entries").await?;
            if log.iter().map(|entry| entry["id"].as_str().unwrap_or_default()).eq(self.ids()) {
                return Ok(());
            }
            tokio::time::sleep(COMPARES).await;
        }
        self.run.fault(format!("a watcher of {} saw other events than the log has", self.instance));
        Ok(())
    }

    async fn over_grpc(&self, address: &str, resume_token: String) -> anyhow::Result<()> {
        let request = WatchEventsRequest {
            instance_id: self.instance.clone(),
            resume_token,
            ..WatchEventsRequest::default()
        };
        let client = Client::connect(address).await?;
        let mut request = client.request(request);
        if let Some(keys) = &self.run.manner.keys {
            request.metadata_mut().insert("authorization", format!("Bearer {}", keys.operator).parse()?);
        }
        let mut stream = client.events().watch_events(request).await?.into_inner();
        self.seen().streams += 1;
        while let Some(message) = tokio::time::timeout(SILENCE, stream.message()).await?? {
            let events = message.events.iter().map(|event| (event.sequence.into(), event.id.as_str()));
            self.takes(events, &message.resume_token);
        }
        Ok(())
    }

    async fn over_sse(&self, address: &str, resume_token: String) -> anyhow::Result<()> {
        let url = format!("{address}/api/processes/instances/{}/events", self.instance);
        let http = reqwest::Client::builder().no_proxy().build()?;
        let mut request = http.get(url).header("last-event-id", resume_token);
        if let Some(keys) = &self.run.manner.keys {
            request = request.bearer_auth(&keys.operator);
        }
        let mut response = request.send().await?;
        anyhow::ensure!(response.status().is_success(), "{}", response.status());
        self.seen().streams += 1;
        let mut text = Vec::new();
        let mut events = Vec::new();
        while let Some(chunk) = tokio::time::timeout(SILENCE, response.chunk()).await?? {
            text.extend_from_slice(&chunk);
            while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = text.drain(..end + 2).collect();
                let block = String::from_utf8(block)?;
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                if let Some(data) = field("data: ") {
                    let event: Value = serde_json::from_str(data)?;
                    let sequence = event["sequence"].as_i64().context("a sequence")?;
                    events.push((sequence, event["id"].as_str().unwrap_or_default().to_owned()));
                }
                // What has come counts once the token has: with the old one it comes again.
                if let Some(token) = field("id: ") {
                    self.takes(events.iter().map(|(sequence, id)| (*sequence, id.as_str())), token);
                    events.clear();
                }
            }
        }
        Ok(())
    }

    fn takes<'a>(&self, events: impl Iterator<Item = (i64, &'a str)>, token: &str) {
        let mut faults = Vec::new();
        {
            let mut seen = self.seen();
            for (sequence, id) in events {
                let before = i64::try_from(seen.ids.len()).unwrap_or(i64::MAX);
                if sequence != before + 1 {
                    let what = if sequence > before { "missed some" } else { "saw one again" };
                    faults.push(format!(
                        "a watcher of {} over {:?} {what}: {sequence} came after {before}",
                        self.instance, self.face
                    ));
                }
                seen.ids.push(id.to_owned());
            }
            token.clone_into(&mut seen.token);
        }
        for fault in faults {
            self.run.fault(fault);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
