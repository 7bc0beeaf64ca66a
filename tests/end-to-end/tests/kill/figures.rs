//! The figures of a run: a table for people, and whether the run has done enough to count.

use std::io::Write as _;
use std::time::Duration;

use phasegate_load::check::Totals;
use phasegate_load::ledger::Kind;
use phasegate_load::run::Run;

use crate::Plan;

/// Of changes, at least this part must have been done: a run where everything is refused shows nothing.
const DONE_PERCENT: u64 = 60;

/// What happened in a run.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) seed: u64,
    pub(crate) kills: u64,
    pub(crate) load: Duration,
    pub(crate) closing: Duration,
    pub(crate) totals: Totals,
    /// Events that watchers saw.
    pub(crate) watched: usize,
    /// Streams that they saw them on.
    pub(crate) streams: u64,
    /// Changes that were repeated when all was over.
    pub(crate) late: usize,
}

impl Figures {
    pub(crate) fn print(&self, run: &Run) -> anyhow::Result<()> {
        let mut out = std::io::stderr().lock();
        let unanswered: Vec<String> = (0..self.kills)
            .map(|life| run.unanswered().get(&life).copied().unwrap_or_default().to_string())
            .collect();
        let ledger = run.ledger();
        writeln!(out, "{} (seed {})", run.manner.process, self.seed)?;
        writeln!(
            out,
            "  {} kills in {:.0} s of load, {:.0} s to the last completion; unanswered changes of each: {}",
            self.kills,
            self.load.as_secs_f64(),
            self.closing.as_secs_f64(),
            unanswered.join(" ")
        )?;
        writeln!(
            out,
            "  {:<10}{:>8}{:>9}{:>8}{:>11}{:>12}{:>10}",
            "change", "done", "refused", "killed", "abandoned", "found done", "compared"
        )?;
        for (kind, tally) in &ledger.tallies {
            let refused: u64 = tally.refused.values().sum();
            writeln!(
                out,
                "  {:<10}{:>8}{refused:>9}{:>8}{:>11}{:>12}{:>10}  {}",
                format!("{kind:?}"),
                tally.acknowledged,
                tally.killed,
                tally.abandoned,
                tally.found_done,
                tally.compared,
                words(&tally.refused)
            )?;
        }
        let totals = &self.totals;
        writeln!(
            out,
            "  {} done, {} refused; put off: {}; {} repeated when all was over",
            ledger.acknowledged(),
            ledger.refused(),
            words(&ledger.put_off),
            self.late
        )?;
        writeln!(
            out,
            "  {} instances, {} log entries, {} artifact versions, {} requests, {} votes; {} events watched on {} streams",
            totals.instances,
            totals.entries,
            totals.versions,
            totals.requests,
            totals.votes,
            self.watched,
            self.streams
        )?;
        Ok(out.flush()?)
    }

    /// Why the run shows nothing; empty where it does.
    pub(crate) fn missing(&self, plan: &Plan, run: &Run) -> Vec<String> {
        let mut missing = missing_changes(plan, run);
        let in_flight = run.unanswered().range(0..plan.kills).filter(|(_, count)| **count > 0).count();
        let ledger = run.ledger();
        let all = ledger.acknowledged() + ledger.refused();
        let compared: u64 = ledger.tallies.values().map(|tally| tally.compared).sum();
        missing.extend(too_few("kills with changes in flight", in_flight as u64, plan.kills_in_flight));
        missing.extend(too_few("instances", self.totals.instances as u64, plan.instances as u64));
        missing.extend(too_few("percent done", ledger.acknowledged() * 100 / all.max(1), DONE_PERCENT));
        missing.extend(too_few("compared answers", compared, plan.acknowledged / 4));
        missing.extend(too_few("events watched", self.watched as u64, 100));
        missing.extend(too_few("streams of watchers", self.streams, plan.kills));
        missing
    }
}

/// Which changes there were too few of.
pub(crate) fn missing_changes(plan: &Plan, run: &Run) -> Vec<String> {
    let ledger = run.ledger();
    let mut missing: Vec<String> =
        too_few("changes", ledger.acknowledged(), plan.acknowledged).into_iter().collect();
    // Nobody cancels here.
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Cancel) {
        let done = ledger.tallies.get(&kind).map_or(0, |tally| tally.acknowledged);
        missing.extend(too_few(&format!("{kind:?}"), done, plan.acknowledged_each));
    }
    missing
}

fn too_few(what: &str, is: u64, wanted: u64) -> Option<String> {
    (is < wanted).then(|| format!("{what}: {is}, and {wanted} are wanted"))
}

fn words(counts: &std::collections::BTreeMap<String, u64>) -> String {
    let words: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}
