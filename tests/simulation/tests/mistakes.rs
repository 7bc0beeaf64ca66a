//! Would the simulation find a mistake? One is planted at a time, and must be found within a few seeds.

use std::panic;

use phasegate_simulation::bug::Bug;
use phasegate_simulation::cover::Cover;
use phasegate_simulation::run_seed;

/// Seeds that are tried before a fault counts as not found; the main test tries many more.
const SEEDS: u64 = 200;

#[test]
fn every_planted_bug_is_found() {
    // A planted fault may well break an assertion of a service; that is one way to be found.
    panic::set_hook(Box::new(|_| {}));
    let found: Vec<_> = Bug::ALL.into_iter().map(|bug| (bug, find(bug))).collect();
    let _ = panic::take_hook();
    for (bug, found) in &found {
        println!("{bug:?}: {found:?}");
    }
    let missed: Vec<Bug> = found.iter().filter(|(_, found)| found.is_none()).map(|(bug, _)| *bug).collect();
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}

#[test]
fn a_bug_is_chosen_by_name() {
    assert_eq!(Bug::named("NoFence"), Some(Bug::NoFence));
    assert_eq!(Bug::named("nothing"), None);
}

/// The first seed that shows the fault, and how.
fn find(bug: Bug) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| {
        let failure = run_seed(seed, Some(bug), &mut Cover::default()).err()?;
        Some((seed, failure.what))
    })
}
