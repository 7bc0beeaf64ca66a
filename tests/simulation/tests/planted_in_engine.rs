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
        Bug::FalseConditionOpens,
        Bug::PauseLeaks,
        Bug::ContentUnchecked,
    ];
    let missed: Vec<Bug> = bugs.into_iter().filter(|bug| !is_found(*bug)).collect();
    let _ = panic::take_hook();
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}

/// The lease is asked for once more by the statement that writes, so that a worker who lost it changes nothing although the
/// engine believes him. The mistake itself is found by the properties of the engine.
#[test]
fn a_stale_lease_that_the_engine_believes_is_stopped_by_the_store() {
    plant(Some(Bug::StaleFencing));
    let outcomes: Vec<_> = (0..SEEDS / 4).map(|seed| run_seed(seed, None, &mut Cover::default())).collect();
    plant(None);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

fn is_found(bug: Bug) -> bool {
    plant(Some(bug));
    let found = (0..SEEDS).any(|seed| run_seed(seed, None, &mut Cover::default()).is_err());
    plant(None);
    found
}
