//! Stands before a receiver: counts how often it could not take an event, and sets the event aside after a bounded
//! number of tries, so that one poisonous event holds up its own instance for a while and nobody for ever.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use phasegate_bus::{HandleError, Handler, Receiver};
use phasegate_clock::SharedClock;
use phasegate_database::{Database, Reach};
use phasegate_proto::internal::event::v1::Event;
use phasegate_telemetry::WorkKind;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{dead_letter, seen};

/// Tries after which an event that cannot be taken is set aside.
const TRIES_MAX: u32 = 8;
/// How often the guard looks for what an operator wants tried anew.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A receiver with a guard before it. Copies share it.
#[derive(Clone)]
pub struct Guard {
    db: Database,
    receiver: Receiver,
    handler: Arc<dyn Handler>,
    clock: SharedClock,
    /// Events that this process has seen fail, whose rows go when they are taken after all.
    suspects: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl Guard {
    /// A guard before `handler`, which keeps its count in the receiver's database.
    pub fn new(db: Database, receiver: Receiver, handler: Arc<dyn Handler>, clock: SharedClock) -> Self {
        Self { db, receiver, handler, clock, suspects: Arc::default() }
    }

    /// Tries what operators want tried anew, until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match dead_letter::wanted(&self.db.across_tenants(), self.receiver.name()).await {
                Ok(wanted) => {
                    for bytes in wanted {
                        Box::pin(self.try_anew(&bytes)).await;
                    }
                }
                Err(error) => phasegate_database::tell(&error, "the dead letters cannot be read"),
            }
        }
    }

    async fn try_anew(&self, bytes: &[u8]) {
        let Ok(event) = Event::decode(bytes) else { return };
        Reach::of_tenant(&event.tenant_id).within(self.try_wanted(Arc::new(event))).await;
    }

    async fn try_wanted(&self, event: Arc<Event>) {
        // One that ends the process is not tried anew by all copies one after the other: its wish is gone by then.
        match dead_letter::wish_take(&self.db, self.receiver.name(), name(&event)).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(%error, "a dead letter could not be tried");
                return;
            }
        }
        self.suspects().insert(name(&event));
        let span = seen::span(self.receiver.name(), WorkKind::Receive, &event, self.clock.now());
        let taken = self.try_once(Arc::clone(&event), true).instrument(span).await;
        if let Err(error) = taken {
            tracing::info!(%error, "a dead letter could not be taken");
            self.want_again(&event, &error).await;
        }
    }

    /// What passes does not use a wish up.
    async fn want_again(&self, event: &Event, error: &HandleError) {
        if matches!(error, HandleError::Poison(_)) {
            return;
        }
        let wish = dead_letter::wish(&self.db, self.receiver.name(), name(event), self.clock.now()).await;
        if let Err(error) = wish {
            tracing::warn!(%error, event_id = event.event_id, "a dead letter has to be wanted anew");
        }
    }

    /// Counts a failed try. True when it was the last one.
    async fn count(&self, event: &Event, error: &str) -> Result<bool, HandleError> {
        self.suspects().insert(name(event));
        let letter = dead_letter::Failed {
            consumer: self.receiver.name(),
            tenant_id: event.tenant_id.clone(),
            event_id: event.event_id.clone(),
            instance_id: event.instance_id.clone(),
            event: event.encode_to_vec(),
            error: error.to_owned(),
        };
        let counted = dead_letter::count(&self.db, letter, TRIES_MAX, self.clock.now()).await;
        let is_last = counted.map_err(|error| HandleError::Transient(error.to_string()))?;
        if is_last {
            let (event_id, receiver) = (&event.event_id, self.receiver.name());
            tracing::error!(event_id, receiver, error, "an event was set aside");
        }
        Ok(is_last)
    }

    async fn take(&self, event: Arc<Event>) -> Result<(), HandleError> {
        let is_suspect = self.suspects().contains(&name(&event));
        if is_suspect && self.is_set_aside(&event).await? {
            return Ok(());
        }
        self.try_once(event, is_suspect).await
    }

    async fn try_once(&self, event: Arc<Event>, is_suspect: bool) -> Result<(), HandleError> {
        let handling = std::panic::AssertUnwindSafe(self.handler.handle(Arc::clone(&event))).catch_unwind();
        let taken =
            handling.await.unwrap_or_else(|_| Err(HandleError::Poison("the handler panicked".to_owned())));
        match taken {
            Ok(()) if is_suspect => self.forget(&event).await,
            Err(HandleError::Poison(error)) => {
                if self.count(&event, &error).await? {
                    return Ok(());
                }
                Err(HandleError::Poison(error))
            }
            other => other,
        }
    }

    async fn is_set_aside(&self, event: &Event) -> Result<bool, HandleError> {
        let (tenant, id) = (&event.tenant_id, &event.event_id);
        let found = dead_letter::is_set_aside(&self.db, self.receiver.name(), tenant, id).await;
        found.map_err(|error| HandleError::Transient(error.to_string()))
    }

    /// It was taken after all.
    async fn forget(&self, event: &Event) -> Result<(), HandleError> {
        let done = dead_letter::forget(&self.db, self.receiver.name(), name(event)).await;
        done.map_err(|error| HandleError::Transient(error.to_string()))?;
        self.suspects().remove(&name(event));
        Ok(())
    }

    fn suspects(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(event: &Event) -> (String, String) {
    (event.tenant_id.clone(), event.event_id.clone())
}

impl Handler for Guard {
    fn handle(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        let span = seen::span(self.receiver.name(), WorkKind::Receive, &event, self.clock.now());
        // What follows from an event concerns its tenant.
        let reach = Reach::of_tenant(&event.tenant_id);
        Box::pin(reach.within(self.take(event).instrument(span)))
    }

    fn together(&self, events: &[Arc<Event>]) -> usize {
        let suspects = self.suspects();
        // What failed before is taken by itself, and counted.
        let fine = events.iter().take_while(|event| !suspects.contains(&name(event))).count();
        drop(suspects);
        if fine < 2 { 1 } else { self.handler.together(&events[..fine]) }
    }

    fn handle_together(&self, events: Vec<Arc<Event>>) -> BoxFuture<'_, Result<(), HandleError>> {
        let Some(first) = events.first() else { return Box::pin(async { Ok(()) }) };
        let reach = Reach::of_tenant(&first.tenant_id);
        let now = self.clock.now();
        let span_of = |event: &Arc<Event>| seen::span(self.receiver.name(), WorkKind::Receive, event, now);
        let mut spans: Vec<tracing::Span> = events.iter().map(span_of).collect();
        let span = spans.swap_remove(0);
        Box::pin(
            reach.within(
                async move {
                    // Each took as long as all of them.
                    let _others = spans;
                    self.handler.handle_together(events).await
                }
                .instrument(span),
            ),
        )
    }

    fn was_left(&self, event: Arc<Event>) -> BoxFuture<'_, Result<(), HandleError>> {
        let reach = Reach::of_tenant(&event.tenant_id);
        Box::pin(reach.within(async move {
            // Whether it was the last try is looked at when it is handled.
            self.count(&event, "a process took it and did not finish").await.map(drop)
        }))
    }

    fn was_survived(&self, event: Arc<Event>) -> BoxFuture<'_, ()> {
        let reach = Reach::of_tenant(&event.tenant_id);
        Box::pin(reach.within(async move {
            let (db, receiver) = (&self.db, self.receiver.name());
            if let Err(error) = dead_letter::count_back(db, receiver, name(&event)).await {
                tracing::debug!(%error, event_id = event.event_id, "a count could not be taken back");
            }
        }))
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("receiver", &self.receiver).finish_non_exhaustive()
    }
}
