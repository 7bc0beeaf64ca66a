//! Reads rows back into the domain. A row that could not have been written is reported, not guessed at.

use phasegate_database::Row;
use phasegate_id::{InstanceId, LinkId, NotificationId, ParticipantId, TenantId};

use super::Error;
use crate::domain::{MailLink, Notification, Status, Template};

/// Columns of a message, as [`notification`] reads them.
pub(super) const COLUMNS: &str = "tenant_id, notification_id, instance_id, participant_id, template, recipient, recipient_name, \
     subject, body_text, body_html, placeholder, message_id, link_expires_at, link_id, status, attempts, last_error, \
     created_at, sent_at, next_attempt_at, lease_number";

/// Reads a message, without the requests that it is about.
pub(super) fn notification(row: &Row) -> Result<Notification, Error> {
    let id: String = row.get("notification_id")?;
    let wrong = |problem| Error::Inconsistent { table: "notification", row: id.clone(), problem };
    let template: String = row.get("template")?;
    let status: String = row.get("status")?;
    let placeholder: String = row.get("placeholder")?;
    let link = match (placeholder.is_empty(), row.get("link_expires_at")?) {
        (true, None) => None,
        (false, Some(expires_at)) => Some(MailLink {
            placeholder,
            expires_at,
            link_id: row.get::<Option<String>>("link_id")?.map(LinkId::trusted),
        }),
        (true, Some(_)) | (false, None) => return Err(wrong("half a link")),
    };
    let status = match (status.as_str(), row.get("sent_at")?, row.get("next_attempt_at")?) {
        ("queued", None, Some(next_attempt_at)) => Status::Queued { next_attempt_at },
        ("sent", Some(sent_at), None) => Status::Sent { sent_at },
        ("failed", None, None) => Status::Failed,
        ("suppressed", None, None) => Status::Suppressed,
        _ => return Err(wrong("its status and its times contradict each other")),
    };
    Ok(Notification {
        tenant_id: TenantId::trusted(row.get::<String>("tenant_id")?),
        instance_id: InstanceId::trusted(row.get::<String>("instance_id")?),
        participant_id: ParticipantId::trusted(row.get::<String>("participant_id")?),
        template: Template::parse(&template).ok_or_else(|| wrong("an unknown template"))?,
        recipient: row.get("recipient")?,
        recipient_name: row.get("recipient_name")?,
        subject: row.get("subject")?,
        body_text: row.get("body_text")?,
        body_html: row.get("body_html")?,
        link,
        message_id: row.get("message_id")?,
        status,
        attempts: row.get("attempts")?,
        last_error: row.get("last_error")?,
        approval_ids: Vec::new(),
        created_at: row.get("created_at")?,
        id: NotificationId::trusted(id),
    })
}
