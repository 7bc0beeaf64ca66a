//! Hands work that has just become ready to those in this process who wait for it, so that one of them takes it and the
//! others sleep on. An offer is a hint: taking the work is a transition of its instance. Whoever waits looks by itself, too,
//! because another process may have made work ready. Who comes right after somebody who found nothing need not look again:
//! what has become ready since was offered, and counts if nobody took it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phasegate_clock::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::store::Candidate;

/// How long a queue is believed to be empty: another process may make work ready that only a look finds.
const EMPTY_BELIEVED: Duration = Duration::from_millis(50);

/// Tenant and queue.
type Key = (String, String);

/// Those who wait, by queue. A queue that nobody waits for takes no room.
#[derive(Debug, Default)]
pub(super) struct Offers(Mutex<HashMap<Key, Line>>);

/// Those who wait for work of a queue.
#[derive(Debug, Default)]
struct Line {
    seats: VecDeque<Arc<Seat>>,
    /// How often something may have become ready that nobody who waits was given.
    doubts: u64,
    /// When somebody found nothing, and from when on there is something; none where there may be something now.
    empty: Option<(Instant, Option<Timestamp>)>,
}

/// What is known of a queue before somebody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// There is nothing, and as far as is known nothing before that time.
    Empty(Option<Timestamp>),
    /// There may be something; see [`Offers::found_nothing`].
    Perhaps(u64),
}

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
            line.seats.push_back(Arc::clone(&seat));
        }
        Seated { offers: self, tenant: tenant.to_owned(), queues: queues.to_vec(), seat }
    }

    /// Offers work to the one who has waited longest of those that it is for.
    pub(super) fn offer(&self, tenant: &str, offer: Offer) {
        let mut lines = self.lock();
        let Some(line) = lines.get_mut(&(tenant.to_owned(), offer.queue.clone())) else { return };
        let at = line.seats.iter().position(|seat| seat.has_room_for(&offer));
        let Some(seat) = at.and_then(|at| line.seats.remove(at)) else {
            line.doubt();
            return;
        };
        seat.offers().push(offer);
        seat.notify.notify_one();
        line.seats.push_back(seat);
    }

    /// What is known of a queue at that time, for one who waits for it.
    pub(super) fn known(&self, tenant: &str, queue: &str, now: Timestamp) -> Known {
        let lines = self.lock();
        let Some(line) = lines.get(&(tenant.to_owned(), queue.to_owned())) else { return Known::Perhaps(0) };
        match line.empty {
            Some((since, next_due))
                if since.elapsed() < EMPTY_BELIEVED && next_due.is_none_or(|due| due > now) =>
            {
                Known::Empty(next_due)
            }
            Some(_) | None => Known::Perhaps(line.doubts),
        }
    }

    /// Notes that somebody who asked what was known has found nothing, and when there will be something.
    pub(super) fn found_nothing(&self, tenant: &str, queue: &str, doubts: u64, next_due: Option<Timestamp>) {
        if let Some(line) = self.lock().get_mut(&(tenant.to_owned(), queue.to_owned()))
            && line.doubts == doubts
        {
            line.empty = Some((Instant::now(), next_due));
        }
    }

    /// Notes that somebody did not take what there was.
    pub(super) fn doubt(&self, tenant: &str, queues: &[String]) {
        let mut lines = self.lock();
        for queue in queues {
            if let Some(line) = lines.get_mut(&(tenant.to_owned(), queue.clone())) {
                line.doubt();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn doubt(&mut self) {
        self.doubts += 1;
        self.empty = None;
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
            line.seats.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
            if line.seats.is_empty() {
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
    fn a_queue_is_empty_until_something_is_left_of_what_becomes_ready() {
        let offers = Offers::default();
        let at = Timestamp::from_micros;
        assert_eq!(offers.known("t", "q", at(0)), Known::Perhaps(0));
        let seated = offers.sit("t", &queues(&["q"]), wants(1));
        let Known::Perhaps(doubts) = offers.known("t", "q", at(0)) else { panic!("nobody has looked") };
        offers.found_nothing("t", "q", doubts, Some(at(9)));
        assert_eq!(offers.known("t", "q", at(8)), Known::Empty(Some(at(9))));
        assert_eq!(offers.known("t", "q", at(9)), Known::Perhaps(doubts));
        // The second one is for nobody, and was not there when the one looked who finds nothing now.
        offers.offer("t", offer("q", "a", &[]));
        assert_eq!(offers.known("t", "q", at(8)), Known::Empty(Some(at(9))));
        offers.offer("t", offer("q", "b", &[]));
        offers.found_nothing("t", "q", doubts, None);
        assert_eq!(offers.known("t", "q", at(8)), Known::Perhaps(doubts + 1));
        offers.found_nothing("t", "q", doubts + 1, None);
        assert_eq!(offers.known("t", "q", at(8)), Known::Empty(None));
        offers.doubt("t", &queues(&["q"]));
        assert_eq!(offers.known("t", "q", at(8)), Known::Perhaps(doubts + 2));
        drop(seated);
        assert!(offers.lock().is_empty());
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
