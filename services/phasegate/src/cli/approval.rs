//! `phasegate approval`: requests for a decision.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use phasegate_client::request_id;
use phasegate_clock::Timestamp;
use phasegate_proto::actor::v1::ActorKind;
use phasegate_proto::approval::v1::{
    Approval, ApprovalStatus, ApproverStatus, DecideApprovalRequest, Decision, GetApprovalRequest,
    ListApprovalsRequest,
};

use super::failure::Failure;
use super::output::{Ink, Style, clean, style_of, word};
use super::session::Session;
use super::table::{Table, plain, short, state};
use super::{Page, moment};

/// Full name of a request.
const APPROVAL: &str = "phasegate.approval.v1.Approval";

/// What can be done with requests.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List requests that wait for an answer
    #[command(
        before_help = "Examples:\n  phasegate approval list\n  phasegate approval list proc-inst-123 --all"
    )]
    List {
        /// Of this instance only
        #[arg(default_value = "", hide_default_value = true)]
        instance_id: String,
        /// The same
        #[arg(long, hide = true, conflicts_with = "instance_id", value_name = "INSTANCE")]
        instance: Option<String>,
        /// That this participant has to answer, or has answered
        #[arg(long, default_value = "", hide_default_value = true, value_name = "PARTICIPANT")]
        approver: String,
        /// In this state only, instead of pending
        #[arg(long, value_parser = [
            "pending", "approved", "rejected", "changes_requested", "expired", "withdrawn", "superseded",
        ])]
        status: Option<String>,
        /// In any state
        #[arg(long, conflicts_with = "status")]
        all: bool,
        #[command(flatten)]
        page: Page,
    },
    /// Show one request with everything that its reviewer needs
    #[command(before_help = "Example:\n  phasegate approval get apr-123")]
    Get {
        /// Request
        approval_id: String,
    },
    /// Say yes
    #[command(
        before_help = "Examples:\n  phasegate approval approve apr-123\n  phasegate approval approve apr-123 --as customer_ciso --comment \"looks good\" --yes"
    )]
    Approve(Answer),
    /// Say no; needs --comment
    #[command(
        before_help = "Example:\n  phasegate approval reject apr-123 --comment \"the certificate is for another domain\""
    )]
    Reject(Answer),
    /// Say not yet, and what to change; needs --comment
    #[command(
        before_help = "Example:\n  phasegate approval request-changes apr-123 --comment \"please map the department, too\""
    )]
    RequestChanges(Answer),
}

/// An answer.
#[derive(Clone, Debug, Args)]
pub struct Answer {
    /// Request
    approval_id: String,
    /// Participant for whom you speak; may be left out where only one has to answer
    #[arg(long = "as", value_name = "PARTICIPANT")]
    approver: Option<String>,
    /// Why
    #[arg(long, default_value = "", hide_default_value = true)]
    comment: String,
}

/// Does it.
pub(super) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::List { instance_id, instance, approver, status, all, page } => {
            let status = status
                .and_then(|word| {
                    ApprovalStatus::from_str_name(&format!("APPROVAL_STATUS_{}", word.to_uppercase()))
                })
                .unwrap_or_default();
            let request = ListApprovalsRequest {
                instance_id: instance.unwrap_or(instance_id),
                status: status.into(),
                all,
                approver_id: approver,
                page_size: page.limit,
                page_token: page.page_token,
            };
            list(request, session).await
        }
        Verb::Get { approval_id } => {
            let approval = fetch(approval_id, session).await?;
            if session.is_for_programs() {
                return session.output.message(&approval, APPROVAL);
            }
            let text = describe(&approval, moment::now(), session.output.ink);
            session.output.lines(&text)
        }
        Verb::Approve(answer) => decide(answer, Decision::Approve, session).await,
        Verb::Reject(answer) => decide(answer, Decision::Reject, session).await,
        Verb::RequestChanges(answer) => decide(answer, Decision::RequestChanges, session).await,
    }
}

async fn list(request: ListApprovalsRequest, session: &mut Session<'_>) -> Result<(), Failure> {
    let answer = session
        .call(request, async |client, request| client.approvals().list_approvals(request).await)
        .await?;
    if session.is_for_programs() {
        return session.output.items(&answer.approvals, APPROVAL, &answer.next_page_token);
    }
    if answer.approvals.is_empty() {
        session.output.note("Nothing waits for an answer.");
        return Ok(());
    }
    let text = table(&answer.approvals, moment::now(), session.output.ink);
    session.output.lines(&text)?;
    session.output.more(&answer.next_page_token);
    Ok(())
}

async fn fetch(approval_id: String, session: &Session<'_>) -> Result<Approval, Failure> {
    let request = GetApprovalRequest { approval_id };
    let answer =
        session.call(request, async |client, request| client.approvals().get_approval(request).await).await?;
    Ok(answer.approval.unwrap_or_default())
}

/// Shows the request, asks, and answers for exactly what was shown.
async fn decide(answer: Answer, decision: Decision, session: &mut Session<'_>) -> Result<(), Failure> {
    let approval = fetch(answer.approval_id, session).await?;
    let approver_id = match answer.approver {
        Some(id) => id,
        None => only_pending(&approval)?,
    };
    let text = describe(&approval, moment::now(), Ink(false));
    session.output.note(&text);
    let verb = match decision {
        Decision::Approve => "Approve",
        Decision::Reject => "Reject",
        Decision::RequestChanges | Decision::Unspecified => "Request changes of",
    };
    session.confirm(&format!("{verb} \"{}\" as {approver_id}?", clean(&approval.title)))?;
    let request = DecideApprovalRequest {
        approval_id: approval.id,
        approver_id,
        decision: decision.into(),
        comment: answer.comment,
        remarks: Vec::new(),
        content_digest: approval.content_digest,
        request_id: request_id(),
    };
    let answer = session
        .call(request, async |client, request| client.approvals().decide_approval(request).await)
        .await?;
    let approval = answer.approval.unwrap_or_default();
    if session.is_for_programs() {
        return session.output.message(&approval, APPROVAL);
    }
    let status = word(approval.status().as_str_name(), "APPROVAL_STATUS_");
    let missing = pending(&approval);
    let missing =
        if missing.is_empty() { String::new() } else { format!(", waits for {}", missing.join(", ")) };
    session.output.lines(&clean(&format!("{} {status}{missing}", approval.id)))
}

fn pending(approval: &Approval) -> Vec<&str> {
    approval
        .approvers
        .iter()
        .filter(|approver| approver.status() == ApproverStatus::Pending)
        .map(|approver| approver.participant_id.as_str())
        .collect()
}

/// The one who has to answer.
fn only_pending(approval: &Approval) -> Result<String, Failure> {
    match (pending(approval).as_slice(), approval.approvers.as_slice()) {
        ([only], _) => Ok((*only).to_owned()),
        // Nobody has to answer any more: the server knows best what to say about that.
        ([], [only]) => Ok(only.participant_id.clone()),
        ([], _) => Err(Failure::Usage("say for whom you answer with --as".to_owned())),
        (several, _) => {
            Err(Failure::Usage(format!("say for whom you answer with --as: {}", several.join(", "))))
        }
    }
}

/// Requests for people.
fn table(approvals: &[Approval], now: Timestamp, ink: Ink) -> String {
    let mut table = Table::new(&["ID", "TITLE", "ABOUT", "STATUS", "WAITS FOR", "ASKED", "DUE"]);
    for approval in approvals {
        let status = if approval.overdue {
            "overdue".to_owned()
        } else {
            word(approval.status().as_str_name(), "APPROVAL_STATUS_")
        };
        table.row(vec![
            plain(&approval.id),
            short(&approval.title, 36),
            plain(about(approval)),
            state(&status),
            plain(pending(approval).join(", ")),
            plain(moment::relative(approval.requested_at.as_ref(), now)),
            plain(moment::relative(approval.expires_at.as_ref(), now)),
        ]);
    }
    table.render(ink)
}

fn about(approval: &Approval) -> String {
    let kind = word(approval.subject_kind().as_str_name(), "SUBJECT_KIND_").replace('_', " ");
    if approval.subject_id.is_empty() && !approval.task_id.is_empty() {
        return format!("{kind} on {}", approval.task_id);
    }
    let round = if approval.round > 1 { format!(" (round {})", approval.round) } else { String::new() };
    format!("{kind} {}{round}", approval.subject_id).trim_end().to_owned()
}

/// A request on one screen.
fn describe(approval: &Approval, now: Timestamp, ink: Ink) -> String {
    let mut text = String::new();
    let status = word(approval.status().as_str_name(), "APPROVAL_STATUS_");
    let title = ink.paint(Style::Strong, &clean(&approval.title));
    // Writing to a text does not fail.
    let _ = writeln!(text, "{title}  {}", ink.paint(style_of(&status), &status.to_uppercase()));
    let asked = moment::relative(approval.requested_at.as_ref(), now);
    // The engine asks for the definition: naming it would tell nobody anything.
    let requester = approval.requested_by.as_ref().filter(|actor| actor.kind() != ActorKind::System);
    let by = requester.map(|actor| actor.id.as_str()).unwrap_or_default();
    let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
    let due = moment::relative(approval.expires_at.as_ref(), now);
    let due = if due.is_empty() { String::new() } else { format!(" · due {due}") };
    let line = format!("{} · {} · asked {asked}{by}{due}", approval.id, about(approval));
    let _ = writeln!(text, "{}", ink.paint(Style::Faint, &clean(&line)));
    if !approval.status_reason.is_empty() {
        let _ = writeln!(text, "{}", clean(&approval.status_reason));
    }
    if !approval.description.is_empty() {
        let _ = writeln!(text, "\n{}", clean(&approval.description));
    }
    if !approval.artifacts.is_empty() {
        let mut table = Table::new(&["ARTIFACT", "VERSION", "DIGEST"]);
        for artifact in &approval.artifacts {
            let before = if artifact.previous_version > 0 {
                format!(" (was {})", artifact.previous_version)
            } else {
                String::new()
            };
            table.row(vec![
                plain(&artifact.key),
                plain(format!("{}{before}", artifact.version)),
                short(&artifact.digest, 20),
            ]);
        }
        let _ = write!(text, "\n{}", table.render(ink));
    }
    let mut table = Table::new(&["APPROVER", "NAME", "STATUS", "WHEN", "COMMENT"]);
    for approver in &approval.approvers {
        table.row(vec![
            plain(&approver.participant_id),
            plain(&approver.name),
            state(&word(approver.status().as_str_name(), "APPROVER_STATUS_")),
            plain(moment::relative(approver.responded_at.as_ref(), now)),
            short(&approver.comment, 60),
        ]);
    }
    let _ = write!(text, "\n{}", table.render(ink));
    text
}

#[cfg(test)]
mod tests {
    use phasegate_proto::approval::v1::{Approver, ReviewedArtifact, SubjectKind};

    use super::*;

    fn approver(id: &str, status: ApproverStatus) -> Approver {
        Approver { participant_id: id.to_owned(), status: status.into(), ..Approver::default() }
    }

    fn approval(approvers: Vec<Approver>) -> Approval {
        let now = now();
        Approval {
            id: "apr-1".to_owned(),
            title: "SSO Configuration Review".to_owned(),
            description: "Please have a look.".to_owned(),
            subject_kind: SubjectKind::Task.into(),
            subject_id: "sso_setup".to_owned(),
            round: 2,
            status: ApprovalStatus::Pending.into(),
            approvers,
            artifacts: vec![ReviewedArtifact {
                key: "sso_config".to_owned(),
                version: 2,
                digest: "sha256:0123456789abcdef".to_owned(),
                previous_version: 1,
            }],
            requested_at: Some((now - std::time::Duration::from_mins(5)).to_proto()),
            expires_at: Some((now + std::time::Duration::from_hours(47)).to_proto()),
            ..Approval::default()
        }
    }

    fn now() -> Timestamp {
        "2025-11-13T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_request_shows_what_its_reviewer_needs() {
        let approval = approval(vec![approver("customer_it_admin", ApproverStatus::Pending)]);
        let expected = "\
SSO Configuration Review  PENDING
apr-1 · task sso_setup (round 2) · asked 5 min ago · due in 47 h

Please have a look.

ARTIFACT    VERSION    DIGEST
sso_config  2 (was 1)  sha256:0123456789ab…
";
        let described = describe(&approval, now(), Ink(false));
        assert!(described.starts_with(expected), "{described}");
        assert!(described.ends_with("customer_it_admin        pending\n"), "{described}");
    }

    #[test]
    fn a_list_names_who_has_to_answer() {
        let approvals = [approval(vec![
            approver("customer_it_admin", ApproverStatus::Approved),
            approver("customer_ciso", ApproverStatus::Pending),
        ])];
        let expected = "\
ID     TITLE                     ABOUT                     STATUS   WAITS FOR      ASKED      DUE
apr-1  SSO Configuration Review  task sso_setup (round 2)  pending  customer_ciso  5 min ago  in 47 h
";
        assert_eq!(table(&approvals, now(), Ink(false)), expected);
    }

    #[test]
    fn a_question_names_what_it_came_from() {
        let question = Approval {
            subject_kind: SubjectKind::AdHoc.into(),
            task_id: "sso_setup".to_owned(),
            ..Approval::default()
        };
        assert_eq!(about(&question), "ad hoc on sso_setup");
        assert_eq!(about(&Approval { task_id: String::new(), ..question }), "ad hoc");
    }

    #[test]
    fn the_one_who_has_to_answer_need_not_be_named() {
        use ApproverStatus::{Approved, Pending};
        for (approvers, chosen) in [
            (vec![approver("a", Pending)], Some("a")),
            (vec![approver("a", Approved), approver("b", Pending)], Some("b")),
            (vec![approver("a", Approved)], Some("a")),
            (vec![approver("a", Pending), approver("b", Pending)], None),
            (vec![approver("a", Approved), approver("b", Approved)], None),
        ] {
            let approval = approval(approvers);
            assert_eq!(only_pending(&approval).ok().as_deref(), chosen);
        }
    }
}
