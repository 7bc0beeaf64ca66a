//! How much is done at a time. What finds no place is refused at once, before anything of it is done: what waits costs memory,
//! and an answer that comes too late helps nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phasegate_rpc_error::{Kind, Refusal};
use phasegate_telemetry::metrics::Counter;

/// A tenant may hold this many times as many places as are free. So one that is alone gets three quarters of them and one that
/// floods leaves room; whoever comes then gets as much as the one that floods, and the rest stays free for the next. That
/// takes no queue and no memory of who has done what (dynamic thresholds, by which switches share their memory).
const SHARE: usize = 3;

/// When a call that found no place may find one.
pub(crate) const COME_BACK: Duration = Duration::from_secs(1);

static SHED: Counter<1> = Counter::new(
    "phasegate_calls_shed_total",
    "Calls that were refused because as many were under way as the service takes on.",
    ["service"],
);

/// How much a process takes on. The numbers are for each of its services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls at a time; what waits for something to happen, long polls and streams, does not count.
    pub calls_max: usize,
    /// Long polls at a time.
    pub polls_max: usize,
}

/// Places for calls. Copies share them.
#[derive(Debug, Clone)]
pub struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_tenant: BTreeMap<String, usize>,
}

/// A place that a call holds until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    tenant: String,
}

/// Why a call was not begun.
#[derive(Debug, thiserror::Error)]
#[error("the {0} service has as much to do as it takes on")]
pub struct Overloaded(
    /// The service.
    pub &'static str,
);

impl Default for Limits {
    fn default() -> Self {
        Self { calls_max: 512, polls_max: 8_192 }
    }
}

impl Places {
    /// So many.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Inner { max, taken: Mutex::default() }))
    }

    /// A place for a call from outside, if the tenant may have one.
    pub fn enter(&self, tenant: &str) -> Option<Place> {
        self.take(tenant, |held, all, max| all < max && held < SHARE * (max - all))
    }

    /// A place for a call by which another service goes on with what it has begun: refused last, and whoever it is for,
    /// because otherwise what has been done already was in vain.
    pub fn enter_again(&self, tenant: &str) -> Option<Place> {
        self.take(tenant, |_, all, max| all < max + max / 2)
    }

    fn take(&self, tenant: &str, may: impl FnOnce(usize, usize, usize) -> bool) -> Option<Place> {
        let mut taken = self.lock();
        let held = taken.by_tenant.get(tenant).copied().unwrap_or_default();
        if !may(held, taken.all, self.0.max) {
            return None;
        }
        taken.all += 1;
        taken.by_tenant.insert(tenant.to_owned(), held + 1);
        Some(Place { places: self.clone(), tenant: tenant.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nobody panics while holding the lock.
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(held) = taken.by_tenant.get_mut(&self.tenant) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                taken.by_tenant.remove(&self.tenant);
            }
        }
    }
}

impl Overloaded {
    /// A call to a service that found no place.
    pub fn shed(service: &'static str) -> Self {
        SHED.add(1, [service]);
        Self(service)
    }
}

impl Refusal for Overloaded {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }

    fn reason(&self) -> &'static str {
        "OVERLOADED"
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![("service", self.0.to_owned()), ("retry_after_ms", COME_BACK.as_millis().to_string())]
    }

    fn retry_after(&self) -> Option<Duration> {
        Some(COME_BACK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(places: &Places, tenant: &str) -> Vec<Place> {
        std::iter::from_fn(|| places.enter(tenant)).take(1_000).collect()
    }

    #[test]
    fn one_that_floods_leaves_room_for_the_others() {
        let places = Places::new(100);
        let mut flood = fill(&places, "flood");
        assert_eq!(flood.len(), 75);
        let other = fill(&places, "other");
        assert_eq!(other.len(), 19, "three times what is left, when it asks last");
        assert!(places.enter("third").is_some());
        // What the first gives back the others may take, until each has as much.
        flood.truncate(40);
        assert!(places.enter("flood").is_some());
        assert_eq!(other.len() + fill(&places, "other").len(), 45);
    }

    #[test]
    fn all_come_back_and_nobody_is_remembered() {
        let places = Places::new(4);
        drop((fill(&places, "a"), fill(&places, "b")));
        let taken = places.lock();
        assert_eq!((taken.all, taken.by_tenant.len()), (0, 0));
    }

    #[test]
    fn the_only_place_can_be_taken() {
        let places = Places::new(1);
        let one = places.enter("a");
        assert!(one.is_some() && places.enter("b").is_none());
        let none = Places::new(0);
        assert!(none.enter("a").is_none());
    }

    #[test]
    fn what_was_begun_elsewhere_goes_on_longer() {
        let places = Places::new(8);
        let outside = fill(&places, "a");
        let inside: Vec<Place> = std::iter::from_fn(|| places.enter_again("a")).collect();
        assert_eq!((outside.len(), inside.len()), (6, 6));
        assert!(places.enter("b").is_none());
    }
}
