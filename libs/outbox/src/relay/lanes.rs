//! What a process knows of the outbox that it owns alone: which instances are being sent for, and which of them have something
//! in the outbox that is not in memory.

use std::collections::{BTreeSet, HashMap, HashSet};

use phasegate_bus::Written;

use crate::store::Lane;

/// Lanes, with what was committed of each and is not sent yet.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Those that a turn is working on, with what came meanwhile.
    busy: HashMap<Lane, Vec<Written>>,
    /// Those of which something waits in the outbox only. None of these is busy.
    behind: BTreeSet<Lane>,
    /// Those that are known to be behind are not all.
    is_unsure: bool,
}

impl Lanes {
    /// Of an outbox that may hold anything.
    pub(super) fn unsure() -> Self {
        Self { is_unsure: true, ..Self::default() }
    }

    /// Takes what was committed. True where a turn is to be started for its lane. What is behind something in the outbox is
    /// left there, and read when it is its turn.
    pub(super) fn add(&mut self, written: Written) -> Option<Lane> {
        let lane = Lane::of(&written.event);
        if let Some(more) = self.busy.get_mut(&lane) {
            more.push(written);
            return None;
        }
        if self.is_unsure || self.behind.contains(&lane) {
            return None;
        }
        self.busy.insert(lane.clone(), vec![written]);
        Some(lane)
    }

    /// What a turn sends next, at most so many. None of it where the turn has come to its end.
    pub(super) fn next(&mut self, lane: &Lane, max: usize) -> Vec<Written> {
        let Some(more) = self.busy.get_mut(lane) else { return Vec::new() };
        let next: Vec<Written> = more.drain(..more.len().min(max)).collect();
        if next.is_empty() {
            self.busy.remove(lane);
        }
        next
    }

    /// Ends a turn that has left something in the outbox, and what came after it.
    pub(super) fn fall_behind(&mut self, lane: &Lane) {
        self.busy.remove(lane);
        self.behind.insert(lane.clone());
    }

    /// Begins a turn with what is in the outbox.
    pub(super) fn begin(&mut self, lane: &Lane) -> bool {
        let begins = self.behind.remove(lane);
        if begins {
            self.busy.insert(lane.clone(), Vec::new());
        }
        begins
    }

    /// Notes that a turn has sent what was in the outbox: what came meanwhile and was not there yet is in memory.
    pub(super) fn catch_up(&mut self, lane: &Lane, sent: &HashSet<String>) {
        if let Some(more) = self.busy.get_mut(lane) {
            more.retain(|written| !sent.contains(&written.event.event_id));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use phasegate_proto::internal::event::v1::Event;

    use super::*;

    fn written(instance: &str, id: &str) -> Written {
        let event = Event {
            tenant_id: "t".to_owned(),
            instance_id: instance.to_owned(),
            event_id: id.to_owned(),
            ..Event::default()
        };
        Written { event: Arc::new(event), bytes: Vec::new(), receivers: 0 }
    }

    fn lane(instance: &str) -> Lane {
        Lane { tenant_id: "t".to_owned(), instance_id: instance.to_owned() }
    }

    fn ids(written: &[Written]) -> Vec<&str> {
        written.iter().map(|one| one.event.event_id.as_str()).collect()
    }

    #[test]
    fn one_turn_sends_what_comes_while_it_lasts() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.add(written("i", "1")), Some(lane("i")));
        assert_eq!(lanes.add(written("i", "2")), None);
        assert_eq!(lanes.add(written("j", "3")), Some(lane("j")));
        assert_eq!(ids(&lanes.next(&lane("i"), 1)), ["1"]);
        assert_eq!(lanes.add(written("i", "4")), None);
        assert_eq!(ids(&lanes.next(&lane("i"), 9)), ["2", "4"]);
        assert!(lanes.next(&lane("i"), 9).is_empty());
        // It has ended, and the next one starts another.
        assert_eq!(lanes.add(written("i", "5")), Some(lane("i")));
    }

    #[test]
    fn nothing_overtakes_what_could_not_be_sent() {
        let mut lanes = Lanes::default();
        lanes.add(written("i", "1"));
        lanes.add(written("i", "2"));
        lanes.fall_behind(&lane("i"));
        assert_eq!(lanes.add(written("i", "3")), None);
        assert_eq!(lanes.behind(9), [lane("i")]);
        assert!(lanes.begin(&lane("i")) && !lanes.begin(&lane("i")));
        // Of what comes while the outbox is read, some is found there and some not.
        lanes.add(written("i", "4"));
        lanes.add(written("i", "5"));
        lanes.catch_up(&lane("i"), &["1", "2", "3", "4"].map(str::to_owned).into());
        assert_eq!(ids(&lanes.next(&lane("i"), 9)), ["5"]);
        assert!(lanes.behind(9).is_empty());
    }

    #[test]
    fn what_may_be_behind_something_unknown_waits_until_it_is_known() {
        let mut lanes = Lanes::unsure();
        assert_eq!(lanes.add(written("i", "1")), None);
        lanes.find(vec![lane("i")], false);
        assert!(lanes.is_unsure());
        assert_eq!(lanes.add(written("j", "2")), None);
        lanes.find(vec![lane("j")], true);
        assert_eq!(lanes.add(written("j", "3")), None);
        assert_eq!(lanes.add(written("k", "4")), Some(lane("k")));
        lanes.doubt();
        // A turn goes on.
        lanes.add(written("k", "5"));
        assert_eq!(ids(&lanes.next(&lane("k"), 9)), ["4", "5"]);
        lanes.find(vec![lane("k")], true);
        assert_eq!(lanes.behind(9), [lane("i"), lane("j")]);
    }
}
