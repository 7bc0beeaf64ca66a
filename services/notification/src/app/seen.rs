//! What is counted of messages, for those who watch the installation.

use phasegate_clock::Timestamp;
use phasegate_telemetry::metrics::{Counter, Histogram};

use crate::domain::Notification;
use crate::store::Settled;

static NOTIFICATIONS: Counter<3> = Counter::new(
    "phasegate_notifications_total",
    "Messages by what became of a try: sent, failed, suppressed, or retried.",
    ["medium", "template", "status"],
);
static DELIVERY: Histogram<3> = Histogram::new(
    "phasegate_notification_delivery_seconds",
    "Time from what a message tells of until the mail server had it, or it was given up.",
    ["medium", "template", "status"],
    &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0],
);

/// The only medium so far.
const MEDIUM: &str = "email";

/// Counts what became of a try.
pub(super) fn count(notification: &Notification, settled: &Settled, now: Timestamp) {
    let template = notification.template.as_str();
    let status = match settled {
        Settled::Sent { .. } => "sent",
        Settled::Failed { .. } => "failed",
        Settled::Suppressed { .. } => "suppressed",
        Settled::Later { .. } => "retried",
    };
    NOTIFICATIONS.add(1, [MEDIUM, template, status]);
    if matches!(settled, Settled::Sent { .. } | Settled::Failed { .. }) {
        DELIVERY.record_time(now.duration_since(notification.created_at), [MEDIUM, template, status]);
    }
}
