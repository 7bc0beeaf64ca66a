//! The services of production, each in a process of its own, as `deploy/local/up` starts them: on a PostgreSQL and a Redis
//! of their own, with a mail catcher.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::program;

/// From the start to the last line that tells where things are.
const START: Duration = Duration::from_mins(2);
/// Ports above the first that are used.
const PORTS: [u16; 16] = [0, 1, 2, 3, 4, 5, 6, 12, 2000, 2001, 2002, 2003, 2004, 2005, 2006, 2012];

/// A running installation. [`Production::stop`] stops it; one that is dropped is stopped, too, and not waited for.
#[derive(Debug)]
pub struct Production {
    up: Child,
    address: String,
    mail: String,
    folder: TempDir,
}

impl Production {
    /// Starts one in a fresh folder, with these variables in the environment of its processes.
    pub async fn start(variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phasegate-production-").tempdir_in("/tmp")?;
        // PostgreSQL, which is not root, must be able to walk there.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
        let base = free_ports().await?;
        let mut command = Command::new(script("up"));
        command.arg(folder.path().join("data")).arg(base.to_string());
        command.env("PHASEGATE_BINARY", program()?).envs(variables.iter().copied());
        let mut up =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("deploy/local/up")?;
        let out = up.stdout.take().context("what it prints")?;
        let mail =
            tokio::time::timeout(START, mail_in(out)).await.context("deploy/local/up took too long")??;
        Ok(Self { up, address: format!("http://127.0.0.1:{base}"), mail, folder })
    }

    /// Where the gateway listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where caught mail is shown: the first part of its address.
    pub fn mail(&self) -> &str {
        &self.mail
    }

    /// A call of the program, with the first key of the installation.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(program()?);
        command.args(arguments).env("PHASEGATE_KEY_FILE", self.data().join("key")).stdin(Stdio::null());
        Ok(command)
    }

    /// Stops everything.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let stopped = Command::new(script("down")).arg(self.data()).stdout(Stdio::null()).status().await?;
        ensure!(stopped.success(), "deploy/local/down: {stopped}");
        self.up.wait().await?;
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        // Where it was stopped there is nothing left to stop.
        if let Ok(None) = self.up.try_wait() {
            let mut down = std::process::Command::new(script("down"));
            // Whoever drops it has failed already.
            let _ = down.arg(self.data()).stdout(Stdio::null()).status();
        }
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/local").join(name)
}

/// A port from which on all that are needed are free.
async fn free_ports() -> anyhow::Result<u16> {
    'bases: for base in (21_300..60_000).step_by(1_100) {
        for offset in PORTS {
            if TcpListener::bind(("127.0.0.1", base + offset)).await.is_err() {
                continue 'bases;
            }
        }
        return Ok(base);
    }
    bail!("no ports are free")
}

/// Reads until everything is up: where the mail is. Leaves somebody to read the rest.
async fn mail_in(out: tokio::process::ChildStdout) -> anyhow::Result<String> {
    let mut lines = BufReader::new(out).lines();
    let mut mail = None;
    let mut printed = String::new();
    while let Some(line) = lines.next_line().await? {
        if let Some(address) = line.trim().strip_prefix("mail ") {
            mail = address.trim().strip_suffix("/dev/mail").map(str::to_owned);
        }
        if line.starts_with("Ctrl-C") {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return mail.context("it does not say where the mail is");
        }
        printed.push_str(&line);
        printed.push('\n');
    }
    bail!("deploy/local/up ended: {printed}")
}
