//! Would the plays find a fault? One is planted at a time, at a decision point of the engine, and must be found.
//!
//! Needs a feature: `cargo test --workspace --features phasegate-properties/planted-bugs --test planted`.

use std::panic;

use phasegate_instance::domain::planted::{Bug, plant};
use phasegate_properties::cover::Cover;
use phasegate_properties::execute::play_seed;

/// Seeds that are tried before a fault counts as not found; the main test tries more.
const SEEDS: u64 = 1_000;

/// Plays of each seed.
const PLAYS: u64 = 10;

#[test]
fn every_planted_bug_is_found() {
    // A planted fault may well break an assertion of the engine; that is one way to be found.
    panic::set_hook(Box::new(|_| {}));
    let missed: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| find(*bug).is_none()).collect();
    let _ = panic::take_hook();
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}

#[test]
fn without_a_planted_bug_nothing_is_found() {
    plant(None);
    let mut cover = Cover::default();
    let found = (0..20).find_map(|seed| play_seed(seed, PLAYS, &mut cover).err());
    assert!(found.is_none(), "{found:?}");
}

/// The first seed that shows the fault.
fn find(bug: Bug) -> Option<u64> {
    plant(Some(bug));
    let mut cover = Cover::default();
    let found = (0..SEEDS).find(|seed| play_seed(*seed, PLAYS, &mut cover).is_err());
    plant(None);
    found
}
