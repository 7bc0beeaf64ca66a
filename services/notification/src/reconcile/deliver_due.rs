//! Delivers what is due, some messages at once, so that one that hangs holds up nobody else's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::app::Courier;

/// Messages that are under way at once. More than the mail server is handed at a time, so that links are made and outcomes
/// are written for many while others are handed over.
const AT_ONCE: usize = 32;
/// Free hands that are worth a claim while messages are under way.
const HANDFUL: usize = AT_ONCE / 4;

/// How often it looks without being woken: what failed before has a time of its own.
const PERIOD: Duration = Duration::from_millis(500);

/// How long it waits for messages under way once the service stops: longer than they take to give themselves up.
const GRACE: Duration = Duration::from_secs(3);

/// Delivers until `shutdown`. `wake` rings when messages were added.
pub(crate) async fn deliver_due(courier: Arc<Courier>, wake: Arc<Notify>, shutdown: CancellationToken) {
    let mut under_way = JoinSet::new();
    // Something may be due that nobody has claimed.
    let mut may_be_due = true;
    let mut period = tokio::time::interval_at(Instant::now() + PERIOD, PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !shutdown.is_cancelled() {
        let free = AT_ONCE - under_way.len();
        if may_be_due && (free >= HANDFUL || under_way.is_empty()) {
            may_be_due = take(&courier, &mut under_way, free).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = wake.notified() => may_be_due = true,
            _ = period.tick() => {
                // However few hands are free: those that hang must not hold up the others.
                let free = AT_ONCE - under_way.len();
                may_be_due = free == 0 || take(&courier, &mut under_way, free).await;
            }
            Some(_) = under_way.join_next() => {}
        }
        // All that are done, before it claims for them.
        while under_way.try_join_next().is_some() {}
    }
    let finish = async { while under_way.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        tracing::warn!("messages were still under way when the time to stop ran out");
    }
}

/// Claims as many messages as there are free hands. True where there may be more.
async fn take(courier: &Arc<Courier>, under_way: &mut JoinSet<()>, free: usize) -> bool {
    let claims = match courier.store.notification_claim(courier.clock.now(), free).await {
        Ok(claims) => claims,
        Err(error) => {
            phasegate_database::tell(&error, "messages cannot be claimed");
            return false;
        }
    };
    let may_be_more = claims.len() == free;
    for claim in claims {
        let courier = Arc::clone(courier);
        under_way.spawn(async move {
            if let Err(error) = courier.deliver(claim).await {
                phasegate_database::tell(&error, "the outcome of a message could not be stored");
            }
        });
    }
    may_be_more
}
