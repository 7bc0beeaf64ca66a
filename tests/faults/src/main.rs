//! The real processes of production while everything that they stand on breaks: two copies of each service, PostgreSQL,
//! Redis and the mail server are killed, held, cut off and emptied while clients drive whole instances through them. In
//! the end nothing that was acknowledged may be lost, nothing done twice, and everything must have come to its end.

mod access;
mod chaos;
mod contest;
mod dump;
mod figures;
mod load;
mod plan;
mod proxy;
mod stop;
mod world;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use phasegate_load::check;
use phasegate_load::machine::{Machine, Places, Ports, Postgres};
use phasegate_load::meter::Meter;
use phasegate_load::run::{Manner, Run, Stage};
use phasegate_load::sink::Sink;
use phasegate_load::waiting::Waiting;
use phasegate_load::window::PATIENCE;
use phasegate_test_redis::TestRedis;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::figures::Found;
use crate::load::{INSTANCES_WATCHED, Load};
use crate::plan::Plan;
use crate::proxy::{Keeper, Proxy, Request};
use crate::world::{Losses, World};

/// Between two lines while things break.
const TELLS: Duration = Duration::from_mins(1);
/// Faults that are shown.
const SHOWN: usize = 40;

/// Breaks production on this machine, and tells whether it holds.
#[derive(Debug, Parser)]
#[command(name = "faults")]
struct Options {
    /// The run of 45 minutes instead of that of 8
    #[arg(long)]
    long: bool,
    /// Order of the faults and of what the clients do; by chance where it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// A short run for trying, which never counts
    #[arg(long, value_name = "SECONDS")]
    trial: Option<u64>,
    /// A run in which nothing breaks, to see what the machine can do, which never counts
    #[arg(long, value_name = "SECONDS")]
    calm: Option<u64>,
    /// A short run with a program that makes this mistake, which the run must find
    #[arg(long, value_name = "NAME")]
    planted: Option<String>,
    /// The program
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Takes how many figures were reached, and how many were not: "passed failed skipped"
    #[arg(long, value_name = "FILE")]
    counts: Option<PathBuf>,
}

fn main() -> ExitCode {
    match program() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace, which is the same every time.
            say(&format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn program() -> anyhow::Result<()> {
    let options = Options::parse();
    let plan = match (&options.planted, options.trial, options.calm) {
        (Some(_), ..) => Plan::planted(),
        (None, Some(seconds), _) => Plan::trial(seconds),
        (None, None, Some(seconds)) => Plan::calm(seconds),
        (None, None, None) if options.long => Plan::long(),
        (None, None, None) => Plan::ordinary(),
    };
    let seed = options.seed.unwrap_or_else(rand::random);
    let program = match options.program {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("phasegate"),
    };
    let folder = tempfile::Builder::new().prefix("phasegate-faults-").tempdir_in("/tmp")?;
    say(&format!("{} with seed {seed}; logs in {}", plan.name, folder.path().display()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(Box::pin(runs(
        &plan,
        seed,
        (program, options.planted.clone()),
        folder.path().to_owned(),
    )));
    runtime.shutdown_timeout(Duration::from_secs(5));
    let outcome = match (options.planted, outcome) {
        (Some(bug), Ok(done)) => return caught(&bug, &done.faults),
        (_, outcome) => outcome,
    };
    let outcome = outcome.and_then(|Done { reached, missing, .. }| {
        if let Some(file) = &options.counts {
            std::fs::write(file, format!("{reached} {} 0\n", missing.len()))?;
        }
        if missing.is_empty() { Ok(()) } else { bail!("missed:\n{}", missing.join("\n")) }
    });
    if outcome.is_err() {
        let kept = folder.keep();
        say(&format!("the logs are kept in {}", kept.display()));
    }
    outcome.with_context(|| format!("seed {seed}"))
}

/// Says something to whoever watches.
fn say(what: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stdout().lock(), "{what}");
}

/// What came of a run.
#[derive(Debug, Default)]
struct Done {
    /// Figures that were reached.
    reached: usize,
    /// Figures that were not.
    missing: Vec<String>,
    /// What must not have happened.
    faults: Vec<String>,
}

async fn runs(
    plan: &Plan,
    seed: u64,
    (program, planted): (PathBuf, Option<String>),
    folder: PathBuf,
) -> anyhow::Result<Done> {
    let began = Instant::now();
    let is_planted = planted.is_some();
    let world = Arc::new(build(plan, seed, (program, planted), folder).await?);
    say(&format!(
        "{} processes are ready after {:.0} s",
        world.machine.copies.len(),
        began.elapsed().as_secs_f64()
    ));
    if plan.is_calm {
        return calm(&world, plan, seed).await;
    }
    let mut load = Load::start(&world, seed).await?;
    let outcome = tokio::select! {
        outcome = phases(&world, plan, seed, &mut load, began) => outcome,
        done = first_fault(&world.run), if is_planted => Ok(done),
    };
    if outcome.as_ref().map_or(true, |done| !done.missing.is_empty()) {
        let faults = world.run.ledger().faults.clone();
        say(&shortened(&faults));
    }
    outcome
}

/// Nothing breaks: says what the processes cost, at rest for half the time, and then at work.
async fn calm(world: &Arc<World>, plan: &Plan, seed: u64) -> anyhow::Result<Done> {
    let started = world.meter.spent();
    tokio::time::sleep(plan.chaos / 2).await;
    let rested = world.meter.spent();
    let seconds = plan.chaos.as_secs() / 2;
    say(&format!("at rest, for each second: {}", figures::cost(&started, &rested, seconds)));
    let _load = Load::start(world, seed).await?;
    let (before, rested) = (world.run.ledger().acknowledged(), world.meter.spent());
    tokio::time::sleep(plan.chaos / 2).await;
    let writes = world.run.ledger().acknowledged() - before;
    say(&format!(
        "{writes} writes in {seconds} s, for each: {}",
        figures::cost(&rested, &world.meter.spent(), writes)
    ));
    Ok(Done::default())
}

/// Returns once something is wrong.
async fn first_fault(run: &Run) -> Done {
    loop {
        let faults = run.ledger().faults.clone();
        if !faults.is_empty() {
            return Done { faults, ..Done::default() };
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A run with a mistake must show one.
fn caught(bug: &str, faults: &[String]) -> anyhow::Result<()> {
    let first = faults.first().with_context(|| format!("{bug} was not found"))?;
    say(&format!("{bug} was found: {first:.300}"));
    Ok(())
}

async fn phases(
    world: &Arc<World>,
    plan: &Plan,
    seed: u64,
    load: &mut Load,
    began: Instant,
) -> anyhow::Result<Done> {
    let run = &world.run;
    let step = |what: &str| {
        let (done, faults, first) = {
            let ledger = run.ledger();
            let first =
                ledger.faults.first().map_or_else(String::new, |fault| format!("; the first: {fault:.400}"));
            (ledger.acknowledged(), ledger.faults.len(), first)
        };
        say(&format!(
            "{:>5.0} s  {done:>6} writes, {faults} faults  {what}{first}",
            began.elapsed().as_secs_f64()
        ));
    };
    step("load begins");
    tokio::time::sleep(Duration::from_secs(8)).await;
    redis_goes_away(world, plan).await?;
    step("Redis was away");
    chaos::kills_postgres(world, Duration::from_secs(2)).await?;
    let back = world.counts().postgres_back.last().map_or(0.0, Duration::as_secs_f64);
    step(&format!("PostgreSQL was away; the first success came {back:.1} s after it was back"));
    load.contest(world, plan);
    let tells = async {
        loop {
            tokio::time::sleep(TELLS).await;
            step("things go on breaking");
        }
    };
    tokio::select! {
        raged = chaos::rages(world, plan, seed) => raged?,
        () = tells => {}
    }
    let stopped = Instant::now();
    world.counts().acknowledged = run.ledger().acknowledged();
    step("the faults have stopped");
    run.enter(Stage::Closing);
    load.contests_end().await?;
    load.closes(run, plan.converges * 3).await?;
    step("all instances have ended");
    converges(world, stopped).await?;
    step("nothing waits any more");
    run.enter(Stage::Load);
    load.operators_start(world, seed + 100);
    let late = Instant::now() + plan.overtime;
    while run.ledger().acknowledged() < plan.acknowledged && Instant::now() < late {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    step("enough is written, or the time for it is over");
    load.watch(world, plan.watched, INSTANCES_WATCHED).await;
    stop::in_turn(world, plan, load).await?;
    step("every process was told to stop, and is back");
    run.enter(Stage::Closing);
    load.closes(run, plan.converges * 3).await?;
    run.enter(Stage::Over);
    load.ends().await?;
    step("the clients have ended");
    let mut found = checks(world, load).await?;
    found.seconds = began.elapsed().as_secs();
    found.faults.clone_from(&run.ledger().faults);
    found.faults.extend(world.machine.faults());
    let (table, reached, missing) = figures::table(plan, world, &found);
    say(&format!("{} (seed {seed})\n{table}", plan.name));
    Ok(Done { reached, missing, faults: found.faults })
}

async fn build(
    plan: &Plan,
    seed: u64,
    (program, planted): (PathBuf, Option<String>),
    folder: PathBuf,
) -> anyhow::Result<World> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ports = Ports::new(&mut random);
    let meter = Meter::start();
    // The server's user must be able to walk to its folder.
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    let postgres = Postgres::start(&folder, ports.free()?, "64MB").await?;
    let redis = TestRedis::start().await?;
    let (to_postgres, to_redis, smtp) = (ports.free()?, ports.free()?, ports.free()?);
    let postgres_proxy = Proxy::start(to_postgres, postgres.port(), Request::Commit).await?;
    let redis_proxy = Proxy::start(to_redis, redis.port(), Request::Any).await?;
    let sink = Sink::start(smtp, seed).await?;
    let public = [ports.free()?, ports.free()?];
    let places = Places {
        program,
        folder,
        copies: 2,
        postgres: to_postgres,
        redis: to_redis,
        smtp,
        public: public[0],
        settings: "database-connections = 6\n".to_owned(),
        planted,
    };
    let machine = Machine::start(&places, &mut ports).await?;
    let gateways: Vec<u16> =
        machine.copies.iter().filter(|copy| copy.service == "gateway").map(|copy| copy.port).collect();
    let mut to_gateways = Vec::new();
    for (port, gateway) in public.into_iter().zip(&gateways) {
        to_gateways.push(Proxy::start(port, *gateway, Request::Any).await?);
    }
    let keeper_port = ports.free()?;
    let keeper = Keeper::start(keeper_port, gateways).await?;
    let losses = Arc::new(Losses::new(keeper, keeper_port, plan.swallowed_each));
    let manner = Manner {
        keys: Some(access::keys(&machine).await?),
        is_alone: false,
        answer_time: Duration::from_secs(20),
        patience: Duration::from_mins(2),
        under_way: 10,
        busy: 0.5,
        pause_millis: 30,
        cancels: 0.02,
        ..Manner::new("faults")
    };
    let mut run = Run::new(manner)?;
    run.swallower = Some(losses.clone());
    let public = public.map(|port| format!("http://127.0.0.1:{port}"));
    run.lives(&public.each_ref().map(String::as_str));
    let proxies = (to_gateways, postgres_proxy, redis_proxy);
    Ok(World::new(machine, postgres, redis, proxies, (sink, meter), (Arc::new(run), losses)))
}

/// Counts what becomes of calls while Redis is away and everything else is well.
async fn redis_goes_away(world: &World, plan: &Plan) -> anyhow::Result<()> {
    let mut redis = world.redis.lock().await;
    redis.kill();
    world.run.window.open();
    tokio::time::sleep(plan.redis_away).await;
    world.run.window.close();
    redis.restart().await?;
    drop(redis);
    world.has_killed("redis");
    world.counts().redis_lost += 1;
    // What was sent meanwhile has its answer, or has none in time, before anything else breaks.
    tokio::time::sleep(PATIENCE).await;
    Ok(())
}

/// Waits until nothing is left to do in any database.
async fn converges(world: &World, stopped: Instant) -> anyhow::Result<()> {
    loop {
        let waiting = Waiting::read(&*world.postgres.lock().await).await?;
        if waiting.is_over() {
            world.counts().converged = Some(stopped.elapsed());
            return Ok(());
        }
        if stopped.elapsed() > Duration::from_mins(2) {
            world.run.fault(format!("there is no end: {waiting:?}"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn checks(world: &World, load: &Load) -> anyhow::Result<Found> {
    let run = &world.run;
    let totals = check::check(run).await?;
    let watched = load.compare_watchers().await?;
    let duels = world.counts().duels;
    load.check_contests(run, duels).await?;
    // What was refused shortly before the end is tried again after a wait that has grown.
    let until = Instant::now() + Duration::from_secs(90);
    let postgres = world.postgres.lock().await;
    let mut waiting = Waiting::read(&postgres).await?;
    while (waiting.mail > 0 || !waiting.is_over()) && Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
        waiting = Waiting::read(&postgres).await?;
    }
    if waiting.mail > 0 || !waiting.is_over() || !waiting.failed.is_empty() {
        run.fault(format!("in the end something waits, or was set aside: {waiting:?}"));
    }
    let (mail_sent, lost) = dump::lost_mail(&postgres, &world.sink.mail()).await?;
    for fault in lost {
        run.fault(fault);
    }
    Ok(Found { totals, mail_sent, watched, ..Found::default() })
}

fn shortened(faults: &[String]) -> String {
    let shown: Vec<String> =
        faults.iter().take(SHOWN).map(|fault| fault.chars().take(700).collect()).collect();
    shown.join("\n")
}
