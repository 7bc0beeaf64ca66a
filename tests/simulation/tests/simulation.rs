//! Two thousand seeds, each with its own troubles: nothing is lost, nothing happens twice, nothing opens that may not, and
//! once the troubles end everything comes to rest.
//!
//! More seeds: `PHASEGATE_SIMULATION_SEEDS=100000 cargo test --workspace --test simulation -- --nocapture`.
//! One seed, with all that happens: `PHASEGATE_SIMULATION_SEED=17`, likewise.

use std::str::FromStr;
use std::time::Instant;

use phasegate_simulation::cover::Cover;
use phasegate_simulation::{run_seed, run_seeds};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;
/// Commands and faults that a seed must have on average.
const COMMANDS: u64 = 300;
const FAULTS: u64 = 20;

/// Commands, each with the outcomes that it must have met.
const CALLS: [(&str, &[&str]); 25] = [
    ("start", &["done", "refused", "repeated"]),
    ("lease", &["done", "refused"]),
    ("heartbeat", &["done", "refused"]),
    ("hand in", &["done", "refused", "repeated"]),
    ("fail", &["done", "refused", "repeated"]),
    ("release", &["done", "refused", "repeated"]),
    ("set facts", &["done", "refused", "repeated"]),
    ("set context", &["done", "refused", "repeated"]),
    ("pause", &["done", "refused", "repeated"]),
    ("resume", &["done", "refused", "repeated"]),
    ("cancel", &["done", "refused", "repeated"]),
    ("retry", &["done", "refused", "repeated"]),
    ("skip", &["done", "refused", "repeated"]),
    ("reopen", &["done", "refused", "repeated"]),
    ("advance", &["done", "refused", "repeated"]),
    ("force", &["done", "refused", "repeated"]),
    ("store", &["done", "refused", "repeated"]),
    ("ask", &["done", "refused", "repeated"]),
    ("ask ad hoc", &["done", "refused", "repeated"]),
    ("approve", &["done", "refused", "repeated"]),
    ("reject", &["done", "refused", "repeated"]),
    ("request changes", &["done", "refused", "repeated"]),
    ("withdraw", &["done", "refused", "repeated"]),
    ("create a link", &["done", "refused", "repeated"]),
    ("revoke a link", &["done", "repeated"]),
];

/// Everything else that must have been met.
const CASES: [&str; 30] = [
    "fault: a call is lost",
    "fault: a confirmation is lost",
    "fault: a copy dies",
    "fault: a copy dies before it has written",
    "fault: a copy dies between writing and sending",
    "fault: a receiver cannot take an event at all",
    "fault: a receiver cannot take an event for a moment",
    "fault: a relay dies between sending and noting it",
    "fault: a reply is lost",
    "fault: an event comes twice",
    "fault: an event is late",
    "fault: an event is lost",
    "fault: events come out of order",
    "fault: nobody learns whether a commit took effect",
    "fault: the bus is set back",
    "fault: the bus loses everything",
    "fault: the mail server refuses",
    "fault: the mail server takes a message and its answer is lost",
    "a request is asked again before an answer",
    "an event comes again and changes nothing",
    "an event is set aside",
    "an event that was set aside is tried anew",
    "an unconfirmed event is sent again",
    "request id: used for something else",
    "two copies race",
    "refused: ContentChanged",
    "refused: LeaseLost",
    "refused: AlreadyDecided",
    "refused: VersionConflict",
    "refused: ArtifactsMissing",
];

/// How often each must have been met.
const TIMES: u64 = 10;

#[expect(clippy::disallowed_methods, reason = "the number of seeds is set by whoever runs more of them")]
fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_promise_holds_under_every_trouble() {
    let mut cover = Cover::default();
    if let Some(seed) = setting("PHASEGATE_SIMULATION_SEED") {
        if let Err(failure) = run_seed(seed, None, &mut cover) {
            panic!("{failure}");
        }
        return;
    }
    let seeds = setting("PHASEGATE_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let begun = Instant::now();
    if let Err(failure) = run_seeds(0..seeds, &mut cover) {
        panic!("{failure}");
    }
    println!("{:>12} seeds in {:.1} s", seeds, begun.elapsed().as_secs_f64());
    let figures = [
        ("commands", cover.commands),
        ("faults", cover.faults),
        ("events that took effect", cover.events),
        ("things that happened", cover.steps),
        ("instances completed", cover.completed),
    ];
    for (what, count) in figures {
        println!("{count:>12} {what}, {} a seed", count / seeds.max(1));
    }
    for (case, count) in cover.cases() {
        println!("{count:>12} {case}");
    }
    assert!(cover.commands >= COMMANDS * seeds, "too few commands: {}", cover.commands);
    assert!(cover.faults >= FAULTS * seeds, "too few faults: {}", cover.faults);
    let cells = CALLS.iter().flat_map(|(name, ends)| ends.iter().map(move |end| format!("{name}: {end}")));
    let cases = cells.chain(CASES.iter().map(|case| (*case).to_owned()));
    let rare: Vec<(String, u64)> =
        cases.map(|case| (case.clone(), cover.count(&case))).filter(|(_, count)| *count < TIMES).collect();
    // Fewer seeds than usual are for whoever looks for something.
    assert!(rare.is_empty() || seeds < SEEDS, "too rare to prove anything: {rare:?}");
}
