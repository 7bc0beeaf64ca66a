//! Whether it costs the same with very many instances that wait: the same windows on a system that is nearly empty and on a
//! full one, and then what a full one may not do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_load::meter::Meter;
use tokio::time::Instant;

use super::compared;
use super::copies::instance_id;
use super::fleet::Fleet;
use super::pages::Reader;
use super::parked::{Filled, Parked, SOURCES};
use super::place::{Place, Store};
use super::plans::{self, Plans};
use super::record::Latencies;
use super::{Options, Window, floor, window};

/// Length of each window, unless it is said otherwise.
const SECONDS: u64 = 8;
/// Of the floor, before and after.
const FLOOR: Duration = Duration::from_secs(3);
/// While plans are written down nothing is measured; so many instances at a time are enough for all statements.
const EXPLAINED_IN_FLIGHT: usize = 4;
const EXPLAINED: Duration = Duration::from_secs(20);
/// Copies whose audit trails are checked, and copies that go on.
const CHECKED: u32 = 20;
const WOKEN: u32 = 5;
/// A service stops and starts within this, each.
const PATIENCE: Duration = Duration::from_secs(30);

/// The windows of one round.
#[derive(Debug, Default, Clone)]
pub(super) struct Round {
    /// One instance at a time.
    pub(super) idle: Window,
    /// Many.
    pub(super) peak: Window,
}

/// A system at one size.
#[derive(Debug, Default, Clone)]
pub(super) struct Side {
    pub(super) rounds: Vec<Round>,
    /// One row in a commit, for comparison.
    pub(super) commit: Latencies,
    /// Resident memory after the rounds by service, in MiB.
    pub(super) resident: BTreeMap<String, f64>,
}

/// Everything that was measured.
#[derive(Debug, Default, Clone)]
pub(super) struct Flat {
    pub(super) in_flight: usize,
    pub(super) filled: Filled,
    pub(super) empty: Side,
    pub(super) full: Side,
    pub(super) pages: BTreeMap<String, Latencies>,
    /// Audit trails of copies that are not whole.
    pub(super) broken: u32,
    /// Entries of the shortest audit trail.
    pub(super) entries: u64,
    /// From the first answer about a copy to its end.
    pub(super) woken: Vec<Duration>,
    /// From the end of a service to when it is ready again.
    pub(super) restarts: BTreeMap<String, Duration>,
    /// How long a service takes to tell its metrics.
    pub(super) scrapes: BTreeMap<String, Duration>,
    pub(super) plans: Plans,
}

/// Measures an empty system, fills it, and measures it again.
pub(super) async fn measure(
    options: &Options,
    parked: u32,
    program: &Path,
    meter: &Meter,
) -> anyhow::Result<Flat> {
    let folder = tempfile::Builder::new().prefix("phasegate-load-").tempdir_in("/tmp")?;
    let place = Place::start(Store::Postgres, program, folder.path(), false).await?;
    let fleet = Fleet::connect_each(&place, "flat").await?;
    fleet.begin();
    let mut flat = Flat { in_flight: options.in_flight, ..Flat::default() };
    let run = Run { options, place: &place, meter };
    flat.empty = Box::pin(run.side(&fleet, "nearly empty")).await?;
    ready_to_fill(&place).await?;
    flat.filled = Parked::begin(&place, &fleet).await?.fill(parked).await?;
    super::tell(Store::Postgres, "full; PostgreSQL counts its rows");
    filled(&place).await?;
    flat.full = Box::pin(run.side(&fleet, "full")).await?;
    // Nobody has to wait for the rest to see this.
    crate::tell(&compared::sides(&flat));
    super::tell(Store::Postgres, "pages, and audit trails of copies");
    let reader = Reader::of(&place)?;
    flat.pages = reader.pages(&instance_id(parked / 2)).await?;
    flat.entries = u64::MAX;
    // Over all of them, and copies of each source.
    for number in (0..CHECKED).map(|number| parked / CHECKED * number + number % SOURCES) {
        let (is_intact, entries) = reader.verify(&instance_id(number)).await?;
        flat.broken += u32::from(!is_intact);
        flat.entries = flat.entries.min(entries);
    }
    for number in 1..=WOKEN {
        flat.woken.push(fleet.carry_through(&instance_id(parked - number)).await?);
    }
    fleet.end();
    ensure!(fleet.faults().is_empty(), "{}", fleet.faults().join("; "));
    super::tell(Store::Postgres, "each service anew, and the plans of its statements");
    run.explained(&reader, &mut flat).await?;
    Ok(flat)
}

/// The log of the database may grow by as much as the fill needs.
async fn ready_to_fill(place: &Place) -> anyhow::Result<()> {
    let postgres = &place.production()?.postgres;
    postgres.query("alter system set max_wal_size = '16GB'").await?;
    postgres.query("select pg_reload_conf()").await.map(drop)
}

/// Nothing that the fill has left to do is done while something is measured.
async fn filled(place: &Place) -> anyhow::Result<()> {
    let postgres = &place.production()?.postgres;
    postgres.query("alter system reset all").await?;
    postgres.query("select pg_reload_conf()").await?;
    place.settle().await?;
    postgres.query("checkpoint").await.map(drop)
}

/// What all parts of a run need.
struct Run<'a> {
    options: &'a Options,
    place: &'a Place,
    meter: &'a Meter,
}

impl Run<'_> {
    async fn side(&self, fleet: &std::sync::Arc<Fleet>, name: &str) -> anyhow::Result<Side> {
        let time = Duration::from_secs(self.options.seconds.unwrap_or(SECONDS));
        let in_flight = self.options.in_flight;
        let url = self.place.database_url().context("a PostgreSQL")?;
        let (_, commit) = floor::postgres(&url, FLOOR).await?;
        let mut side = Side { commit, ..Side::default() };
        for number in 1..=self.options.rounds {
            super::tell(Store::Postgres, &format!("{name}, round {number} of {}", self.options.rounds));
            let [idle, peak] = [1, in_flight].map(|in_flight| async move {
                window(self.place, fleet, self.meter, time, |until| {
                    let fleet = fleet.clone();
                    async move { fleet.closed_loop(in_flight, until).await }
                })
                .await
            });
            let idle = idle.await?;
            if number == 1 {
                // What was planned while the tables were empty is planned anew.
                self.place.settle().await?;
            }
            side.rounds.push(Round { idle, peak: peak.await? });
            ensure!(super::drained(self.place).await?.is_some(), "something waits for ever");
        }
        side.resident = self.place.resident()?;
        Ok(side)
    }

    /// Starts each service anew, so that all of its sessions tell their plans, and has some instances run.
    async fn explained(&self, reader: &Reader, flat: &mut Flat) -> anyhow::Result<()> {
        let production = self.place.production()?;
        let from = plans::begin(&production.postgres).await?;
        let began = Instant::now();
        for copy in &production.machine.copies {
            copy.terminate(PATIENCE).await?;
            let ended = Instant::now();
            copy.ready().await?;
            flat.restarts.insert(copy.service.to_owned(), ended.elapsed());
        }
        let fleet = Fleet::connect_each(self.place, "explained").await?;
        fleet.begin();
        let running = window(self.place, &fleet, self.meter, EXPLAINED, |until| {
            let fleet = fleet.clone();
            async move { fleet.closed_loop(EXPLAINED_IN_FLIGHT, until).await }
        });
        let scraping = async {
            let mut scrapes = BTreeMap::new();
            for copy in &production.machine.copies {
                scrapes.insert(copy.service.to_owned(), reader.scrape(copy).await);
            }
            scrapes
        };
        let (window, scrapes) = tokio::join!(running, scraping);
        window?;
        flat.scrapes = scrapes;
        fleet.end();
        flat.plans = plans::end(&production.postgres, from, began.elapsed().as_secs_f64()).await?;
        let faults = production.machine.faults();
        ensure!(faults.is_empty(), "{}", faults.join("; "));
        Ok(())
    }
}
