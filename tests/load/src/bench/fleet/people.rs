//! People: they look at what is asked, and answer all of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use phasegate_client::request_id;
use phasegate_proto::approval::v1::{
    Approval, ApproverStatus, DecideApprovalRequest, Decision, ListApprovalsRequest,
};
use phasegate_proto::instance::v1::{GetInstanceRequest, InstanceStatus};
use tokio::time::Instant;

use super::{DECIDE, Fleet, PATIENCE};

/// Requests that a look takes at most.
const PAGE: i32 = 500;
/// Between two looks of the people at what is asked of them.
const LOOK: Duration = Duration::from_millis(10);

impl Fleet {
    /// Looks again and again at what is asked, and answers all of it.
    pub(super) async fn looks(self: Arc<Self>) -> anyhow::Result<()> {
        let mut seen: HashSet<String> = HashSet::new();
        loop {
            let mut open = Vec::new();
            for approver_id in &self.looks_for {
                let due = Instant::now();
                let all = ListApprovalsRequest {
                    approver_id: approver_id.clone(),
                    page_size: PAGE,
                    ..ListApprovalsRequest::default()
                };
                open.extend(self.open_requests(all, due).await?);
            }
            let ids: HashSet<String> = open.iter().map(|approval| approval.id.clone()).collect();
            seen.retain(|id| ids.contains(id));
            for approval in open {
                if seen.insert(approval.id.clone()) {
                    self.recorder.counts.requested.fetch_add(1, Ordering::Relaxed);
                    self.spawn(self.clone().answers(approval));
                }
            }
            // As long as nobody could have asked anything there is nothing to look at.
            if self.under_way() == 0 {
                self.asked.notified().await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// All pages of a list.
    async fn open_requests(
        &self,
        mut request: ListApprovalsRequest,
        due: Instant,
    ) -> anyhow::Result<Vec<Approval>> {
        let mut open = Vec::new();
        loop {
            let client = self.one_of(&self.operators)?;
            let page = client
                .call(request.clone(), async |client, request| {
                    client.approvals().list_approvals(request).await
                })
                .await
                .context("ListApprovals")?;
            self.answered("ListApprovals", due);
            open.extend(page.approvals);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(open);
            }
        }
    }

    async fn answers(self: Arc<Self>, approval: Approval) -> anyhow::Result<()> {
        for approver in &approval.approvers {
            if approver.status() != ApproverStatus::Pending {
                continue;
            }
            let clients = self.people.get(&approver.participant_id).context("somebody whom nobody plays")?;
            let request = DecideApprovalRequest {
                approval_id: approval.id.clone(),
                approver_id: approver.participant_id.clone(),
                decision: Decision::Approve.into(),
                comment: "Fine.".to_owned(),
                content_digest: approval.content_digest.clone(),
                request_id: request_id(),
                ..DecideApprovalRequest::default()
            };
            let due = Instant::now();
            if let Some(decided) = self.decided().get_mut(&approval.instance_id) {
                *decided = Some(due);
            }
            self.one_of(clients)?
                .call(request, async |client, request| client.approvals().decide_approval(request).await)
                .await
                .context(DECIDE)?;
            self.answered(DECIDE, due);
            self.recorder.counts.voted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Answers what an instance asks until it has completed, and returns how long that took.
    pub(in super::super) async fn carry_through(
        self: &Arc<Self>,
        instance_id: &str,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let request = ListApprovalsRequest {
                instance_id: instance_id.to_owned(),
                ..ListApprovalsRequest::default()
            };
            for approval in self.open_requests(request, Instant::now()).await? {
                self.clone().answers(approval).await?;
            }
            let request = GetInstanceRequest { instance_id: instance_id.to_owned() };
            let client = self.one_of(&self.operators)?;
            let answer = client
                .call(request, async |client, request| client.instances().get_instance(request).await)
                .await
                .context("GetInstance")?;
            let instance = answer.instance.context("an instance")?;
            if instance.status() == InstanceStatus::Completed {
                return Ok(began.elapsed());
            }
            tokio::time::sleep(LOOK).await;
        }
        anyhow::bail!("{instance_id} has not completed after {} s", PATIENCE.as_secs())
    }
}
