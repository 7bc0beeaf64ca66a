//! Answers and withdrawals.

use anyhow::ensure;
use phasegate_principal::{Permission, Principal};
use phasegate_proto::actor::v1::{ActorKind, Assurance};
use phasegate_proto::approval::v1::{
    Approval, ApprovalStatus, ApproverStatus, DecideApprovalRequest, Decision, WithdrawApprovalRequest,
};
use phasegate_proto::instance::v1::{InstanceStatus, Remark};
use phasegate_proto::internal::event::v1::event::Payload;
use phasegate_proto::internal::event::v1::{ApprovalResponded, ApprovalSettled};
use phasegate_test_database::both;

use crate::ask::requested;
use crate::world::{
    INSTANCE, OTHER, World, answer, asking, operator, reason, refusal, stranger, visitor, visitor_of,
};

#[tokio::test]
async fn people_decide_through_their_links() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        // The page needs not say who the person is: the link does.
        let own = DecideApprovalRequest {
            approver_id: String::new(),
            comment: String::new(),
            ..answer(&asked, "", Decision::Approve)
        };
        let (after, repeated) = world.decide_as(&visitor("ada"), own).await?;
        ensure!(after.status() == ApprovalStatus::Pending && !repeated);
        let ada = &after.approvers[0];
        ensure!(ada.status() == ApproverStatus::Approved && ada.assurance() == Assurance::Link);
        let by = ada.decided_by.clone().unwrap_or_default();
        ensure!(by.kind() == ActorKind::Participant && by.id == "ada" && by.name == "ada of Acme");
        ensure!(by.on_behalf_of.is_empty());

        let (after, _) = world.decide_as(&visitor("bob"), answer(&asked, "bob", Decision::Approve)).await?;
        ensure!(after.status() == ApprovalStatus::Approved && after.decided_at.is_some());
        ensure!(world.get(&asked.id).await? == after);

        let responses = world.sent(2, responded).await?;
        let response = responses[1].response.clone().unwrap_or_default();
        ensure!(response.approved && response.approver_email == "bob@acme.com");
        ensure!(response.status() == ApprovalStatus::Approved, "the request after this answer");
        ensure!(responses[1].assurance() == Assurance::Link);
        let settlements = world.sent(1, settled).await?;
        ensure!(settlements[0].approval == Some(after));
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn an_operator_speaks_for_an_approver() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        let remark = Remark {
            round: 99,
            participant_id: "somebody".to_owned(),
            artifact_key: "design".to_owned(),
            path: "/claims/0".to_owned(),
            text: "the claim is missing".to_owned(),
            made_at: None,
        };
        let message = DecideApprovalRequest {
            comment: String::new(),
            remarks: vec![remark],
            ..answer(&asked, "bob", Decision::RequestChanges)
        };
        let (after, _) = world.decide_as(&operator(), message).await?;
        ensure!(after.status() == ApprovalStatus::ChangesRequested);
        let standings: Vec<_> =
            after.approvers.iter().map(phasegate_proto::approval::v1::Approver::status).collect();
        ensure!(standings == [ApproverStatus::NotNeeded, ApproverStatus::ChangesRequested]);
        let bob = &after.approvers[1];
        let by = bob.decided_by.clone().unwrap_or_default();
        ensure!(bob.assurance() == Assurance::Api && by.id == "dev" && by.on_behalf_of == "bob");
        let kept = &bob.remarks[0];
        ensure!((kept.round, kept.participant_id.as_str()) == (1, "bob"), "the server knows better");
        ensure!(kept.made_at.is_some());
        let settlements = world.sent(1, settled).await?;
        ensure!(settlements[0].remarks == bob.remarks);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_answer_is_refused_and_changes_nothing() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        let good = || answer(&asked, "ada", Decision::Approve);
        let unknown = |id: &str| DecideApprovalRequest { approval_id: id.to_owned(), ..good() };
        let machine = Principal::system("instance", "default");
        let only_view = visitor_of(INSTANCE, "ada", &[Permission::View]);
        let elsewhere = visitor_of(OTHER, "ada", &[Permission::View, Permission::Approve]);
        let table: Vec<(&str, Principal, DecideApprovalRequest)> = vec![
            ("APPROVAL_NOT_FOUND", operator(), unknown("apr-none")),
            ("APPROVAL_NOT_FOUND", operator(), unknown("")),
            ("APPROVAL_NOT_FOUND", operator(), unknown("no id")),
            ("APPROVAL_NOT_FOUND", stranger(), good()),
            ("APPROVAL_NOT_FOUND", elsewhere, good()),
            ("APPROVAL_NOT_FOUND", visitor("cy"), good()),
            ("LINK_PERMISSION_MISSING", only_view, good()),
            ("HUMAN_REQUIRED", machine, good()),
            ("NOT_AN_APPROVER", operator(), answer(&asked, "cy", Decision::Approve)),
            ("NOT_AN_APPROVER", operator(), answer(&asked, "", Decision::Approve)),
            ("NOT_AN_APPROVER", visitor("ada"), answer(&asked, "bob", Decision::Approve)),
            ("DECISION_REQUIRED", operator(), DecideApprovalRequest { decision: 0, ..good() }),
            (
                "CONTENT_DIGEST_REQUIRED",
                operator(),
                DecideApprovalRequest { content_digest: String::new(), ..good() },
            ),
            (
                "COMMENT_REQUIRED",
                operator(),
                DecideApprovalRequest { comment: String::new(), ..answer(&asked, "ada", Decision::Reject) },
            ),
            (
                "TEXT_INVALID",
                operator(),
                DecideApprovalRequest { comment: "x".repeat(16 * 1024 + 1), ..good() },
            ),
        ];
        let before = world.rows().await?;
        for (expected, who, message) in table {
            let told = reason(world.decide_as(&who, message.clone()).await);
            ensure!(told == expected, "{told} instead of {expected} for {who:?}: {message:?}");
        }
        let other = DecideApprovalRequest { content_digest: "sha256:00".to_owned(), ..good() };
        let (told, metadata) = refusal(world.decide_as(&operator(), other).await);
        ensure!(told == "APPROVAL_CONTENT_CHANGED" && metadata["current_digest"] == asked.content_digest);
        ensure!(world.rows().await? == before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nobody_approves_what_they_produced() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut need = crate::world::need("configure_idp", 1, &["ada", "bob"]);
        need.produced_by.push("ada".to_owned());
        let asked = world.need(vec![need]).await?.remove(0);
        for who in [operator(), visitor("ada")] {
            let told = reason(world.decide_as(&who, answer(&asked, "ada", Decision::Approve)).await);
            ensure!(told == "SELF_APPROVAL_FORBIDDEN", "{told}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_first_answer_stands() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        let yes = answer(&asked, "ada", Decision::Approve);
        let (first, _) = world.decide_as(&visitor("ada"), yes.clone()).await?;
        let before = world.rows().await?;
        let other_words = DecideApprovalRequest { comment: "still".to_owned(), ..yes };
        let (again, repeated) = world.decide_as(&operator(), other_words).await?;
        ensure!(again == first && repeated, "the same again gets the stored answer, whoever brings it");
        let told = refusal(world.decide_as(&visitor("ada"), answer(&asked, "ada", Decision::Reject)).await);
        let decided_at = crate::world::START.to_string();
        ensure!(told.0 == "APPROVAL_ALREADY_DECIDED" && told.1["decision"] == "approve", "{told:?}");
        ensure!(told.1["decided_by"] == "ada" && told.1["decided_at"] == decided_at);
        ensure!(world.rows().await? == before);

        world.decide_as(&visitor("bob"), answer(&asked, "bob", Decision::Reject)).await?;
        let cy = answer(&asked, "ada", Decision::Reject);
        ensure!(reason(world.decide_as(&visitor("ada"), cy).await) == "APPROVAL_ALREADY_DECIDED");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_request_id_gets_the_first_answer() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        let named = |id: &str, who: &str, decision| DecideApprovalRequest {
            request_id: id.to_owned(),
            ..answer(&asked, who, decision)
        };
        let yes = named("once", "ada", Decision::Approve);
        let (first, _) = world.decide_as(&visitor("ada"), yes.clone()).await?;
        world.decide_as(&visitor("bob"), answer(&asked, "bob", Decision::Approve)).await?;
        let before = world.rows().await?;
        let (again, repeated) = world.decide_as(&visitor("ada"), yes).await?;
        ensure!(again == first && repeated, "as it was then");
        let other = named("once", "ada", Decision::Reject);
        ensure!(reason(world.decide_as(&visitor("ada"), other).await) == "REQUEST_ID_REUSED");
        ensure!(world.rows().await? == before);
        let repeat = named("once", "bob", Decision::Approve);
        let (_, repeated) = world.decide_as(&visitor("bob"), repeat.clone()).await?;
        ensure!(repeated, "another person's id is another one, and the answer is there");
        let now_kept = world.rows().await?;
        world.decide_as(&visitor("bob"), repeat).await?;
        ensure!(world.rows().await? == now_kept);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn sixteen_answers_at_once_are_one() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        let answers = (0..16).map(|index| {
            let decision = if index % 2 == 0 { Decision::Approve } else { Decision::Reject };
            let (mut client, message) = (world.client(), answer(&asked, "ada", decision));
            let request = world.call(&visitor("ada"), message);
            tokio::spawn(async move { client.decide_approval(request).await })
        });
        let mut taken = 0;
        for one in answers.collect::<Vec<_>>() {
            match one.await? {
                Ok(_) => taken += 1,
                refused => {
                    let told = reason(refused);
                    ensure!(told == "APPROVAL_ALREADY_DECIDED", "{told}");
                }
            }
        }
        ensure!(taken == 8, "one kind of answer stands: {taken}");
        world.sent(1, responded).await?;
        let rows = world.rows().await?;
        ensure!(rows.contains(&("approval_response", 1)), "{rows:?}");
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn sixteen_approvers_at_once_all_count() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let people: Vec<String> = (0..16).map(|index| format!("person-{index}")).collect();
        let names: Vec<&str> = people.iter().map(String::as_str).collect();
        let asked = world.need(vec![crate::world::need("configure_idp", 1, &names)]).await?.remove(0);
        let answers = people.iter().map(|who| {
            let mut client = world.client();
            let request = world.call(&visitor(who), answer(&asked, who, Decision::Approve));
            tokio::spawn(async move { client.decide_approval(request).await })
        });
        for one in answers.collect::<Vec<_>>() {
            one.await??;
        }
        ensure!(world.get(&asked.id).await?.status() == ApprovalStatus::Approved);
        world.sent(16, responded).await?;
        world.sent(1, settled).await?;
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn what_has_changed_is_asked_again() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        world.decide_as(&visitor("ada"), answer(&asked, "ada", Decision::Approve)).await?;
        // The event of the new version has not come yet.
        world.fakes.says().artifacts.insert("design".to_owned(), 2);
        let late = answer(&asked, "bob", Decision::Approve);
        let (told, metadata) = refusal(world.decide_as(&visitor("bob"), late).await);
        ensure!(told == "APPROVAL_CONTENT_CHANGED", "{told}");
        let again = world.get(&asked.id).await?;
        ensure!(metadata["current_digest"] == again.content_digest);
        ensure!(metadata["changed_artifacts"] == "design 1 -> 2", "{metadata:?}");
        ensure!(again.content_digest != asked.content_digest);
        ensure!((again.artifacts[0].version, again.artifacts[0].previous_version) == (2, 1));
        ensure!(again.approvers.iter().all(|one| one.status() == ApproverStatus::Pending), "votes are void");
        let sent = world.sent(2, requested).await?;
        ensure!(sent[1] == vec![again.clone()]);
        let (_, repeated) =
            world.decide_as(&visitor("ada"), answer(&again, "ada", Decision::Approve)).await?;
        ensure!(!repeated, "a new vote");
        let (after, _) = world.decide_as(&visitor("bob"), answer(&again, "bob", Decision::Approve)).await?;
        ensure!(after.status() == ApprovalStatus::Approved);
        world.verify().await
    })
    .await
}

#[tokio::test]
async fn an_instance_that_is_over_takes_no_answers() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        // Cancelled there; the event has not come yet.
        world.fakes.says().instances.insert(INSTANCE.to_owned(), InstanceStatus::Cancelled);
        let before = world.rows().await?;
        let yes = answer(&asked, "ada", Decision::Approve);
        ensure!(reason(world.decide_as(&visitor("ada"), yes.clone()).await) == "INSTANCE_TERMINAL");
        ensure!(world.rows().await? == before);
        world
            .tell(Payload::InstanceEnded(phasegate_proto::internal::event::v1::InstanceEnded::default()))
            .await?;
        let (told, metadata) = refusal(world.decide_as(&visitor("ada"), yes).await);
        ensure!(told == "INSTANCE_TERMINAL" && metadata["instance_id"] == INSTANCE);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn deciding_does_not_depend_on_the_engine() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        world.fakes.says().instance_is_up = false;
        let (after, _) = world.decide_as(&visitor("ada"), answer(&asked, "ada", Decision::Reject)).await?;
        ensure!(after.status() == ApprovalStatus::Rejected);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_request_is_withdrawn() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        let wish = |reason: &str, request_id: &str| WithdrawApprovalRequest {
            approval_id: asked.id.clone(),
            reason: reason.to_owned(),
            request_id: request_id.to_owned(),
        };
        let before = world.rows().await?;
        ensure!(reason(world.withdraw_as(&operator(), wish(" ", "")).await) == "REASON_REQUIRED");
        ensure!(reason(world.withdraw_as(&visitor("ada"), wish("no", "")).await) == "ROLE_FORBIDDEN");
        ensure!(reason(world.withdraw_as(&stranger(), wish("no", "")).await) == "APPROVAL_NOT_FOUND");
        ensure!(world.rows().await? == before);

        let (gone, repeated) = world.withdraw_as(&operator(), wish("asked by mistake", "once")).await?;
        ensure!(gone.status() == ApprovalStatus::Withdrawn && !repeated);
        ensure!(gone.status_reason == "asked by mistake");
        let before = world.rows().await?;
        let (again, repeated) = world.withdraw_as(&operator(), wish("asked by mistake", "once")).await?;
        ensure!(again == gone && repeated);
        let (again, repeated) = world.withdraw_as(&operator(), wish("twice", "")).await?;
        ensure!(again == gone && repeated, "what is withdrawn stays as it is");
        ensure!(reason(world.withdraw_as(&operator(), wish("other", "once")).await) == "REQUEST_ID_REUSED");
        let late = answer(&asked, "ada", Decision::Approve);
        ensure!(reason(world.decide_as(&visitor("ada"), late).await) == "APPROVAL_WITHDRAWN");
        ensure!(world.rows().await? == before);
        world.sent(1, settled).await?;

        let done = world.ask(asking()).await?;
        world.decide_as(&operator(), answer(&done, "ada", Decision::Reject)).await?;
        let late = WithdrawApprovalRequest { approval_id: done.id.clone(), ..wish("too late", "") };
        let (told, metadata) = refusal(world.withdraw_as(&operator(), late).await);
        ensure!(told == "APPROVAL_ALREADY_DECIDED" && metadata["decision"] == "reject", "{told}");
        world.verify().await
    })
    .await
}

pub(crate) fn responded(payload: &Payload) -> Option<ApprovalResponded> {
    if let Payload::ApprovalResponded(responded) = payload { Some(responded.clone()) } else { None }
}

pub(crate) fn settled(payload: &Payload) -> Option<ApprovalSettled> {
    if let Payload::ApprovalSettled(settled) = payload { Some(settled.clone()) } else { None }
}

/// The requests of settlements, in order.
pub(crate) fn outcomes(settlements: &[ApprovalSettled]) -> Vec<ApprovalStatus> {
    settlements
        .iter()
        .map(|end| end.approval.as_ref().map_or(ApprovalStatus::Unspecified, Approval::status))
        .collect()
}
