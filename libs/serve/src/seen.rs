//! What several services measure alike.

use std::time::Duration;

use phasegate_telemetry::metrics::{Histogram, Level};

/// How late timers fire: leases that run out, deadlines of requests, mail.
pub static TIMER_LAG: Histogram<2> = Histogram::new(
    "phasegate_timer_lag_seconds",
    "Time from when something was due until it was done.",
    ["service", "kind"],
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0],
);

/// Streams that somebody listens to.
pub static WATCH_STREAMS: Level<2> =
    Level::new("phasegate_watch_streams", "Streams that are open in this process.", ["service", "kind"]);

/// How far behind watchers are.
pub static WATCH_LAG: Histogram<2> = Histogram::new(
    "phasegate_watch_lag_events",
    "Events that a watcher was behind when it was given some: at most what is read at once.",
    ["service", "kind"],
    &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 200.0],
);

/// Measures how late something is that was due so long ago.
pub fn note_timer(service: &'static str, kind: &str, late: Duration) {
    TIMER_LAG.record_time(late, [service, kind]);
}
