//! States of instances in motion, so that a transition reads nothing. Whoever writes says which version it has seen, so
//! a state that another process has made old is found out and never believed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::store::Snapshot;

/// Tenant and instance.
pub(super) type Key = (String, String);

#[derive(Debug)]
pub(super) struct Cache {
    slots: Mutex<Slots>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<Key, (Snapshot, u64)>,
    /// Counts uses; the slot with the smallest count was used the longest time ago.
    clock: u64,
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Self {
        Self { slots: Mutex::default(), capacity: capacity.max(8) }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Snapshot> {
        let mut slots = self.lock();
        slots.clock += 1;
        let clock = slots.clock;
        let (snapshot, used) = slots.by_key.get_mut(key)?;
        *used = clock;
        Some(snapshot.clone())
    }

    /// Keeps a state, unless a newer one is there.
    pub(super) fn put(&self, key: &Key, snapshot: Snapshot) {
        let mut slots = self.lock();
        slots.clock += 1;
        let clock = slots.clock;
        let known = slots.by_key.get(key).map_or(0, |(known, _)| known.instance.version);
        if known <= snapshot.instance.version {
            slots.by_key.insert(key.clone(), (snapshot, clock));
        }
        if slots.by_key.len() > self.capacity {
            slots.shrink(self.capacity);
        }
    }

    pub(super) fn forget(&self, key: &Key) {
        self.lock().by_key.remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// Drops an eighth at once, so that the sorting is paid for by many insertions.
    fn shrink(&mut self, capacity: usize) {
        let mut uses: Vec<u64> = self.by_key.values().map(|(_, used)| *used).collect();
        uses.sort_unstable();
        let Some(oldest_kept) = uses.get(uses.len().saturating_sub(capacity - capacity / 8)) else { return };
        let oldest_kept = *oldest_kept;
        self.by_key.retain(|_, (_, used)| *used >= oldest_kept);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Cache;
    use crate::domain::Instance;
    use crate::store::Snapshot;

    fn snapshot(version: u64) -> Snapshot {
        let mut instance = Instance::unstarted();
        instance.version = version;
        Snapshot { instance: Arc::new(instance), head: [0; 32], state_lag: 0 }
    }

    fn key(id: usize) -> (String, String) {
        ("t".to_owned(), id.to_string())
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_in_use() {
        let cache = Cache::new(16);
        for id in 0..100 {
            cache.put(&key(id), snapshot(1));
            assert!(cache.get(&key(0)).is_some(), "the one in use was dropped at {id}");
        }
        assert!(cache.lock().by_key.len() <= 16);
        assert!(cache.get(&key(1)).is_none());
    }

    #[test]
    fn an_older_state_never_replaces_a_newer_one() {
        let cache = Cache::new(16);
        cache.put(&key(0), snapshot(5));
        cache.put(&key(0), snapshot(4));
        assert_eq!(cache.get(&key(0)).map(|found| found.instance.version), Some(5));
        cache.forget(&key(0));
        assert!(cache.get(&key(0)).is_none());
    }
}
