//! Every history ever stored still folds to the state that it folded to when it was written. The files are only ever
//! added to; a test that has to change one has found a broken promise.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use phasegate_instance::domain::{Event, Instance, evolve};
use serde::Deserialize;
use serde_json::Value;

/// Every shape of event. A new one needs a history of its own name.
const SHAPES: [&str; 46] = [
    "approval_escalated",
    "approval_needed",
    "approval_reminded",
    "approval_requested",
    "approval_responded",
    "approval_settled",
    "artifact_stored",
    "comment_created",
    "context_changed",
    "facts_set",
    "gate_opened",
    "gate_rejected",
    "instance_cancelled",
    "instance_completed",
    "instance_failed",
    "instance_paused",
    "instance_resumed",
    "instance_started",
    "link_asked",
    "link_created",
    "link_opened",
    "link_revoked",
    "notification_settled",
    "phase_activated",
    "phase_awaiting_approval",
    "phase_blocked",
    "phase_completed",
    "phase_entered",
    "phase_gated",
    "phase_reopened",
    "phase_skipped",
    "round_begun",
    "task_attempt_failed",
    "task_blocked",
    "task_completed",
    "task_escalated",
    "task_failed",
    "task_handed_in",
    "task_held_back",
    "task_leased",
    "task_ready",
    "task_released",
    "task_retried",
    "task_retry_scheduled",
    "task_returned",
    "task_skipped",
];

/// One stored history with the state that it led to.
#[derive(Deserialize)]
struct Stored {
    history: Vec<Value>,
    state: Value,
}

fn stored() -> Result<Vec<(String, Stored)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let text = fs::read_to_string(&path)?;
        all.push((name, serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?));
    }
    Ok(all)
}

fn shape(event: &Value) -> &str {
    event["event"].as_str().unwrap_or_default()
}

/// A state without what states came to hold after the stored one was written.
fn known_then(instance: &Instance, stored: &Value) -> Result<Value> {
    let mut state = serde_json::to_value(instance)?;
    if let Some(fields) = state.as_object_mut() {
        fields.retain(|name, _| stored.get(name).is_some());
    }
    Ok(state)
}

#[test]
fn stored_histories_fold_to_their_states() -> Result<()> {
    for (name, stored) in stored()? {
        let mut instance = Instance::unstarted();
        for value in stored.history {
            let event: Event = serde_json::from_value(value.clone())
                .with_context(|| format!("{name}: {} cannot be read", shape(&value)))?;
            ensure!(serde_json::to_value(&event)? == value, "{name}: {} is written otherwise", shape(&value));
            instance = evolve(instance, &event);
        }
        ensure!(
            known_then(&instance, &stored.state)? == stored.state,
            "{name} folds to\n{}",
            serde_json::to_string_pretty(&instance)?
        );
        let cached: Instance = serde_json::from_value(stored.state.clone())?;
        ensure!(
            known_then(&cached, &stored.state)? == stored.state,
            "{name}: a cached state is read otherwise"
        );
    }
    Ok(())
}

#[test]
fn every_shape_has_its_history() -> Result<()> {
    let mut seen = BTreeSet::new();
    for (name, stored) in stored()? {
        ensure!(
            stored.history.iter().any(|event| shape(event) == name),
            "the history {name} is without the event that it is named after"
        );
        seen.extend(stored.history.iter().map(|event| shape(event).to_owned()));
    }
    let known: BTreeSet<String> = SHAPES.iter().map(|shape| (*shape).to_owned()).collect();
    ensure!(seen == known, "shapes without a history, or histories without a shape: {:?}", &seen ^ &known);
    Ok(())
}
