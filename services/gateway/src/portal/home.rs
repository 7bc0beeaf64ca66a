//! The first page: what is needed from the person, where the process stands, artifacts, comments, decisions.

use axum::Form;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use phasegate_clock::Timestamp;
use phasegate_principal::Permission;
use phasegate_proto::approval::v1::Approval;
use phasegate_proto::artifact::v1::{Artifact, Comment};
use phasegate_proto::instance::v1::{PhaseStatus, PhaseTimeline};

use super::Shared;
use super::fault::{Fault, render};
use super::form::{Fields, field, lines};
use super::page::{ArtifactLine, CommentLine, DecisionLine, Home, Pending};
use super::session::Visitor;
use super::view::{self, Step};
use super::when::When;

/// What the nonce of the comment form is for.
const COMMENT_SUBJECT: &str = "comment";

/// Shows the page.
pub(super) async fn show(
    State(portal): State<Shared>,
    Path(link): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let visitor = portal.visitor(&link, &headers, false).await?;
    let can_comment = visitor.may(Permission::Comment);
    let (instance, phases, approvals, artifacts, comments) = tokio::try_join!(
        portal.instance(&visitor),
        portal.phases(&visitor),
        portal.approvals(&visitor),
        portal.artifacts(&visitor),
        portal.comments(&visitor),
    )?;
    let comment_nonce = if can_comment {
        portal.issue_nonce(&visitor, COMMENT_SUBJECT.to_owned()).await?
    } else {
        String::new()
    };
    let now = portal.context.clock.now();
    let paused = When::from_proto(instance.paused_at.as_ref(), now);
    let position = phases.iter().position(|phase| phase.id == instance.current_phase);
    let page = Home {
        process_name: view::name(&instance.process_name, &instance.process_id).to_owned(),
        notice: view::notice(&instance, paused.as_ref()),
        pending: pending(&approvals, &phases, &visitor, now),
        next_expected: next_expected(&phases, now),
        can_approve: visitor.may(Permission::Approve) && view::is_open(&instance),
        base: visitor.base.clone(),
        progress: instance.progress_percent,
        current_phase: position.map_or_else(String::new, |index| {
            format!("Phase {} of {}: {}", index + 1, phases.len(), phases[index].name)
        }),
        completion: When::from_proto(instance.estimated_completion.as_ref(), now),
        phases: phases.iter().map(Step::new).collect(),
        artifacts: artifacts.iter().map(|artifact| artifact_line(artifact, now)).collect(),
        comments: comments.iter().map(|comment| comment_line(comment, now)).collect(),
        can_comment,
        comment_nonce,
        decisions: decisions(&approvals, now),
        person: visitor.name().to_owned(),
        address: visitor.person.email.clone(),
        instance_name: instance.name,
    };
    Ok(render(StatusCode::OK, &page))
}

/// Writes a comment.
pub(super) async fn comment(
    State(portal): State<Shared>,
    Path(link): Path<String>,
    headers: HeaderMap,
    Form(fields): Form<Fields>,
) -> Result<Response, Fault> {
    let visitor = portal.visitor(&link, &headers, true).await?;
    portal.consume_nonce(&visitor, COMMENT_SUBJECT.to_owned(), field(&fields, "nonce")).await?;
    portal.write_comment(&visitor, lines(field(&fields, "body"))).await?;
    Ok(Redirect::to(&format!("{}#comments", visitor.base)).into_response())
}

/// Requests that the visitor has to answer, oldest first.
pub(super) fn waiting<'a>(approvals: &'a [Approval], me: &str) -> Vec<&'a Approval> {
    let mut waiting: Vec<&Approval> =
        approvals.iter().filter(|approval| view::waits_for(approval, me)).collect();
    waiting.reverse();
    waiting
}

fn pending(
    approvals: &[Approval],
    phases: &[PhaseTimeline],
    visitor: &Visitor,
    now: Timestamp,
) -> Vec<Pending> {
    waiting(approvals, &visitor.person.id)
        .into_iter()
        .map(|approval| Pending {
            id: approval.id.clone(),
            title: approval.title.clone(),
            subject: view::subject(approval, phases),
            requested_by: view::actor(approval.requested_by.as_ref()),
            due: When::from_proto(approval.expires_at.as_ref(), now),
            overdue: approval.overdue,
        })
        .collect()
}

fn next_expected(phases: &[PhaseTimeline], now: Timestamp) -> Option<String> {
    let next = phases.iter().find(|phase| phase.status() == PhaseStatus::Pending)?;
    let about = When::from_proto(next.planned_start_at.as_ref(), now);
    Some(about.map_or_else(|| next.name.clone(), |when| format!("{}, {}", next.name, when.relative)))
}

fn artifact_line(artifact: &Artifact, now: Timestamp) -> ArtifactLine {
    ArtifactLine {
        key: artifact.key.clone(),
        version: artifact.version,
        kind: artifact.r#type.clone(),
        at: When::from_proto(artifact.created_at.as_ref(), now).unwrap_or_else(|| When::new(now, now)),
    }
}

fn comment_line(comment: &Comment, now: Timestamp) -> CommentLine {
    let about = match comment.subject.split_once(':') {
        Some((kind, id)) => format!("on {kind} {id}"),
        None => String::new(),
    };
    CommentLine {
        author: view::actor(comment.author.as_ref()),
        about,
        text: comment.body.clone(),
        at: When::from_proto(comment.created_at.as_ref(), now).unwrap_or_else(|| When::new(now, now)),
    }
}

/// Every answer, newest first.
fn decisions(approvals: &[Approval], now: Timestamp) -> Vec<DecisionLine> {
    let mut answers: Vec<_> = approvals
        .iter()
        .flat_map(|approval| approval.approvers.iter().map(move |approver| (approval, approver)))
        .filter_map(|(approval, approver)| {
            let at = approver.responded_at.as_ref().and_then(Timestamp::from_proto)?;
            Some((at, approval, approver))
        })
        .collect();
    answers.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
    answers
        .into_iter()
        .map(|(at, approval, approver)| {
            let (class, word) = view::answer(approver.status());
            DecisionLine {
                approval_id: approval.id.clone(),
                title: approval.title.clone(),
                class,
                word,
                who: view::name(&approver.name, &approver.participant_id).to_owned(),
                comment: approver.comment.clone(),
                at: When::new(at, now),
            }
        })
        .collect()
}
