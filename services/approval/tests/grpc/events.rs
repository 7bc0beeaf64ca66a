//! What events of the other services do, and that they do it once.

use std::sync::Arc;

use anyhow::ensure;
use phasegate_bus::HandleError;
use phasegate_proto::actor::v1::ActorKind;
use phasegate_proto::approval::v1::{
    ApprovalStatus, ApproverStatus, Decision, RequestApprovalRequest, SubjectKind,
};
use phasegate_proto::instance::v1::InstanceStatus;
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{
    ApprovalsMoot, ApprovalsNeeded, ArtifactStored, Event, InstanceEnded, InstancePaused, InstanceResumed,
    approvals_needed::Need,
};
use phasegate_test_database::both;

use crate::ask::requested;
use crate::decide::{outcomes, settled};
use crate::world::{INSTANCE, World, answer, asking, digest, need, operator, visitor};

#[tokio::test]
async fn the_requests_of_a_boundary_leave_in_one_message() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let phase = Need {
            approval_id: "apr-phase".to_owned(),
            subject_kind: SubjectKind::Phase.into(),
            subject_id: "configuration".to_owned(),
            task_id: String::new(),
            ..need("configure_idp", 1, &["bob"])
        };
        let needs = vec![need("configure_idp", 1, &["ada"]), phase];
        let stored = world.need(needs).await?;
        ensure!(stored[1].subject_kind() == SubjectKind::Phase && stored[1].boundary_id == "bnd-1");
        let by = stored[0].requested_by.clone().unwrap_or_default();
        ensure!(by.kind() == ActorKind::System, "the engine asks on its own account");
        let keys: Vec<_> = stored[0].artifacts.iter().map(|one| one.key.as_str()).collect();
        ensure!(keys == ["design"], "what does not exist is left out");
        let sent = world.sent(1, requested).await?;
        ensure!(sent[0] == stored, "in order");
        let boundary = world.heard.all().iter().find_map(boundary_of);
        ensure!(boundary.as_deref() == Some("bnd-1"));
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn an_event_that_comes_twice_has_one_effect() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut events = Vec::new();
        let needed = ApprovalsNeeded {
            process_id: "sso-deployment".to_owned(),
            boundary_id: "bnd-1".to_owned(),
            needs: vec![need("configure_idp", 1, &["ada"]), need("test_login", 1, &["bob"])],
        };
        events.push(world.tell(Payload::ApprovalsNeeded(needed)).await?);
        world.fakes.says().artifacts.insert("design".to_owned(), 2);
        events.push(world.tell(Payload::ArtifactStored(stored("design", 2))).await?);
        events.push(
            world
                .tell(Payload::InstancePaused(InstancePaused {
                    instance_version: 5,
                    ..InstancePaused::default()
                }))
                .await?,
        );
        events.push(world.tell(Payload::InstanceResumed(InstanceResumed { instance_version: 6 })).await?);
        let gone = need("test_login", 1, &[]).approval_id;
        let moot =
            ApprovalsMoot { approval_ids: vec![gone, "apr-later".to_owned()], reason: "skipped".to_owned() };
        events.push(world.tell(Payload::ApprovalsMoot(moot)).await?);
        events.push(world.tell(Payload::InstanceEnded(InstanceEnded::default())).await?);
        world.sent(2, settled).await?;
        world.sent(2, requested).await?;
        let before = world.rows().await?;
        let at_once = events.iter().flat_map(|event| [event.clone(), event.clone()]).map(|event| {
            let bus = world.bus.clone();
            tokio::spawn(async move { bus.publish("instance", Arc::new(event)).await })
        });
        for one in at_once.collect::<Vec<_>>() {
            one.await??;
        }
        ensure!(world.rows().await? == before);
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn the_same_event_at_once_is_taken_once() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let needed = ApprovalsNeeded {
            process_id: "sso-deployment".to_owned(),
            boundary_id: "bnd-1".to_owned(),
            needs: vec![need("configure_idp", 1, &["ada"])],
        };
        let actor = operator().actor();
        let event = phasegate_outbox::event(
            "default",
            INSTANCE,
            actor,
            world.app_now(),
            Payload::ApprovalsNeeded(needed),
        );
        let copies = (0..8).map(|_| {
            let (bus, event) = (world.bus.clone(), event.clone());
            tokio::spawn(async move { bus.publish("instance", Arc::new(event)).await })
        });
        for copy in copies.collect::<Vec<_>>() {
            copy.await??;
        }
        world.sent(1, requested).await?;
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn people_who_are_not_there_yet_are_waited_for() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.fakes.says().people_are_there = false;
        let before = world.rows().await?;
        let needed = ApprovalsNeeded {
            process_id: "sso-deployment".to_owned(),
            boundary_id: "bnd-1".to_owned(),
            needs: vec![need("configure_idp", 1, &["ada"])],
        };
        let early = world.tell(Payload::ApprovalsNeeded(needed)).await;
        ensure!(matches!(early, Err(HandleError::Transient(_))), "{early:?}");
        ensure!(world.rows().await? == before, "nothing is kept of it, so that it can come again");
        world.fakes.says().people_are_there = true;
        ensure!(world.need(vec![need("configure_idp", 1, &["ada"])]).await?.len() == 1);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_new_version_asks_again_what_waits() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let needs = vec![need("configure_idp", 1, &["ada", "bob"]), need("test_login", 1, &["bob"])];
        let asked = world.need(needs).await?;
        let about_report = world.ask(crate::world::asking_about("report")).await?;
        world.decide_as(&visitor("ada"), answer(&asked[0], "ada", Decision::Approve)).await?;
        world.decide_as(&visitor("bob"), answer(&asked[1], "bob", Decision::Approve)).await?;
        world.fakes.says().artifacts.insert("design".to_owned(), 2);
        world.tell(Payload::ArtifactStored(stored("design", 2))).await?;
        let again = world.get(&asked[0].id).await?;
        ensure!((again.artifacts[0].version, again.artifacts[0].previous_version) == (2, 1));
        ensure!(again.artifacts[0].digest == digest(2));
        ensure!(again.approvers.iter().all(|one| one.status() == ApproverStatus::Pending));
        ensure!(world.get(&asked[1].id).await?.artifacts[0].version == 1, "what is decided is left");
        ensure!(world.get(&about_report.id).await? == about_report, "so is what reviews something else");
        let sent = world.sent(3, requested).await?;
        ensure!(sent[2] == vec![again]);
        let boundaries: Vec<_> = world.heard.all().iter().filter_map(boundary_of).collect();
        ensure!(boundaries[0] == "bnd-1" && boundaries[2] != "bnd-1", "what is asked anew is told anew");
        world.tell(Payload::ArtifactStored(stored("design", 1))).await?;
        world.sent(3, requested).await?;
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn requests_that_are_called_off_are_superseded() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked =
            world.need(vec![need("configure_idp", 1, &["ada"]), need("test_login", 1, &["bob"])]).await?;
        let later = need("later", 1, &["ada"]);
        let ids = vec![asked[0].id.clone(), later.approval_id.clone()];
        let moot = ApprovalsMoot { approval_ids: ids, reason: "the task was skipped".to_owned() };
        world.tell(Payload::ApprovalsMoot(moot)).await?;
        let gone = world.get(&asked[0].id).await?;
        ensure!(gone.status() == ApprovalStatus::Superseded && gone.status_reason == "the task was skipped");
        ensure!(world.get(&asked[1].id).await?.status() == ApprovalStatus::Pending);

        let needed = ApprovalsNeeded {
            process_id: "sso-deployment".to_owned(),
            boundary_id: "bnd-2".to_owned(),
            needs: vec![later.clone()],
        };
        world.tell(Payload::ApprovalsNeeded(needed)).await?;
        ensure!(world.get(&later.approval_id).await.is_err(), "it was called off before it came");

        world.tell(Payload::ApprovalsMoot(ApprovalsMoot::default())).await?;
        ensure!(
            world.get(&asked[1].id).await?.status() == ApprovalStatus::Superseded,
            "all, if none is named"
        );
        let ends = world.sent(2, settled).await?;
        ensure!(outcomes(&ends) == [ApprovalStatus::Superseded; 2]);
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn a_later_round_replaces_the_one_before() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let first = world.need(vec![need("configure_idp", 1, &["ada"])]).await?.remove(0);
        world.fakes.says().artifacts.insert("design".to_owned(), 3);
        let second = world.need(vec![need("configure_idp", 2, &["ada"])]).await?.remove(0);
        ensure!(second.supersedes == first.id && second.round == 2);
        ensure!((second.artifacts[0].version, second.artifacts[0].previous_version) == (3, 1));
        let first = world.get(&first.id).await?;
        ensure!(first.status() == ApprovalStatus::Superseded && first.superseded_by == second.id);
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn an_answer_that_came_before_the_engine_waited_is_told_again() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.need(vec![need("configure_idp", 1, &["ada"])]).await?.remove(0);
        world.decide_as(&visitor("ada"), answer(&asked, "ada", Decision::Approve)).await?;
        world.sent(1, settled).await?;
        let again = world.need(vec![need("configure_idp", 1, &["ada"])]).await?.remove(0);
        ensure!(again.status() == ApprovalStatus::Approved);
        let ends = world.sent(2, settled).await?;
        ensure!(outcomes(&ends) == [ApprovalStatus::Approved; 2]);
        world.sent(1, requested).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_end_of_an_instance_withdraws_what_is_open() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.need(vec![need("configure_idp", 1, &["ada"])]).await?.remove(0);
        let done = world.ask(asking()).await?;
        world.decide_as(&operator(), answer(&done, "ada", Decision::Reject)).await?;
        let ended = InstanceEnded {
            status: InstanceStatus::Cancelled.into(),
            reason: "the customer left".to_owned(),
        };
        world.tell(Payload::InstanceEnded(ended)).await?;
        let gone = world.get(&asked.id).await?;
        ensure!(gone.status() == ApprovalStatus::Withdrawn);
        ensure!(gone.status_reason == "the instance is cancelled: the customer left");
        ensure!(world.get(&done.id).await?.status() == ApprovalStatus::Rejected);
        let needed = ApprovalsNeeded {
            process_id: "sso-deployment".to_owned(),
            boundary_id: "bnd-2".to_owned(),
            needs: vec![need("test_login", 1, &["ada"])],
        };
        world.tell(Payload::ApprovalsNeeded(needed)).await?;
        let late = need("test_login", 1, &[]).approval_id;
        ensure!(world.get(&late).await.is_err(), "nobody is asked for an instance that is over");
        world.verify().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_asked_past_the_end_of_an_instance() -> anyhow::Result<()> {
    for _ in 0..4 {
        both(|database| async move {
            let world = std::sync::Arc::new(World::start(&database).await?);
            let askers = (0..12).map(|number| {
                let world = world.clone();
                let request = RequestApprovalRequest { title: format!("Question {number}"), ..asking() };
                tokio::spawn(async move { world.ask(request).await })
            });
            let askers: Vec<_> = askers.collect();
            world.tell(Payload::InstanceEnded(InstanceEnded::default())).await?;
            for asker in askers {
                // Whoever came too late was refused.
                if let Ok(asked) = asker.await? {
                    let status = world.get(&asked.id).await?.status();
                    ensure!(status == ApprovalStatus::Withdrawn, "{} is {status:?}", asked.title);
                }
            }
            world.verify().await
        })
        .await?;
    }
    Ok(())
}

fn stored(key: &str, version: i32) -> ArtifactStored {
    ArtifactStored { key: key.to_owned(), version, digest: digest(version), ..ArtifactStored::default() }
}

fn boundary_of(event: &Event) -> Option<String> {
    let Payload::ApprovalsRequested(asked) = event.payload.as_ref()? else { return None };
    Some(asked.boundary_id.clone())
}
