//! A `phasegate dev` in a process of its own, in a folder of its own, on a free port.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Longest time from start to the line that says where it listens.
const START: Duration = Duration::from_mins(1);

/// Where a server keeps its data.
#[derive(Debug, Clone)]
pub enum Storage {
    /// SQLite files in its folder.
    Sqlite,
    /// This PostgreSQL database.
    Postgres(String),
}

/// A running server. Killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    address: String,
    folder: std::sync::Arc<TempDir>,
    storage: Storage,
}

/// The program, as it was built beside this test.
pub fn program() -> anyhow::Result<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "a test is told where the program is")]
    if let Ok(path) = std::env::var("PHASEGATE_TEST_BINARY") {
        return Ok(PathBuf::from(path));
    }
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("a test runs from target/<profile>/deps")?;
    let program = folder.join("phasegate");
    if !program.exists() {
        bail!("{} is not there: run `cargo build --workspace` first, or tests/run", program.display());
    }
    Ok(program)
}

impl Server {
    /// Starts one in a fresh folder.
    pub async fn start(storage: Storage) -> anyhow::Result<Self> {
        Self::start_in(std::sync::Arc::new(tempfile::tempdir()?), storage).await
    }

    /// Starts one in a fresh folder that tells everything: its log, at debug level and as JSON, to [`Server::log`], and its
    /// traces to a collector.
    pub async fn start_watched(storage: Storage, collector: &str) -> anyhow::Result<Self> {
        let folder = std::sync::Arc::new(tempfile::tempdir()?);
        let mut command = dev(folder.path(), &storage)?;
        command.arg("--log").arg("debug").arg("--log-format").arg("json");
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector).env("OTEL_BSP_SCHEDULE_DELAY", "200");
        command.env("OTEL_BSP_MAX_QUEUE_SIZE", "100000");
        command.stderr(std::fs::File::create(folder.path().join("log"))?);
        Self::launch(command, folder, storage).await
    }

    async fn start_in(folder: std::sync::Arc<TempDir>, storage: Storage) -> anyhow::Result<Self> {
        let mut command = dev(folder.path(), &storage)?;
        command.arg("--log").arg("warn");
        Self::launch(command, folder, storage).await
    }

    async fn launch(
        mut command: Command,
        folder: std::sync::Arc<TempDir>,
        storage: Storage,
    ) -> anyhow::Result<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("phasegate dev")?;
        let out = process.stdout.take().context("the output of phasegate dev")?;
        let address =
            tokio::time::timeout(START, listening(out)).await.context("phasegate dev did not start")??;
        Ok(Self { process, address, folder, storage })
    }

    /// Kills it as `kill -9` does, and starts it again on the same data. Its address changes.
    pub async fn kill_and_start(mut self) -> anyhow::Result<Self> {
        self.kill().await?;
        self.start_again().await
    }

    /// Starts it again on the same data, once it has been killed. Its address changes.
    pub async fn start_again(self) -> anyhow::Result<Self> {
        Self::start_in(self.folder.clone(), self.storage.clone()).await
    }

    /// Kills it as `kill -9` does.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Where it listens: `http://127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its log, where it was started to be watched.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

/// `phasegate dev` on a free port.
fn dev(folder: &Path, storage: &Storage) -> anyhow::Result<Command> {
    let mut command = Command::new(program()?);
    command.arg("dev").arg("--port").arg("0").arg("--data").arg(folder.join("data"));
    if let Storage::Postgres(url) = storage {
        command.arg("--database-url").arg(url);
    }
    Ok(command)
}

/// Reads the line that says where it listens, and leaves somebody to read the rest.
async fn listening(out: tokio::process::ChildStdout) -> anyhow::Result<String> {
    let mut lines = BufReader::new(out).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some((_, address)) = line.split_once("listens on ") {
            let address = address.trim().to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(address);
        }
    }
    bail!("phasegate dev ended before it listened")
}
