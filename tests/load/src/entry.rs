//! Entries of the log and answers of the server, as the check reads them.

use phasegate_clock::Timestamp;
use serde_json::Value;

use crate::ledger::{Kind, Told};

/// The change that an entry of the log is of; none for what the engine does by itself.
pub(crate) fn kind_of(entry: &Value) -> Option<Kind> {
    Some(match (text(&entry["type"]), text(&entry["action"])) {
        ("task", "handed_in_task") => Kind::Complete,
        ("task", "failed_attempt") => Kind::Fail,
        ("task", "released_task") => Kind::Release,
        ("task", "retried_task") => Kind::Retry,
        ("approval", "requested") => Kind::Request,
        ("approval", "approved" | "rejected" | "requested_changes") => Kind::Decide,
        ("fact", "set_facts") => Kind::Facts,
        ("context", "changed_context") => Kind::Context,
        ("comment", "commented") => Kind::Comment,
        ("instance", "paused") => Kind::Pause,
        ("instance", "resumed") => Kind::Resume,
        ("instance", "cancelled") => Kind::Cancel,
        _ => return None,
    })
}

/// The text of the call in an entry.
pub(crate) fn mark_of(kind: Kind, entry: &Value) -> String {
    let details = &entry["details"];
    let mark = match kind {
        Kind::Complete => &details["summary"],
        Kind::Fail => &details["message"],
        Kind::Request => &details["request"]["title"],
        Kind::Decide => &details["comments"],
        Kind::Comment => &details["body"],
        Kind::Release
        | Kind::Retry
        | Kind::Facts
        | Kind::Context
        | Kind::Pause
        | Kind::Resume
        | Kind::Cancel => &details["reason"],
        Kind::Start | Kind::Store | Kind::Link => &Value::Null,
    };
    text(mark).to_owned()
}

/// Whether the effect is this call's own: of two equal answers of one person the first stands, and the second is told of it.
pub(crate) fn is_effective(told: &Told) -> bool {
    let Some(answer) = &told.answer else { return false };
    match told.kind {
        Kind::Request => answer["title"] == told.mark.as_str(),
        Kind::Decide => comment_of(answer, told) == Some(&told.mark),
        Kind::Start
        | Kind::Store
        | Kind::Complete
        | Kind::Fail
        | Kind::Release
        | Kind::Facts
        | Kind::Context
        | Kind::Comment
        | Kind::Link
        | Kind::Pause
        | Kind::Resume
        | Kind::Retry
        | Kind::Cancel => true,
    }
}

/// What the person of a vote has written on a request.
pub(crate) fn comment_of<'a>(request: &'a Value, told: &Told) -> Option<&'a str> {
    let approvers = request["approvers"].as_array()?;
    let approver = approvers.iter().find(|one| one["participantId"] == told.call.body["approverId"])?;
    approver["comment"].as_str()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn time(value: &Value) -> Option<Timestamp> {
    text(value).parse().ok()
}

/// A whole number, which may have come as a number with a fraction of zero.
#[expect(clippy::cast_possible_truncation, reason = "versions are small")]
pub(crate) fn number(value: &Value) -> i64 {
    value.as_f64().unwrap_or_default() as i64
}
