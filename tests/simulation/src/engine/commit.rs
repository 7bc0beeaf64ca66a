//! What a transition writes, in one transaction, and what its store checks first, as `services/instance/src/store/append.rs`
//! has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_id::{InstanceId, TaskId};
use phasegate_instance::domain::leases;

use super::{Engine, Guard, LeaseRow, Row, Transition};
use crate::bug::Bug;
use crate::kept::{Answer, Conflict};
use crate::world::World;

impl World {
    /// Writes a transition, or nothing.
    pub(crate) fn engine_commit(&mut self, copy: usize, transition: Transition) -> Result<Answer, Conflict> {
        let (instance, after) = (transition.instance.clone(), Arc::clone(&transition.after));
        let (answer, moved) = (transition.answer.clone(), !transition.entries.is_empty());
        let current = transition.current.clone();
        let done = self.engine.commit(transition, self.bug);
        if done.is_err() {
            self.caches[copy].remove(&instance);
        }
        done?;
        if moved {
            self.caches[copy].insert(instance.clone(), after);
            self.witness_instance(&instance, &current);
        }
        Ok(answer)
    }
}

impl Guard {
    /// Whether the lease stands as it has to.
    pub(super) fn fits(&self, row: Option<&Row>, now: Timestamp, bug: Option<Bug>) -> bool {
        let (Self::Holds(task, fencing) | Self::Over(task, fencing)) = self;
        let known = row.and_then(|row| row.leases.get(task)).filter(|known| known.fencing == *fencing);
        match (self, known.and_then(|known| known.ends_at)) {
            (Self::Holds(..), Some(ends_at)) => ends_at > now,
            (Self::Over(..), Some(ends_at)) => ends_at <= now || bug == Some(Bug::EarlyExpiry),
            (_, None) => false,
        }
    }
}

impl Engine {
    fn commit(&mut self, transition: Transition, bug: Option<Bug>) -> Result<(), Conflict> {
        let looks = !matches!(bug, Some(Bug::NoInbox | Bug::InboxApart));
        self.kept.check(&transition.receipt, looks)?;
        let Transition {
            instance, before, after, entries, guard, written, lease, receipt, script, now, ..
        } = transition;
        let row = self.rows.get(&instance);
        if let Some(guard) = guard
            && bug != Some(Bug::NoFence)
            && !guard.fits(row, now, bug)
        {
            return Err(Conflict::Lease);
        }
        if entries.is_empty() {
            self.kept.write(receipt, now);
            self.strike(&instance, written.as_ref());
            return Ok(());
        }
        match (row, &script) {
            (Some(_), Some(_)) => return Err(Conflict::Exists),
            (None, None) => return Err(Conflict::Stale),
            (Some(row), None) if row.state.version != before && bug != Some(Bug::VersionIgnored) => {
                return Err(Conflict::Stale);
            }
            (Some(_), None) | (None, Some(_)) => {}
        }
        let held = leases(&after);
        let known = row.map(|row| row.leases.clone()).unwrap_or_default();
        let is_new = |task: &TaskId, fencing| known.get(task).is_none_or(|row| row.fencing != fencing);
        let granted: Vec<_> =
            held.values().filter(|held| is_new(&held.task, held.fencing)).cloned().collect();
        if granted.iter().any(|held| known.get(&held.task).is_some_and(|row| row.hold_until > now)) {
            return Err(Conflict::Lease);
        }
        self.kept.write(receipt, now);
        self.strike(&instance, written.as_ref());
        if let Some(script) = script {
            let state = Arc::clone(&after);
            let row = Row { script, state, history: Vec::new(), leases: BTreeMap::new() };
            self.rows.insert(instance.clone(), row);
        }
        let Some(row) = self.rows.get_mut(&instance) else { return Err(Conflict::Stale) };
        for (task, lease) in &mut row.leases {
            if held.get(task).is_none_or(|held| held.fencing != lease.fencing) {
                lease.ends_at = None;
            }
        }
        for held in granted {
            let before = row.leases.remove(&held.task);
            let fresh = LeaseRow {
                fencing: held.fencing,
                ends_at: Some(now + lease),
                duration: lease,
                hold_until: before.as_ref().map_or(Timestamp::from_micros(0), |before| before.hold_until),
                holds: before.map(|before| before.holds).unwrap_or_default(),
            };
            row.leases.insert(held.task, fresh);
        }
        row.history.extend(entries);
        row.state = after;
        Ok(())
    }

    /// Strikes a writer that has written off the list of those that were promised a moment.
    fn strike(&mut self, instance: &InstanceId, written: Option<&(TaskId, String)>) {
        let Some((task, hold)) = written else { return };
        let lease = self.rows.get_mut(instance).and_then(|row| row.leases.get_mut(task));
        if let Some(lease) = lease
            && lease.holds.remove(hold)
            && lease.holds.is_empty()
        {
            lease.hold_until = Timestamp::from_micros(0);
        }
    }
}
