//! Requests of agents and operators.

use anyhow::ensure;
use phasegate_proto::actor::v1::ActorKind;
use phasegate_proto::approval::v1::{
    Approval, ApprovalStatus, Decision, RequestApprovalRequest, SubjectKind,
};
use phasegate_proto::instance::v1::{InstanceStatus, TaskStatus};
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_test_database::both;

use crate::world::{
    INSTANCE, OTHER, START, World, answer, asking, digest, need, operator, reason, refusal, stranger, visitor,
};

#[tokio::test]
async fn an_operator_asks() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let (asked, repeated) = world.ask_as(&operator(), asking()).await?;
        ensure!(!repeated);
        ensure!(asked.id.starts_with("apr-") && asked.status() == ApprovalStatus::Pending);
        ensure!(asked.subject_kind() == SubjectKind::AdHoc && asked.phase_id == "configuration");
        ensure!(asked.content_digest.starts_with("sha256:"));
        let artifact = &asked.artifacts[0];
        ensure!((artifact.version, artifact.digest.as_str()) == (1, digest(1).as_str()));
        let ada = &asked.approvers[0];
        ensure!((ada.name.as_str(), ada.email.as_str()) == ("ada of Acme", "ada@acme.com"));
        ensure!(asked.requested_at == Some(START.to_proto()));
        ensure!(asked.expires_at.map(|time| time.seconds) == Some(START.to_proto().seconds + 72 * 3600));
        ensure!(world.get(&asked.id).await? == asked);

        let sent = world.sent(1, requested).await?;
        ensure!(sent[0] == vec![asked]);
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn an_agent_asks_for_the_round_of_its_task() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let message = RequestApprovalRequest {
            task_id: "configure_idp".to_owned(),
            task_token: "lease-1".to_owned(),
            key: "sso_config_review".to_owned(),
            ..asking()
        };
        let asked = world.ask(message.clone()).await?;
        ensure!(asked.subject_kind() == SubjectKind::Task && asked.subject_id == "configure_idp");
        ensure!(asked.id == need("configure_idp", 1, &[]).approval_id, "the engine's own id");
        let by = asked.requested_by.clone().unwrap_or_default();
        ensure!(by.kind() == ActorKind::Agent && by.id == "sso_agent");
        ensure!(asked.expires_at.map(|time| time.seconds) == Some(START.to_proto().seconds + 48 * 3600));

        let stored = world.need(vec![need("configure_idp", 1, &["ada"])]).await?;
        ensure!(stored[0].title == "SSO Configuration Review", "a second need is the first one");
        world.sent(1, requested).await?;
        let holds = |payload: &Payload| {
            let Payload::ApprovalsRequested(asked) = payload else { return None };
            Some((asked.leased_task_id.clone(), asked.hold_id.clone()))
        };
        let told = world.sent(1, holds).await?.remove(0);
        ensure!(told == ("configure_idp".to_owned(), "hold-1".to_owned()), "{told:?}");

        let fewer = RequestApprovalRequest { approver_ids: vec!["cy".to_owned()], ..message.clone() };
        let ad_hoc = world.ask(fewer).await?;
        ensure!(ad_hoc.subject_kind() == SubjectKind::AdHoc, "it does not cover who must approve");
        ensure!(ad_hoc.subject_id == "sso_config_review" && ad_hoc.task_id == "configure_idp");

        if let Some(task) = world.fakes.says().tasks.get_mut("configure_idp") {
            task.set_status(TaskStatus::Pending);
        }
        let early = RequestApprovalRequest { title: "Before the work".to_owned(), ..message };
        ensure!(
            world.ask(early).await?.subject_kind() == SubjectKind::AdHoc,
            "there is no work to review yet"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_key_asks_everybody_who_lists_it() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let message = RequestApprovalRequest {
            approver_ids: Vec::new(),
            key: "sso_config_review".to_owned(),
            expires_in: "7d".to_owned(),
            ..asking()
        };
        let asked = world.ask(message.clone()).await?;
        let people: Vec<_> = asked.approvers.iter().map(|one| one.participant_id.as_str()).collect();
        ensure!(people == ["ada", "bob"], "the informed is not asked: {people:?}");
        ensure!(asked.expires_at.map(|time| time.seconds) == Some(START.to_proto().seconds + 7 * 86_400));
        let nobody = RequestApprovalRequest { key: "unheard_of".to_owned(), ..message };
        ensure!(reason(world.ask(nobody).await) == "APPROVER_INVALID");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_request_is_refused_and_changes_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.fakes.says().instances.insert("proc-inst-over".to_owned(), InstanceStatus::Cancelled);
        if let Some(task) = world.fakes.says().tasks.get_mut("test_login") {
            task.set_status(TaskStatus::Completed);
        }
        let of = |instance: &str| RequestApprovalRequest { instance_id: instance.to_owned(), ..asking() };
        let about = |task: &str| RequestApprovalRequest { task_id: task.to_owned(), ..asking() };
        let to = |people: &[&str]| RequestApprovalRequest {
            approver_ids: people.iter().map(ToString::to_string).collect(),
            ..asking()
        };
        let table = [
            ("INSTANCE_NOT_FOUND", of("proc-inst-none")),
            ("INSTANCE_NOT_FOUND", of("")),
            ("INSTANCE_TERMINAL", of("proc-inst-over")),
            ("TASK_UNKNOWN", about("no_such_task")),
            ("INVALID_STATE", about("test_login")),
            ("APPROVER_INVALID", to(&[])),
            ("APPROVER_INVALID", to(&["nobody"])),
            ("APPROVER_INVALID", to(&["ada", "ada"])),
            ("APPROVER_INVALID", to(&["ivy"])),
            ("APPROVER_INVALID", to(&["sso_agent"])),
            (
                "ARTIFACT_UNKNOWN",
                RequestApprovalRequest { artifacts: vec!["missing".to_owned()], ..asking() },
            ),
            ("LEASE_LOST", RequestApprovalRequest { task_token: "old".to_owned(), ..asking() }),
            ("TEXT_INVALID", RequestApprovalRequest { title: "a\nb".to_owned(), ..asking() }),
            ("EXPIRY_INVALID", RequestApprovalRequest { expires_in: "0h".to_owned(), ..asking() }),
            ("REQUEST_ID_INVALID", RequestApprovalRequest { request_id: "x".repeat(129), ..asking() }),
        ];
        let before = world.rows().await?;
        for (expected, message) in table {
            let told = reason(world.ask(message.clone()).await);
            ensure!(told == expected, "{told} instead of {expected} for {message:?}");
        }
        ensure!(reason(world.ask_as(&visitor("ada"), asking()).await) == "ROLE_FORBIDDEN");
        ensure!(reason(world.ask_as(&visitor("ada"), of(OTHER)).await) == "INSTANCE_NOT_FOUND");
        world.fakes.says().people_are_there = false;
        ensure!(reason(world.ask(asking()).await) == "DEPENDENCY_DOWN");
        ensure!(world.rows().await? == before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nobody_is_asked_about_the_own_work() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world.fakes.says().humans.push(("dan", "approver", vec![]));
        if let Some(task) = world.fakes.says().tasks.get_mut("test_login") {
            "dan".clone_into(&mut task.assignee);
        }
        let message = RequestApprovalRequest {
            task_id: "test_login".to_owned(),
            approver_ids: vec!["ada".to_owned(), "dan".to_owned()],
            ..asking()
        };
        let (told, metadata) = refusal(world.ask(message).await);
        ensure!(told == "APPROVER_INVALID" && metadata["field"] == "approver_ids[1]", "{told} {metadata:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_same_request_is_asked_once() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let first = world.ask(asking()).await?;
        let before = world.rows().await?;
        let (again, repeated) = world.ask_as(&operator(), asking()).await?;
        ensure!(again == first && repeated, "an identical open request is returned as it is");
        ensure!(world.rows().await? == before);
        let (other, repeated) = world
            .ask_as(&operator(), RequestApprovalRequest { title: "Another".to_owned(), ..asking() })
            .await?;
        ensure!(other.id != first.id && !repeated);

        let asks = (0..16).map(|_| {
            let (mut client, message) = (world.client(), asking());
            let message = RequestApprovalRequest { description: "at once".to_owned(), ..message };
            let request = world.call(&operator(), message);
            tokio::spawn(async move { client.request_approval(request).await })
        });
        let mut ids = Vec::new();
        for ask in asks.collect::<Vec<_>>() {
            ids.push(ask.await??.into_inner().approval.unwrap_or_default().id);
        }
        ids.dedup();
        ensure!(ids.len() == 1, "sixteen at once are one: {ids:?}");
        world.sent(3, requested).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_request_id_gets_the_first_answer() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let message = RequestApprovalRequest { request_id: "once".to_owned(), ..asking() };
        let (first, _) = world.ask_as(&operator(), message.clone()).await?;
        world.decide_as(&operator(), answer(&first, "ada", Decision::Approve)).await?;
        let before = world.rows().await?;
        let (again, repeated) = world.ask_as(&operator(), message.clone()).await?;
        ensure!(again == first && repeated, "as it was then");
        let other = RequestApprovalRequest { title: "Another".to_owned(), ..message.clone() };
        ensure!(reason(world.ask(other).await) == "REQUEST_ID_REUSED");
        ensure!(world.rows().await? == before);
        ensure!(world.ask_as(&stranger(), message).await?.0.id != first.id, "another tenant's is its own");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_was_rejected_is_asked_again_only_when_it_has_changed() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        world.decide_as(&operator(), answer(&asked, "ada", Decision::Reject)).await?;
        let before = world.rows().await?;
        let (told, metadata) = refusal(world.ask(asking()).await);
        ensure!(told == "CONTENT_REJECTED" && metadata["approval_id"] == asked.id, "{told} {metadata:?}");
        let shopped = RequestApprovalRequest { approver_ids: vec!["cy".to_owned()], ..asking() };
        ensure!(reason(world.ask(shopped).await) == "CONTENT_REJECTED", "nor of somebody else");
        ensure!(world.rows().await? == before);
        world.fakes.says().artifacts.insert("design".to_owned(), 2);
        ensure!(world.ask(asking()).await?.artifacts[0].version == 2);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_task_whose_round_was_rejected_may_ask_something_else() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let message = RequestApprovalRequest { task_id: "configure_idp".to_owned(), ..asking() };
        let first = world.ask(message.clone()).await?;
        world.decide_as(&operator(), answer(&first, "ada", Decision::Reject)).await?;
        ensure!(reason(world.ask(message.clone()).await) == "CONTENT_REJECTED");
        let changed = RequestApprovalRequest { title: "A better one".to_owned(), ..message.clone() };
        let second = world.ask(changed).await?;
        ensure!(second.id != first.id && second.subject_kind() == SubjectKind::AdHoc);
        if let Some(task) = world.fakes.says().tasks.get_mut("configure_idp") {
            task.round = 2;
        }
        let third = world.ask(message).await?;
        ensure!(third.subject_kind() == SubjectKind::Task && third.round == 2, "the work was done again");
        ensure!(third.supersedes == first.id && third.artifacts[0].previous_version == 1);
        Ok(())
    })
    .await
}

pub(crate) fn requested(payload: &Payload) -> Option<Vec<Approval>> {
    if let Payload::ApprovalsRequested(asked) = payload { Some(asked.approvals.clone()) } else { None }
}

#[tokio::test]
async fn an_instance_that_is_over_here_is_over() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        world
            .tell(Payload::InstanceEnded(phasegate_proto::internal::event::v1::InstanceEnded::default()))
            .await?;
        let (told, metadata) = refusal(world.ask(asking()).await);
        ensure!(told == "INSTANCE_TERMINAL" && metadata["instance_id"] == INSTANCE);
        Ok(())
    })
    .await
}
