//! Tells those in this process who watch an instance what was just added to it, so that they need not read it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use super::cache::Key;
use crate::domain::Personal;
use crate::store::Entry;

/// Transitions that a watcher may be behind; one who is further behind reads.
const BEHIND_MAX: usize = 16;

/// What a transition has added.
#[derive(Debug)]
pub(super) struct Added {
    /// In order.
    pub(super) entries: Arc<[Entry]>,
    /// What is personal about them, by sequence.
    pub(super) personal: BTreeMap<u64, Personal>,
}

/// Those who watch, by instance. An instance that nobody watches takes no room.
#[derive(Debug, Default)]
pub(super) struct Feeds(Mutex<HashMap<Key, broadcast::Sender<Arc<Added>>>>);

/// One who watches.
#[derive(Debug)]
pub(super) struct Watching<'a> {
    feeds: &'a Feeds,
    key: Key,
    added: broadcast::Receiver<Arc<Added>>,
}

impl Feeds {
    /// Begins to watch: nothing that is added from here on is missed.
    pub(super) fn watch(&self, key: Key) -> Watching<'_> {
        let mut feeds = self.lock();
        let sender = feeds.entry(key.clone()).or_insert_with(|| broadcast::Sender::new(BEHIND_MAX));
        let added = sender.subscribe();
        Watching { feeds: self, key, added }
    }

    /// Tells those who watch.
    pub(super) fn tell(&self, key: &Key, added: impl FnOnce() -> Added) {
        let sender = self.lock().get(key).cloned();
        if let Some(sender) = sender {
            // Nobody listens any more: fine.
            let _ = sender.send(Arc::new(added()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, broadcast::Sender<Arc<Added>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watching<'_> {
    /// Waits for what is added next; nothing where this one is too far behind, and has to read.
    pub(super) async fn next(&mut self) -> Option<Arc<Added>> {
        self.added.recv().await.ok()
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let mut feeds = self.feeds.lock();
        // This one is still among them.
        if feeds.get(&self.key).is_some_and(|sender| sender.receiver_count() <= 1) {
            feeds.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added() -> Added {
        Added { entries: Arc::default(), personal: BTreeMap::new() }
    }

    #[tokio::test]
    async fn whoever_watches_is_told_and_nothing_is_left_behind() {
        let feeds = Feeds::default();
        let key = |id: &str| ("t".to_owned(), id.to_owned());
        let (mut first, mut second) = (feeds.watch(key("a")), feeds.watch(key("a")));
        feeds.tell(&key("a"), added);
        feeds.tell(&key("b"), added);
        assert!(first.next().await.is_some() && second.next().await.is_some());
        assert_eq!(feeds.lock().len(), 1);
        drop(first);
        assert_eq!(feeds.lock().len(), 1);
        drop(second);
        assert!(feeds.lock().is_empty());
    }

    #[tokio::test]
    async fn whoever_is_far_behind_is_sent_to_read_and_told_again_afterwards() {
        let feeds = Feeds::default();
        let key = ("t".to_owned(), "a".to_owned());
        let mut watching = feeds.watch(key.clone());
        for _ in 0..2 * BEHIND_MAX {
            feeds.tell(&key, added);
        }
        assert!(watching.next().await.is_none());
        assert!(watching.next().await.is_some());
    }
}
