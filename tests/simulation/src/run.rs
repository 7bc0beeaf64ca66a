//! Runs seeds, on all processors.

use std::fmt;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::bug::Bug;
use crate::cover::Cover;
use crate::world::World;

/// What went wrong, with everything that led to it.
#[derive(Debug)]
pub struct Failure {
    /// The seed that shows it again.
    pub seed: u64,
    /// What it is, in a line.
    pub what: String,
    /// The whole plan: what was drawn, and everything that happened, in order.
    pub script: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what, script } = self;
        write!(
            f,
            "{script}\nseed {seed}: {what}\nto see it again: PHASEGATE_SIMULATION_SEED={seed} cargo test --workspace --test simulation"
        )
    }
}

/// Runs one seed; with a planted fault, or without.
pub fn run_seed(seed: u64, bug: Option<Bug>, cover: &mut Cover) -> Result<(), Failure> {
    let failure = match play(seed, bug, false, cover) {
        Ok(()) => return Ok(()),
        Err(failure) => failure,
    };
    // Once more, with everything written down.
    Err(play(seed, bug, true, &mut Cover::default()).err().unwrap_or(failure))
}

fn play(seed: u64, bug: Option<Bug>, traces: bool, cover: &mut Cover) -> Result<(), Failure> {
    let mut world = World::new(seed, bug, traces);
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let what = match played {
        Ok(Ok(())) => {
            cover.add(&world.cover);
            return Ok(());
        }
        Ok(Err(violation)) => violation.0,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("something panicked: {}", text.unwrap_or_default())
        }
    };
    Err(Failure { seed, what, script: world.script() })
}

/// Runs many seeds; stops at the first one that fails.
pub fn run_seeds(seeds: Range<u64>, cover: &mut Cover) -> Result<(), Failure> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut cover = Cover::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(cover);
            }
            if let Err(failure) = run_seed(seed, None, &mut cover) {
                next.store(seeds.end, Ordering::Relaxed);
                return Err(failure);
            }
        }
    };
    let lost = |_| Err(Failure { seed: 0, what: "a thread was lost".to_owned(), script: String::new() });
    let done: Vec<Result<Cover, Failure>> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
    });
    for covered in done {
        cover.add(&covered?);
    }
    Ok(())
}
