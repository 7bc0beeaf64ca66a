//! The feed of one instance: its history from a position on, and then what is added to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use phasegate_database::Reach;
use phasegate_id::InstanceId;
use phasegate_planted::{self as planted, Bug};
use phasegate_principal::Principal;
use phasegate_rpc_error::Invalid;
use phasegate_serve::STREAM_AGE_MAX;
use rand::Rng as _;
use tokio::sync::mpsc;

use super::audit::stored;
use super::feeds::Added;
use super::{App, AuditPage, CONSUMER, Error};
use crate::domain::{Person, Personal};
use crate::store::{AuditFilter, Entry};

/// Entries that are read at once.
const PAGE: usize = 200;
/// Pieces that wait for a slow reader; then the feed waits, too.
const BUFFERED: usize = 4;
/// Looks again this often for what another process wrote.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Names of people are read again after this time: they may be erased.
const NAMES_KEPT: Duration = Duration::from_secs(2);

/// What metrics call such a stream.
const KIND: &str = "events";

/// The events with which an instance ends. What the other services say of it may still follow.
const ENDS: [&str; 3] = ["instance.completed", "instance.cancelled", "instance.failed"];

/// What a watcher wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct FeedFilter {
    /// Exact types, or prefixes that end in ".*"; all when empty.
    pub(crate) types: Vec<String>,
    /// Ends once the instance has ended.
    pub(crate) until_terminal: bool,
}

/// A piece of the feed.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    /// What happened, and the position after it.
    Entries(Box<AuditPage>, u64),
    /// Nothing has happened; the position is still this.
    Checkpoint(u64),
    /// The server stops, or the stream is old; come back with the position.
    GoingAway(u64),
}

/// The pieces of one feed.
pub(crate) type Pieces = mpsc::Receiver<Result<Piece, Error>>;

struct Feed {
    app: App,
    tenant: String,
    instance_id: InstanceId,
    process_id: String,
    filter: FeedFilter,
    position: u64,
    /// Names of the people of the instance, and when they were read.
    names: Option<(tokio::time::Instant, BTreeMap<String, Person>)>,
    sender: mpsc::Sender<Result<Piece, Error>>,
}

/// How a feed goes on.
enum Next {
    More,
    Waits,
    Ends,
}

impl FeedFilter {
    fn wants(&self, kind: &str) -> bool {
        let fits = |wanted: &String| match wanted.strip_suffix('*') {
            Some(prefix) => prefix.ends_with('.') && kind.starts_with(prefix),
            None => wanted == kind,
        };
        self.types.is_empty() || self.types.iter().any(fits)
    }
}

impl App {
    /// Begins a feed after a position: a number, or the id of an event; from now on when the token is empty.
    pub(crate) async fn watch(
        &self,
        principal: &Principal,
        instance_id: &str,
        resume_token: &str,
        filter: FeedFilter,
    ) -> Result<Pieces, Error> {
        let id = Self::visible(principal, instance_id)?;
        let snapshot = self.snapshot(&principal.tenant, id.as_str()).await?;
        let version = snapshot.instance.version;
        let position = if resume_token.is_empty() {
            version
        } else {
            self.position(&principal.tenant, &id, resume_token, version).await?
        };
        let skips = planted::is(Bug::WatchSkips) && position > 0 && position < version;
        let position = if skips { position + 1 } else { position };
        let (sender, receiver) = mpsc::channel(BUFFERED);
        if filter.until_terminal && snapshot.instance.status.is_terminal() {
            // Whoever comes back behind the end sees no more than whoever was there.
            let tenant = principal.tenant.as_str();
            if !self.store().history_has(tenant, id.as_str(), position, ENDS).await? {
                return Ok(receiver);
            }
        }
        let feed = Feed {
            app: self.clone(),
            tenant: principal.tenant.clone(),
            instance_id: id,
            process_id: snapshot.instance.process_id.to_string(),
            filter,
            position,
            names: None,
            sender,
        };
        tokio::spawn(Reach::current().within(feed.run()));
        Ok(receiver)
    }

    async fn position(
        &self,
        tenant: &str,
        instance_id: &InstanceId,
        token: &str,
        version: u64,
    ) -> Result<u64, Error> {
        let invalid = || {
            Invalid::new("RESUME_TOKEN_INVALID", "resume_token", "must be one that this feed gave, or \"0\"")
        };
        let is_number = token.len() <= 19 && token.bytes().all(|byte| byte.is_ascii_digit());
        let position = if is_number {
            token.parse().ok()
        } else if token.len() <= phasegate_id::LENGTH_MAX {
            self.store().history_find(tenant, instance_id.as_str(), token).await?
        } else {
            None
        };
        // A position that was never reached belongs to another feed.
        Ok(position.filter(|position| *position <= version).ok_or_else(invalid)?)
    }
}

impl Feed {
    async fn run(mut self) {
        let key = (self.tenant.clone(), self.instance_id.to_string());
        let app = self.app.clone();
        let _open = phasegate_serve::WATCH_STREAMS.hold([CONSUMER, KIND]);
        // Begun before looking, so that what is written meanwhile is not missed.
        let mut watching = app.0.feeds.watch(key);
        let mut quiet_since = tokio::time::Instant::now();
        let ends_at = quiet_since + STREAM_AGE_MAX;
        let mut added = None;
        loop {
            let at = self.position;
            match self.step(added.take()).await {
                Ok(Next::More) => continue,
                Ok(Next::Waits) => {}
                Ok(Next::Ends) => return,
                Err(error) => {
                    // Whether the watcher is still there does not matter any more.
                    let _ = self.sender.send(Err(error)).await;
                    return;
                }
            }
            if self.position > at {
                quiet_since = tokio::time::Instant::now();
            }
            let checkpoint = quiet_since + app.0.checkpoint;
            let look_again = LOOK_AGAIN.mul_f64(rand::rng().random_range(0.7..1.3));
            tokio::select! {
                () = app.shutdown().cancelled() => return self.go_away().await,
                () = tokio::time::sleep_until(ends_at) => return self.go_away().await,
                () = self.sender.closed() => return,
                next = watching.next() => added = next,
                () = tokio::time::sleep(look_again) => {}
                () = tokio::time::sleep_until(checkpoint) => {
                    quiet_since = tokio::time::Instant::now();
                    if self.sender.send(Ok(Piece::Checkpoint(self.position))).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Tells the watcher to come back; whether it is still there does not matter any more.
    async fn go_away(self) {
        let _ = self.sender.send(Ok(Piece::GoingAway(self.position))).await;
    }

    /// Sends what this process has just added, or what is there to be read.
    async fn step(&mut self, added: Option<Arc<Added>>) -> Result<Next, Error> {
        if let Some(added) = added {
            let new = |entry: &&Entry| entry.sequence > self.position;
            let entries: Vec<Entry> = added.entries.iter().filter(new).cloned().collect();
            match entries.first() {
                // It was read before it was heard of.
                None => return Ok(Next::Waits),
                Some(first) if first.sequence == self.position + 1 => {
                    return self.send(entries, Some(&added.personal)).await;
                }
                // Another process has written in between.
                Some(_) => {}
            }
        }
        let (tenant, id) = (self.tenant.as_str(), self.instance_id.as_str());
        let entries =
            self.app.store().history_list(tenant, id, self.position, &AuditFilter::default(), PAGE).await?;
        let is_full = entries.len() == PAGE;
        let next = self.send(entries, None).await?;
        Ok(if is_full && matches!(next, Next::Waits) { Next::More } else { next })
    }

    /// Sends of some entries those that are wanted.
    async fn send(
        &mut self,
        mut entries: Vec<Entry>,
        personal: Option<&BTreeMap<u64, Personal>>,
    ) -> Result<Next, Error> {
        let end = entries.iter().position(|entry| ENDS.contains(&entry.kind.as_str()));
        let end = end.filter(|_| self.filter.until_terminal);
        if let Some(end) = end {
            // Whoever comes late sees no more than whoever was there when it ended.
            entries.truncate(end + 1);
        }
        let Some(last) = entries.last() else { return Ok(Next::Waits) };
        self.position = last.sequence;
        let behind = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        phasegate_serve::WATCH_LAG.record(f64::from(behind), [CONSUMER, KIND]);
        entries.retain(|entry| self.filter.wants(&entry.kind));
        if !entries.is_empty() {
            let page = self.page(entries, personal).await?;
            if self.sender.send(Ok(Piece::Entries(Box::new(page), self.position))).await.is_err() {
                return Ok(Next::Ends);
            }
        }
        Ok(if end.is_some() { Next::Ends } else { Next::Waits })
    }

    async fn page(
        &mut self,
        entries: Vec<Entry>,
        personal: Option<&BTreeMap<u64, Personal>>,
    ) -> Result<AuditPage, Error> {
        let sequences: BTreeSet<u64> = entries.iter().map(|entry| entry.sequence).collect();
        let (tenant, id) = (self.tenant.as_str(), self.instance_id.as_str());
        let personal = match personal {
            Some(known) => known.clone(),
            None => self.app.store().personal_load(tenant, id, &sequences).await?,
        };
        let people = match &self.names {
            Some((read_at, names)) if read_at.elapsed() < NAMES_KEPT => names.clone(),
            Some(_) | None => {
                let names = self.app.names(tenant, id).await?;
                self.names = Some((tokio::time::Instant::now(), names.clone()));
                names
            }
        };
        Ok(AuditPage { entries: stored(entries)?, personal, people, process_id: self.process_id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::FeedFilter;

    #[test]
    fn types_are_exact_or_prefixes() {
        let filter = |types: &[&str]| FeedFilter {
            types: types.iter().map(ToString::to_string).collect(),
            until_terminal: false,
        };
        assert!(filter(&[]).wants("task.completed"));
        assert!(filter(&["task.completed"]).wants("task.completed"));
        assert!(!filter(&["task.completed"]).wants("task.completed_twice"));
        assert!(filter(&["approval.*", "task.*"]).wants("task.leased"));
        assert!(!filter(&["approval.*"]).wants("task.leased"));
        assert!(!filter(&["appro*"]).wants("approval.responded"));
    }
}
