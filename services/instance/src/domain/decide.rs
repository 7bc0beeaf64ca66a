//! Answers a command with the events that it leads to, consequences included.

use std::collections::BTreeSet;

use phasegate_clock::Timestamp;
use phasegate_id::ArtifactKey;
use phasegate_process::Definition;

use super::command::{Action, Command};
use super::event::Event;
use super::instance::Instance;
use super::rejection::Rejection;

/// Answers `command` with the events that happen at `now`, or says why none may.
pub fn decide(
    _definition: &Definition,
    _instance: &Instance,
    _command: &Command,
    _now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    Ok(Vec::new())
}

/// Names the artifacts whose newest versions `decide` wants to know for this action; none for most.
pub fn content_keys(
    _definition: &Definition,
    _instance: &Instance,
    _action: &Action,
) -> BTreeSet<ArtifactKey> {
    BTreeSet::new()
}
