//! Acts on state, never on the message that woke it: so what was missed while nobody ran is done by the next round.
//! The engine needs one loop only; another one looks after the audit trails. When a task may be tried again stands in its queue row, and deadlines of requests
//! belong to the approval service.

use std::time::Duration;

use phasegate_database::Reach;
use phasegate_telemetry::{Cause, Subject, WorkKind, work_span};
use rand::Rng as _;
use tracing::Instrument as _;

use crate::app::{App, CONSUMER as SERVICE};

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

/// How often an audit trail is checked: so each gets its turn, and a whole installation takes its time.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Checks the audit trails, one after the other and again from the first, until shutdown.
pub(crate) async fn check_chains(app: &App) {
    let mut at = (String::new(), String::new());
    loop {
        tokio::select! {
            () = app.shutdown().cancelled() => return,
            () = tokio::time::sleep(CHECK_EVERY.mul_f64(rand::rng().random_range(0.5..1.5))) => {}
        }
        match app.check_next_chain(&at).await {
            Ok(next) => at = next.unwrap_or_default(),
            Err(error) => {
                phasegate_database::tell(&error, "an audit trail cannot be checked");
            }
        }
    }
}

/// Ends what is due. Whether there may be more.
async fn round(app: &App) -> bool {
    let due = match app.leases_due(AT_ONCE).await {
        Ok(due) => due,
        Err(error) => {
            phasegate_database::tell(&error, "leases that have run out cannot be read");
            return false;
        }
    };
    let found = due.len();
    let mut ended = 0;
    for (lease, ended_at) in due {
        if app.shutdown().is_cancelled() {
            return false;
        }
        let span = work_span(
            SERVICE,
            WorkKind::Timer,
            "lease_end",
            Cause::default(),
            Subject { tenant_id: &lease.tenant, instance_id: lease.instance_id.as_str(), event_id: "" },
        );
        match Reach::of_tenant(&lease.tenant).within(app.lease_expire(&lease).instrument(span)).await {
            Ok(()) => {
                phasegate_serve::note_timer(SERVICE, "lease", app.now().duration_since(ended_at));
                ended += 1;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, instance_id = %lease.instance_id, task_id = %lease.task, "a lease could not be ended");
            }
        }
    }
    u32::try_from(found) == Ok(AT_ONCE) && ended > 0
}
