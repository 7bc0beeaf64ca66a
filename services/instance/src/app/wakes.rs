//! Wakes those in this process who wait: workers for a queue, watchers for an instance. A wake-up is a hint to look
//! again; whoever waits looks by itself, too, because another process may have written.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Waiters by name. A name nobody waits under takes no room.
#[derive(Debug)]
pub(super) struct Wakes<K: Eq + Hash>(Mutex<HashMap<K, Arc<Notify>>>);

/// A place to wait at. Gives the name up when the last one goes.
#[derive(Debug)]
pub(super) struct Waiter<'a, K: Eq + Hash> {
    wakes: &'a Wakes<K>,
    key: K,
    notify: Option<Arc<Notify>>,
}

impl<K: Eq + Hash> Default for Wakes<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Wakes<K> {
    /// Begins to wait. What happens from here on is not missed, if [`Waiter::notify`] is enabled before looking.
    pub(super) fn wait(&self, key: K) -> Waiter<'_, K> {
        let mut wakes = self.lock();
        let notify = wakes.entry(key.clone()).or_default().clone();
        Waiter { wakes: self, key, notify: Some(notify) }
    }

    /// Wakes all who wait under a name.
    pub(super) fn wake(&self, key: &K) {
        if let Some(notify) = self.lock().get(key) {
            notify.notify_waiters();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Waiter<'_, K> {
    /// What to wait on; the caller enables `notified()` before it looks at the state.
    pub(super) fn notify(&self) -> Arc<Notify> {
        self.notify.clone().unwrap_or_default()
    }
}

impl<K: Eq + Hash> Drop for Waiter<'_, K> {
    fn drop(&mut self) {
        self.notify = None;
        let mut wakes = self.wakes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if wakes.get(&self.key).is_some_and(|notify| Arc::strong_count(notify) == 1) {
            wakes.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Wakes;

    #[tokio::test]
    async fn whoever_waits_is_woken_and_nobody_is_left_behind() {
        let wakes = Wakes::default();
        let (first, second) = (wakes.wait("q"), wakes.wait("q"));
        let (one, two) = (first.notify(), second.notify());
        let (mut first_woken, mut second_woken) = (Box::pin(one.notified()), Box::pin(two.notified()));
        first_woken.as_mut().enable();
        second_woken.as_mut().enable();
        wakes.wake(&"other");
        assert!(!futures::poll!(&mut first_woken).is_ready());
        wakes.wake(&"q");
        assert!(futures::poll!(&mut first_woken).is_ready() && futures::poll!(&mut second_woken).is_ready());
        drop((first_woken, second_woken));
        drop((one, two, first));
        assert_eq!(wakes.lock().len(), 1);
        drop(second);
        assert_eq!(wakes.lock().len(), 0);
    }
}
