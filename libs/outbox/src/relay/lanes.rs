//! What a process knows of the outbox that it owns alone: which instances are being sent for, to whom, and which of them have
//! something in the outbox that is not in memory.
//!
//! Each receiver gets the events of an instance in their order and at its own pace: one that takes its time keeps nobody
//! waiting. Where one of them does not take an event, the instance is read from the outbox and sent to all of them again, who
//! know what they have taken.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use phasegate_bus::{Receiver, Written};
use phasegate_proto::internal::event::v1::Event;

use crate::store::Lane;

/// Lanes, with what was committed of each and is not sent yet.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Those that turns are working on.
    busy: HashMap<Lane, Busy>,
    /// Those of which something waits in the outbox only. None of these is busy.
    behind: BTreeSet<Lane>,
    /// Those that are known to be behind are not all.
    is_unsure: bool,
}

/// A lane that turns are working on.
#[derive(Debug, Default)]
struct Busy {
    /// What waits for each receiver that a turn is working for.
    waiting: BTreeMap<Receiver, Vec<Arc<Held>>>,
    /// What has come while the outbox is read for the lane.
    reading: Option<Vec<Arc<Held>>>,
    /// Something was not taken: what comes is left in the outbox, which is read once these turns have ended.
    has_failed: bool,
}

/// An event in memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) event: Arc<Event>,
    /// Those who have not taken it, as a number.
    left: AtomicI64,
}

impl Lanes {
    /// Of an outbox that may hold anything.
    pub(super) fn unsure() -> Self {
        Self { is_unsure: true, ..Self::default() }
    }

    /// Takes what was committed, and says to whom a turn of its lane is to be started. What is behind something in the
    /// outbox is left there, and read when it is its turn.
    pub(super) fn add(&mut self, written: Written) -> (Lane, Vec<Receiver>) {
        let lane = Lane::of(&written.event);
        let held = Arc::new(Held { event: written.event, left: AtomicI64::new(written.receivers) });
        if !self.busy.contains_key(&lane) && (self.is_unsure || self.behind.contains(&lane)) {
            return (lane, Vec::new());
        }
        let starts = self.busy.entry(lane.clone()).or_default().add(held);
        (lane, starts)
    }

    /// What a turn gives its receiver next, at most so many. None of it where the turn has come to its end.
    pub(super) fn next(&mut self, lane: &Lane, receiver: Receiver, max: usize) -> Vec<Arc<Held>> {
        let Some(busy) = self.busy.get_mut(lane) else { return Vec::new() };
        let Some(waiting) = busy.waiting.get_mut(&receiver) else { return Vec::new() };
        let next: Vec<Arc<Held>> = waiting.drain(..waiting.len().min(max)).collect();
        if next.is_empty() {
            busy.waiting.remove(&receiver);
            self.end(lane);
        }
        next
    }

    /// Leaves to the outbox what is in memory of a lane, and what comes.
    pub(super) fn fall_behind(&mut self, lane: &Lane) {
        let Some(busy) = self.busy.get_mut(lane) else { return };
        (busy.reading, busy.has_failed) = (None, true);
        busy.waiting.values_mut().for_each(Vec::clear);
        self.end(lane);
    }

    /// Begins a turn with what is in the outbox.
    pub(super) fn begin(&mut self, lane: &Lane) -> bool {
        let begins = self.behind.remove(lane);
        if begins {
            self.busy.insert(lane.clone(), Busy { reading: Some(Vec::new()), ..Busy::default() });
        }
        begins
    }

    /// Notes that a turn has sent what was in the outbox: what came meanwhile and was not there yet is in memory. Says for
    /// whom that is.
    pub(super) fn catch_up(&mut self, lane: &Lane, sent: &HashSet<String>) -> Vec<Receiver> {
        let Some(busy) = self.busy.get_mut(lane) else { return Vec::new() };
        let came = busy.reading.take().unwrap_or_default();
        let unsent = came.into_iter().filter(|held| !sent.contains(&held.event.event_id));
        let starts = unsent.flat_map(|held| busy.add(held)).collect();
        self.end(lane);
        starts
    }

    /// Ends what is done with a lane, if it is done.
    fn end(&mut self, lane: &Lane) {
        let is_done = |busy: &Busy| busy.waiting.is_empty() && busy.reading.is_none();
        if self.busy.get(lane).is_some_and(is_done)
            && let Some(busy) = self.busy.remove(lane)
            && busy.has_failed
        {
            self.behind.insert(lane.clone());
        }
    }

    pub(super) fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// Something was committed that is not in memory.
    pub(super) fn doubt(&mut self) {
        self.is_unsure = true;
    }

    /// Notes what was found in the outbox: all there is of lanes that were not busy, or only some of them.
    pub(super) fn find(&mut self, found: Vec<Lane>, is_all: bool) {
        self.behind.extend(found.into_iter().filter(|lane| !self.busy.contains_key(lane)));
        self.is_unsure = !is_all;
    }

    pub(super) fn busy(&self) -> Vec<Lane> {
        self.busy.keys().cloned().collect()
    }

    /// Some of those that are behind.
    pub(super) fn behind(&self, max: usize) -> Vec<Lane> {
        self.behind.iter().take(max).cloned().collect()
    }
}

impl Busy {
    /// Takes an event, and says for whom a turn is to be started.
    fn add(&mut self, held: Arc<Held>) -> Vec<Receiver> {
        if self.has_failed {
            return Vec::new();
        }
        if let Some(reading) = &mut self.reading {
            reading.push(held);
            return Vec::new();
        }
        let mut starts = Vec::new();
        for receiver in held.receivers() {
            match self.waiting.entry(receiver) {
                Entry::Occupied(mut waiting) => waiting.get_mut().push(Arc::clone(&held)),
                Entry::Vacant(free) => {
                    free.insert(vec![Arc::clone(&held)]);
                    starts.push(receiver);
                }
            }
        }
        starts
    }
}

impl Held {
    fn receivers(&self) -> impl Iterator<Item = Receiver> + use<> {
        let left = self.left.load(Ordering::SeqCst);
        Receiver::ALL.into_iter().filter(move |receiver| left & receiver.bit() != 0)
    }

    /// Notes that a receiver has taken it. True where it was the last one.
    pub(super) fn is_taken(&self, receiver: Receiver) -> bool {
        let left = self.left.fetch_and(!receiver.bit(), Ordering::SeqCst);
        left & !receiver.bit() == 0
    }
}

#[cfg(test)]
mod tests {
    use phasegate_bus::Receiver::{Approval, Instance, Notification};

    use super::*;

    fn written(instance: &str, id: &str, receivers: &[Receiver]) -> Written {
        let event = Event {
            tenant_id: "t".to_owned(),
            instance_id: instance.to_owned(),
            event_id: id.to_owned(),
            ..Event::default()
        };
        let receivers = receivers.iter().map(|receiver| receiver.bit()).sum();
        Written { event: Arc::new(event), bytes: Vec::new(), receivers }
    }

    fn lane(instance: &str) -> Lane {
        Lane { tenant_id: "t".to_owned(), instance_id: instance.to_owned() }
    }

    impl Lanes {
        /// To whom turns are to be started for an event.
        fn starts(&mut self, instance: &str, id: &str, receivers: &[Receiver]) -> Vec<Receiver> {
            self.add(written(instance, id, receivers)).1
        }

        fn ids(&mut self, instance: &str, receiver: Receiver, max: usize) -> Vec<String> {
            let next = self.next(&lane(instance), receiver, max);
            next.iter().map(|held| held.event.event_id.clone()).collect()
        }
    }

    #[test]
    fn one_turn_sends_what_comes_while_it_lasts() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.starts("i", "1", &[Approval]), [Approval]);
        assert_eq!(lanes.starts("i", "2", &[Approval]), []);
        assert_eq!(lanes.starts("j", "3", &[Approval]), [Approval]);
        assert_eq!(lanes.ids("i", Approval, 1), ["1"]);
        assert_eq!(lanes.starts("i", "4", &[Approval]), []);
        assert_eq!(lanes.ids("i", Approval, 9), ["2", "4"]);
        assert!(lanes.ids("i", Approval, 9).is_empty());
        // It has ended, and the next one starts another.
        assert_eq!(lanes.starts("i", "5", &[Approval]), [Approval]);
    }

    #[test]
    fn no_receiver_waits_for_another_one() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.starts("i", "1", &[Instance, Notification]), [Instance, Notification]);
        let [first] = lanes.next(&lane("i"), Instance, 9).try_into().unwrap();
        assert_eq!(lanes.starts("i", "2", &[Notification]), []);
        assert!(!first.is_taken(Instance));
        assert!(lanes.ids("i", Instance, 9).is_empty());
        assert_eq!(lanes.starts("i", "3", &[Instance]), [Instance]);
        assert_eq!(lanes.ids("i", Instance, 9), ["3"]);
        assert_eq!(lanes.ids("i", Notification, 9), ["1", "2"]);
        assert!(first.is_taken(Notification));
    }

    #[test]
    fn nothing_overtakes_what_could_not_be_sent() {
        let mut lanes = Lanes::default();
        lanes.starts("i", "1", &[Approval, Notification]);
        lanes.starts("i", "2", &[Approval, Notification]);
        assert_eq!(lanes.ids("i", Approval, 1), ["1"]);
        assert_eq!(lanes.ids("i", Notification, 1), ["1"]);
        lanes.fall_behind(&lane("i"));
        assert!(lanes.ids("i", Approval, 9).is_empty());
        assert_eq!(lanes.starts("i", "3", &[Approval]), []);
        // The other one is still at it.
        assert!(lanes.behind(9).is_empty());
        assert!(lanes.ids("i", Notification, 9).is_empty());
        assert_eq!(lanes.behind(9), [lane("i")]);
        assert!(lanes.begin(&lane("i")) && !lanes.begin(&lane("i")));
        // Of what comes while the outbox is read, some is found there and some not.
        lanes.starts("i", "4", &[Approval]);
        lanes.starts("i", "5", &[Approval]);
        assert_eq!(lanes.catch_up(&lane("i"), &["1", "2", "3", "4"].map(str::to_owned).into()), [Approval]);
        assert_eq!(lanes.ids("i", Approval, 9), ["5"]);
        assert!(lanes.ids("i", Approval, 9).is_empty() && lanes.behind(9).is_empty());
        assert_eq!(lanes.starts("i", "6", &[Approval]), [Approval]);
    }

    #[test]
    fn what_cannot_be_read_from_the_outbox_is_behind_once_more() {
        let mut lanes = Lanes::unsure();
        lanes.find(vec![lane("i")], true);
        assert!(lanes.begin(&lane("i")));
        lanes.starts("i", "1", &[Approval]);
        lanes.fall_behind(&lane("i"));
        assert_eq!(lanes.behind(9), [lane("i")]);
        assert!(lanes.begin(&lane("i")));
        assert_eq!(lanes.catch_up(&lane("i"), &HashSet::new()), []);
        assert!(lanes.busy().is_empty() && lanes.behind(9).is_empty());
    }

    #[test]
    fn what_may_be_behind_something_unknown_waits_until_it_is_known() {
        let mut lanes = Lanes::unsure();
        assert_eq!(lanes.starts("i", "1", &[Approval]), []);
        lanes.find(vec![lane("i")], false);
        assert!(lanes.is_unsure());
        assert_eq!(lanes.starts("j", "2", &[Approval]), []);
        lanes.find(vec![lane("j")], true);
        assert_eq!(lanes.starts("j", "3", &[Approval]), []);
        assert_eq!(lanes.starts("k", "4", &[Approval]), [Approval]);
        lanes.doubt();
        // A turn goes on.
        lanes.starts("k", "5", &[Approval]);
        assert_eq!(lanes.ids("k", Approval, 9), ["4", "5"]);
        lanes.find(vec![lane("k")], true);
        assert_eq!(lanes.behind(9), [lane("i"), lane("j")]);
    }
}
