//! Hands work that has just become ready to those in this process who wait for it, so that one of them takes it and the
//! others sleep on. An offer is a hint: taking the work is a transition of its instance. Whoever waits looks by itself, too,
//! because another process may have made work ready.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::store::Candidate;

/// Tenant and queue.
type Key = (String, String);

/// Those who wait, by queue. A queue that nobody waits for takes no room.
#[derive(Debug, Default)]
pub(super) struct Offers(Mutex<HashMap<Key, VecDeque<Arc<Seat>>>>);

/// Work that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) queue: String,
    pub(super) candidate: Candidate,
}

/// What somebody waits for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wants {
    /// When not empty, only work whose tools are among them.
    pub(super) tools: Vec<String>,
    /// When not empty, only work of this instance.
    pub(super) instance: String,
    /// Offers that it can take at once.
    pub(super) offers_max: usize,
}

/// One who waits.
#[derive(Debug)]
struct Seat {
    wants: Wants,
    offers: Mutex<Vec<Offer>>,
    notify: Notify,
}

/// A seat, for as long as this lives. What was offered and not taken goes to the next one.
#[derive(Debug)]
pub(super) struct Seated<'a> {
    offers: &'a Offers,
    tenant: String,
    queues: Vec<String>,
    seat: Arc<Seat>,
}

impl Wants {
    /// Whether it can do the work.
    pub(super) fn fits(&self, candidate: &Candidate) -> bool {
        (self.instance.is_empty() || self.instance == candidate.instance_id.as_str())
            && (self.tools.is_empty() || candidate.tools.iter().all(|tool| self.tools.contains(tool)))
    }
}

impl Offers {
    /// Begins to wait for work of some queues: what becomes ready from here on is offered.
    pub(super) fn sit(&self, tenant: &str, queues: &[String], wants: Wants) -> Seated<'_> {
        let seat = Arc::new(Seat { wants, offers: Mutex::default(), notify: Notify::new() });
        let mut lines = self.lock();
        for queue in queues {
            let line = lines.entry((tenant.to_owned(), queue.clone())).or_default();
            line.push_back(Arc::clone(&seat));
        }
        Seated { offers: self, tenant: tenant.to_owned(), queues: queues.to_vec(), seat }
    }

    /// Offers work to the one who has waited longest of those that it is for.
    pub(super) fn offer(&self, tenant: &str, offer: Offer) {
        let mut lines = self.lock();
        let Some(line) = lines.get_mut(&(tenant.to_owned(), offer.queue.clone())) else { return };
        let Some(at) = line.iter().position(|seat| seat.has_room_for(&offer)) else { return };
        let Some(seat) = line.remove(at) else { return };
        seat.offers().push(offer);
        seat.notify.notify_one();
        line.push_back(seat);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, VecDeque<Arc<Seat>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    fn has_room_for(&self, offer: &Offer) -> bool {
        self.offers().len() < self.wants.offers_max && self.wants.fits(&offer.candidate)
    }

    fn offers(&self) -> MutexGuard<'_, Vec<Offer>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seated<'_> {
    /// Waits for offers.
    pub(super) async fn next(&self) -> Vec<Offer> {
        loop {
            let offers = std::mem::take(&mut *self.seat.offers());
            if !offers.is_empty() {
                return offers;
            }
            self.seat.notify.notified().await;
        }
    }
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        let mut lines = self.offers.lock();
        for queue in &self.queues {
            let key = (self.tenant.clone(), queue.clone());
            let Some(line) = lines.get_mut(&key) else { continue };
            line.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
            if line.is_empty() {
                lines.remove(&key);
            }
        }
        drop(lines);
        let left = std::mem::take(&mut *self.seat.offers());
        for offer in left {
            self.offers.offer(&self.tenant, offer);
        }
    }
}

#[cfg(test)]
mod tests {
    use phasegate_clock::Timestamp;
    use phasegate_id::{InstanceId, TaskId};

    use super::*;

    fn offer(queue: &str, task: &str, tools: &[&str]) -> Offer {
        let candidate = Candidate {
            instance_id: InstanceId::trusted("i".to_owned()),
            task_id: TaskId::trusted(task.to_owned()),
            priority: 1,
            ready_at: Timestamp::from_micros(0),
            tools: tools.iter().map(ToString::to_string).collect(),
        };
        Offer { queue: queue.to_owned(), candidate }
    }

    fn wants(offers_max: usize) -> Wants {
        Wants { offers_max, ..Wants::default() }
    }

    fn queues(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn tasks(seated: &Seated<'_>) -> Vec<String> {
        use futures::FutureExt as _;
        let offers = seated.next().now_or_never().unwrap_or_default();
        offers.into_iter().map(|offer| offer.candidate.task_id.to_string()).collect()
    }

    #[test]
    fn work_is_offered_to_one_of_those_it_is_for() {
        let offers = Offers::default();
        let (first, second) =
            (offers.sit("t", &queues(&["q", "r"]), wants(1)), offers.sit("t", &queues(&["q"]), wants(1)));
        let other = offers.sit("u", &queues(&["q"]), wants(1));
        let coder = Wants { tools: vec!["git".to_owned()], ..wants(1) };
        let coder = offers.sit("t", &queues(&["r"]), coder);
        for (queue, task, tools) in
            [("q", "a", &[][..]), ("q", "b", &[]), ("q", "c", &[]), ("r", "d", &["git"]), ("r", "e", &["cc"])]
        {
            offers.offer("t", offer(queue, task, tools));
        }
        // Nobody had room for the third, and the last one needs a tool that nobody has.
        assert_eq!(tasks(&first), ["a"]);
        assert_eq!(tasks(&second), ["b"]);
        assert_eq!(tasks(&coder), ["d"]);
        assert!(tasks(&other).is_empty());
        let only = Wants { instance: "j".to_owned(), ..wants(1) };
        assert!(!only.fits(&offer("q", "a", &[]).candidate));
    }

    #[test]
    fn what_was_not_taken_goes_to_the_next_one_and_nothing_is_left_behind() {
        let offers = Offers::default();
        let (first, second) =
            (offers.sit("t", &queues(&["q"]), wants(2)), offers.sit("t", &queues(&["q"]), wants(2)));
        for task in ["a", "b", "c"] {
            offers.offer("t", offer("q", task, &[]));
        }
        assert_eq!(tasks(&second), ["b"]);
        drop(first);
        assert_eq!(tasks(&second), ["a", "c"]);
        drop(second);
        offers.offer("t", offer("q", "d", &[]));
        assert!(offers.lock().is_empty());
    }
}
