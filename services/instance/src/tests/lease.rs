//! Leases: who holds one, until when, and what an old one is good for (nothing).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_clock::Clock as _;
use phasegate_proto::approval::v1::{Approval, SubjectKind};
use phasegate_proto::instance::v1::{
    CancelInstanceRequest, Failure, PauseInstanceRequest, ResumeInstanceRequest, RetryTaskRequest,
    SetFactsRequest, SkipTaskRequest, TaskStatus,
};
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{ApprovalsRequested, ArtifactStored};
use phasegate_proto::internal::instance::v1::ConfirmLeaseRequest;
use phasegate_proto::worker::v1::heartbeat_tasks_request::Item;
use phasegate_proto::worker::v1::{
    DeliveryReason, Directive, FailTaskRequest, FailTaskResponse, FailureOutcome, HeartbeatTasksRequest,
    PollTasksRequest, ReleaseTaskRequest, WorkerInfo,
};
use serde_json::json;
use tonic::{Code, Status};

use super::house::{House, both, plain, reason, reviewed};
use crate::app::{json_object, json_to_struct, struct_to_json};

async fn beat(house: &House, token: &str, details: Option<serde_json::Value>) -> anyhow::Result<Directive> {
    let item = Item {
        task_token: token.to_owned(),
        progress_percent: 40,
        message: "half way".to_owned(),
        details: details.map(|details| json_to_struct(&json_object(details))),
        extend_by: None,
    };
    let request = HeartbeatTasksRequest { items: vec![item] };
    let answer = house.workers().heartbeat_tasks(house.call(request)).await?.into_inner();
    Ok(answer.results[0].directive())
}

async fn fail(house: &House, token: &str, non_retryable: bool) -> Result<FailTaskResponse, Status> {
    let failure = Failure {
        r#type: "TOOL_ERROR".to_owned(),
        message: "the tool broke".to_owned(),
        non_retryable,
        occurred_at: None,
    };
    let request =
        FailTaskRequest { task_token: token.to_owned(), failure: Some(failure), ..Default::default() };
    Ok(house.workers().fail_task(house.call(request)).await?.into_inner())
}

#[tokio::test]
async fn a_lease_that_ran_out_is_refused_and_changes_nothing() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let (leased, old) = house.lease("bot", "first").await?;
        house.clock.advance(Duration::from_secs(59));
        ensure!(beat(house, &old, Some(json!({"page": 7}))).await? == Directive::Continue);
        house.clock.advance(Duration::from_secs(59));
        ensure!(house.task(&id, "first").await?.status() == TaskStatus::Running, "a heartbeat was ignored");
        house.clock.advance(Duration::from_secs(2));
        // Refused from that moment on, whether anybody has noticed or not.
        let refused = house.complete(&old).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "LEASE_LOST" && refused.code() == Code::FailedPrecondition);
        ensure!(beat(house, &old, None).await? == Directive::Abandon);
        let failed = house
            .heard_status(&id, "first", |task| task.status() == TaskStatus::Ready)
            .await
            .context("the lease never ended")?;
        ensure!(failed.last_failure.context("a failure")?.r#type == "LEASE_EXPIRED");
        house.clock.advance(Duration::from_secs(61));
        let (anew, new) = house.lease("bot", "first").await?;
        let fencing = |lease: &phasegate_proto::worker::v1::LeasedTask| {
            lease.lease.as_ref().map_or(0, |lease| lease.fencing_token)
        };
        ensure!(fencing(&anew) > fencing(&leased) && anew.attempt == 2);
        ensure!(anew.reason() == DeliveryReason::LeaseExpired);
        let checkpoint = struct_to_json(&anew.checkpoint.context("a checkpoint")?);
        ensure!(json!(checkpoint) == json!({"page": 7}), "{checkpoint:?}");
        let before = house.get(&id).await?.version;
        for refused in
            [
                house.complete(&old).await.err(),
                fail(house, &old, false).await.err(),
                house
                    .workers()
                    .release_task(
                        house.call(ReleaseTaskRequest { task_token: old.clone(), ..Default::default() }),
                    )
                    .await
                    .err(),
                house
                    .instances()
                    .set_facts(house.call(SetFactsRequest {
                        instance_id: id.clone(),
                        facts: [("x".to_owned(), true)].into(),
                        task_token: old.clone(),
                        ..Default::default()
                    }))
                    .await
                    .err(),
                house
                    .internal()
                    .confirm_lease(house.call_between(ConfirmLeaseRequest {
                        task_token: old.clone(),
                        instance_id: id.clone(),
                    }))
                    .await
                    .err(),
            ]
        {
            let refused = refused.context("a zombie was heard")?;
            ensure!(reason(&refused) == "LEASE_LOST", "{refused:?}");
        }
        ensure!(house.get(&id).await?.version == before, "a refused call changed something");
        house.complete(&new).await?;
        let done = house.lease("bot", "second").await?.0;
        ensure!(done.checkpoint.is_none(), "one task got what another one left");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_lost_the_lease_learns_that_and_not_what_it_left_undone() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        let mut definition = plain();
        definition["phases"][0]["tasks"][0]["artifacts"] = json!(["notes"]);
        house.define(definition)?;
        house.start("plain").await?;
        let (_, token) = house.lease("bot", "first").await?;
        let refused = house.complete(&token).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "ARTIFACTS_MISSING", "{refused:?}");
        // Nobody has ended the lease yet, perhaps.
        house.clock.advance(Duration::from_secs(61));
        let refused = house.complete(&token).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "LEASE_LOST", "{refused:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_failed_attempt_is_tried_again_after_its_wait_and_then_goes_up() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        let mut definition = plain();
        definition["errorHandling"] = json!({
            "taskFailure": "retry_with_escalation", "maxRetries": 1, "retryDelay": "10s",
        });
        house.define(definition)?;
        let id = house.start("plain").await?;
        let (_, token) = house.lease("bot", "first").await?;
        let failed = fail(house, &token, false).await?;
        ensure!(
            failed.outcome() == FailureOutcome::RetryScheduled && failed.attempts_left == 1,
            "{failed:?}"
        );
        let again = fail(house, &token, false).await?;
        ensure!(again == failed, "a repeated report got another answer: {again:?}");
        ensure!(house.poll("bot").await?.is_none(), "it was handed out before its time");
        house.clock.advance(Duration::from_secs(11));
        let (leased, token) = house.lease("bot", "first").await?;
        ensure!(leased.attempt == 2 && leased.max_attempts == 2 && leased.reason() == DeliveryReason::Retry);
        ensure!(leased.last_failure.context("the last failure")?.message == "the tool broke");
        let failed = fail(house, &token, false).await?;
        ensure!(
            failed.outcome() == FailureOutcome::Escalated && failed.escalated_to == "operator",
            "{failed:?}"
        );
        ensure!(house.task(&id, "first").await?.status() == TaskStatus::Escalated);
        let retry = RetryTaskRequest {
            instance_id: id.clone(),
            task_id: "first".to_owned(),
            reason: "mended".to_owned(),
            ..Default::default()
        };
        let retried =
            house.tasks().retry_task(house.call(retry)).await?.into_inner().task.context("a task")?;
        ensure!(retried.status() == TaskStatus::Ready && retried.attempt == 0);
        let (_, token) = house.lease("bot", "first").await?;
        house.complete(&token).await?;
        let skip = SkipTaskRequest {
            instance_id: id.clone(),
            task_id: "second".to_owned(),
            reason: "no need".to_owned(),
            ..Default::default()
        };
        let skipped = house.tasks().skip_task(house.call(skip)).await?.into_inner().task.context("a task")?;
        ensure!(skipped.status() == TaskStatus::Skipped);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_confirmed_lease_keeps_others_away_for_five_seconds() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let (leased, token) = house.lease("bot", "first").await?;
        let confirm = ConfirmLeaseRequest { task_token: token.clone(), instance_id: id.clone() };
        let held = house.internal().confirm_lease(house.call_between(confirm.clone())).await?.into_inner();
        ensure!(held.task_id == "first" && held.phase_id == "work" && held.agent_id == "bot");
        ensure!(Some(held.fencing_token) == leased.lease.map(|lease| lease.fencing_token));
        // Twice at the same moment is once.
        house.internal().confirm_lease(house.call_between(confirm.clone())).await?;
        let elsewhere = ConfirmLeaseRequest { instance_id: "another".to_owned(), ..confirm };
        let refused =
            house.internal().confirm_lease(house.call_between(elsewhere)).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "LEASE_LOST");

        let release = ReleaseTaskRequest { task_token: token.clone(), ..Default::default() };
        house.workers().release_task(house.call(release)).await?;
        house.clock.advance(Duration::from_millis(4_900));
        ensure!(house.poll("bot").await?.is_none(), "the promise was broken");
        house.clock.advance(Duration::from_millis(200));
        let (anew, _) = house.lease("bot", "first").await?;
        ensure!(anew.attempt == 1 && anew.reason() == DeliveryReason::Released);
        Ok(())
    })
    .await
}

/// A request for approval that an agent made on its own account.
fn ad_hoc(house: &House, instance_id: &str) -> Approval {
    Approval {
        id: "apr-1".to_owned(),
        instance_id: instance_id.to_owned(),
        subject_kind: SubjectKind::AdHoc.into(),
        round: 1,
        title: "Is this right?".to_owned(),
        requested_at: Some(house.clock.now().to_proto()),
        ..Default::default()
    }
}

/// Confirms a lease to a writer.
async fn hold(house: &House, instance_id: &str, token: &str) -> anyhow::Result<String> {
    let confirm = ConfirmLeaseRequest { task_token: token.to_owned(), instance_id: instance_id.to_owned() };
    Ok(house.internal().confirm_lease(house.call_between(confirm)).await?.into_inner().hold_id)
}

#[tokio::test]
async fn the_promise_to_writers_ends_with_the_last_of_their_writes() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let (_, token) = house.lease("bot", "first").await?;
        let version = std::cell::Cell::new(0);
        let written = async |hold_id: &str, task_id: &str| {
            version.set(version.get() + 1);
            let stored = ArtifactStored {
                key: "notes".to_owned(),
                version: version.get(),
                task_id: task_id.to_owned(),
                hold_id: hold_id.to_owned(),
                ..Default::default()
            };
            house.tell(&id, Payload::ArtifactStored(stored)).await
        };
        // Heard of while the lease is out: nothing is left to wait for when it ends.
        written(&hold(house, &id, &token).await?, "first").await?;
        let release = ReleaseTaskRequest { task_token: token.clone(), ..Default::default() };
        house.workers().release_task(house.call(release)).await?;
        let (_, token) = house.lease("bot", "first").await?;

        let (one, two) = (hold(house, &id, &token).await?, hold(house, &id, &token).await?);
        ensure!(one != two && !one.is_empty());
        let release = ReleaseTaskRequest { task_token: token, ..Default::default() };
        house.workers().release_task(house.call(release)).await?;
        // What somebody else stored, what was stored for another task, and one of the two writes do not end it.
        for (hold, task) in [("", "first"), ("", ""), ("no-such", "first"), (&one, "second"), (&one, "first")]
        {
            written(hold, task).await?;
            ensure!(house.poll("bot").await?.is_none(), "the promise was broken by {hold:?} of {task:?}");
        }
        written(&one, "first").await?;
        ensure!(
            house.poll("bot").await?.is_none(),
            "a write that was told of twice counted for the other one"
        );
        written(&two, "first").await?;
        let (_, token) = house.lease("bot", "first").await?;

        // Asking people is a write, too.
        let asking = hold(house, &id, &token).await?;
        let release = ReleaseTaskRequest { task_token: token, ..Default::default() };
        house.workers().release_task(house.call(release)).await?;
        ensure!(house.poll("bot").await?.is_none(), "the promise was broken");
        let asked = ApprovalsRequested {
            boundary_id: "b".to_owned(),
            approvals: vec![ad_hoc(house, &id)],
            leased_task_id: "first".to_owned(),
            hold_id: asking,
        };
        house.tell(&id, Payload::ApprovalsRequested(asked)).await?;
        let (_, token) = house.lease("bot", "first").await?;

        // A write that is never heard of ends it with its time, and a late word about it ends no other promise.
        let late = hold(house, &id, &token).await?;
        house.clock.advance(Duration::from_secs(6));
        hold(house, &id, &token).await?;
        let release = ReleaseTaskRequest { task_token: token, ..Default::default() };
        house.workers().release_task(house.call(release)).await?;
        written(&late, "first").await?;
        house.clock.advance(Duration::from_millis(4_900));
        ensure!(house.poll("bot").await?.is_none(), "a late word ended another promise");
        house.clock.advance(Duration::from_millis(200));
        house.lease("bot", "first").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_writer_that_is_never_heard_of_ends_nothing_however_many_there_are() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let (_, token) = house.lease("bot", "first").await?;
        let mut last = String::new();
        for _ in 0..120 {
            last = hold(house, &id, &token).await?;
        }
        let db = house.database().await?;
        let row = db
            .fetch_optional(
                "select cast(length(holds) as bigint) as n from lease",
                phasegate_database::args![],
            )
            .await?;
        ensure!(row.context("a row")?.get::<i64>("n")? < 2_200, "the list grows without end");
        let release = ReleaseTaskRequest { task_token: token, ..Default::default() };
        house.workers().release_task(house.call(release)).await?;
        let stored = ArtifactStored {
            key: "notes".to_owned(),
            version: 1,
            task_id: "first".to_owned(),
            hold_id: last,
            ..Default::default()
        };
        house.tell(&id, Payload::ArtifactStored(stored)).await?;
        ensure!(house.poll("bot").await?.is_none(), "the promise was broken");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_is_handed_out_while_an_instance_is_paused() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let (_, token) = house.lease("bot", "first").await?;
        let pause =
            PauseInstanceRequest { instance_id: id.clone(), reason: "wait".to_owned(), ..Default::default() };
        house.instances().pause_instance(house.call(pause)).await?;
        ensure!(beat(house, &token, None).await? == Directive::Pause);
        house.complete(&token).await?;
        ensure!(house.poll("bot").await?.is_none(), "work was handed out during a pause");
        let resume =
            ResumeInstanceRequest { instance_id: id.clone(), reason: "on".to_owned(), ..Default::default() };
        house.instances().resume_instance(house.call(resume)).await?;
        let (_, token) = house.lease("bot", "second").await?;
        let cancel = CancelInstanceRequest {
            instance_id: id.clone(),
            reason: "over".to_owned(),
            ..Default::default()
        };
        house.instances().cancel_instance(house.call(cancel)).await?;
        ensure!(beat(house, &token, None).await? == Directive::Abandon);
        let refused = house.complete(&token).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "LEASE_LOST", "{refused:?}");
        ensure!(house.poll("bot").await?.is_none());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_long_poll_ends_when_work_comes() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let request = PollTasksRequest {
            wait: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
            ..House::poll_request("bot")
        };
        let mut worker = house.workers();
        let call = house.call(request);
        let began = std::time::Instant::now();
        let polling = tokio::spawn(async move { worker.poll_tasks(call).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        house.start("plain").await?;
        let polled = tokio::time::timeout(Duration::from_secs(5), polling).await???.into_inner();
        ensure!(polled.tasks.len() == 1 && began.elapsed() < Duration::from_secs(5));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn urgent_work_comes_first_and_tools_must_fit() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        let mut definition = plain();
        definition["phases"][0] = json!({
            "id": "work", "name": "Work", "order": 1, "parallelExecution": true,
            "tasks": [
                {"id": "later", "name": "Later", "assignee": "bot", "priority": "low"},
                {"id": "tooled", "name": "Tooled", "assignee": "bot", "priority": "urgent", "tools": ["hammer"]},
                {"id": "usual", "name": "Usual", "assignee": "bot"},
            ],
        });
        house.define(definition)?;
        house.start("plain").await?;
        let elsewhere =
            PollTasksRequest { instance_id: "proc-inst-other".to_owned(), ..House::poll_request("bot") };
        let polled = house.workers().poll_tasks(house.call(elsewhere)).await?.into_inner();
        ensure!(polled.tasks.is_empty(), "only tasks of the instance that was named: {polled:?}");
        let bare = PollTasksRequest {
            worker: Some(WorkerInfo {
                worker_id: "w-2".to_owned(),
                tools: vec!["saw".to_owned()],
                ..Default::default()
            }),
            ..House::poll_request("bot")
        };
        let polled = house.workers().poll_tasks(house.call(bare)).await?.into_inner();
        ensure!(polled.tasks.len() == 1 && polled.tasks[0].task_id == "usual", "{polled:?}");
        let all = PollTasksRequest { max_tasks: 10, ..House::poll_request("bot") };
        let polled = house.workers().poll_tasks(house.call(all)).await?.into_inner();
        let tasks: Vec<_> = polled.tasks.iter().map(|task| task.task_id.as_str()).collect();
        ensure!(tasks == ["tooled", "later"], "{tasks:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_polls_for_one_instance_gets_its_work_however_much_waits_before_it() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let id = house.start("plain").await?;
        let waiting = "insert into work
                           (tenant_id, instance_id, task_id, queue, priority, ready_at, fencing, tools)
                       with recursive numbers (number) as
                           (select 1 union all select number + 1 from numbers where number < 2500)
                       select tenant_id, 'other-' || number, task_id, queue, 3, 0, 0, tools from work, numbers";
        let db = house.database().await?;
        db.transaction(move |tx| {
            Box::pin(async move { tx.execute(waiting, phasegate_database::args![]).await })
        })
        .await?;
        let of = |instance: &str| PollTasksRequest {
            instance_id: instance.to_owned(),
            ..House::poll_request("bot")
        };
        let nobody = house.workers().poll_tasks(house.call(of("proc-inst-other"))).await?.into_inner();
        ensure!(nobody.tasks.is_empty(), "{nobody:?}");
        let polled = house.workers().poll_tasks(house.call(of(&id))).await?.into_inner();
        ensure!(polled.tasks.len() == 1 && polled.tasks[0].instance_id == id, "{polled:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_token_is_signed_and_belongs_to_its_tenant() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(reviewed())?;
        house.start("reviewed").await?;
        let (_, token) = house.lease("bot", "make").await?;
        for wrong in ["", "x", &token[1..], &format!("{token}A")] {
            let refused = house.complete(wrong).await.err().context("a refusal")?;
            ensure!(
                reason(&refused) == "TOKEN_MALFORMED" && refused.code() == Code::InvalidArgument,
                "{wrong}"
            );
        }
        house.principal.tenant = "elsewhere".to_owned();
        let refused = house.complete(&token).await.err().context("a refusal")?;
        ensure!(reason(&refused) == "TOKEN_MALFORMED");
        Ok(())
    })
    .await
}
