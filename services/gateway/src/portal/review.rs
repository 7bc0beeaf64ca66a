//! One request: look, choose, confirm, receipt.

use axum::Form;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use phasegate_principal::Permission;
use phasegate_proto::approval::v1::{Approval, ApprovalStatus, DecideApprovalRequest, Decision, SubjectKind};
use phasegate_proto::instance::v1::{PhaseTimeline, ProcessInstance, Remark};

use super::fault::{Fault, render};
use super::form::{Fields, field, lines, remarks};
use super::page::{Confirm, Receipt, Review, Reviewed};
use super::session::Visitor;
use super::when::When;
use super::{Portal, Shared, content, home, view};

/// What a form brings back: a choice that is not complete yet.
#[derive(Debug, Default)]
struct Draft {
    chosen: String,
    comment: String,
    remarks: Vec<(String, String)>,
    faults: Vec<(&'static str, String)>,
    /// The content changed while the person was reading.
    changed: bool,
}

/// Shows a request.
pub(super) async fn show(
    State(portal): State<Shared>,
    Path((link, approval_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let visitor = portal.visitor(&link, &headers, false).await?;
    let approval = portal.approval(&visitor, &approval_id).await?;
    let page = portal.review(&visitor, approval, Draft::default()).await?;
    Ok(render(StatusCode::OK, &page))
}

/// Takes a choice and asks for confirmation. Changes nothing.
pub(super) async fn choose(
    State(portal): State<Shared>,
    Path((link, approval_id)): Path<(String, String)>,
    headers: HeaderMap,
    Form(fields): Form<Fields>,
) -> Result<Response, Fault> {
    let visitor = portal.visitor(&link, &headers, true).await?;
    let approval = portal.approval(&visitor, &approval_id).await?;
    let mut draft = Draft {
        chosen: field(&fields, "decision").to_owned(),
        comment: lines(field(&fields, "comment")),
        remarks: remarks(&fields),
        ..Draft::default()
    };
    if !visitor.may(Permission::Approve) {
        return portal.again(&visitor, approval, draft, StatusCode::FORBIDDEN).await;
    }
    if !view::waits_for(&approval, &visitor.person.id) {
        return portal.again(&visitor, approval, draft, StatusCode::CONFLICT).await;
    }
    let decision = view::decision(&draft.chosen);
    let Some((verb, button)) = view::verb(decision) else {
        draft.faults.push(("decision", "Choose one of the three answers".to_owned()));
        return portal.again(&visitor, approval, draft, StatusCode::UNPROCESSABLE_ENTITY).await;
    };
    if decision != Decision::Approve && draft.comment.is_empty() && draft.remarks.is_empty() {
        draft.faults.push(("comment", "Say why, in the comment or on an artifact".to_owned()));
        return portal.again(&visitor, approval, draft, StatusCode::UNPROCESSABLE_ENTITY).await;
    }
    let digest = field(&fields, "digest").to_owned();
    if digest != approval.content_digest {
        draft.changed = true;
        return portal.again(&visitor, approval, draft, StatusCode::CONFLICT).await;
    }
    let nonce = portal.issue_nonce(&visitor, nonce_subject(&approval.id, &draft.chosen, &digest)).await?;
    let instance = portal.instance(&visitor).await?;
    let page = Confirm {
        id: approval.id,
        base: visitor.base.clone(),
        instance_name: instance.name,
        title: approval.title,
        verb,
        button,
        decision: draft.chosen,
        digest,
        nonce,
        comment: draft.comment,
        remarks: draft.remarks,
        person: visitor.name().to_owned(),
        address: visitor.person.email.clone(),
    };
    Ok(render(StatusCode::OK, &page))
}

/// Records the answer. The nonce is good for exactly what was confirmed, once.
pub(super) async fn confirm(
    State(portal): State<Shared>,
    Path((link, approval_id)): Path<(String, String)>,
    headers: HeaderMap,
    Form(fields): Form<Fields>,
) -> Result<Response, Fault> {
    let visitor = portal.visitor(&link, &headers, true).await?;
    let chosen = field(&fields, "decision");
    let digest = field(&fields, "digest");
    let nonce = field(&fields, "nonce");
    portal.consume_nonce(&visitor, nonce_subject(&approval_id, chosen, digest), nonce).await?;
    let comment = lines(field(&fields, "comment"));
    let written = remarks(&fields);
    let decision = DecideApprovalRequest {
        approval_id: approval_id.clone(),
        approver_id: visitor.person.id.clone(),
        decision: view::decision(chosen).into(),
        comment: comment.clone(),
        remarks: written
            .iter()
            .map(|(key, text)| Remark { artifact_key: key.clone(), text: text.clone(), ..Remark::default() })
            .collect(),
        content_digest: digest.to_owned(),
        // The nonce is used once, so that it names this answer.
        request_id: nonce.to_owned(),
    };
    match portal.decide(&visitor, decision).await {
        Ok(approval) => Ok(to_receipt(&visitor, &approval.id)),
        Err(status) => {
            let reason = phasegate_rpc_error::reason_of(&status).unwrap_or_default();
            if !matches!(
                reason.as_str(),
                "APPROVAL_CONTENT_CHANGED"
                    | "APPROVAL_ALREADY_DECIDED"
                    | "APPROVAL_EXPIRED"
                    | "APPROVAL_WITHDRAWN"
                    | "APPROVAL_SUPERSEDED"
            ) {
                return Err(Fault::from(status));
            }
            let approval = portal.approval(&visitor, &approval_id).await?;
            let draft = Draft {
                chosen: chosen.to_owned(),
                comment,
                remarks: written,
                changed: reason == "APPROVAL_CONTENT_CHANGED",
                ..Draft::default()
            };
            portal.again(&visitor, approval, draft, StatusCode::CONFLICT).await
        }
    }
}

/// Shows what was recorded.
pub(super) async fn receipt(
    State(portal): State<Shared>,
    Path((link, approval_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let visitor = portal.visitor(&link, &headers, false).await?;
    let (approval, instance, approvals) = tokio::try_join!(
        portal.approval(&visitor, &approval_id),
        portal.instance(&visitor),
        portal.approvals(&visitor),
    )?;
    let own = approval.approvers.iter().find(|approver| approver.participant_id == visitor.person.id);
    let now = portal.context.clock.now();
    let answered = own.and_then(|own| Some((own, When::from_proto(own.responded_at.as_ref(), now)?)));
    let Some((own, at)) = answered else {
        return Ok(Redirect::to(&format!("{}/approvals/{approval_id}", visitor.base)).into_response());
    };
    let (_, word) = view::answer(own.status());
    let text = match approval.status() {
        ApprovalStatus::Pending => "Others are still asked; it moves on when everybody has answered.",
        ApprovalStatus::Approved => "Everybody has approved. The process moves on.",
        ApprovalStatus::Rejected | ApprovalStatus::ChangesRequested => "The team has been told.",
        ApprovalStatus::Unspecified
        | ApprovalStatus::Expired
        | ApprovalStatus::Withdrawn
        | ApprovalStatus::Superseded => "It has been recorded.",
    };
    let next = home::waiting(&approvals, &visitor.person.id)
        .first()
        .map(|next| (next.id.clone(), next.title.clone()));
    let page = Receipt {
        base: visitor.base.clone(),
        instance_name: instance.name,
        heading: "Thank you, that is recorded".to_owned(),
        text: text.to_owned(),
        title: approval.title.clone(),
        word,
        at,
        comment: own.comment.clone(),
        digest: approval.content_digest.clone(),
        id: approval.id.clone(),
        next,
    };
    Ok(render(StatusCode::OK, &page))
}

fn to_receipt(visitor: &Visitor, approval_id: &str) -> Response {
    Redirect::to(&format!("{}/approvals/{approval_id}/receipt", visitor.base)).into_response()
}

fn nonce_subject(approval_id: &str, chosen: &str, digest: &str) -> String {
    format!("decide:{approval_id}:{chosen}:{digest}")
}

impl Portal {
    /// The review page once more, with what the person had written.
    async fn again(
        &self,
        visitor: &Visitor,
        approval: Approval,
        draft: Draft,
        status: StatusCode,
    ) -> Result<Response, Fault> {
        let page = self.review(visitor, approval, draft).await?;
        Ok(render(status, &page))
    }

    async fn review(&self, visitor: &Visitor, approval: Approval, draft: Draft) -> Result<Review, Fault> {
        let (instance, phases) = tokio::try_join!(self.instance(visitor), self.phases(visitor))?;
        let mut artifacts = Vec::with_capacity(approval.artifacts.len());
        for bound in &approval.artifacts {
            let mut shown: Reviewed = content::reviewed(self, visitor, bound).await?;
            let remark = draft.remarks.iter().find(|(key, _)| *key == bound.key);
            shown.remark = remark.map_or_else(String::new, |(_, text)| text.clone());
            artifacts.push(shown);
        }
        let now = self.context.clock.now();
        let me = &visitor.person.id;
        let may_approve = visitor.may(Permission::Approve);
        let is_pending = approval.status() == ApprovalStatus::Pending;
        let own = approval.approvers.iter().find(|own| own.participant_id == *me);
        let paused = When::from_proto(instance.paused_at.as_ref(), now);
        let notice = if draft.changed {
            Some("The content changed while you were reading. Look at what has changed below, then decide; what you wrote is still here.".to_owned())
        } else {
            view::notice(&instance, paused.as_ref())
        };
        let (next_approve, next_changes, next_reject) = consequences(&approval, &instance, &phases);
        Ok(Review {
            base: visitor.base.clone(),
            notice,
            faults: draft.faults,
            subject: view::subject(&approval, &phases),
            requested_by: view::actor(approval.requested_by.as_ref()),
            round: approval.round,
            due: When::from_proto(approval.expires_at.as_ref(), now).filter(|_| is_pending),
            overdue: approval.overdue,
            artifacts,
            next_approve,
            next_changes,
            next_reject,
            answers: approval
                .approvers
                .iter()
                .map(|approver| {
                    let name = view::name(&approver.name, &approver.participant_id).to_owned();
                    (name, view::answer(approver.status()).1)
                })
                .collect(),
            can_decide: view::waits_for(&approval, me) && may_approve && view::is_open(&instance),
            why_not: view::why_not(&approval, me, may_approve, now),
            has_answered: own.is_some_and(|own| own.responded_at.is_some()),
            chosen: draft.chosen,
            comment: draft.comment,
            person: visitor.name().to_owned(),
            address: visitor.person.email.clone(),
            instance_name: instance.name,
            id: approval.id,
            title: approval.title,
            description: approval.description,
            digest: approval.content_digest,
        })
    }
}

/// What each answer leads to, as sentences.
fn consequences(
    approval: &Approval,
    instance: &ProcessInstance,
    phases: &[PhaseTimeline],
) -> (String, String, String) {
    let position = phases.iter().position(|phase| phase.id == approval.phase_id);
    let next = position.and_then(|index| phases.get(index + 1)).map(|phase| phase.name.as_str());
    let task = phases
        .iter()
        .flat_map(|phase| &phase.tasks)
        .find(|task| task.id == approval.task_id)
        .map(|task| (task.name.as_str(), task.assignee.as_str()));
    match (approval.subject_kind(), task, next) {
        (SubjectKind::Task, Some((task, assignee)), _) => (
            format!("{task} is complete once everybody has approved."),
            format!("{assignee} works on {task} again, with what you wrote, and you are asked again."),
            format!("{task} stops until the team has found out why."),
        ),
        (SubjectKind::Phase | SubjectKind::Gate, _, Some(next)) => (
            format!("{next} can begin once everybody has approved."),
            "The work under review is taken up again, with what you wrote, and you are asked again."
                .to_owned(),
            format!("{next} does not begin until the team has found out why."),
        ),
        (SubjectKind::Phase | SubjectKind::Gate, _, None) => (
            format!("{} is complete once everybody has approved.", instance.name),
            "The work under review is taken up again, with what you wrote, and you are asked again."
                .to_owned(),
            "The process stops until the team has found out why.".to_owned(),
        ),
        (SubjectKind::Unspecified | SubjectKind::AdHoc | SubjectKind::Task, ..) => (
            "Who asked is told that you agree.".to_owned(),
            "Who asked is told what you want changed.".to_owned(),
            "Who asked is told that you do not agree.".to_owned(),
        ),
    }
}
