//! Tells senders what the receivers of this process have taken, in batches. What cannot be told is forgotten: its event
//! comes again and is confirmed then.

use std::collections::BTreeMap;
use std::time::Duration;

use phasegate_bus::{Confirmation, Confirmations, Receiver};
use phasegate_principal::{DEFAULT_TENANT, Principal};
use phasegate_proto::internal::event::v1::event_service_client::EventServiceClient;
use phasegate_proto::internal::event::v1::{ConfirmEventsRequest, EventName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Peers, Service};

/// Confirmations wait this long for others.
const GATHER: Duration = Duration::from_millis(300);
/// A sender that has not heard by then hears when its events come again.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// How long the last confirmations may take.
const GRACE: Duration = Duration::from_secs(1);
/// Confirmations of one batch.
const BATCH: usize = 500;
/// Confirmations that wait for one sender, which may be away.
const WAITING: usize = 2_000;

/// Tells senders until `shutdown`, and what is left after it. Each on its own: one that does not answer keeps none of the
/// others waiting.
pub async fn confirm(peers: Peers, mut confirmations: Confirmations, shutdown: CancellationToken) {
    let mut told = JoinSet::new();
    let mut senders = BTreeMap::new();
    for to in Service::ALL {
        let (sender, waiting) = mpsc::channel(WAITING);
        senders.insert(to.name(), sender);
        told.spawn(tell_on(peers.clone(), to, waiting));
    }
    while let Some(Some(confirmation)) = shutdown.run_until_cancelled(confirmations.recv()).await {
        pass_on(&senders, confirmation);
    }
    while let Ok(confirmation) = confirmations.try_recv() {
        pass_on(&senders, confirmation);
    }
    drop(senders);
    let finished = async { while told.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        tracing::debug!("the last confirmations were not heard; their events come again");
    }
}

fn pass_on(senders: &BTreeMap<&'static str, mpsc::Sender<Confirmation>>, confirmation: Confirmation) {
    if let Some(sender) = senders.get(confirmation.sender.as_str())
        && let Err(lost) = sender.try_send(confirmation)
    {
        tracing::debug!(error = %lost, "a confirmation was dropped; its event comes again");
    }
}

/// Tells one sender, until there is nothing more to tell.
async fn tell_on(peers: Peers, to: Service, mut waiting: mpsc::Receiver<Confirmation>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH && !waiting.is_closed() {
            tokio::time::sleep(GATHER).await;
            while batch.len() < BATCH
                && let Ok(confirmation) = waiting.try_recv()
            {
                batch.push(confirmation);
            }
        }
        tell(&peers, to, &mut batch).await;
    }
}

async fn tell(peers: &Peers, to: Service, batch: &mut Vec<Confirmation>) {
    let mut requests: BTreeMap<Receiver, Vec<EventName>> = BTreeMap::new();
    for confirmation in batch.drain(..) {
        let Confirmation { receiver, tenant_id, event_id, .. } = confirmation;
        requests.entry(receiver).or_default().push(EventName { tenant_id, event_id });
    }
    let told = requests.into_iter().map(async |(receiver, events)| {
        let caller = Principal::system(receiver.name(), DEFAULT_TENANT);
        let message = ConfirmEventsRequest { receiver: receiver.name().to_owned(), events };
        let request = peers.request(to, &caller, message);
        let mut client = EventServiceClient::new(peers.channel(to));
        match tokio::time::timeout(TOLD_WITHIN, client.confirm_events(request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => tracing::debug!(sender = to.name(), %status, "events could not be confirmed"),
            Err(_) => tracing::debug!(sender = to.name(), "events were not confirmed in time"),
        }
    });
    futures::future::join_all(told).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use phasegate_bus::Bus;
    use phasegate_clock::SystemClock;
    use phasegate_principal::Signer;
    use phasegate_proto::internal::event::v1::ConfirmEventsResponse;
    use phasegate_proto::internal::event::v1::event_service_server::{EventService, EventServiceServer};
    use tonic::service::Routes;
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::{Context, Keys, pipe, serve};

    #[derive(Default)]
    struct Told(Arc<AtomicUsize>);

    #[tonic::async_trait]
    impl EventService for Told {
        async fn confirm_events(
            &self,
            request: Request<ConfirmEventsRequest>,
        ) -> Result<Response<ConfirmEventsResponse>, Status> {
            self.0.fetch_add(request.into_inner().events.len(), Ordering::SeqCst);
            Ok(Response::new(ConfirmEventsResponse {}))
        }
    }

    #[tokio::test]
    async fn a_sender_that_does_not_answer_keeps_no_other_waiting() -> anyhow::Result<()> {
        // Nobody ever takes a call from the first pipe.
        let ((_silent, away), (listener, there)) = (pipe(), pipe());
        let (keys, clock) = (Keys::derive(&[1; 32]), SystemClock::shared());
        let channels = BTreeMap::from([(Service::Instance, away), (Service::Approval, there)]);
        let context = Context {
            peers: Peers::new(channels, Signer::new(&keys.principal, clock.clone())),
            clock,
            bus: Bus::local(),
            keys,
            public_url: String::new(),
            limits: crate::Limits::default(),
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        };
        let told = Arc::new(AtomicUsize::new(0));
        let routes = Routes::new(EventServiceServer::new(Told(Arc::clone(&told))));
        let serving = tokio::spawn({
            let context = context.clone();
            async move { serve(Service::Approval, routes, &context, listener).await }
        });
        let (heard, confirmations) = mpsc::channel(100);
        let confirming =
            tokio::spawn(confirm(context.peers.clone(), confirmations, context.shutdown.clone()));
        for round in 1..=5 {
            for sender in ["instance", "approval"] {
                let confirmation = Confirmation {
                    sender: sender.to_owned(),
                    receiver: Receiver::Notification,
                    tenant_id: "t".to_owned(),
                    event_id: format!("e-{round}"),
                };
                heard.send(confirmation).await?;
            }
            let reached = async {
                while told.load(Ordering::SeqCst) < round {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(5), reached).await?;
        }
        context.shutdown.cancel();
        confirming.await?;
        serving.await??;
        Ok(())
    }
}
