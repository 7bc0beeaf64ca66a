//! Mistakes in the engine itself: those that show between the services must be found here, too.
//!
//! Needs a feature: `cargo test --workspace --features phasegate-simulation/planted-bugs --test planted_in_engine`.

use std::panic;

use phasegate_instance::domain::planted::{Bug, plant};
use phasegate_simulation::cover::Cover;
use phasegate_simulation::run_seed;

/// Seeds that are tried before a fault counts as not found.
const SEEDS: u64 = 200;

#[test]
fn mistakes_of_the_engine_are_found() {
    panic::set_hook(Box::new(|_| {}));
    let bugs = [
        Bug::ApproverIgnored,
        Bug::DependencyIgnored,
        Bug::StaleFencing,
        Bug::FalseConditionOpens,
        Bug::PauseLeaks,
        Bug::ContentUnchecked,
    ];
    let missed: Vec<Bug> = bugs.into_iter().filter(|bug| !is_found(*bug)).collect();
    let _ = panic::take_hook();
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}

fn is_found(bug: Bug) -> bool {
    plant(Some(bug));
    let found = (0..SEEDS).any(|seed| run_seed(seed, None, &mut Cover::default()).is_err());
    plant(None);
    found
}
