//! The steps between the bus and the rules, without the store and the network that they usually stand between: pure,
//! for whoever runs the engine in a simulation.

use std::collections::BTreeMap;
use std::sync::Arc;

use phasegate_clock::Timestamp;
use phasegate_id::{InstanceId, ParticipantId, TaskId};
use phasegate_process::{Definition, Timing};
use phasegate_proto::internal::event::v1 as bus;

use super::effects::to_bus;
use super::order::Wish;
use super::{Around, Outcome, PinnedDefinition, hear, inbox};
use crate::domain::{Action, Actor, Event, Instance, Person, react};

/// A definition, as instances are pinned to it.
#[derive(Debug, Clone)]
pub struct Script(Arc<PinnedDefinition>);

/// What an event of another service asks the engine to do, all or nothing.
#[derive(Debug, Clone)]
pub struct Told {
    /// The instance.
    pub instance: InstanceId,
    /// Who did it.
    pub actor: Actor,
    /// Each is given to `decide` on the state that the one before led to.
    pub actions: Vec<Action>,
    /// The write under a lease that it tells of: the task, and what the writer was promised.
    pub written: Option<(TaskId, String)>,
}

/// One transition, as it is about to be written.
#[derive(Debug)]
pub struct Step<'a> {
    /// The state that it was decided on.
    pub before: &'a Arc<Instance>,
    /// The state after it.
    pub after: &'a Arc<Instance>,
    /// What happens.
    pub events: &'a [Event],
    /// When.
    pub now: Timestamp,
}

impl Script {
    /// Pins a definition.
    pub fn new(digest: &str, definition: Definition) -> Self {
        let (digest, timing) = (digest.to_owned(), Timing::default());
        Self(Arc::new(PinnedDefinition { digest, definition, schema: None, timing }))
    }

    /// What it says.
    pub fn definition(&self) -> &Definition {
        &self.0.definition
    }
}

/// Reads an event of another service. Nothing for one that is not for the record; an error for one that nobody can read.
pub fn hear(event: &bus::Event) -> Result<Option<Told>, String> {
    let Some(heard) = hear::read(event)? else { return Ok(None) };
    let steps = inbox::order(event, &heard).steps.into_iter();
    let actions = steps.filter_map(|step| match step.action {
        Wish::Fixed(action) => Some(*action),
        Wish::Made(_) => None,
    });
    Ok(Some(Told {
        instance: heard.instance_id.clone(),
        actor: heard.actor.clone(),
        actions: actions.collect(),
        written: heard.written.map(|written| (written.task, written.hold)),
    }))
}

/// The events for the other services that leave with a transition. `people` are those of an instance that begins.
pub fn tell(
    tenant: &str,
    script: &Script,
    step: &Step<'_>,
    people: &BTreeMap<ParticipantId, Person>,
) -> Vec<bus::Event> {
    let actor = step.events.first().map_or_else(Actor::engine, |event| event.actor.clone());
    let effects = react(script.definition(), step.before, step.after, step.events);
    let outcome = Outcome {
        before: Arc::clone(step.before),
        after: Arc::clone(step.after),
        events: Vec::new(),
        pinned: Arc::clone(&script.0),
        around: Around::default(),
        now: step.now,
        firsts: Vec::new(),
    };
    to_bus(tenant, &outcome, people, &actor, effects)
}
