//! Counts what was met: each command with each outcome, and each kind of fault. What is never met proves nothing.

use std::collections::BTreeMap;

/// How often each case was met.
#[derive(Debug, Clone, Default)]
pub struct Cover {
    cases: BTreeMap<String, u64>,
    /// Commands that clients gave.
    pub commands: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Events that took effect at a receiver.
    pub events: u64,
    /// Things that happened, one after the other.
    pub steps: u64,
    /// Instances that ended well.
    pub completed: u64,
}

impl Cover {
    /// Notes one more of a case.
    pub fn note(&mut self, case: impl Into<String>) {
        *self.cases.entry(case.into()).or_default() += 1;
    }

    /// Notes a fault of a kind.
    pub fn fault(&mut self, kind: &str) {
        self.faults += 1;
        self.note(format!("fault: {kind}"));
    }

    /// How often a case was met.
    pub fn count(&self, case: &str) -> u64 {
        self.cases.get(case).copied().unwrap_or_default()
    }

    /// Adds what another one has met.
    pub fn add(&mut self, other: &Self) {
        for (case, count) in &other.cases {
            *self.cases.entry(case.clone()).or_default() += count;
        }
        self.commands += other.commands;
        self.faults += other.faults;
        self.events += other.events;
        self.steps += other.steps;
        self.completed += other.completed;
    }

    /// All cases with their counts.
    pub fn cases(&self) -> impl Iterator<Item = (&str, u64)> {
        self.cases.iter().map(|(case, count)| (case.as_str(), *count))
    }
}
