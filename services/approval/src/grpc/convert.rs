//! Messages become what the application takes, or a refusal that names the field.

use std::time::Duration;

use phasegate_id::{ArtifactKey, ParticipantId, TaskId};
use phasegate_process::parse_duration;
use phasegate_proto::approval::v1::{
    ApprovalStatus, DecideApprovalRequest, Decision as DecisionMessage, ListApprovalsRequest,
    RequestApprovalRequest, WithdrawApprovalRequest,
};
use phasegate_proto::instance::v1::Remark as RemarkMessage;
use phasegate_rpc_error::Invalid;

use crate::app::{Ask, Caller, Decide, List, ResumeAt, Withdraw};
use crate::domain::{APPROVERS_MAX, ContentDigest, Decision, Verdict, Wish};

/// Characters of a title.
const TITLE_MAX: usize = 200;
/// Bytes of a description.
const DESCRIPTION_MAX: usize = 64 * 1024;
/// Bytes of a comment, and of a remark.
const COMMENT_MAX: usize = 16 * 1024;
/// Bytes of a reason.
const REASON_MAX: usize = 4 * 1024;
/// Bytes of a pointer into an artifact.
const PATH_MAX: usize = 1024;
/// Artifacts of one request.
const ARTIFACTS_MAX: usize = 50;
/// Remarks of one answer.
const REMARKS_MAX: usize = 100;
/// Longest time that a caller may give people.
const EXPIRY_MAX: Duration = Duration::from_hours(90 * 24);

/// Reads a request.
pub(super) fn ask(message: RequestApprovalRequest) -> Result<Ask, Invalid> {
    let task = given(message.task_id).map(|id| TaskId::parse(&id)).transpose();
    let wrong_task = |_| Invalid::new("TASK_UNKNOWN", "task_id", "names no task of the instance");
    Ok(Ask {
        instance: message.instance_id,
        task: task.map_err(wrong_task)?,
        approvers: approvers(&message.approver_ids)?,
        title: title(message.title)?,
        description: text("description", message.description, DESCRIPTION_MAX)?,
        artifacts: artifacts(&message.artifacts)?,
        timeout: given(message.expires_in).map(|text| expiry(&text)).transpose()?,
        key: given(message.key).map(key).transpose()?,
        task_token: given(message.task_token),
    })
}

/// Reads an answer.
pub(super) fn decide(message: DecideApprovalRequest) -> Result<Decide, Invalid> {
    let decision = match message.decision() {
        DecisionMessage::Approve => Decision::Approve,
        DecisionMessage::Reject => Decision::Reject,
        DecisionMessage::RequestChanges => Decision::RequestChanges,
        DecisionMessage::Unspecified => {
            let allowed = "must be approve, reject or request_changes";
            return Err(Invalid::new("DECISION_REQUIRED", "decision", allowed));
        }
    };
    if message.content_digest.is_empty() {
        let needed = "must be the one that was shown";
        return Err(Invalid::new("CONTENT_DIGEST_REQUIRED", "content_digest", needed));
    }
    let comment = text("comment", message.comment, COMMENT_MAX)?;
    let wishes = wishes(message.remarks)?;
    let verdict = Verdict::new(decision, comment, wishes).map_err(|_| {
        Invalid::new("COMMENT_REQUIRED", "comment", "must say why, unless remarks say what to change")
    })?;
    // A name that is no id is nobody's, which is for the rules to say.
    let approver = given(message.approver_id).map(ParticipantId::trusted);
    let seen = ContentDigest::claimed(message.content_digest);
    Ok(Decide { approval: message.approval_id, approver, verdict, seen })
}

/// Reads a withdrawal.
pub(super) fn withdraw(message: WithdrawApprovalRequest) -> Result<Withdraw, Invalid> {
    let needed = || Invalid::new("REASON_REQUIRED", "reason", "must say why in 1 to 4096 bytes");
    if message.reason.trim().is_empty() {
        return Err(needed());
    }
    let reason = text("reason", message.reason, REASON_MAX).map_err(|_| needed())?;
    Ok(Withdraw { approval: message.approval_id, reason })
}

/// Reads a list.
pub(super) fn list(message: ListApprovalsRequest) -> Result<List, Invalid> {
    let unknown = |_| {
        let allowed = "pending, approved, rejected, changes_requested, expired, withdrawn, superseded";
        Invalid::new("ENUM_INVALID", "status", format!("must be one of {allowed}")).with("allowed", allowed)
    };
    let status = ApprovalStatus::try_from(message.status).map_err(unknown)?;
    Ok(List {
        instance: given(message.instance_id),
        status: if message.all { None } else { Some(status_word(status)) },
        approver: given(message.approver_id).map(ParticipantId::trusted),
    })
}

/// Everything that a page token belongs to.
pub(super) fn list_scope(caller: &Caller, message: &ListApprovalsRequest) -> String {
    let person = caller.person().map(ParticipantId::into_string).unwrap_or_default();
    let parts = (
        caller.tenant(),
        caller.own_instance(),
        person,
        &message.instance_id,
        message.status,
        message.all,
        &message.approver_id,
    );
    format!("ListApprovals{parts:?}")
}

/// Reads where a watcher begins.
pub(super) fn resume_at(token: &str) -> Result<ResumeAt, Invalid> {
    if token.is_empty() {
        return Ok(ResumeAt::Now);
    }
    let position: Option<i64> = token.parse().ok().filter(|position: &i64| *position >= 0);
    position.map(ResumeAt::After).ok_or_else(resume_token_invalid)
}

/// The token is none of ours.
pub(super) fn resume_token_invalid() -> Invalid {
    Invalid::new("RESUME_TOKEN_INVALID", "resume_token", "must be empty, 0, or one of an earlier message")
}

fn status_word(status: ApprovalStatus) -> &'static str {
    match status {
        ApprovalStatus::Pending | ApprovalStatus::Unspecified => "pending",
        ApprovalStatus::Approved => "approved",
        ApprovalStatus::Rejected => "rejected",
        ApprovalStatus::ChangesRequested => "changes_requested",
        ApprovalStatus::Expired => "expired",
        ApprovalStatus::Withdrawn => "withdrawn",
        ApprovalStatus::Superseded => "superseded",
    }
}

fn approvers(ids: &[String]) -> Result<Vec<ParticipantId>, Invalid> {
    if ids.len() > APPROVERS_MAX {
        return Err(Invalid::new("APPROVER_INVALID", "approver_ids", "must be at most 20"));
    }
    let read = |(index, id): (usize, &String)| {
        ParticipantId::parse(id).map_err(|_| {
            let field = format!("approver_ids[{index}]");
            Invalid::new(
                "APPROVER_INVALID",
                field,
                "must be a person of the definition whose role is approver",
            )
        })
    };
    ids.iter().enumerate().map(read).collect()
}

fn artifacts(keys: &[String]) -> Result<Vec<ArtifactKey>, Invalid> {
    if keys.len() > ARTIFACTS_MAX {
        return Err(Invalid::new("ARTIFACT_UNKNOWN", "artifacts", "must be at most 50"));
    }
    let read = |(index, key): (usize, &String)| {
        ArtifactKey::parse(key).map_err(|_| {
            Invalid::new(
                "ARTIFACT_UNKNOWN",
                format!("artifacts[{index}]"),
                "names no artifact of the instance",
            )
        })
    };
    keys.iter().enumerate().map(read).collect()
}

fn wishes(remarks: Vec<RemarkMessage>) -> Result<Vec<Wish>, Invalid> {
    if remarks.len() > REMARKS_MAX {
        return Err(Invalid::new("TEXT_INVALID", "remarks", "must be at most 100"));
    }
    let read = |(index, remark): (usize, RemarkMessage)| {
        let field = |name: &str| format!("remarks[{index}].{name}");
        if remark.text.trim().is_empty() {
            return Err(Invalid::new("TEXT_INVALID", field("text"), "must say what to change"));
        }
        let is_pointer = remark.path.is_empty() || remark.path.starts_with('/');
        if !is_pointer || remark.path.len() > PATH_MAX {
            let allowed = "must be a JSON Pointer of at most 1024 bytes";
            return Err(Invalid::new("TEXT_INVALID", field("path"), allowed));
        }
        if !remark.artifact_key.is_empty() && ArtifactKey::parse(&remark.artifact_key).is_err() {
            return Err(Invalid::new("TEXT_INVALID", field("artifact_key"), "must be an artifact key"));
        }
        Ok(Wish {
            artifact_key: remark.artifact_key,
            path: text(&field("path"), remark.path, PATH_MAX)?,
            text: text(&field("text"), remark.text, COMMENT_MAX)?,
        })
    };
    remarks.into_iter().enumerate().map(read).collect()
}

fn title(title: String) -> Result<String, Invalid> {
    let length = title.chars().count();
    let is_hidden = |letter: char| letter.is_control() || turns_or_breaks(letter);
    if title.trim().is_empty() || length > TITLE_MAX || title.chars().any(is_hidden) {
        return Err(Invalid::new("TEXT_INVALID", "title", "must be one line of 1 to 200 characters"));
    }
    Ok(title)
}

/// Letters that turn the direction of a line, or end it: what is decided must read as it was written.
fn turns_or_breaks(letter: char) -> bool {
    phasegate_plain_text::is_turning(letter) || matches!(letter, '\u{2028}' | '\u{2029}')
}

/// A text of several lines. Overrides of direction are refused here, too; isolates belong to honest text.
fn text(field: &str, text: String, bytes_max: usize) -> Result<String, Invalid> {
    let is_allowed = |letter: char| match letter {
        '\n' | '\r' | '\t' => true,
        '\u{202d}' | '\u{202e}' => false,
        _ => !letter.is_control(),
    };
    if text.len() > bytes_max || !text.chars().all(is_allowed) {
        let allowed = format!("must be plain text of at most {bytes_max} bytes");
        return Err(Invalid::new("TEXT_INVALID", field, allowed).with("bytes_max", bytes_max.to_string()));
    }
    Ok(text)
}

fn expiry(text: &str) -> Result<Duration, Invalid> {
    let wrong = |message: String| Invalid::new("EXPIRY_INVALID", "expires_in", message);
    let duration = parse_duration(text).map_err(|fault| wrong(fault.to_string()))?;
    if duration > EXPIRY_MAX {
        return Err(wrong("must be at most 90 days".to_owned()));
    }
    Ok(duration)
}

/// `^[a-z][a-z0-9_]{0,62}$`
fn key(key: String) -> Result<String, Invalid> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = key.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if begins && key.len() <= 63 && key.bytes().all(is_word) {
        return Ok(key);
    }
    let allowed = "must be 1 to 63 lower-case letters, digits and underscores, and begin with a letter";
    Err(Invalid::new("TEXT_INVALID", "key", allowed))
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> RequestApprovalRequest {
        RequestApprovalRequest {
            instance_id: "proc-inst-1".to_owned(),
            approver_ids: vec!["ada".to_owned()],
            title: "Review".to_owned(),
            ..RequestApprovalRequest::default()
        }
    }

    #[test]
    fn a_request_is_refused_by_field() {
        type Change = fn(&mut RequestApprovalRequest);
        let table: [(&str, &str, Change); 19] = [
            ("TEXT_INVALID", "title", |ask| "turn\u{202e}ed".clone_into(&mut ask.title)),
            ("TEXT_INVALID", "title", |ask| "two\u{2028}lines".clone_into(&mut ask.title)),
            ("TEXT_INVALID", "description", |ask| "turn\u{202e}ed".clone_into(&mut ask.description)),
            ("TEXT_INVALID", "title", |ask| ask.title.clear()),
            ("TEXT_INVALID", "title", |ask| "  ".clone_into(&mut ask.title)),
            ("TEXT_INVALID", "title", |ask| "two\nlines".clone_into(&mut ask.title)),
            ("TEXT_INVALID", "title", |ask| "a\rb".clone_into(&mut ask.title)),
            ("TEXT_INVALID", "title", |ask| ask.title = "ö".repeat(201)),
            ("TEXT_INVALID", "description", |ask| ask.description = "x".repeat(64 * 1024 + 1)),
            ("TEXT_INVALID", "description", |ask| "a\0b".clone_into(&mut ask.description)),
            ("TEXT_INVALID", "key", |ask| "Key".clone_into(&mut ask.key)),
            ("TEXT_INVALID", "key", |ask| ask.key = "k".repeat(64)),
            ("EXPIRY_INVALID", "expires_in", |ask| "0".clone_into(&mut ask.expires_in)),
            ("EXPIRY_INVALID", "expires_in", |ask| "-2h".clone_into(&mut ask.expires_in)),
            ("EXPIRY_INVALID", "expires_in", |ask| "91d".clone_into(&mut ask.expires_in)),
            ("APPROVER_INVALID", "approver_ids", |ask| ask.approver_ids = vec!["a".to_owned(); 21]),
            ("APPROVER_INVALID", "approver_ids[0]", |ask| ask.approver_ids = vec![String::new()]),
            ("ARTIFACT_UNKNOWN", "artifacts", |ask| ask.artifacts = vec!["a".to_owned(); 51]),
            ("TASK_UNKNOWN", "task_id", |ask| "no id".clone_into(&mut ask.task_id)),
        ];
        for (reason, field, change) in table {
            let mut message = good();
            change(&mut message);
            let refused = ask(message).map(|_| ()).map_err(|invalid| (invalid.reason, invalid.field));
            assert_eq!(refused, Err((reason, field.to_owned())));
        }
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let mut message = good();
        message.title = "ö".repeat(200);
        message.description = format!("<script>alert(1)</script>\n{}", "x".repeat(64 * 1024 - 26));
        message.key = format!("k{}", "_".repeat(62));
        "90d".clone_into(&mut message.expires_in);
        message.approver_ids = (0..20).map(|index| format!("person-{index}")).collect();
        message.artifacts = (0..50).map(|index| format!("artifact-{index}")).collect();
        assert!(ask(message).is_ok());
    }

    #[test]
    fn an_answer_is_refused_by_field() {
        let good = || DecideApprovalRequest {
            approval_id: "apr-1".to_owned(),
            decision: DecisionMessage::Reject.into(),
            comment: "no".to_owned(),
            content_digest: "sha256:00".to_owned(),
            ..DecideApprovalRequest::default()
        };
        let remark = |text: &str, path: &str| RemarkMessage {
            text: text.to_owned(),
            path: path.to_owned(),
            ..RemarkMessage::default()
        };
        let table = [
            (("DECISION_REQUIRED", "decision"), DecideApprovalRequest { decision: 0, ..good() }),
            (("DECISION_REQUIRED", "decision"), DecideApprovalRequest { decision: 77, ..good() }),
            (
                ("CONTENT_DIGEST_REQUIRED", "content_digest"),
                DecideApprovalRequest { content_digest: String::new(), ..good() },
            ),
            (("COMMENT_REQUIRED", "comment"), DecideApprovalRequest { comment: " ".to_owned(), ..good() }),
            (
                ("TEXT_INVALID", "comment"),
                DecideApprovalRequest { comment: "x".repeat(16 * 1024 + 1), ..good() },
            ),
            (
                ("TEXT_INVALID", "remarks"),
                DecideApprovalRequest { remarks: vec![remark("a", ""); 101], ..good() },
            ),
            (
                ("TEXT_INVALID", "remarks[1].text"),
                DecideApprovalRequest { remarks: vec![remark("a", ""), remark("", "")], ..good() },
            ),
            (
                ("TEXT_INVALID", "remarks[0].path"),
                DecideApprovalRequest { remarks: vec![remark("a", "b")], ..good() },
            ),
        ];
        for ((reason, field), message) in table {
            let refused = decide(message).map(|_| ()).map_err(|invalid| (invalid.reason, invalid.field));
            assert_eq!(refused, Err((reason, field.to_owned())));
        }
        let with_remark = DecideApprovalRequest {
            comment: String::new(),
            remarks: vec![remark("renew it", "/certificate")],
            ..good()
        };
        assert!(decide(with_remark).is_ok());
    }

    #[test]
    fn a_resume_token_is_a_position() {
        assert_eq!(resume_at(""), Ok(ResumeAt::Now));
        assert_eq!(resume_at("0"), Ok(ResumeAt::After(0)));
        assert_eq!(resume_at("17"), Ok(ResumeAt::After(17)));
        for token in ["-1", "1.5", "abc", "99999999999999999999", " 1"] {
            assert_eq!(
                resume_at(token).map_err(|invalid| invalid.reason),
                Err("RESUME_TOKEN_INVALID"),
                "{token}"
            );
        }
    }
}
