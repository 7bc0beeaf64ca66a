//! A decision under way: the state after the events so far, and those events. Whatever is decided next sees what was
//! decided before, so live and replayed state cannot differ.

use std::collections::BTreeMap;

use phasegate_clock::Timestamp;
use phasegate_id::{ArtifactKey, TaskId};
use phasegate_process as process;
use phasegate_process::Definition;

use super::command::{Actor, ActorKind, CurrentVersion};
use super::event::{Change, Event};
use super::evolve::evolve;
use super::instance::{Instance, Status};
use super::rejection::Rejection;
use super::task::Task;

/// A decision under way.
pub(super) struct Work<'a> {
    /// What the instance runs.
    pub(super) definition: &'a Definition,
    /// When.
    pub(super) now: Timestamp,
    /// What artifact answered just now.
    pub(super) current: &'a BTreeMap<ArtifactKey, CurrentVersion>,
    /// The state after the events so far.
    pub(super) instance: Instance,
    /// The events so far.
    pub(super) events: Vec<Event>,
}

impl<'a> Work<'a> {
    /// Begins a decision.
    pub(super) fn new(
        definition: &'a Definition,
        instance: &Instance,
        current: &'a BTreeMap<ArtifactKey, CurrentVersion>,
        now: Timestamp,
    ) -> Self {
        Self { definition, now, current, instance: instance.clone(), events: Vec::new() }
    }

    /// Something that somebody did.
    pub(super) fn record(&mut self, actor: &Actor, change: Change) {
        self.push(Event { at: self.now, actor: actor.clone(), change });
    }

    /// Something that follows by itself.
    pub(super) fn follow(&mut self, change: Change) {
        self.push(Event { at: self.now, actor: Actor::engine(), change });
    }

    /// Something that happened elsewhere, or by somebody, at a time of its own.
    pub(super) fn push(&mut self, event: Event) {
        let instance = std::mem::replace(&mut self.instance, Instance::unstarted());
        self.instance = evolve(instance, &event);
        self.events.push(event);
    }

    /// A task of the instance with its definition.
    pub(super) fn task(&self, id: &TaskId) -> Result<(&Task, &'a process::Task), Rejection> {
        let not_found = || Rejection::TaskNotFound(id.clone());
        let state = self.instance.tasks.get(id).ok_or_else(not_found)?;
        let written = written_task(self.definition, id.as_str()).ok_or_else(not_found)?;
        Ok((state, written))
    }

    /// The holder of the lease `fencing` of a task, which must be the newest one and still out.
    pub(super) fn held(&self, id: &TaskId, fencing: u64) -> Result<(&Task, &'a process::Task), Rejection> {
        let (state, written) = self.task(id)?;
        let newest = state.fencing == fencing || super::planted::is(super::planted::Bug::StaleFencing);
        if state.lease.is_some() && newest {
            Ok((state, written))
        } else {
            Err(Rejection::LeaseLost(id.clone()))
        }
    }

    /// Refuses what cannot follow the end.
    pub(super) fn refuse_terminal(&self) -> Result<(), Rejection> {
        match self.instance.status {
            Status::Running | Status::Paused => Ok(()),
            status @ (Status::Unstarted | Status::Completed | Status::Cancelled | Status::Failed) => {
                Err(Rejection::Terminal(status))
            }
        }
    }

    /// Refuses everybody but operators and delegators. Programs act with the rights of who installed their key.
    pub(super) fn refuse_others(&self, actor: &Actor) -> Result<(), Rejection> {
        let is_delegator = |id: &str| {
            self.definition
                .humans
                .get(id)
                .is_some_and(|human| human.raid_role == process::RaidRole::Delegator)
        };
        let may = match (actor.kind, &actor.on_behalf_of) {
            (ActorKind::Operator | ActorKind::System, _) => true,
            (ActorKind::Service, None) => true,
            (ActorKind::Service, Some(person)) => is_delegator(person.as_str()),
            (ActorKind::Participant, _) => is_delegator(&actor.id),
            (ActorKind::Agent, _) => false,
        };
        if may { Ok(()) } else { Err(Rejection::RoleForbidden) }
    }
}

/// Refuses an empty reason.
pub(super) fn refuse_blank(reason: &str) -> Result<(), Rejection> {
    if reason.trim().is_empty() { Err(Rejection::ReasonRequired) } else { Ok(()) }
}

/// A task as its author wrote it.
pub(super) fn written_task<'a>(definition: &'a Definition, id: &str) -> Option<&'a process::Task> {
    definition.phases.iter().flat_map(|phase| &phase.tasks).find(|task| task.id == id)
}

/// Position of the first phase that is not behind; none once all are.
pub(super) fn current_phase(definition: &Definition, instance: &Instance) -> Option<usize> {
    definition
        .phases
        .iter()
        .position(|phase| instance.phases.get(phase.id.as_str()).is_some_and(|state| !state.status.is_over()))
}

/// The gates before a phase, in the order written.
pub(super) fn gates_before<'a>(
    definition: &'a Definition,
    phase: &'a process::Phase,
) -> impl Iterator<Item = &'a process::Gate> {
    definition.gates.iter().filter(move |gate| gate.before_phase == phase.id)
}
