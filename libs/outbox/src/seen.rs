//! What is seen of events on their way: spans of sending and taking, and how much waits.

use std::sync::Arc;

use futures::future::BoxFuture;
use phasegate_clock::{SharedClock, Timestamp};
use phasegate_database::{Database, Error, args};
use phasegate_proto::internal::event::v1::Event;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_telemetry::metrics::{Gauge, Observed, Sample, Source, observe as observe_source};
use phasegate_telemetry::{Cause, Subject, WorkKind, work_span};
use tracing::Span;

static PENDING: Gauge<2> = Gauge::new(
    "phasegate_outbox_pending",
    "Events that were written and are not on the bus (topic send), or not taken by all receivers (topic confirm). Every \
     copy of a service tells the same number.",
    ["service", "topic"],
);
static OLDEST: Gauge<2> = Gauge::new(
    "phasegate_outbox_oldest_age_seconds",
    "Age of the oldest of these; 0 where there are none.",
    ["service", "topic"],
);
static DEAD: Gauge<1> = Gauge::new(
    "phasegate_dead_letters",
    "Events that a service could not take and set aside. Every copy of a service tells the same number.",
    ["service"],
);

/// The span of giving an event to the bus, or of taking it.
pub(crate) fn span(service: &'static str, kind: WorkKind, event: &Event, now: Timestamp) -> Span {
    let happened = event.occurred_at.as_ref().and_then(Timestamp::from_proto).unwrap_or(now);
    let verb = if kind == WorkKind::Send { "send" } else { "receive" };
    let cause = Cause { trace_parent: &event.trace_parent, age: now.duration_since(happened) };
    let subject =
        Subject { tenant_id: &event.tenant_id, instance_id: &event.instance_id, event_id: &event.event_id };
    work_span(service, kind, &format!("{verb} {}", topic(event)), cause, subject)
}

/// What an event is called.
pub(crate) fn topic(event: &Event) -> &'static str {
    match &event.payload {
        Some(Payload::InstanceStarted(_)) => "instance_started",
        Some(Payload::InstancePaused(_)) => "instance_paused",
        Some(Payload::InstanceResumed(_)) => "instance_resumed",
        Some(Payload::InstanceEnded(_)) => "instance_ended",
        Some(Payload::PhaseChanged(_)) => "phase_changed",
        Some(Payload::TaskEscalated(_)) => "task_escalated",
        Some(Payload::ApprovalsNeeded(_)) => "approvals_needed",
        Some(Payload::ApprovalsMoot(_)) => "approvals_moot",
        Some(Payload::ApprovalsRequested(_)) => "approvals_requested",
        Some(Payload::ApprovalResponded(_)) => "approval_responded",
        Some(Payload::ApprovalSettled(_)) => "approval_settled",
        Some(Payload::ApprovalReminded(_)) => "approval_reminded",
        Some(Payload::ApprovalEscalated(_)) => "approval_escalated",
        Some(Payload::FreshLinkAsked(_)) => "fresh_link_asked",
        Some(Payload::ArtifactStored(_)) => "artifact_stored",
        Some(Payload::CommentCreated(_)) => "comment_created",
        Some(Payload::LinkCreated(_)) => "link_created",
        Some(Payload::LinkRevoked(_)) => "link_revoked",
        Some(Payload::LinkOpened(_)) => "link_opened",
        Some(Payload::NotificationSettled(_)) => "notification_settled",
        None => "unknown",
    }
}

/// Tells what waits in the outbox of a service, and what its database is doing.
pub(crate) fn observe(service: &'static str, db: Database, clock: SharedClock) -> (Observed, Observed) {
    let connections = db.observe(service);
    (observe_source(Arc::new(Waiting { service, db, clock })), connections)
}

struct Waiting {
    service: &'static str,
    db: Database,
    clock: SharedClock,
}

impl Waiting {
    async fn samples(&self) -> Result<Vec<Sample>, Error> {
        let rows = self
            .db
            .fetch_all(
                "select 'send' as topic, count(*) as waiting, min(created_at) as oldest from outbox
                  where sent_at is null
                 union all
                 select 'confirm', count(*), min(created_at) from outbox
                  where sent_at is not null and receivers_left <> 0
                 union all
                 select 'dead', count(*), null from dead_letter where set_aside_at is not null",
                args![],
            )
            .await?;
        let mut samples = Vec::new();
        for row in rows {
            let (topic, waiting): (String, u32) = (row.get("topic")?, row.get("waiting")?);
            if topic == "dead" {
                samples.push(DEAD.sample([self.service], waiting.into()));
                continue;
            }
            let oldest: Option<Timestamp> = row.get("oldest")?;
            let age = oldest.map_or(0.0, |oldest| self.clock.now().duration_since(oldest).as_secs_f64());
            samples.push(PENDING.sample([self.service, &topic], waiting.into()));
            samples.push(OLDEST.sample([self.service, &topic], age));
        }
        Ok(samples)
    }
}

impl Source for Waiting {
    fn read(&self) -> BoxFuture<'_, Vec<Sample>> {
        Box::pin(async {
            self.samples().await.unwrap_or_else(|error| {
                phasegate_database::tell(&error, "the outbox cannot be counted");
                Vec::new()
            })
        })
    }
}
