//! People of instances that are in motion, so that nobody who asks for them makes the database read. They come in at
//! once, with the start of their instance, and never change: what was found once stands.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use phasegate_id::ParticipantId;

use crate::domain::person::Person;
use crate::store::Place;

/// Instances whose people are kept, at a few kilobytes each.
const CAPACITY: usize = 4_096;

/// All people of an instance, by id.
pub(super) type People = BTreeMap<ParticipantId, Person>;

/// Copies share it.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    slots: Arc<Mutex<Slots>>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Slots {
    by_place: HashMap<(String, String), (Arc<People>, u64)>,
    /// Counts uses; the slot with the smallest count was used the longest time ago.
    uses: u64,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self { slots: Arc::default(), capacity: capacity.max(8) }
    }

    /// The people of an instance, where they are kept.
    pub(super) fn get(&self, place: &Place) -> Option<Arc<People>> {
        let mut slots = self.lock();
        slots.uses += 1;
        let uses = slots.uses;
        let (people, last) = slots.by_place.get_mut(&key(place))?;
        *last = uses;
        Some(Arc::clone(people))
    }

    /// Keeps all people of an instance.
    pub(super) fn put(&self, place: &Place, people: Arc<People>) {
        let mut slots = self.lock();
        slots.uses += 1;
        let uses = slots.uses;
        slots.by_place.insert(key(place), (people, uses));
        if slots.by_place.len() > self.capacity {
            slots.shrink(self.capacity);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// Drops an eighth at once, so that the sorting is paid for by many insertions.
    fn shrink(&mut self, capacity: usize) {
        let mut uses: Vec<u64> = self.by_place.values().map(|(_, used)| *used).collect();
        uses.sort_unstable();
        let Some(oldest_kept) = uses.get(uses.len().saturating_sub(capacity - capacity / 8)) else { return };
        let oldest_kept = *oldest_kept;
        self.by_place.retain(|_, (_, used)| *used >= oldest_kept);
    }
}

fn key(place: &Place) -> (String, String) {
    (place.tenant.to_string(), place.instance.to_string())
}

#[cfg(test)]
mod tests {
    use phasegate_id::{InstanceId, TenantId};

    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_in_use() {
        let place = |id: usize| Place {
            tenant: TenantId::trusted("t"),
            instance: InstanceId::trusted(format!("i-{id}")),
        };
        let cache = Cache::with_capacity(16);
        for id in 0..100 {
            cache.put(&place(id), Arc::default());
            assert!(cache.get(&place(0)).is_some(), "the one in use was dropped at {id}");
        }
        assert!(cache.lock().by_place.len() <= 16);
        assert!(cache.get(&place(1)).is_none());
        assert!(cache.get(&Place { tenant: TenantId::trusted("other"), ..place(0) }).is_none());
    }
}
