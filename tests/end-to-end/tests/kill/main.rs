//! Kills the program as `kill -9` does while clients call it, again and again, starts it on the same data, and compares in the
//! end what the clients were told with what is there.

mod figures;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_end_to_end::{Rest, Server, Storage};
use phasegate_load::run::{Manner, Run, Stage};
use phasegate_load::watcher::{Face, Watcher};
use phasegate_load::{agent, approver, check, operator, process};
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::figures::Figures;

/// Answers that the server gives between two kills at least: it is under load.
const ANSWERS_PER_LIFE: u64 = 30;
/// Longest time for one life, and for the end.
const PATIENCE: Duration = Duration::from_mins(1);
/// Changes that are repeated once more when all is over.
const REPEATED_LATE: usize = 250;
/// Instances that are watched.
const WATCHED: usize = 8;

/// How hard a run is, and what it must have done to count.
struct Plan {
    process: &'static str,
    kills: u64,
    /// Kills that caught changes in flight.
    kills_in_flight: u64,
    acknowledged: u64,
    /// Of each kind.
    acknowledged_each: u64,
    instances: usize,
}

async fn endures(storage: Storage, plan: Plan) -> anyhow::Result<()> {
    let seed: u64 = rand::random();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let began = tokio::time::Instant::now();
    let mut server = Server::start(storage).await?;
    let (status, answer) =
        Rest::new(server.address()).post("/api/processes", &process::definition(plan.process)).await?;
    ensure!(status == 201, "the definition was answered with {status}: {answer}");

    let run = Arc::new(Run::new(Manner::new(plan.process))?);
    run.lives(&[server.address()]);
    let (started, instances) = mpsc::unbounded_channel();
    let mut operators = JoinSet::new();
    let mut others = JoinSet::new();
    for number in 0..3 {
        operators.spawn(operator::operates(run.clone(), seed + number, started.clone()));
        others.spawn(agent::works(run.clone(), number, seed + 10 + number));
    }
    for number in 0..2 {
        others.spawn(approver::decides(run.clone(), seed + 20 + number));
    }
    drop(started);
    let watch = tokio::spawn(watch(run.clone(), instances));

    for kill in 0..plan.kills {
        let before = run.ledger().acknowledged();
        let loaded = async {
            while run.ledger().acknowledged() < before + ANSWERS_PER_LIFE {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, loaded).await.with_context(|| {
            format!("no load before kill {kill} (seed {seed}): {}", run.ledger().faults.join("\n"))
        })?;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_500))).await;
        run.is_about_to_die();
        server.kill().await?;
        run.is_dead();
        server = server.start_again().await?;
        run.lives(&[server.address()]);
    }
    // On a slow machine the load goes on until there was enough of everything.
    let until = tokio::time::Instant::now() + PATIENCE;
    while !figures::missing_changes(&plan, &run).is_empty() && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    run.enter(Stage::Closing);
    let load = began.elapsed();

    let closed = tokio::time::timeout(PATIENCE, all(&mut operators)).await;
    run.enter(Stage::Over);
    all(&mut others).await?;
    let mut figures = Figures {
        seed,
        kills: plan.kills,
        load,
        closing: began.elapsed().saturating_sub(load),
        ..Figures::default()
    };
    match closed {
        Ok(closed) => closed?,
        Err(_) => run.fault(stuck(&run).await?),
    }
    figures.late = repeat_late(&run).await?;
    figures.totals = check::check(&run).await?;
    for watcher in watch.await?? {
        figures.streams += watcher.streams();
        figures.watched += watcher.ids().len();
        watcher.compare().await?;
    }
    figures.print(&run)?;
    let missing = figures.missing(&plan, &run);
    let faults = run.ledger().faults.clone();
    ensure!(faults.is_empty(), "seed {seed}: {} faults:\n{}", faults.len(), shortened(&faults));
    ensure!(missing.is_empty(), "seed {seed}: the run does not count:\n{}", missing.join("\n"));
    Ok(())
}

/// Waits for all, or for the first error.
async fn all(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Watches some of the instances until all is over and read.
async fn watch(
    run: Arc<Run>,
    mut instances: mpsc::UnboundedReceiver<String>,
) -> anyhow::Result<Vec<Arc<Watcher>>> {
    let mut watchers = Vec::new();
    while let Some(instance) = instances.recv().await {
        if watchers.len() == WATCHED {
            break;
        }
        let face = if watchers.len() % 2 == 0 { Face::Grpc } else { Face::ServerSentEvents };
        let watcher = Arc::new(Watcher::new(run.clone(), instance, face));
        watchers.push(watcher.clone());
        // It ends with the runtime of the test.
        tokio::spawn(watcher.watches());
    }
    Ok(watchers)
}

/// Repeats what was done, above all what was in doubt, long after: the answers are still the first ones.
async fn repeat_late(run: &Run) -> anyhow::Result<usize> {
    let mut told: Vec<_> = run.ledger().told.iter().filter(|told| told.answer.is_some()).cloned().collect();
    told.sort_by_key(|told| !told.in_doubt);
    let (doubtful, sure) = told.split_at(told.iter().filter(|told| told.in_doubt).count());
    let step = (sure.len() / (REPEATED_LATE / 2)).max(1);
    let chosen: Vec<_> =
        doubtful.iter().chain(sure.iter().step_by(step)).take(REPEATED_LATE).cloned().collect();
    for told in &chosen {
        run.repeat(told).await?;
    }
    Ok(chosen.len())
}

/// Says what the instances that do not move wait for.
async fn stuck(run: &Run) -> anyhow::Result<String> {
    let listed =
        run.ask_all(&format!("/api/processes/{}/instances", run.manner.process), "instances").await?;
    let open = listed.iter().filter(|one| one["status"] != "completed");
    let open: Vec<String> = open
        .map(|one| {
            format!(
                "  {} {} in {}: {} waits for {}",
                one["id"], one["status"], one["phase"], one["blockedTasks"], one["pendingApprovals"]
            )
        })
        .collect();
    Ok(format!("{} instances did not complete in {} s:\n{}", open.len(), PATIENCE.as_secs(), open.join("\n")))
}

fn shortened(faults: &[String]) -> String {
    let shown: Vec<String> = faults.iter().take(40).map(|fault| fault.chars().take(600).collect()).collect();
    shown.join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_ten_times_on_sqlite_and_nothing_is_lost_or_done_twice() -> anyhow::Result<()> {
    let plan = Plan {
        process: "killed_on_sqlite",
        kills: 10,
        kills_in_flight: 6,
        acknowledged: 500,
        acknowledged_each: 4,
        instances: 12,
    };
    endures(Storage::Sqlite, plan).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_three_times_on_postgresql_and_nothing_is_lost_or_done_twice() -> anyhow::Result<()> {
    let plan = Plan {
        process: "killed_on_postgresql",
        kills: 3,
        kills_in_flight: 2,
        acknowledged: 200,
        acknowledged_each: 1,
        instances: 6,
    };
    endures(Storage::Postgres(phasegate_test_database::postgres_url().await?), plan).await
}
