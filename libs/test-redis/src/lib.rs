//! A Redis server of its own for a test, which can be emptied, stopped and killed. Never used by the product.
//!
//! It needs `redis-server`, which `tests/run` installs. No test is left out because it is missing.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

/// A server comes up in a fraction of this.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server, on a port of the loopback address. It ends when this is dropped, or when the process ends.
#[derive(Debug)]
pub struct TestRedis {
    folder: TempDir,
    port: u16,
    server: Option<Child>,
}

impl TestRedis {
    /// Starts a server that keeps nothing on disk.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phasegate-redis-").tempdir()?;
        let mut redis = Self { folder, port: 0, server: None };
        for _ in 0..5 {
            // Somebody else may take the port between the look and the start; then another one is tried.
            redis.port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            if redis.restart().await.is_ok() {
                return Ok(redis);
            }
        }
        bail!("redis-server does not start; is it installed?")
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again where it was, empty.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        // A pipe from this process, so that the server ends with it, however it ends.
        let script = r#""$@" >/dev/null 2>&1 & server=$!; cat >/dev/null; kill -9 $server"#;
        let server = Command::new("/bin/sh")
            .args(["-c", script, "watchdog", "redis-server", "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--port", &self.port.to_string(), "--dir"])
            .arg(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start redis-server")?;
        self.server = Some(server);
        let answers = async {
            while self.connection().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, answers).await.context("redis-server does not answer")
    }

    /// Ends it at once; what it held is lost.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.stdin.take());
            // It has ended already where this fails.
            let _ = server.wait();
        }
    }

    /// Loses everything, and runs on.
    pub async fn empty(&self) -> anyhow::Result<()> {
        self.command(&["FLUSHALL"]).await
    }

    /// Sends a command.
    pub async fn command(&self, words: &[&str]) -> anyhow::Result<()> {
        let (name, arguments) = words.split_first().context("a command has a name")?;
        let mut connection = self.connection().await?;
        redis::cmd(name).arg(arguments).exec_async(&mut connection).await?;
        Ok(())
    }

    /// A connection, for looking into it.
    pub async fn connection(&self) -> anyhow::Result<MultiplexedConnection> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(connection)
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.kill();
    }
}
