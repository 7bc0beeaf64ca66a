//! The engine does what the plain model does, whatever is thrown at it.

use phasegate_properties::cover::Cover;
use phasegate_properties::execute::play_seeds;

/// Definitions that are made. Each is played [`PLAYS`] times.
const DEFINITIONS: u64 = 2_000;

/// Plays of each definition.
const PLAYS: u64 = 10;

/// How often each of [`CASES`] must be met at least, for the agreement to mean anything.
const TIMES: u64 = 100;

/// Every type of gate with every outcome, every outcome of every other review, and the ways that work and instances
/// end.
const CASES: [&str; 56] = [
    "gate approval: closed at the end",
    "gate approval: forced",
    "gate approval: new round, changes requested",
    "gate approval: new round, content changed",
    "gate approval: new round, earlier round",
    "gate approval: new round, later review",
    "gate approval: new round, superseded",
    "gate approval: opened",
    "gate approval: rejected",
    "gate approval: settled approved",
    "gate approval: settled changes_requested",
    "gate approval: settled expired",
    "gate approval: settled rejected",
    "gate approval: settled superseded",
    "gate approval: settled withdrawn",
    "gate approval: too many rounds",
    "gate condition or entry: has no answer",
    "gate condition: closed at the end",
    "gate condition: forced",
    "gate condition: opened",
    "gate manual: closed at the end",
    "gate manual: forced",
    "gate manual: opened by a delegator",
    "gate manual: opened by an operator",
    "instance: cancelled",
    "instance: completed",
    "instance: failed",
    "phase approval: new round, changes requested",
    "phase approval: new round, content changed",
    "phase approval: new round, earlier round",
    "phase approval: new round, later review",
    "phase approval: new round, superseded",
    "phase approval: settled approved",
    "phase approval: settled expired",
    "phase approval: settled rejected",
    "phase approval: settled withdrawn",
    "phase approval: too many rounds",
    "phase: blocked by a failure",
    "phase: blocked by a rejection",
    "refused: ArtifactsMissing",
    "refused: LeaseLost",
    "refused: RoleForbidden",
    "task approval: new round, content changed",
    "task approval: new round, superseded",
    "task approval: settled approved",
    "task approval: settled changes_requested",
    "task approval: settled rejected",
    "task.held_back",
    "task.retry_scheduled",
    "task: gone up to a human",
    "task: gone up to an agent",
    "task: gone up to operators",
    "task: returned, changes requested",
    "task: returned, later review",
    "task: returned, unlocked",
    "task.skipped",
];

#[test]
fn the_engine_agrees_with_the_model() {
    let mut cover = Cover::default();
    if let Err(difference) = play_seeds(0..DEFINITIONS, PLAYS, &mut cover) {
        panic!("{}", difference.0);
    }
    assert_eq!(cover.count("instance.started"), DEFINITIONS * PLAYS);
    let rare: Vec<(&str, u64)> =
        CASES.into_iter().map(|case| (case, cover.count(case))).filter(|(_, count)| *count < TIMES).collect();
    assert!(rare.is_empty(), "too rare to prove anything: {rare:?}");
}
