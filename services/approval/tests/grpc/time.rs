//! What time does.

use std::time::Duration;

use anyhow::ensure;
use phasegate_approval::Config;
use phasegate_proto::approval::v1::{ApprovalStatus, Decision};
use phasegate_proto::definition::v1::TimeoutAction;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{
    ApprovalEscalated, ApprovalReminded, InstancePaused, InstanceResumed, approvals_needed::Need,
};
use phasegate_test_database::both;

use crate::decide::{outcomes, settled};
use crate::world::{World, answer, need, reason, refusal, timing, visitor};

#[tokio::test]
async fn people_are_reminded_and_somebody_further_is_asked() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.need(vec![need("configure_idp", 1, &["ada", "bob"])]).await?.remove(0);
        world.decide_as(&visitor("ada"), answer(&asked, "ada", Decision::Approve)).await?;
        world.pass(hours(11)).await?;
        world.sent(0, reminded).await?;
        world.pass(hours(1)).await?;
        let reminders = world.sent(1, reminded).await?;
        ensure!(reminders[0].participant_ids == ["bob"], "who has answered is left in peace");

        world.pass(hours(12)).await?;
        let escalations = world.sent(1, escalated).await?;
        ensure!(escalations[0].added_participant_ids == ["boss"] && !escalations[0].overdue);
        let added = escalations[0].approval.clone().unwrap_or_default();
        let boss = &added.approvers[2];
        ensure!(boss.escalated && boss.email == "boss@acme.com", "the mail knows where to go");
        ensure!(added.escalates_at.is_none());

        world.pass(hours(24)).await?;
        let escalations = world.sent(2, escalated).await?;
        ensure!(escalations[1].added_participant_ids.is_empty() && escalations[1].overdue);
        let overdue = world.get(&asked.id).await?;
        ensure!(overdue.overdue && overdue.status() == ApprovalStatus::Pending);
        world.pass(hours(1000)).await?;
        world.sent(2, escalated).await?;
        world.sent(1, reminded).await?;
        let (after, _) =
            world.decide_as(&visitor("boss"), answer(&overdue, "boss", Decision::Approve)).await?;
        ensure!(after.status() == ApprovalStatus::Approved, "an overdue request is open");
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn reminders_that_were_missed_are_one() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut slow = timing(48);
        slow.reminders_ms = (1..20).map(|hour| hour * 3_600_000).collect();
        slow.escalate_after_ms = 0;
        world.need(vec![Need { timing: Some(slow), ..need("configure_idp", 1, &["ada"]) }]).await?;
        world.pass(Duration::from_mins(630)).await?;
        world.sent(1, reminded).await?;
        world.pass(hours(1)).await?;
        world.sent(2, reminded).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_time_runs_out() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world
            .need(vec![
                that("one", TimeoutAction::Reject),
                that("two", TimeoutAction::Block),
                that("three", TimeoutAction::Block),
            ])
            .await?;
        let deadline = world.clock.clone();
        deadline.advance(hours(48));
        // No timer has fired: the deadline counts all the same.
        let late = answer(&asked[2], "ada", Decision::Approve);
        let (told, metadata) = refusal(world.decide_as(&visitor("ada"), late).await);
        ensure!(told == "APPROVAL_EXPIRED" && metadata.contains_key("expired_at"), "{told}");
        ensure!(world.get(&asked[2].id).await?.status() == ApprovalStatus::Expired);
        world.pass(hours(0)).await?;
        ensure!(world.get(&asked[0].id).await?.status() == ApprovalStatus::Rejected);
        ensure!(world.get(&asked[1].id).await?.status() == ApprovalStatus::Expired);
        for one in &asked[..2] {
            let late = answer(one, "ada", Decision::Approve);
            ensure!(reason(world.decide_as(&visitor("ada"), late).await) == "APPROVAL_EXPIRED");
        }
        let ends = world.sent(3, settled).await?;
        ensure!(outcomes(&ends).iter().filter(|end| **end == ApprovalStatus::Expired).count() == 2);
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn a_refusal_because_of_time_is_not_kept_as_an_answer() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.need(vec![that("one", TimeoutAction::Block)]).await?.remove(0);
        world.clock.advance(hours(48));
        let mut late = answer(&asked, "ada", Decision::Approve);
        "once".clone_into(&mut late.request_id);
        for _ in 0..2 {
            ensure!(reason(world.decide_as(&visitor("ada"), late.clone()).await) == "APPROVAL_EXPIRED");
        }
        ensure!(world.rows().await?.contains(&("idempotency", 0)));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_decision_and_the_deadline_never_both_win() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let needs = (0..12).map(|index| that(&format!("task-{index}"), TimeoutAction::Block)).collect();
        let asked = world.need(needs).await?;
        world.clock.advance(hours(48).saturating_sub(Duration::from_micros(1)));
        let answers = asked.iter().map(|one| {
            let mut client = world.client();
            let request = world.call(&visitor("ada"), answer(one, "ada", Decision::Approve));
            tokio::spawn(async move { client.decide_approval(request).await })
        });
        let answers: Vec<_> = answers.collect();
        tokio::time::sleep(Duration::from_millis(5)).await;
        world.pass(Duration::from_micros(1)).await?;
        let mut approved = 0;
        for (one, asked) in answers.into_iter().zip(&asked) {
            let answered = one.await?.is_ok();
            let expected = if answered { ApprovalStatus::Approved } else { ApprovalStatus::Expired };
            ensure!(world.get(&asked.id).await?.status() == expected, "what the person was told is so");
            approved += usize::from(answered);
        }
        let ends = outcomes(&world.sent(12, settled).await?);
        let counted = ends.iter().filter(|end| **end == ApprovalStatus::Approved).count();
        ensure!(counted == approved, "each has one end");
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn no_timer_fires_while_the_instance_is_on_hold() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked =
            world.need(vec![that("one", TimeoutAction::Block), that("two", TimeoutAction::Block)]).await?;
        world.pass(hours(1)).await?;
        world
            .tell(Payload::InstancePaused(InstancePaused {
                instance_version: 5,
                ..InstancePaused::default()
            }))
            .await?;
        world.pass(hours(100)).await?;
        ensure!(world.get(&asked[0].id).await?.status() == ApprovalStatus::Pending);
        let (after, _) =
            world.decide_as(&visitor("ada"), answer(&asked[0], "ada", Decision::Approve)).await?;
        ensure!(after.status() == ApprovalStatus::Approved, "people may decide");
        world.tell(Payload::InstanceResumed(InstanceResumed { instance_version: 6 })).await?;
        world.pass(hours(0)).await?;
        ensure!(world.get(&asked[1].id).await?.status() == ApprovalStatus::Expired);
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn timers_fire_by_themselves() -> anyhow::Result<()> {
    both(|database| async move {
        let mut config = Config::new(database.settings());
        config.timer_interval = Duration::from_millis(10);
        let world = World::start_with(config).await?;
        world.need(vec![that("one", TimeoutAction::Reject)]).await?;
        world.clock.advance(hours(48));
        let ends = world.sent(1, settled).await?;
        ensure!(outcomes(&ends) == [ApprovalStatus::Rejected]);
        Ok(())
    })
    .await
}

/// A task's request to ada that says what its deadline means.
fn that(task: &str, on_timeout: TimeoutAction) -> Need {
    let mut timing = timing(48);
    timing.set_on_timeout(on_timeout);
    Need { timing: Some(timing), ..need(task, 1, &["ada"]) }
}

fn hours(count: u64) -> Duration {
    Duration::from_hours(count)
}

fn reminded(payload: &Payload) -> Option<ApprovalReminded> {
    if let Payload::ApprovalReminded(reminded) = payload { Some(reminded.clone()) } else { None }
}

fn escalated(payload: &Payload) -> Option<ApprovalEscalated> {
    if let Payload::ApprovalEscalated(escalated) = payload { Some(escalated.clone()) } else { None }
}
