//! The table of a run: each figure, its bound, and the floor that the bound is made of.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::cold::Cold;
use super::figure::{self, Figure};
use super::fleet::{DECIDE, ONWARD, WHOLE};
use super::floor::Floor;
use super::place::Store;
use super::record::Latencies;
use super::{DRAINED, Window};

/// What waits at the end of the load is over by then.
const DRAIN: Duration = Duration::from_secs(10);
/// Added to what a decision may take when nothing else is done.
const MILLISECOND: Duration = Duration::from_millis(1);

/// Everything that was measured on one store.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) store: Store,
    pub(super) in_flight: usize,
    pub(super) floor: Floor,
    /// One instance at a time.
    pub(super) idle: Window,
    /// Many.
    pub(super) peak: Window,
    /// Half as fast, whatever comes back.
    pub(super) half: Window,
    /// From the end of the many to when nothing waited; none where it took too long.
    pub(super) drained: Option<Duration>,
    /// Mail that came, where it was counted.
    pub(super) mail: Option<usize>,
    /// Before there was any load.
    pub(super) cold: Cold,
}

/// Whether all figures were reached.
pub(super) fn is_reached(measured: &Measured) -> bool {
    figures(measured).iter().all(Figure::is_reached)
}

fn figures(measured: &Measured) -> Vec<Figure> {
    let commit = measured.floor.commit.p50();
    let share = match measured.store {
        Store::Postgres => 0.20,
        Store::Sqlite => 0.25,
    };
    let ratio =
        Figure::at_least("transitions / bare calls", rate(&measured.peak) / measured.floor.echo, share, "");
    let drained = measured.drained.unwrap_or(DRAINED).as_secs_f64();
    let drained = Figure::at_most("nothing waits after the load", drained, DRAIN.as_secs_f64(), "s");
    let within = |what: String, value: Duration, bound: Duration| {
        Figure::at_most(what, millis(value), millis(bound), "ms")
    };
    let onward = latencies(&measured.peak, ONWARD);
    let mut figures = vec![
        ratio,
        drained,
        within(format!("{} in flight, {ONWARD}, p50", measured.in_flight), onward.p50(), commit * 20),
        within(format!("{} in flight, {ONWARD}, p99", measured.in_flight), onward.p99(), commit * 60),
        within(
            "idle, decision acknowledged, p50".to_owned(),
            latencies(&measured.idle, DECIDE).p50(),
            commit * 2,
        ),
        within(
            format!("idle, {ONWARD}, p50"),
            latencies(&measured.idle, ONWARD).p50(),
            commit * 4 + MILLISECOND,
        ),
    ];
    for (what, latencies) in &measured.half.latencies {
        if ![ONWARD, WHOLE].contains(what) {
            figures.push(within(format!("half of the load, {what}, p99"), latencies.p99(), commit * 50));
        }
    }
    figures.extend(measured.cold.figures());
    figures
}

pub(super) fn latencies(window: &Window, what: &str) -> Latencies {
    window.latencies.get(what).cloned().unwrap_or_default()
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run of minutes")]
pub(super) fn each(count: u64, of: u64) -> f64 {
    count as f64 / (of as f64).max(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run of minutes")]
fn per_second(count: u64, window: &Window) -> f64 {
    count as f64 / window.seconds
}

pub(super) fn rate(window: &Window) -> f64 {
    per_second(window.counted.transitions, window)
}

/// For people.
pub(super) fn table(measured: &Measured) -> String {
    let mut text = format!("\n{}\n", measured.store.name());
    let floor = &measured.floor;
    line(&mut text, "bare calls, 64 in flight, 256 bytes", &format!("{:.0}/s", floor.echo));
    line(&mut text, "rows in commits of 64", &format!("{:.0}/s", floor.batched));
    let (p50, p99) = (millis(floor.commit.p50()), millis(floor.commit.p99()));
    line(&mut text, "one row in a commit", &format!("p50 {p50:.2} ms, p99 {p99:.2} ms"));
    if !measured.cold.started.is_empty() {
        let each: Vec<String> =
            measured.cold.started.iter().map(|took| format!("{:.0}", millis(*took))).collect();
        line(&mut text, "dev on an empty folder until it answers", &format!("{} ms", each.join(", ")));
    }
    let resident: Vec<String> =
        measured.cold.resident.iter().map(|(what, mib)| format!("{what} {mib:.1}")).collect();
    line(&mut text, "resident at rest (VmRSS), MiB", &resident.join(", "));
    for (name, window) in [
        ("one instance at a time".to_owned(), &measured.idle),
        (format!("{} instances at a time", measured.in_flight), &measured.peak),
        ("half of that, open loop".to_owned(), &measured.half),
    ] {
        load(&mut text, &name, window);
    }
    if let Some(mail) = measured.mail {
        line(&mut text, "\n  mail that came", &mail.to_string());
    }
    text += &figure::table(&figures(measured));
    text
}

/// A window of the table.
fn load(text: &mut String, name: &str, window: &Window) {
    let counted = window.counted;
    let (calls, ended) = (per_second(counted.calls, window), per_second(counted.ended, window));
    let _ = writeln!(text, "\n  {name}");
    line(
        text,
        "  transitions, instances, calls",
        &format!("{:.0}/s, {ended:.1}/s, {calls:.0}/s", rate(window)),
    );
    let spent: Vec<String> = window
        .spent
        .iter()
        .map(|(what, millis)| format!("{what} {:.3}", each(*millis, counted.transitions)))
        .collect();
    let all = window.spent.values().sum();
    line(
        text,
        "  processor time for each transition, ms",
        &format!("{:.3}: {}", each(all, counted.transitions), spent.join(", ")),
    );
    if window.wal_bytes > 0 {
        line(
            text,
            "  commits, bytes of WAL for each transition",
            &format!(
                "{:.2}, {:.0}",
                each(window.commits, counted.transitions),
                each(window.wal_bytes, counted.transitions)
            ),
        );
    }
    for (what, latencies) in &window.latencies {
        let [p50, p90, p99, max] =
            [500, 900, 990, 1_000].map(|per_mille| millis(latencies.per_mille(per_mille)));
        line(
            text,
            &format!("  {what}"),
            &format!(
                "p50 {p50:>8.2}  p90 {p90:>8.2}  p99 {p99:>8.2}  max {max:>8.2} ms  ({})",
                latencies.len()
            ),
        );
    }
}

pub(super) fn line(text: &mut String, what: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {what:<44}{value}");
}

/// For machines.
pub(super) fn json(all: &[Measured]) -> Value {
    all.iter().map(one).collect()
}

fn one(measured: &Measured) -> Value {
    let floor = &measured.floor;
    json!({
        "store": measured.store.name(),
        "inFlight": measured.in_flight,
        "floor": {
            "callsPerSecond": floor.echo,
            "batchedRowsPerSecond": floor.batched,
            "commit": floor.commit.to_json(),
        },
        "idle": window(&measured.idle),
        "peak": window(&measured.peak),
        "half": window(&measured.half),
        "drainedSeconds": measured.drained.map(|time| time.as_secs_f64()),
        "mail": measured.mail,
        "cold": measured.cold.to_json(),
        "figures": figure::json(&figures(measured)),
    })
}

pub(super) fn window(window: &Window) -> Value {
    let transitions = window.counted.transitions;
    let latencies: serde_json::Map<String, Value> =
        window.latencies.iter().map(|(what, latencies)| ((*what).to_owned(), latencies.to_json())).collect();
    let spent: serde_json::Map<String, Value> = window
        .spent
        .iter()
        .map(|(what, millis)| ((*what).to_owned(), json!(each(*millis, transitions))))
        .collect();
    json!({
        "seconds": window.seconds,
        "transitionsPerSecond": rate(window),
        "instancesPerSecond": per_second(window.counted.ended, window),
        "callsPerSecond": per_second(window.counted.calls, window),
        "processorMsPerTransition": spent,
        "commitsPerTransition": each(window.commits, transitions),
        "walBytesPerTransition": each(window.wal_bytes, transitions),
        "latencies": latencies,
    })
}
