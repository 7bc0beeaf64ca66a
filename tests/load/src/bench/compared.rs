//! The table of a run with parked instances: what was measured on a nearly empty system, on a full one, and the bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::Window;
use super::figure::{self, Figure};
use super::figures::{each, latencies, line, millis, rate};
use super::flat::{Flat, Round, Side};
use super::fleet::{ONWARD, WHOLE};
use super::parked::ROWS_EACH;
use super::record::Latencies;

/// What a full system may cost more than an empty one.
const WITHIN: f64 = 0.25;
const RESTART_MAX: Duration = Duration::from_secs(5);
const PAGE_MILLIS_MAX: f64 = 20.0;
/// From the answers of people to the end of an instance that had waited, its agents' work included.
const WOKEN_SECONDS_MAX: f64 = 2.0;
/// Memory of a service: at most twice as much, and what a cache may hold that was not full before.
const RESIDENT_MIB_MORE: f64 = 20.0;

/// One thing that was measured on both sides: medians of the rounds.
#[derive(Debug)]
struct Pair {
    what: String,
    empty: f64,
    full: f64,
    unit: &'static str,
    /// More is better.
    is_rate: bool,
    /// One of the figures, and not only printed.
    is_bound: bool,
}

/// Whether all figures were reached.
pub(super) fn is_reached(flat: &Flat) -> bool {
    figures(flat).iter().all(Figure::is_reached)
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn pairs(flat: &Flat) -> Vec<Pair> {
    let (empty, full) = (&flat.empty.rounds, &flat.full.rounds);
    let many = format!("{} in flight", flat.in_flight);
    let peak: fn(&Round) -> &Window = |round| &round.peak;
    let idle: fn(&Round) -> &Window = |round| &round.idle;
    let mut pairs = Vec::new();
    for (name, of) in [(many.as_str(), peak), ("idle", idle)] {
        let transitions = |round: &Round| rate(of(round));
        pairs.push(Pair {
            what: format!("{name}, transitions"),
            empty: median(empty, transitions),
            full: median(full, transitions),
            unit: "/s",
            is_rate: true,
            is_bound: true,
        });
        // On a machine that others use, too, it says more than the clock does.
        let spent = |round: &Round| each(of(round).spent.values().sum(), of(round).counted.transitions);
        pairs.push(Pair {
            what: format!("{name}, processor time for each transition"),
            empty: median(empty, spent),
            full: median(full, spent),
            unit: "ms",
            is_rate: false,
            is_bound: false,
        });
        let kinds: BTreeSet<&str> =
            empty.iter().flat_map(|round| of(round).latencies.keys().copied()).collect();
        for what in kinds {
            for (per_mille, percentile) in [(500, "p50"), (990, "p99")] {
                let wait = |round: &Round| millis(latencies(of(round), what).per_mille(per_mille));
                // Of a few hundred samples in a window the hundredth part is chance: it is shown, and counts where there are many.
                let is_bound = per_mille == 500 || (what == ONWARD && name != "idle");
                pairs.push(Pair {
                    what: format!("{name}, {what}, {percentile}"),
                    empty: median(empty, wait),
                    full: median(full, wait),
                    unit: "ms",
                    is_rate: false,
                    is_bound: is_bound && what != WHOLE,
                });
            }
        }
    }
    pairs
}

fn figures(flat: &Flat) -> Vec<Figure> {
    let mut figures = Vec::new();
    for pair in pairs(flat).into_iter().filter(|pair| pair.is_bound) {
        figures.push(if pair.is_rate {
            Figure::at_least(pair.what, pair.full, pair.empty * (1.0 - WITHIN), pair.unit)
        } else {
            Figure::at_most(pair.what, pair.full, pair.empty * (1.0 + WITHIN), pair.unit)
        });
    }
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let hot = flat.plans.hot() as f64;
    figures.push(Figure::at_most("statements of the work that read over 1,000 rows", hot, 0.0, ""));
    if let Some((service, slowest)) = flat.restarts.iter().max_by_key(|(_, took)| **took) {
        let what = format!("the slowest restart, {service}");
        figures.push(Figure::at_most(what, slowest.as_secs_f64(), RESTART_MAX.as_secs_f64(), "s"));
    }
    for (page, samples) in &flat.pages {
        figures.push(Figure::at_most(format!("{page}, p50"), millis(samples.p50()), PAGE_MILLIS_MAX, "ms"));
    }
    for (service, mib) in &flat.full.resident {
        let before = flat.empty.resident.get(service).copied().unwrap_or_default();
        let bound = 2.0 * before + RESIDENT_MIB_MORE;
        figures.push(Figure::at_most(format!("{service}, resident (VmRSS)"), *mib, bound, "MiB"));
    }
    figures.push(Figure::at_most(
        "audit trails of copies that are not whole",
        f64::from(flat.broken),
        0.0,
        "",
    ));
    #[expect(clippy::cast_precision_loss, reason = "rows of a run")]
    let (history, wanted) =
        (flat.filled.history as f64, f64::from(flat.filled.instances) * f64::from(ROWS_EACH));
    figures.push(Figure::at_least("rows of the history", history, wanted, ""));
    let woken = flat.woken.iter().max().copied().unwrap_or_default().as_secs_f64();
    figures.push(Figure::at_most("a parked instance goes on, to its end", woken, WOKEN_SECONDS_MAX, "s"));
    figures
}

/// For people.
pub(super) fn table(flat: &Flat) -> String {
    let filled = flat.filled;
    let mut text = format!(
        "\nPostgreSQL and Redis, phasegate serve, {} parked instances, {} rows of history, {} rows in all, filled in {} s\n",
        filled.instances,
        filled.history,
        filled.rows,
        filled.took.as_secs()
    );
    let commits = [&flat.empty, &flat.full].map(|side| format!("{:.2}", millis(side.commit.p50())));
    line(&mut text, "one row in a commit, p50, before and after", &format!("{} ms", commits.join(", ")));
    let seconds = |times: &BTreeMap<String, Duration>| {
        let each: Vec<String> =
            times.iter().map(|(what, time)| format!("{what} {:.3}", time.as_secs_f64())).collect();
        each.join(", ")
    };
    line(&mut text, "from the end of a service to ready, s", &seconds(&flat.restarts));
    line(&mut text, "a scrape of metrics on the full system, s", &seconds(&flat.scrapes));
    line(&mut text, "entries of the shortest audit trail", &flat.entries.to_string());
    line(&mut text, "statements explained", &flat.plans.explained.to_string());
    for finding in flat.plans.lines() {
        let _ = writeln!(text, "    {finding}");
    }
    text + &sides(flat) + &figure::table(&figures(flat))
}

/// Both sides beside each other, for people.
pub(super) fn sides(flat: &Flat) -> String {
    let mut text = String::new();
    let rounds = flat.full.rounds.len();
    let heading = format!("median of {rounds} windows");
    let _ = writeln!(text, "\n  {heading:<58}{:>12}{:>12}{:>10}", "empty", "full", "ratio");
    for Pair { what, empty, full, unit, .. } in pairs(flat) {
        let ratio = full / empty.max(f64::MIN_POSITIVE);
        let _ = writeln!(text, "  {what:<58}{empty:>9.2} {unit:<2}{full:>9.2} {unit:<2}{ratio:>10.2}");
    }
    text
}

/// For machines.
pub(super) fn json(flat: &Flat) -> Value {
    let pairs: Vec<Value> = pairs(flat)
        .into_iter()
        .map(|pair| json!({ "what": pair.what, "empty": pair.empty, "full": pair.full, "unit": pair.unit }))
        .collect();
    let seconds = |times: &BTreeMap<String, Duration>| -> serde_json::Map<String, Value> {
        times.iter().map(|(what, time)| (what.clone(), json!(time.as_secs_f64()))).collect()
    };
    let pages: serde_json::Map<String, Value> =
        flat.pages.iter().map(|(what, samples)| (what.clone(), Latencies::to_json(samples))).collect();
    let side = |side: &Side| {
        let rounds: Vec<Value> = side
            .rounds
            .iter()
            .map(|round| {
                json!({ "idle": super::figures::window(&round.idle), "peak": super::figures::window(&round.peak) })
            })
            .collect();
        json!({ "commit": side.commit.to_json(), "residentMib": side.resident, "rounds": rounds })
    };
    json!({
        "parked": flat.filled.instances,
        "history": flat.filled.history,
        "rows": flat.filled.rows,
        "filledSeconds": flat.filled.took.as_secs_f64(),
        "inFlight": flat.in_flight,
        "empty": side(&flat.empty),
        "full": side(&flat.full),
        "compared": pairs,
        "entriesMin": flat.entries,
        "pages": pages,
        "restartSeconds": seconds(&flat.restarts),
        "scrapeSeconds": seconds(&flat.scrapes),
        "plans": flat.plans.to_json(),
        "figures": figure::json(&figures(flat)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_round_counts() {
        let round =
            |seconds| Round { idle: Window { seconds, ..Window::default() }, peak: Window::default() };
        let rounds = [round(9.0), round(1.0), round(2.0)];
        assert_eq!(median(&rounds, |round| round.idle.seconds).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(&[], |round| round.idle.seconds).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn a_slower_full_system_misses_its_figures() {
        let side = |micros: u32| {
            let latencies = BTreeMap::from([(ONWARD, Latencies::of(vec![micros; 10]))]);
            let window = Window { latencies, seconds: 1.0, ..Window::default() };
            Side { rounds: vec![Round { idle: window.clone(), peak: window }], ..Side::default() }
        };
        let missed = |full: u32| {
            let flat = Flat { empty: side(1_000), full: side(full), ..Flat::default() };
            figures(&flat).iter().filter(|figure| !figure.is_reached()).count()
        };
        assert_eq!((missed(1_240), missed(1_260)), (0, 3));
    }
}
