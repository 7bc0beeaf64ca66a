//! Makes time pass: looks for timers that are due and gives them to the rules. A reconciler takes no input but the
//! tables and the clock, so that it may be stopped anywhere, run in any number of copies, and started again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;

/// Fires timers until `shutdown`.
pub async fn run(app: App, interval: Duration, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match app.elapse().await {
            // There may be more than one round takes on.
            Ok(fired) if fired > 0 => {}
            Ok(_) => pause(interval, &shutdown).await,
            Err(error) => {
                phasegate_database::tell(&error, "could not look for timers");
                pause(interval, &shutdown).await;
            }
        }
    }
}

async fn pause(interval: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(interval) => {}
    }
}
