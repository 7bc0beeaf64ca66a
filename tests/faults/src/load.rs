//! The clients of a run: two operators, three agents, three people, and those who watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use phasegate_load::ledger::{Call, Kind};
use phasegate_load::run::Run;
use phasegate_load::watcher::{Face, Watcher};
use phasegate_load::{agent, approver, operator, process};
use reqwest::Method;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::contest;
use crate::plan::Plan;
use crate::world::World;

/// Definitions of the contests.
const CONTESTS: [&str; 2] = ["faults_duels", "faults_stale"];
/// Watches that are open while things break.
const WATCHED: usize = 12;
/// Instances among which watches are shared out: with one for each, hundreds would take minutes to open.
pub(crate) const INSTANCES_WATCHED: usize = 20;

/// What those who watched saw.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) watches: u64,
    /// Those that had to be.
    pub(crate) resumed: u64,
    pub(crate) events: u64,
    /// One for each time that a watch began or was resumed.
    pub(crate) streams: u64,
}

/// The clients.
#[derive(Debug)]
pub(crate) struct Load {
    operators: JoinSet<anyhow::Result<()>>,
    others: JoinSet<anyhow::Result<()>>,
    started: mpsc::UnboundedSender<String>,
    instances: mpsc::UnboundedReceiver<String>,
    watchers: Vec<Arc<Watcher>>,
    duels: Option<JoinHandle<anyhow::Result<String>>>,
    stale: Option<JoinHandle<anyhow::Result<()>>>,
    duelled: Option<String>,
}

impl Load {
    /// Publishes the definitions, and begins.
    pub(crate) async fn start(world: &Arc<World>, seed: u64) -> anyhow::Result<Self> {
        let run = &world.run;
        let definitions = [
            process::definition(&run.manner.process),
            contest::definition(CONTESTS[0]),
            contest::definition(CONTESTS[1]),
        ];
        for definition in definitions {
            let request_id = format!("publish-{}", run.mark());
            let path = "/api/processes".to_owned();
            let call = Call { method: Method::POST, path, body: definition, request_id };
            let (status, answer, _) = run.settle(Kind::Start, &call, None).await?;
            ensure!(status < 300, "a definition was answered with {status}: {answer}");
        }
        let (started, instances) = mpsc::unbounded_channel();
        let mut load = Self {
            operators: JoinSet::new(),
            others: JoinSet::new(),
            started,
            instances,
            watchers: Vec::new(),
            duels: None,
            stale: None,
            duelled: None,
        };
        load.operators_start(world, seed);
        for number in 0..3 {
            load.others.spawn(agent::works(run.clone(), number, seed.wrapping_add(10 + number)));
        }
        for number in 0..3 {
            load.others.spawn(approver::decides(run.clone(), seed.wrapping_add(20 + number)));
        }
        load.watch(world, WATCHED, WATCHED).await;
        Ok(load)
    }

    /// Begins to start instances.
    pub(crate) fn operators_start(&mut self, world: &Arc<World>, seed: u64) {
        for number in 0..2 {
            let started = self.started.clone();
            self.operators.spawn(operator::operates(world.run.clone(), seed.wrapping_add(number), started));
        }
    }

    /// Opens so many watches of so many instances, the next ones that are started.
    pub(crate) async fn watch(&mut self, world: &Arc<World>, count: usize, instances: usize) {
        while self.instances.try_recv().is_ok() {}
        let each = count.div_ceil(instances);
        for opened in (0..count).step_by(each.max(1)) {
            let next = tokio::time::timeout(Duration::from_secs(10), self.instances.recv()).await;
            let Ok(Some(instance)) = next else {
                world.run.fault(format!("only {opened} of {count} watches could be opened"));
                return;
            };
            for number in opened..count.min(opened + each) {
                let face = if number % 2 == 0 { Face::Grpc } else { Face::ServerSentEvents };
                let watcher = Arc::new(Watcher::new(world.run.clone(), instance.clone(), face));
                self.watchers.push(watcher.clone());
                // It ends with the runtime.
                tokio::spawn(watcher.watches());
            }
        }
    }

    /// Begins the contests.
    pub(crate) fn contest(&mut self, world: &Arc<World>, plan: &Plan) {
        let [duels, stale] = CONTESTS.map(str::to_owned);
        self.duels = Some(tokio::spawn(contest::duels(world.clone(), duels, plan.duels)));
        self.stale = Some(tokio::spawn(contest::goes_stale(world.clone(), stale, plan.stale)));
    }

    /// Waits until the contests are over.
    pub(crate) async fn contests_end(&mut self) -> anyhow::Result<()> {
        if let Some(duels) = self.duels.take() {
            self.duelled = Some(duels.await??);
        }
        if let Some(stale) = self.stale.take() {
            stale.await??;
        }
        Ok(())
    }

    /// Waits until all instances of the operators have ended.
    pub(crate) async fn closes(&mut self, run: &Run, patience: Duration) -> anyhow::Result<()> {
        let all = async {
            while let Some(ended) = self.operators.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        if let Ok(ended) = tokio::time::timeout(patience, all).await {
            ended
        } else {
            run.fault(stuck(run).await?);
            self.operators.shutdown().await;
            Ok(())
        }
    }

    /// Waits for everybody else.
    pub(crate) async fn ends(&mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.others.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Everybody who watched saw what the log has.
    pub(crate) async fn compare_watchers(&self) -> anyhow::Result<Watched> {
        let mut watched = Watched { watches: self.watchers.len() as u64, ..Watched::default() };
        for watcher in &self.watchers {
            watcher.compare().await?;
            watched.resumed += u64::from(watcher.streams() > 1);
            watched.events += watcher.ids().len() as u64;
            watched.streams += watcher.streams();
        }
        Ok(watched)
    }

    /// The log has one answer to each of the contested requests.
    pub(crate) async fn check_contests(&self, run: &Run, asked: u64) -> anyhow::Result<()> {
        let Some(instance) = &self.duelled else { return Ok(()) };
        let entries = run.ask_all(&format!("/api/processes/instances/{instance}/audit"), "entries").await?;
        let mut answers: BTreeMap<String, u64> = BTreeMap::new();
        for entry in &entries {
            let approval = entry["details"]["approval"].as_str().unwrap_or_default();
            match entry["action"].as_str() {
                Some("requested") => drop(answers.entry(approval.to_owned()).or_default()),
                Some("approved" | "rejected") if entry["details"]["response"].is_string() => {
                    *answers.entry(approval.to_owned()).or_default() += 1;
                }
                _ => {}
            }
        }
        if answers.len() as u64 != asked {
            run.fault(format!("the log of {instance} has {} contested requests of {asked}", answers.len()));
        }
        for (approval, count) in answers.iter().filter(|(_, count)| **count != 1) {
            run.fault(format!("the log has {count} answers to {approval}"));
        }
        Ok(())
    }
}

/// Says what the instances that do not move wait for.
async fn stuck(run: &Run) -> anyhow::Result<String> {
    let listed =
        run.ask_all(&format!("/api/processes/{}/instances", run.manner.process), "instances").await?;
    let open = listed.iter().filter(|one| one["status"] != "completed" && one["status"] != "cancelled");
    let open: Vec<String> = open
        .map(|one| {
            format!(
                "  {} {} in {}: {} waits for {}",
                one["id"], one["status"], one["phase"], one["blockedTasks"], one["pendingApprovals"]
            )
        })
        .collect();
    Ok(format!("{} instances did not end:\n{}", open.len(), open.join("\n")))
}
