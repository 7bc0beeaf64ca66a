//! What messages call the instances that are in motion, and their people, so that an event of one reads nothing. The
//! names never change; the people are looked up anew now and then.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phasegate_clock::Timestamp;
use phasegate_id::{InstanceId, ParticipantId, TenantId};

use crate::domain::{Person, Process};

/// How long people are believed: what is changed about them is in every message that is written later than this.
const PEOPLE_FRESH: Duration = Duration::from_mins(1);

/// Tenant and instance.
pub(super) type Key = (TenantId, InstanceId);

/// People of an instance, by id.
pub(super) type People = BTreeMap<ParticipantId, Person>;

#[derive(Debug)]
pub(super) struct Cache {
    slots: Mutex<Slots>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<Key, Slot>,
    /// Counts uses; the slot with the smallest count was used the longest time ago.
    uses: u64,
}

#[derive(Debug)]
struct Slot {
    process: Arc<Process>,
    people: Option<(Arc<People>, Timestamp)>,
    used: u64,
}

impl Cache {
    /// Keeps so many instances.
    pub(super) fn new(capacity: usize) -> Cache {
        Cache { slots: Mutex::default(), capacity: capacity.max(8) }
    }

    /// What messages call an instance.
    pub(super) fn process(&self, key: &Key) -> Option<Arc<Process>> {
        let mut slots = self.lock();
        slots.uses += 1;
        let uses = slots.uses;
        let slot = slots.by_key.get_mut(key)?;
        slot.used = uses;
        Some(Arc::clone(&slot.process))
    }

    /// Its people, as far as they were found a short time ago.
    pub(super) fn people(&self, key: &Key, now: Timestamp) -> Option<Arc<People>> {
        let slots = self.lock();
        let (people, at) = slots.by_key.get(key)?.people.as_ref()?;
        (*at + PEOPLE_FRESH > now).then(|| Arc::clone(people))
    }

    /// Keeps what messages call an instance.
    pub(super) fn put(&self, key: Key, process: Arc<Process>) {
        let mut slots = self.lock();
        slots.uses += 1;
        let slot = Slot { process, people: None, used: slots.uses };
        slots.by_key.insert(key, slot);
        if slots.by_key.len() > self.capacity {
            slots.shrink(self.capacity);
        }
    }

    /// Keeps the people of an instance that is kept.
    pub(super) fn put_people(&self, key: &Key, people: Arc<People>, now: Timestamp) {
        if let Some(slot) = self.lock().by_key.get_mut(key) {
            slot.people = Some((people, now));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// Drops an eighth at once, so that the sorting is paid for by many insertions.
    fn shrink(&mut self, capacity: usize) {
        let mut uses: Vec<u64> = self.by_key.values().map(|slot| slot.used).collect();
        uses.sort_unstable();
        let Some(oldest_kept) = uses.get(uses.len().saturating_sub(capacity - capacity / 8)) else { return };
        let oldest_kept = *oldest_kept;
        self.by_key.retain(|_, slot| slot.used >= oldest_kept);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key(id: usize) -> Key {
        (TenantId::trusted("t"), InstanceId::trusted(format!("i-{id}")))
    }

    fn process() -> Arc<Process> {
        Arc::new(Process {
            instance_name: "One".to_owned(),
            definition_name: "Two".to_owned(),
            informed: Vec::new(),
            people: BTreeSet::new(),
        })
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_in_use() {
        let cache = Cache::new(16);
        for id in 0..100 {
            cache.put(key(id), process());
            assert!(cache.process(&key(0)).is_some(), "the one in use was dropped at {id}");
        }
        assert!(cache.lock().by_key.len() <= 16);
        assert!(cache.process(&key(1)).is_none());
        let elsewhere = (TenantId::trusted("other"), InstanceId::trusted("i-0"));
        assert!(cache.process(&elsewhere).is_none());
    }

    #[test]
    fn people_are_believed_for_a_short_time() {
        let (cache, now) = (Cache::new(16), Timestamp::from_micros(1_000_000));
        cache.put_people(&key(0), Arc::default(), now);
        assert!(cache.people(&key(0), now).is_none(), "of an instance that is not kept");
        cache.put(key(0), process());
        assert!(cache.people(&key(0), now).is_none());
        cache.put_people(&key(0), Arc::default(), now);
        assert!(cache.people(&key(0), now + Duration::from_secs(59)).is_some());
        assert!(cache.people(&key(0), now + PEOPLE_FRESH).is_none());
        assert!(cache.process(&key(0)).is_some());
    }
}
