//! Asking people, and what follows from their answers.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use phasegate_proto::actor::v1::Assurance;
use phasegate_proto::approval::v1::{
    Approval, ApprovalResponse, ApprovalStatus, Approver, ApproverStatus, Decision, ReviewedArtifact,
};
use phasegate_proto::instance::v1::{
    AdvancePhaseRequest, InstanceHealth, InstanceStatus, Remark, TaskStatus,
};
use phasegate_proto::internal::event::v1::approvals_needed::Need;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{ApprovalResponded, ApprovalSettled, ApprovalsRequested};
use phasegate_proto::worker::v1::DeliveryReason;
use tonic::Code;

use super::house::{House, both, reason, reviewed};

/// The request that answers a need, as the approval service would keep it.
fn request(house: &House, instance_id: &str, need: &Need, versions: &[(&str, i32)]) -> Approval {
    use phasegate_clock::Clock as _;
    Approval {
        id: need.approval_id.clone(),
        instance_id: instance_id.to_owned(),
        subject_kind: need.subject_kind,
        subject_id: need.subject_id.clone(),
        task_id: need.task_id.clone(),
        phase_id: need.phase_id.clone(),
        gate_id: need.gate_id.clone(),
        round: need.round,
        title: need.title.clone(),
        artifacts: versions
            .iter()
            .map(|(key, version)| ReviewedArtifact {
                key: (*key).to_owned(),
                version: *version,
                digest: format!("sha256:{version:064}"),
                previous_version: 0,
            })
            .collect(),
        status: ApprovalStatus::Pending.into(),
        approvers: need
            .approver_ids
            .iter()
            .map(|id| Approver {
                participant_id: id.clone(),
                status: ApproverStatus::Pending.into(),
                ..Default::default()
            })
            .collect(),
        requested_at: Some(house.clock.now().to_proto()),
        content_digest: "sha256:shown".to_owned(),
        ..Default::default()
    }
}

async fn needs(house: &House, subject: &str, round: i32) -> anyhow::Result<Vec<Need>> {
    house
        .heard(|event| match &event.payload {
            Some(Payload::ApprovalsNeeded(needed)) => {
                let is_it = |need: &Need| need.subject_id == subject && need.round == round;
                needed.needs.iter().any(is_it).then(|| needed.needs.clone())
            }
            _ => None,
        })
        .await
        .with_context(|| format!("round {round} of {subject} was never asked for"))
}

async fn settle(
    house: &House,
    id: &str,
    approval: Approval,
    status: ApprovalStatus,
    remarks: Vec<Remark>,
) -> anyhow::Result<()> {
    let approval = Approval { status: status.into(), ..approval };
    house
        .tell(
            id,
            Payload::ApprovalSettled(ApprovalSettled { approval: Some(approval), remarks, again: false }),
        )
        .await?;
    Ok(())
}

#[tokio::test]
async fn work_is_reviewed_sent_back_approved_and_the_gate_opens() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        let id = house.start("reviewed").await?;
        let (_, token) = house.lease("bot", "make").await?;
        house.store_artifact(&id, "report", "make").await?;
        let done = house.complete(&token).await?;
        ensure!(done.task_status() == TaskStatus::AwaitingApproval && !done.approval_id.is_empty());
        let again = house.complete(&token).await?;
        ensure!(again == done, "the same hand-in got another answer");

        // Everything that is asked at one boundary is asked in one event: the task and the gate after it.
        let asked = needs(house, "make", 1).await?;
        let subjects: Vec<_> = asked.iter().map(|need| need.subject_id.as_str()).collect();
        ensure!(subjects == ["make", "go"], "{subjects:?}");
        ensure!(asked[0].approval_id == done.approval_id && asked[0].approver_ids == ["ann"]);
        let approvals: Vec<Approval> =
            asked.iter().map(|need| request(house, &id, need, &[("report", 1)])).collect();
        let requested = ApprovalsRequested {
            boundary_id: "b".to_owned(),
            approvals: approvals.clone(),
            ..ApprovalsRequested::default()
        };
        let event = house.tell(&id, Payload::ApprovalsRequested(requested)).await?;
        let instance = house.get(&id).await?;
        ensure!(instance.health() == InstanceHealth::WaitingOnHuman, "{instance:?}");
        ensure!(instance.pending_approvals.len() == 2);
        let of_task = instance.pending_approvals.iter().find(|pending| pending.task_id == "make");
        ensure!(of_task.context("the task's request")?.waiting_on == ["ann"]);
        let version = instance.version;
        house.context.bus.publish("approval", Arc::new(event)).await?;
        ensure!(house.get(&id).await?.version == version, "an event took effect twice");

        let response = ApprovalResponse {
            id: "rsp-1".to_owned(),
            approval_id: approvals[0].id.clone(),
            instance_id: id.clone(),
            task_id: "make".to_owned(),
            decision: Decision::RequestChanges.into(),
            approver_id: "ann".to_owned(),
            comments: "not quite".to_owned(),
            ..Default::default()
        };
        let remark = Remark {
            participant_id: "ann".to_owned(),
            artifact_key: "report".to_owned(),
            path: "/title".to_owned(),
            text: "say who it is for".to_owned(),
            ..Default::default()
        };
        let responded = ApprovalResponded {
            response: Some(response),
            approval: Some(approvals[0].clone()),
            remarks: vec![remark.clone()],
            assurance: Assurance::Link.into(),
        };
        house.tell(&id, Payload::ApprovalResponded(responded)).await?;
        settle(house, &id, approvals[0].clone(), ApprovalStatus::ChangesRequested, vec![remark]).await?;

        let (leased, token) = house.lease("bot", "make").await?;
        ensure!(leased.round == 2 && leased.reason() == DeliveryReason::Rework, "{leased:?}");
        ensure!(leased.remarks.len() == 1 && leased.remarks[0].text == "say who it is for", "{leased:?}");
        ensure!(leased.remarks[0].path == "/title" && leased.remarks[0].participant_id == "ann");
        house.store_artifact(&id, "report", "make").await?;
        house.complete(&token).await?;
        let asked = needs(house, "make", 2).await?;
        let task = request(house, &id, &asked[0], &[("report", 2)]);
        settle(house, &id, task, ApprovalStatus::Approved, vec![]).await?;
        ensure!(house.task(&id, "make").await?.status() == TaskStatus::Completed);

        // The gate was asked anew with the work.
        let gate = asked.iter().find(|need| need.subject_id == "go").context("the gate, too")?;
        ensure!(gate.approver_ids == ["ann", "ben"]);
        let approval = request(house, &id, gate, &[("report", 2)]);
        settle(house, &id, approval, ApprovalStatus::Approved, vec![]).await?;
        let instance = house.get(&id).await?;
        ensure!(instance.phase == "ship" && instance.completed_phases == ["build"], "{instance:?}");
        let (_, token) = house.lease("bot", "send").await?;
        house.complete(&token).await?;
        ensure!(house.get(&id).await?.status() == InstanceStatus::Completed);
        ensure!(house.verify(&id).await?.intact);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_was_approved_and_has_changed_since_is_asked_again() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        let id = house.start("reviewed").await?;
        let (_, token) = house.lease("bot", "make").await?;
        house.store_artifact(&id, "report", "make").await?;
        house.complete(&token).await?;
        let asked = needs(house, "make", 1).await?;
        let approval = request(house, &id, &asked[0], &[("report", 1)]);
        // A newer version, of which the engine has heard nothing yet.
        house.store_artifact_quietly("report");
        settle(house, &id, approval, ApprovalStatus::Approved, vec![]).await?;
        ensure!(house.task(&id, "make").await?.status() == TaskStatus::AwaitingApproval);
        needs(house, "make", 2).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_advance_names_everything_in_the_way_and_force_leaves_a_trace() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        let id = house.start("reviewed").await?;
        let advance = AdvancePhaseRequest { instance_id: id.clone(), ..Default::default() };
        let refused = house.instances().advance_phase(house.call(advance.clone())).await;
        let refused = refused.err().context("a refusal")?;
        ensure!(reason(&refused) == "PHASE_BLOCKED" && refused.code() == Code::FailedPrecondition);
        let dry = AdvancePhaseRequest { validate_only: true, ..advance.clone() };
        let dry = house.instances().advance_phase(house.call(dry)).await?.into_inner();
        ensure!(!dry.blockers.is_empty() && dry.current_phase == "build", "{dry:?}");
        let moved = AdvancePhaseRequest { from_phase: "ship".to_owned(), ..advance.clone() };
        let refused = house.instances().advance_phase(house.call(moved)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "PHASE_MOVED" && refused.code() == Code::Aborted);
        let silent = AdvancePhaseRequest { force: true, ..advance.clone() };
        let refused = house.instances().advance_phase(house.call(silent)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "REASON_REQUIRED");
        let force = AdvancePhaseRequest { force: true, reason: "the customer waits".to_owned(), ..advance };
        let done = house.instances().advance_phase(house.call(force)).await?.into_inner();
        ensure!(done.previous_phase == "build" && done.current_phase == "ship", "{done:?}");
        Ok(())
    })
    .await
}
