//! What time it is: what the database says, because it is the one thing that all copies share. A copy whose machine is ten
//! minutes early would otherwise end leases and approvals that the others know to be running.

use std::sync::Arc;
use std::time::Duration;

use phasegate_clock::FollowingClock;
use phasegate_database::Database;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the database is asked. Between, the clock runs on by itself.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// What took longer says little.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// Sets the clock by the database, once. What it did not say now, it says later.
pub(super) async fn ask(clock: &FollowingClock, database: &Database) {
    let asked = Instant::now();
    let answer = tokio::time::timeout(ANSWERED_WITHIN, database.now()).await;
    let took = asked.elapsed();
    if let Ok(Ok(time)) = answer
        && let Some(off) = clock.follow(time, took)
    {
        tracing::warn!(seconds = off.as_secs_f64(), "the clock of this machine is not that of the database");
    }
}

/// Sets the clock by the database again and again, until `shutdown`.
pub(super) async fn follow(clock: Arc<FollowingClock>, database: Database, shutdown: CancellationToken) {
    let asking = async {
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            ask(&clock, &database).await;
        }
    };
    shutdown.run_until_cancelled(asking).await;
}
