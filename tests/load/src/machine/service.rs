//! The processes of production: any number of copies of each service, each under a supervisor that starts it again when it
//! has ended.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::Instant;

use super::port::Ports;
use super::signal;

/// The services.
pub const SERVICES: [&str; 7] =
    ["gateway", "definition", "instance", "approval", "artifact", "participant", "notification"];
/// From a start to being ready, on a very busy machine.
const READY: Duration = Duration::from_mins(1);
/// A supervisor waits this long before it starts again what has ended.
const RESTART: Duration = Duration::from_millis(200);

/// Where the copies find what they need; ports on the loopback address.
#[derive(Debug, Clone)]
pub struct Places {
    /// The program.
    pub program: PathBuf,
    /// For settings and logs.
    pub folder: PathBuf,
    /// Copies of each service.
    pub copies: usize,
    /// PostgreSQL.
    pub postgres: u16,
    /// Redis.
    pub redis: u16,
    /// The mail server.
    pub smtp: u16,
    /// What links begin with.
    pub public: u16,
    /// More lines of the file of settings.
    pub settings: String,
    /// A mistake that the program is told to make.
    pub planted: Option<String>,
}

/// All processes.
#[derive(Debug)]
pub struct Machine {
    /// All copies of all services.
    pub copies: Vec<Arc<Process>>,
    start: Start,
}

/// How a process is started.
#[derive(Debug, Clone)]
struct Start {
    program: PathBuf,
    config: PathBuf,
    planted: Option<String>,
}

/// One copy of a service over all its lives.
#[derive(Debug)]
pub struct Process {
    /// Service.
    pub service: &'static str,
    /// Service and number of the copy.
    pub name: String,
    /// Where it listens.
    pub port: u16,
    /// Where it tells how it is.
    pub admin: u16,
    log: PathBuf,
    state: Mutex<State>,
    /// Number of lives that have begun, and whether the last one is ready.
    life: watch::Sender<Life>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Life {
    begun: u64,
    ended: u64,
    is_ready: bool,
}

#[derive(Debug, Default)]
struct State {
    process: Option<u32>,
    /// Somebody ends it on purpose.
    is_meant: bool,
    /// It stopped as it should the last time, and was not ended by a signal.
    is_in_order: bool,
    /// Ends that nobody meant.
    faults: Vec<String>,
}

impl Machine {
    /// Writes the settings, brings the databases to date and starts everything. Returns once all are ready.
    pub async fn start(places: &Places, ports: &mut Ports) -> anyhow::Result<Self> {
        let mut copies = Vec::new();
        for service in SERVICES {
            for number in 1..=places.copies {
                let name = format!("{service}-{number}");
                copies.push(Arc::new(Process {
                    service,
                    log: places.folder.join(format!("{name}.log")),
                    name,
                    port: ports.free()?,
                    admin: ports.free()?,
                    state: Mutex::default(),
                    life: watch::Sender::new(Life::default()),
                }));
            }
        }
        let config = places.folder.join("settings.toml");
        std::fs::write(&config, settings(places, &copies)?)?;
        let (program, planted) = (places.program.clone(), places.planted.clone());
        let machine = Self { copies, start: Start { program, config, planted } };
        machine.admin(&["migrate"]).await?;
        for copy in &machine.copies {
            tokio::spawn(supervise(copy.clone(), machine.start.clone()));
        }
        for copy in &machine.copies {
            copy.ready().await?;
        }
        Ok(machine)
    }

    /// Runs `phasegate admin …`: what it prints.
    pub async fn admin(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.start.program);
        command.arg("admin").args(arguments).arg("--config").arg(&self.start.config);
        let output = command.stdin(Stdio::null()).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "phasegate admin {}: {said}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Ends that nobody meant, over all copies.
    pub fn faults(&self) -> Vec<String> {
        self.copies.iter().flat_map(|copy| copy.state().faults.clone()).collect()
    }
}

fn settings(places: &Places, copies: &[Arc<Process>]) -> anyhow::Result<String> {
    let secret = places.folder.join("secret");
    std::fs::write(&secret, format!("{}\n", "5e".repeat(32)))?;
    let peers: Vec<String> = copies
        .iter()
        .filter(|copy| copy.service != "gateway")
        .map(|copy| format!("{:?}", format!("{}=http://127.0.0.1:{}", copy.service, copy.port)))
        .collect();
    Ok(format!(
        "database-url = \"postgres://phasegate@127.0.0.1:{}/postgres\"\n\
         redis-url = \"redis://127.0.0.1:{}\"\npublic-url = \"http://127.0.0.1:{}\"\nsecret-file = {:?}\n\
         smtp-host = \"127.0.0.1\"\nsmtp-port = {}\nsmtp-tls = \"none\"\npeers = [{}]\n{}",
        places.postgres,
        places.redis,
        places.public,
        secret.display().to_string(),
        places.smtp,
        peers.join(", "),
        places.settings
    ))
}

async fn supervise(copy: Arc<Process>, start: Start) {
    loop {
        match copy.spawn(&start) {
            Ok(mut child) => {
                copy.state().process = child.id();
                copy.life.send_modify(|life| {
                    life.begun += 1;
                    life.is_ready = false;
                });
                let ended = tokio::select! {
                    ended = child.wait() => ended,
                    () = copy.watch_readiness() => child.wait().await,
                };
                copy.has_ended(ended);
            }
            Err(error) => copy.state().faults.push(format!("{}: {error:#}", copy.name)),
        }
        tokio::time::sleep(RESTART).await;
    }
}

impl Process {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its number, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.state().process
    }

    fn spawn(&self, start: &Start) -> anyhow::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        // It must not outlive this process, however this one ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&start.program)
            .args(["serve", self.service, "--config"])
            .arg(&start.config);
        if let Some(bug) = &start.planted {
            command.env("PHASEGATE_PLANTED", bug);
        }
        command.arg("--listen").arg(format!("{}=127.0.0.1:{}", self.service, self.port));
        command.arg("--admin-listen").arg(format!("127.0.0.1:{}", self.admin)).args(["--log", "warn"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.spawn().with_context(|| format!("start {}", self.name))
    }

    fn has_ended(&self, how: std::io::Result<ExitStatus>) {
        let mut state = self.state();
        state.process = None;
        state.is_in_order = how.as_ref().is_ok_and(ExitStatus::success);
        let is_meant = std::mem::take(&mut state.is_meant);
        // Before it was ready it may end because it does not find what it needs.
        if !is_meant && self.life.borrow().is_ready {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            state.faults.push(format!("{} ended by itself ({how:?}): {}", self.name, last.join(" / ")));
        }
        drop(state);
        self.life.send_modify(|life| {
            life.ended = life.begun;
            life.is_ready = false;
        });
    }

    async fn watch_readiness(&self) {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin);
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let asked = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build();
            let Ok(http) = asked else { continue };
            if http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                self.life.send_modify(|life| life.is_ready = true);
                return;
            }
        }
    }

    /// Waits until it is ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut life = self.life.subscribe();
        let waited = async { life.wait_for(|life| life.is_ready).await.map(drop) };
        let Ok(is_ready) = tokio::time::timeout(READY, waited).await else {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            bail!("{} is not ready: {}", self.name, said.lines().last().unwrap_or("it says nothing"));
        };
        is_ready.context("a supervisor")
    }

    /// Ends it as `kill -9` does. False where it does not run at this moment.
    pub async fn kill(&self) -> anyhow::Result<bool> {
        let process = {
            let mut state = self.state();
            state.is_meant = state.process.is_some();
            state.process
        };
        match process {
            // It may have ended this very moment.
            Some(process) => Ok(signal::send("KILL", process).await.is_ok()),
            None => Ok(false),
        }
    }

    /// Holds it for a time. False where it does not run.
    pub async fn hold(&self, time: Duration) -> anyhow::Result<bool> {
        let Some(process) = self.state().process else { return Ok(false) };
        if signal::send("STOP", process).await.is_err() {
            return Ok(false);
        }
        tokio::time::sleep(time).await;
        // Somebody may have killed it meanwhile.
        let is_there = self.state().process == Some(process);
        Ok(is_there && signal::send("CONT", process).await.is_ok())
    }

    /// Asks it to end, and waits until it has, in order: how long it took.
    pub async fn terminate(&self, patience: Duration) -> anyhow::Result<Duration> {
        let mut life = self.life.subscribe();
        let life_number = life.borrow().begun;
        let process = {
            let mut state = self.state();
            state.is_meant = true;
            state.process.with_context(|| format!("{} does not run", self.name))?
        };
        let began = Instant::now();
        signal::send("TERM", process).await?;
        let waited = async { life.wait_for(|life| life.ended >= life_number).await.map(drop) };
        if let Ok(ended) = tokio::time::timeout(patience, waited).await {
            ended.context("a supervisor")?;
            ensure!(self.state().is_in_order, "{} did not stop in order", self.name);
            Ok(began.elapsed())
        } else {
            signal::send("KILL", process).await?;
            bail!("{} did not end within {} s", self.name, patience.as_secs())
        }
    }
}
