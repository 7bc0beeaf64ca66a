//! A PostgreSQL of its own that keeps what it has acknowledged (`fsync` is on), so that killing it shows something.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::signal;

/// Recovery takes seconds; this is for a very busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// PostgreSQL refuses to run as root; then it runs as the user that Debian's package made.
const SETPRIV: [&str; 4] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
/// Ends the server when the pipe from this process closes, however this process ends, and ends with the server.
const WATCHDOG: &str = r#"exec 3<&0; "$@" >>"$LOG" 2>&1 </dev/null 3<&- & server=$!
(cat <&3 >/dev/null; kill -QUIT $server) & dog=$!; wait $server; kill $dog"#;

/// The server.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
    shared_buffers: &'static str,
    counts_statements: bool,
    is_root: bool,
    watchdog: Option<Child>,
}

impl Postgres {
    /// Sets one up below a folder, with so much memory for pages, and starts it.
    pub async fn start(folder: &Path, port: u16, shared_buffers: &'static str) -> anyhow::Result<Self> {
        Self::start_with(folder, port, shared_buffers, false).await
    }

    /// The same, and its server counts what each statement costs, in `pg_stat_statements`.
    pub async fn start_counting(
        folder: &Path,
        port: u16,
        shared_buffers: &'static str,
    ) -> anyhow::Result<Self> {
        let postgres = Self::start_with(folder, port, shared_buffers, true).await?;
        postgres.query("create extension pg_stat_statements").await?;
        Ok(postgres)
    }

    async fn start_with(
        folder: &Path,
        port: u16,
        shared_buffers: &'static str,
        counts_statements: bool,
    ) -> anyhow::Result<Self> {
        let is_root = fs::metadata("/proc/self")?.uid() == 0;
        let folder = folder.join("postgres");
        fs::create_dir(&folder)?;
        if is_root {
            let (user, group) = postgres_ids()?;
            chown(&folder, Some(user), Some(group)).context("give the folder to the user postgres")?;
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let mut postgres = Self {
            bin: newest_bin()?,
            folder,
            port,
            shared_buffers,
            counts_statements,
            is_root,
            watchdog: None,
        };
        let output = postgres
            .command("initdb")
            .args(["-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C"])
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        postgres.start_again().await?;
        // Services refuse to sign in as a superuser, from whom nothing keeps tenants apart.
        postgres.query("create role phasegate login; grant create on database postgres to phasegate").await?;
        Ok(postgres)
    }

    /// Its port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Starts it where it was, and returns once it answers.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            // What is left of a killed server may still hold its memory; then it does not start, and is tried again.
            self.spawn()?;
            for _ in 0..100 {
                if self.query("select 1").await.is_ok() {
                    return Ok(());
                }
                let ended = self.watchdog.as_mut().map(Child::try_wait).transpose()?.flatten();
                if ended.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            ensure!(Instant::now() < until, "PostgreSQL does not start; see {}", self.folder.display());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let server = self.command("postgres");
        let server = server.as_std();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCHDOG, "watchdog"]).arg(server.get_program()).args(server.get_args());
        command.args(["-p", &self.port.to_string(), "-k", "", "-h", "127.0.0.1"]);
        for setting in ["max_connections=300", "fsync=on", "synchronous_commit=on"] {
            command.args(["-c", setting]);
        }
        command.args(["-c", &format!("shared_buffers={}", self.shared_buffers)]);
        if self.counts_statements {
            command.args(["-c", "shared_preload_libraries=pg_stat_statements"]);
            command.args(["-c", "pg_stat_statements.track_planning=on"]);
        }
        let child = command
            .env("LOG", self.log())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start PostgreSQL")?;
        self.watchdog = Some(child);
        Ok(())
    }

    /// Ends it and all its processes at once, as a power cut does, except that the disk keeps what it was handed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let server = self.process().context("PostgreSQL does not run")?;
        let children =
            fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
        signal::send("KILL", server).await?;
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            // It may have ended by itself.
            let _gone = signal::send("KILL", child).await;
        }
        // A killed server leaves its file behind, with a number that may be somebody else's soon.
        let _absent = fs::remove_file(self.folder.join("data/postmaster.pid"));
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            watchdog.wait().await?;
        }
        Ok(())
    }

    fn process(&self) -> Option<u32> {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    /// Asks as the superuser: the rows, columns divided by `|`.
    pub async fn query(&self, sql: &str) -> anyhow::Result<Vec<String>> {
        let output = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-p", &self.port.to_string(), "-c", sql, "postgres"])
            .env("PGCONNECT_TIMEOUT", "5")
            .stdin(Stdio::null())
            .output()
            .await?;
        if !output.status.success() {
            bail!("{sql}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if self.is_root {
            let mut command = Command::new(SETPRIV[0]);
            command.args(&SETPRIV[1..]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/").arg("-D").arg(self.folder.join("data"));
        command
    }
}

/// The newest server that Debian's packages have installed.
fn newest_bin() -> anyhow::Result<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    let mut found: Vec<(u32, PathBuf)> = installed
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).context("no initdb below /usr/lib/postgresql")
}

fn postgres_ids() -> anyhow::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    for line in users.lines() {
        let mut fields = line.split(':');
        if fields.next() == Some("postgres") {
            let mut numbers = fields.skip(1).map(str::parse::<u32>);
            if let (Some(Ok(user)), Some(Ok(group))) = (numbers.next(), numbers.next()) {
                return Ok((user, group));
            }
        }
    }
    bail!("running as root, and there is no user postgres to run the server as")
}
