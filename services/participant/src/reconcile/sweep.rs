//! Deletes sessions and nonces that are over, in batches. Nothing depends on it: what is over is refused by its time,
//! whether its row is still there or not.

use std::time::Duration;

use phasegate_clock::SharedClock;
use rand::Rng as _;
use tokio_util::sync::CancellationToken;

use crate::domain::link::FRESH_WINDOW;
use crate::store::{self, Store};

/// Between two rounds, with half as much jitter.
const PERIOD: Duration = Duration::from_mins(1);
/// How long a session that is over stays, so that its holder hears what became of the link.
const KEPT: Duration = Duration::from_hours(1);
/// Rows of a kind that one transaction deletes.
const BATCH: usize = 500;

/// Sweeps until shutdown.
pub async fn run(store: Store, clock: SharedClock, shutdown: CancellationToken) {
    loop {
        let pause = PERIOD.mul_f64(rand::rng().random_range(0.5..1.5));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if let Err(error) = round(&store, &clock, &shutdown).await {
            phasegate_database::tell(&error, "old sessions could not be deleted; the next round tries again");
        }
    }
}

/// Deletes everything that is over.
pub async fn round(
    store: &Store,
    clock: &SharedClock,
    shutdown: &CancellationToken,
) -> Result<(), store::Error> {
    let now = clock.now();
    while store.sweep(now - KEPT, now - FRESH_WINDOW, BATCH).await? {
        if shutdown.is_cancelled() {
            break;
        }
    }
    Ok(())
}
