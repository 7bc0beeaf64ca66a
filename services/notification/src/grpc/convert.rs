//! Messages from the domain to the wire.

use phasegate_clock::Timestamp;
use phasegate_proto::notification::v1 as wire;

use crate::domain::{Notification, Status, masked};

/// Writes a message without its text, and with its address masked.
pub(super) fn notification(from: &Notification) -> wire::Notification {
    let (status, sent_at, next_attempt_at) = match from.status {
        Status::Queued { next_attempt_at } => (wire::DeliveryStatus::Queued, None, Some(next_attempt_at)),
        Status::Sent { sent_at } => (wire::DeliveryStatus::Sent, Some(sent_at), None),
        Status::Failed => (wire::DeliveryStatus::Failed, None, None),
        Status::Suppressed => (wire::DeliveryStatus::Suppressed, None, None),
    };
    wire::Notification {
        id: from.id.to_string(),
        instance_id: from.instance_id.to_string(),
        participant_id: from.participant_id.to_string(),
        template: from.template.as_str().to_owned(),
        recipient: masked(&from.recipient),
        subject: from.subject.clone(),
        status: status.into(),
        attempts: i32::try_from(from.attempts).unwrap_or(i32::MAX),
        last_error: from.last_error.clone(),
        approval_ids: from.approval_ids.iter().map(ToString::to_string).collect(),
        message_id: from.message_id.clone(),
        created_at: Some(from.created_at.to_proto()),
        sent_at: sent_at.map(Timestamp::to_proto),
        next_attempt_at: next_attempt_at.map(Timestamp::to_proto),
    }
}
