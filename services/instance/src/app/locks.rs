//! One transition of an instance at a time within a process, so that they do not make each other stale. Between
//! processes the version check decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::cache::Key;

/// Locks that nobody holds are swept when there are more than this.
const SWEEP_ABOVE: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<Key, Weak<AsyncMutex<()>>>>);

impl Locks {
    pub(super) async fn lock(&self, key: &Key) -> OwnedMutexGuard<()> {
        self.of(key).lock_owned().await
    }

    fn of(&self, key: &Key) -> Arc<AsyncMutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() > SWEEP_ABOVE {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }
}
