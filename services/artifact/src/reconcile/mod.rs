//! What runs beside the doors. Nothing of this service falls due, so that is the relay alone: it acts on what the
//! outbox holds, and finds in its next round whatever it was not woken for.

use phasegate_outbox::Relay;
use tokio_util::sync::CancellationToken;

/// Runs until shutdown.
pub async fn run(relay: Relay, shutdown: CancellationToken) {
    relay.run(shutdown).await;
}
