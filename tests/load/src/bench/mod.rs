//! How fast Phasegate is, and how fast it could be on this machine.

mod cold;
mod compared;
mod copies;
mod figure;
mod figures;
mod flat;
mod fleet;
mod floor;
mod pages;
mod parked;
mod place;
mod plans;
mod record;
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use phasegate_load::meter::{Meter, Spent};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::figures::Measured;
use self::fleet::Fleet;
use self::floor::Floor;
use self::place::{Place, Store};
use self::record::{Counted, Latencies, TRANSITIONS_EACH};

/// Before what counts, as a part of what counts.
const WARM_UP: f64 = 0.3;
/// Length of a window, unless it is said otherwise.
const SECONDS: u64 = 20;
/// What the machine can do is measured for so long, each.
const FLOOR: Duration = Duration::from_secs(3);
/// What waits at the end of the load is over by then; five times the figure, so that the time itself is seen.
const DRAINED: Duration = Duration::from_secs(50);

/// Drives whole instances of the page's process through the gateway of a system that it starts, and measures it: first one
/// instance at a time, then many, then at half of that speed whatever comes back. Needs PostgreSQL and redis-server.
#[derive(Debug, Parser)]
#[command(name = "load")]
pub(super) struct Options {
    /// Only on this store; both, one after the other, where it is not given
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// Length of each measurement; 20 where it is not given, 8 with --parked
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,
    /// Instances that run at a time when there are many
    #[arg(long, value_name = "NUMBER", default_value_t = 64)]
    in_flight: usize,
    /// Writes what was measured to this file, as JSON; `-` for standard output instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Says, too, what the dearest statements of PostgreSQL cost under the load of many; counting them costs a little itself
    #[arg(long)]
    statements: bool,
    /// Measures something else: PostgreSQL nearly empty, and again with so many instances that wait for people; 200000 where no
    /// number is given. The instances are copies of some that ran, with all their rows; 200000 take 20 GB below /tmp
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, default_missing_value = "200000",
          conflicts_with_all = ["store", "statements"], value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    parked: Option<u32>,
    /// Rounds of measurements on each side with --parked; their medians count
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The program; the one beside this one where it is not given
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// A window of time under load.
#[derive(Debug, Default, Clone)]
struct Window {
    seconds: f64,
    counted: Counted,
    latencies: BTreeMap<&'static str, Latencies>,
    /// In milliseconds of processor time.
    spent: Spent,
    commits: u64,
    wal_bytes: u64,
}

/// Measures, prints and says whether all figures were reached.
pub(super) async fn run(options: Options) -> anyhow::Result<bool> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("phasegate"),
    };
    let is_quiet = options.json.as_deref() == Some(Path::new("-"));
    let meter = Meter::start();
    if let Some(parked) = options.parked {
        let flat = Box::pin(flat::measure(&options, parked, &program, &meter)).await?;
        if !is_quiet {
            super::say(&compared::table(&flat));
        }
        write(&options, &compared::json(&flat))?;
        return Ok(compared::is_reached(&flat));
    }
    let mut all = Vec::new();
    let stores = options.store.map_or(vec![Store::Postgres, Store::Sqlite], |store| vec![store]);
    for store in stores {
        let measured = Box::pin(measure(&options, &program, store, &meter)).await?;
        if !is_quiet {
            super::say(&figures::table(&measured));
        }
        all.push(measured);
    }
    write(&options, &figures::json(&all))?;
    Ok(all.iter().all(figures::is_reached))
}

/// Writes what was measured to where it is wanted.
fn write(options: &Options, measured: &serde_json::Value) -> anyhow::Result<()> {
    let Some(file) = &options.json else { return Ok(()) };
    let json = serde_json::to_string_pretty(measured)?;
    if file == Path::new("-") {
        super::say(&json);
    } else {
        std::fs::write(file, json + "\n")?;
    }
    Ok(())
}

async fn measure(options: &Options, program: &Path, store: Store, meter: &Meter) -> anyhow::Result<Measured> {
    let folder = tempfile::Builder::new().prefix("phasegate-load-").tempdir_in("/tmp")?;
    let dev = match store {
        Store::Sqlite => Some(cold::dev(program, folder.path()).await?),
        Store::Postgres => None,
    };
    let place = Place::start(store, program, folder.path(), options.statements).await?;
    let cold = match dev {
        Some(cold) => cold,
        None => cold::serve(program, &place).await?,
    };
    tell(store, "measuring what the machine can do");
    let echo = floor::echo(FLOOR).await?;
    let (batched, commit) = match place.database_url() {
        Some(url) => floor::postgres(&url, FLOOR).await?,
        None => floor::sqlite(&place.folder, FLOOR).await?,
    };
    let floor = Floor { echo, batched, commit };
    let fleet = Fleet::connect(&place, "one").await?;
    fleet.begin();
    tell(store, "one instance at a time");
    let time = Duration::from_secs(options.seconds.unwrap_or(SECONDS));
    let idle = window(&place, &fleet, meter, time, |until| {
        let fleet = fleet.clone();
        async move { fleet.closed_loop(1, until).await }
    })
    .await?;
    place.settle().await?;
    tell(store, &format!("{} instances at a time", options.in_flight));
    let in_flight = options.in_flight;
    if options.statements {
        place.statements_begin().await?;
    }
    let peak = window(&place, &fleet, meter, time, |until| {
        let fleet = fleet.clone();
        async move { fleet.closed_loop(in_flight, until).await }
    })
    .await?;
    if options.statements {
        for line in place.statements().await? {
            super::tell(&line);
        }
    }
    let drained = drained(&place).await?;
    #[expect(clippy::cast_precision_loss, reason = "instances of some seconds")]
    let half_rate = peak.counted.ended as f64 / peak.seconds / 2.0;
    tell(store, &format!("{half_rate:.1} instances a second, half of that"));
    let half = window(&place, &fleet, meter, time, |until| {
        let fleet = fleet.clone();
        async move { fleet.open_loop(half_rate, until).await }
    })
    .await?;
    fleet.end();
    let mail = place.mail();
    Ok(Measured { store, in_flight, floor, idle, peak, half, drained, mail, cold })
}

/// Lets a load run, and measures after its beginning.
async fn window<F>(
    place: &Place,
    fleet: &Arc<Fleet>,
    meter: &Meter,
    time: Duration,
    load: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<Window>
where
    F: Future<Output = ()> + Send + 'static,
{
    let until = CancellationToken::new();
    let running = tokio::spawn(load(until.clone()));
    tokio::time::sleep(time.mul_f64(WARM_UP)).await;
    meter.look();
    let (spent, written, counted) = (meter.spent(), place.written().await?, fleet.recorder.counts.now());
    fleet.recorder.open();
    let began = Instant::now();
    tokio::time::sleep(time).await;
    let seconds = began.elapsed().as_secs_f64();
    let counted = fleet.recorder.counts.now().since(counted);
    let latencies = fleet.recorder.close();
    meter.look();
    let spent = meter
        .spent()
        .into_iter()
        .map(|(what, millis)| (what, millis - spent.get(what).copied().unwrap_or_default()))
        .collect();
    let now = place.written().await?;
    until.cancel();
    running.await?;
    let faults = fleet.faults().clone();
    anyhow::ensure!(faults.is_empty(), "{} of {}: {}", faults.len(), place.address, faults.join("; "));
    let all = fleet.recorder.counts.now();
    // Now all of them have ended; one that was handed out again had more.
    anyhow::ensure!(
        all.transitions >= all.ended * TRANSITIONS_EACH,
        "{} transitions were counted of {} instances, which have {TRANSITIONS_EACH} each",
        all.transitions,
        all.ended
    );
    let (commits, wal_bytes) = (now.commits - written.commits, now.wal_bytes - written.wal_bytes);
    Ok(Window { seconds, counted, latencies, spent, commits, wal_bytes })
}

/// How long it takes until nothing waits any more.
async fn drained(place: &Place) -> anyhow::Result<Option<Duration>> {
    let began = Instant::now();
    while began.elapsed() < DRAINED {
        if place.is_drained().await? {
            return Ok(Some(began.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(None)
}

fn tell(store: Store, what: &str) {
    super::tell(&format!("{}: {what}", store.name()));
}
