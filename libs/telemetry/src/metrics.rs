//! What is counted and measured, and the page that Prometheus reads. Each service declares what it counts where it
//! happens, as a static; the names are those of the documentation, as they are written there.
//!
//! Counters and histograms are added to at any time, which costs a look into a map. Gauges are read when somebody
//! asks: a [`Source`] may go to its database for them, and is asked at most once in [`FRESH`], however many scrape.
//! No identifier of a single instance, task or person, no address and no secret is ever a label.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _, UpDownCounter};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts, Registry, TextEncoder};
use tokio::time::Instant;

/// What was read of a source stays good for this long.
const FRESH: Duration = Duration::from_secs(2);
/// A source that takes longer is left out: whoever watches must see that something is wrong, and not wait for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest value of a label, in characters.
const LABEL_MAX: usize = 128;

/// Buckets for what a person or a program waits for.
pub const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets for work: from a second to a day.
pub const HOURS: &[f64] =
    &[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 43_200.0, 86_400.0];
/// Buckets for people: from a minute to a month.
pub const WEEKS: &[f64] = &[
    60.0,
    300.0,
    900.0,
    3_600.0,
    14_400.0,
    28_800.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    1_209_600.0,
    2_592_000.0,
];

/// Something that is counted, by `N` labels.
#[derive(Debug)]
pub struct Counter<const N: usize> {
    name: Name<N>,
    made: OnceLock<opentelemetry::metrics::Counter<u64>>,
}

/// Something that is measured and told by its distribution.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    name: Name<N>,
    buckets: &'static [f64],
    made: OnceLock<opentelemetry::metrics::Histogram<f64>>,
}

/// How many there are just now in this process.
#[derive(Debug)]
pub struct Level<const N: usize> {
    name: Name<N>,
    made: OnceLock<UpDownCounter<i64>>,
}

/// One of those that a [`Level`] counts, until it is dropped.
#[derive(Debug)]
pub struct Held {
    level: UpDownCounter<i64>,
    labels: Vec<KeyValue>,
}

/// Something that is read when somebody asks.
#[derive(Debug)]
pub struct Gauge<const N: usize>(Name<N>);

/// What a [`Source`] has read.
#[derive(Debug, Clone)]
pub struct Sample {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    values: Vec<String>,
    value: f64,
}

/// Reads gauges.
pub trait Source: Send + Sync {
    /// Reads them all. What cannot be read is left out.
    fn read(&self) -> BoxFuture<'_, Vec<Sample>>;
}

/// A source that is asked until this is dropped.
#[derive(Debug)]
pub struct Observed(u64);

#[derive(Debug, Clone, Copy)]
struct Name<const N: usize> {
    text: &'static str,
    help: &'static str,
    labels: [&'static str; N],
}

/// One registered source with what it said last.
#[derive(Clone)]
struct Known {
    source: Arc<dyn Source>,
    said: Arc<tokio::sync::Mutex<Option<Said>>>,
}

/// What a source said, and when.
type Said = (Instant, Vec<Sample>);

struct Everything {
    registry: Registry,
    meter: Meter,
    /// Ends with the process; its reader is the registry.
    _provider: SdkMeterProvider,
    sources: Sources,
}

/// Who is asked, by number.
#[derive(Default)]
struct Sources(Mutex<(u64, BTreeMap<u64, Known>)>);

impl<const N: usize> Counter<N> {
    /// Declares it. The name ends in `_total`.
    pub const fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { name: Name { text: name, help, labels }, made: OnceLock::new() }
    }

    /// Counts.
    pub fn add(&self, count: u64, values: [&str; N]) {
        let make =
            |all: &Everything| all.meter.u64_counter(self.name.text).with_description(self.name.help).build();
        if let Some(counter) = instrument(&self.made, make) {
            counter.add(count, &self.name.with(values));
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Declares it, with the upper ends of its buckets.
    pub const fn new(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        buckets: &'static [f64],
    ) -> Self {
        Self { name: Name { text: name, help, labels }, buckets, made: OnceLock::new() }
    }

    /// Adds what was measured.
    pub fn record(&self, value: f64, values: [&str; N]) {
        let make = |all: &Everything| {
            let builder = all.meter.f64_histogram(self.name.text).with_description(self.name.help);
            builder.with_boundaries(self.buckets.to_vec()).build()
        };
        if let Some(histogram) = instrument(&self.made, make) {
            histogram.record(value, &self.name.with(values));
        }
    }

    /// Adds a length of time, in seconds.
    pub fn record_time(&self, length: Duration, values: [&str; N]) {
        self.record(length.as_secs_f64(), values);
    }
}

impl<const N: usize> Level<N> {
    /// Declares it.
    pub const fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { name: Name { text: name, help, labels }, made: OnceLock::new() }
    }

    /// Counts one until what is returned is dropped; nothing where nothing is counted.
    pub fn hold(&self, values: [&str; N]) -> Option<Held> {
        let make = |all: &Everything| {
            all.meter.i64_up_down_counter(self.name.text).with_description(self.name.help).build()
        };
        let level = instrument(&self.made, make)?.clone();
        let labels = self.name.with(values).to_vec();
        level.add(1, &labels);
        Some(Held { level, labels })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.level.add(-1, &self.labels);
    }
}

impl<const N: usize> Gauge<N> {
    /// Declares it.
    pub const fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self(Name { text: name, help, labels })
    }

    /// What it shows, for one set of labels.
    pub fn sample(&'static self, values: [&str; N], value: f64) -> Sample {
        Sample {
            name: self.0.text,
            help: self.0.help,
            labels: &self.0.labels,
            values: values.map(|value| short(value).to_owned()).to_vec(),
            value,
        }
    }
}

impl<const N: usize> Name<N> {
    fn with(&self, values: [&str; N]) -> [KeyValue; N] {
        let mut values = values.into_iter();
        self.labels.map(|label| KeyValue::new(label, short(values.next().unwrap_or_default()).to_owned()))
    }
}

/// Has a source asked whenever somebody scrapes.
pub fn observe(source: Arc<dyn Source>) -> Observed {
    Observed(everything().map_or(0, |all| all.sources.add(source)))
}

impl Drop for Observed {
    fn drop(&mut self) {
        if let Some(all) = everything() {
            all.sources.remove(self.0);
        }
    }
}

/// The type of [`text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Everything there is to tell, as Prometheus reads it.
pub async fn text() -> String {
    let Some(all) = everything() else { return String::new() };
    let gauges = all.sources.gauges(Instant::now()).await;
    let mut families = all.registry.gather();
    families.extend(gauges);
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}

/// Gauges as they are read now: kept nowhere, so that what has gone is told no more.
fn gauges(samples: impl Iterator<Item = Sample>) -> Vec<MetricFamily> {
    let mut gauges: BTreeMap<&str, GaugeVec> = BTreeMap::new();
    for sample in samples {
        if !gauges.contains_key(sample.name) {
            let Ok(gauge) = GaugeVec::new(Opts::new(sample.name, sample.help), sample.labels) else {
                continue;
            };
            gauges.insert(sample.name, gauge);
        }
        if let Some(gauge) = gauges.get(sample.name)
            && let Ok(gauge) = gauge.get_metric_with_label_values(&sample.values)
        {
            gauge.set(sample.value);
        }
    }
    gauges.values().flat_map(Collector::collect).collect()
}

impl Sources {
    fn add(&self, source: Arc<dyn Source>) -> u64 {
        let mut sources = lock(&self.0);
        sources.0 += 1;
        let number = sources.0;
        sources.1.insert(number, Known { source, said: Arc::default() });
        number
    }

    fn remove(&self, number: u64) {
        lock(&self.0).1.remove(&number);
    }

    /// What all of them say.
    async fn gauges(&self, now: Instant) -> Vec<MetricFamily> {
        let known: Vec<Known> = lock(&self.0).1.values().cloned().collect();
        let read = futures::future::join_all(known.iter().map(|known| known.samples(now))).await;
        // Two services of one process may tell of the same thing: one of them counts.
        let mut samples: BTreeMap<(&str, Vec<String>), Sample> = BTreeMap::new();
        for sample in read.into_iter().flatten() {
            samples.insert((sample.name, sample.values.clone()), sample);
        }
        gauges(samples.into_values())
    }
}

impl Known {
    /// What it says, or said a moment ago.
    async fn samples(&self, now: Instant) -> Vec<Sample> {
        let mut said = self.said.lock().await;
        if let Some((at, samples)) = said.as_ref()
            && now.saturating_duration_since(*at) < FRESH
        {
            return samples.clone();
        }
        let samples = tokio::time::timeout(PATIENCE, self.source.read()).await.unwrap_or_default();
        *said = Some((now, samples.clone()));
        samples
    }
}

/// The registry of this process. Nothing where it could not be made: then nothing is counted, and nothing else fails.
fn everything() -> Option<&'static Everything> {
    static ALL: OnceLock<Option<Everything>> = OnceLock::new();
    ALL.get_or_init(|| {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_units()
            .without_counter_suffixes()
            .without_target_info()
            .scope_info_enabled(false)
            .build()
            .ok()?;
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let meter = provider.meter("phasegate");
        Some(Everything { registry, meter, _provider: provider, sources: Sources::default() })
    })
    .as_ref()
}

fn instrument<T>(cell: &OnceLock<T>, make: impl FnOnce(&Everything) -> T) -> Option<&T> {
    match cell.get() {
        Some(known) => Some(known),
        None => everything().map(|all| cell.get_or_init(|| make(all))),
    }
}

fn short(value: &str) -> &str {
    value.char_indices().nth(LABEL_MAX).map_or(value, |(end, _)| value.get(..end).unwrap_or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static OPENED: Counter<1> = Counter::new("test_opened_total", "Doors.", ["colour"]);
    static TOOK: Histogram<0> = Histogram::new("test_took_seconds", "How long.", [], SECONDS);
    static INSIDE: Level<1> = Level::new("test_inside", "Who is in.", ["door"]);
    static WAITING: Gauge<1> = Gauge::new("test_waiting", "Who waits.", ["door"]);

    #[derive(Default)]
    struct Door(AtomicUsize);

    impl Source for Door {
        fn read(&self) -> BoxFuture<'_, Vec<Sample>> {
            let asked = self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move { vec![WAITING.sample(["front"], f64::from(u32::try_from(asked).unwrap()))] })
        }
    }

    struct Stuck;

    impl Source for Stuck {
        fn read(&self) -> BoxFuture<'_, Vec<Sample>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn what_was_counted_is_told_under_its_own_name() {
        OPENED.add(2, ["red"]);
        OPENED.add(1, [&"x".repeat(500)]);
        TOOK.record_time(Duration::from_millis(30), []);
        let held = INSIDE.hold(["front"]);
        let observed = observe(Arc::new(Door::default()));
        let text = super::text().await;
        assert!(text.contains("test_opened_total{colour=\"red\"} 2\n"), "{text}");
        assert!(text.contains(&format!("colour=\"{}\"", "x".repeat(LABEL_MAX))), "{text}");
        assert!(text.contains("test_took_seconds_bucket{le=\"0.025\"} 0\n"), "{text}");
        assert!(text.contains("test_took_seconds_count 1\n"), "{text}");
        assert!(text.contains("test_inside{door=\"front\"} 1\n"), "{text}");
        assert!(text.contains("# TYPE test_waiting gauge\ntest_waiting{door=\"front\"} "), "{text}");

        drop(held);
        drop(observed);
        let text = super::text().await;
        assert!(text.contains("test_inside{door=\"front\"} 0\n"), "{text}");
        assert!(!text.contains("test_waiting{"), "what has gone is not told: {text}");
    }

    /// With sources of its own: others of this process are read by whoever asks.
    async fn told(sources: &Sources, now: Instant) -> String {
        TextEncoder::new().encode_to_string(&sources.gauges(now).await).unwrap()
    }

    #[tokio::test]
    async fn a_source_is_asked_once_in_a_while_however_many_scrape() {
        let (sources, door) = (Sources::default(), Arc::new(Door::default()));
        let number = sources.add(door.clone());
        let began = Instant::now();
        for (later, waiting) in [(Duration::ZERO, 0), (FRESH / 2, 0), (FRESH, 1), (FRESH * 3 / 2, 1)] {
            let text = told(&sources, began + later).await;
            assert!(text.contains(&format!("test_waiting{{door=\"front\"}} {waiting}\n")), "{text}");
        }
        assert_eq!(door.0.load(Ordering::SeqCst), 2);
        sources.remove(number);
        assert_eq!(told(&sources, began).await, "");
    }

    #[tokio::test]
    async fn a_source_that_is_stuck_keeps_nobody_waiting() {
        let sources = Sources::default();
        sources.add(Arc::new(Stuck));
        sources.add(Arc::new(Door::default()));
        let text = told(&sources, Instant::now()).await;
        assert!(text.contains("test_waiting{door=\"front\"} 0\n"), "{text}");
    }
}
