//! Delivers what is due, some messages at once, so that one that hangs holds up nobody else's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::Courier;
use crate::store;

/// Messages that are under way at once.
const AT_ONCE: usize = 8;

/// How often it looks without being woken: what failed before has a time of its own.
const PERIOD: Duration = Duration::from_millis(500);

/// How long it waits for messages under way once the service stops: longer than they take to give themselves up.
const GRACE: Duration = Duration::from_secs(3);

/// Delivers until `shutdown`. `wake` rings when messages were added.
pub(crate) async fn deliver_due(courier: Arc<Courier>, wake: Arc<Notify>, shutdown: CancellationToken) {
    let mut under_way = JoinSet::new();
    while !shutdown.is_cancelled() {
        if let Err(error) = take(&courier, &mut under_way).await {
            phasegate_database::tell(&error, "messages cannot be claimed");
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = wake.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
            Some(_) = under_way.join_next() => {}
        }
    }
    let finish = async { while under_way.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        tracing::warn!("messages were still under way when the time to stop ran out");
    }
}

/// Claims as many messages as there are free hands.
async fn take(courier: &Arc<Courier>, under_way: &mut JoinSet<()>) -> Result<(), store::Error> {
    while under_way.len() < AT_ONCE {
        let now = courier.clock.now();
        if !courier.store.notification_is_due(now).await? {
            break;
        }
        let claims = courier.store.notification_claim(now, AT_ONCE - under_way.len()).await?;
        if claims.is_empty() {
            break;
        }
        for claim in claims {
            let courier = Arc::clone(courier);
            under_way.spawn(async move {
                if let Err(error) = courier.deliver(claim).await {
                    phasegate_database::tell(&error, "the outcome of a message could not be stored");
                }
            });
        }
    }
    Ok(())
}
