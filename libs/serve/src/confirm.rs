//! Tells senders what the receivers of this process have taken, in batches. What cannot be told is forgotten: its event
//! comes again and is confirmed then.

use std::collections::BTreeMap;
use std::time::Duration;

use phasegate_bus::{Confirmation, Confirmations, Receiver};
use phasegate_principal::{DEFAULT_TENANT, Principal};
use phasegate_proto::internal::event::v1::event_service_client::EventServiceClient;
use phasegate_proto::internal::event::v1::{ConfirmEventsRequest, EventName};
use tokio_util::sync::CancellationToken;

use crate::{Peers, Service};

/// Confirmations wait this long for others.
const GATHER: Duration = Duration::from_millis(100);
/// How long the last confirmations may take.
const GRACE: Duration = Duration::from_secs(1);
/// Confirmations of one batch.
const BATCH: usize = 500;

/// Tells senders until `shutdown`, and what is left after it.
pub async fn confirm(peers: Peers, mut confirmations: Confirmations, shutdown: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let gathered = tokio::select! {
            gathered = confirmations.recv_many(&mut batch, BATCH) => gathered,
            () = shutdown.cancelled() => 0,
        };
        if gathered == 0 {
            break;
        }
        if batch.len() < BATCH {
            tokio::time::sleep(GATHER).await;
            while batch.len() < BATCH
                && let Ok(confirmation) = confirmations.try_recv()
            {
                batch.push(confirmation);
            }
        }
        tell_until(&peers, &mut batch, &shutdown).await;
    }
    while let Ok(confirmation) = confirmations.try_recv() {
        batch.push(confirmation);
    }
    tell_until(&peers, &mut batch, &shutdown).await;
}

/// Tells, and gives up a moment after the time to stop.
async fn tell_until(peers: &Peers, batch: &mut Vec<Confirmation>, shutdown: &CancellationToken) {
    let stopped = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = tell(peers, batch) => {}
        () = stopped => tracing::debug!("the last confirmations were not heard; their events come again"),
    }
}

async fn tell(peers: &Peers, batch: &mut Vec<Confirmation>) {
    let mut requests: BTreeMap<(String, Receiver), Vec<EventName>> = BTreeMap::new();
    for confirmation in batch.drain(..) {
        let Confirmation { sender, receiver, tenant_id, event_id } = confirmation;
        requests.entry((sender, receiver)).or_default().push(EventName { tenant_id, event_id });
    }
    let told = requests.into_iter().map(async |((sender, receiver), events)| {
        let Some(to) = Service::named(&sender) else { return };
        let caller = Principal::system(receiver.name(), DEFAULT_TENANT);
        let message = ConfirmEventsRequest { receiver: receiver.name().to_owned(), events };
        let request = peers.request(to, &caller, message);
        if let Err(status) = EventServiceClient::new(peers.channel(to)).confirm_events(request).await {
            tracing::debug!(sender, %status, "events could not be confirmed");
        }
    });
    futures::future::join_all(told).await;
}
