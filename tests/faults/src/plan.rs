//! How long and how hard a run is, and what it must have done to count.

use std::time::Duration;

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// Nothing breaks: to see what the machine can do.
    pub(crate) is_calm: bool,
    /// How long the whole run may take.
    pub(crate) takes: Duration,
    /// How long things break.
    pub(crate) chaos: Duration,
    /// How much longer the clients go on, where a slow machine has not written enough by then.
    pub(crate) overtime: Duration,
    /// How long Redis is away while calls are counted.
    pub(crate) redis_away: Duration,
    /// From the end of the faults to the end of all instances and queues.
    pub(crate) converges: Duration,
    pub(crate) kills: u64,
    /// Kills of each service, of PostgreSQL and of Redis.
    pub(crate) kills_each: u64,
    /// Times that Redis lost everything.
    pub(crate) losses: u64,
    /// Other faults, of each kind.
    pub(crate) faults_each: u64,
    pub(crate) acknowledged: u64,
    pub(crate) completed: u64,
    /// Decisions and completions, in percent of what was acknowledged.
    pub(crate) decisions_percent: u64,
    /// Replies swallowed, of each kind of change.
    pub(crate) swallowed_each: u64,
    pub(crate) duels: u64,
    pub(crate) stale: u64,
    pub(crate) terminated: u64,
    /// Streams that are open while processes are told to stop.
    pub(crate) watched: usize,
}

impl Plan {
    /// The run of `tests/run`.
    pub(crate) fn ordinary() -> Self {
        Self {
            name: "ordinary run",
            is_calm: false,
            takes: Duration::from_mins(8),
            chaos: Duration::from_mins(5),
            overtime: Duration::from_mins(1),
            redis_away: Duration::from_secs(10),
            converges: Duration::from_secs(30),
            kills: 60,
            kills_each: 3,
            losses: 2,
            faults_each: 2,
            acknowledged: 10_000,
            completed: 200,
            decisions_percent: 40,
            swallowed_each: 5,
            duels: 100,
            stale: 50,
            terminated: 14,
            watched: 20,
        }
    }

    /// The run that takes most of an hour.
    pub(crate) fn long() -> Self {
        Self {
            name: "long run",
            takes: Duration::from_mins(45),
            chaos: Duration::from_mins(36),
            overtime: Duration::from_mins(4),
            redis_away: Duration::from_mins(1),
            kills: 400,
            kills_each: 20,
            losses: 10,
            faults_each: 15,
            acknowledged: 110_000,
            completed: 2_000,
            swallowed_each: 50,
            duels: 1_000,
            stale: 500,
            terminated: 100,
            watched: 200,
            ..Self::ordinary()
        }
    }

    /// One in which nothing breaks: it never counts.
    pub(crate) fn calm(seconds: u64) -> Self {
        Self { name: "calm run", is_calm: true, ..Self::trial(seconds) }
    }

    /// A short and hard one, for a program that makes a mistake.
    pub(crate) fn planted() -> Self {
        let trial = Self::trial(120);
        Self { name: "run with a mistake", kills: 40, faults_each: 2, duels: 20, stale: 20, ..trial }
    }

    /// A short one for those who work on this program: it never counts.
    pub(crate) fn trial(seconds: u64) -> Self {
        let chaos = Duration::from_secs(seconds);
        let share = |full: u64| (full * seconds / Self::ordinary().chaos.as_secs()).max(1);
        let ordinary = Self::ordinary();
        Self {
            name: "trial",
            chaos,
            kills: share(ordinary.kills),
            kills_each: 1,
            faults_each: 1,
            duels: share(ordinary.duels),
            stale: share(ordinary.stale),
            acknowledged: share(ordinary.acknowledged),
            completed: share(ordinary.completed),
            ..ordinary
        }
    }
}
