//! Acts on state, never on the message that woke it: so what was missed while nobody ran is done by the next round.
//! The engine needs one loop only. When a task may be tried again stands in its queue row, and deadlines of requests
//! belong to the approval service.

use std::time::Duration;

use rand::Rng as _;

use crate::app::App;

/// Leases that one round ends.
const AT_ONCE: u32 = 100;

/// Ends leases whose time is over, until shutdown. Any number of processes may do so at once.
pub(crate) async fn expire_leases(app: &App, every: Duration) {
    let shutdown = app.shutdown().clone();
    while !shutdown.is_cancelled() {
        let is_full = round(app).await;
        let pause = if is_full { Duration::ZERO } else { every.mul_f64(rand::rng().random_range(0.5..1.5)) };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Ends what is due. Whether there may be more.
async fn round(app: &App) -> bool {
    let due = match app.leases_due(AT_ONCE).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "leases that have run out cannot be read"
            );
            return false;
        }
    };
    let found = due.len();
    let mut ended = 0;
    for lease in due {
        match app.lease_expire(&lease).await {
            Ok(()) => ended += 1,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, instance_id = %lease.instance_id, task_id = %lease.task, "a lease could not be ended");
            }
        }
    }
    u32::try_from(found) == Ok(AT_ONCE) && ended > 0
}
