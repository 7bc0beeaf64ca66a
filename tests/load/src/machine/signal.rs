//! Signals to processes that this one has started, each by its number.

use std::process::Stdio;

use anyhow::ensure;
use tokio::process::Command;

/// Sends a signal: `KILL`, `STOP`, `CONT`, `TERM`.
pub(super) async fn send(signal: &str, process: u32) -> anyhow::Result<()> {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &process.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await?;
    ensure!(status.success(), "process {process} cannot be sent {signal}");
    Ok(())
}
