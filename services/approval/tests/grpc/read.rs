//! One request, and lists.

use anyhow::ensure;
use phasegate_principal::{Permission, Principal};
use phasegate_proto::approval::v1::{
    Approval, ApprovalStatus, Decision, ListApprovalsRequest, ListApprovalsResponse, RequestApprovalRequest,
};
use phasegate_test_database::both;
use tonic::Status;

use crate::world::{INSTANCE, OTHER, World, answer, asking, operator, reason, stranger, visitor, visitor_of};

#[tokio::test]
async fn everybody_sees_what_is_theirs_to_see() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = world.ask(asking()).await?;
        let elsewhere = visitor_of(OTHER, "ada", &[Permission::View]);
        for (who, expected) in [
            (operator(), "OK"),
            (visitor("ada"), "OK"),
            (visitor("cy"), "APPROVAL_NOT_FOUND"),
            (elsewhere.clone(), "APPROVAL_NOT_FOUND"),
            (stranger(), "APPROVAL_NOT_FOUND"),
            (visitor_of(INSTANCE, "ada", &[]), "LINK_PERMISSION_MISSING"),
        ] {
            let told = reason(world.get_as(&who, &asked.id).await);
            ensure!(told == expected, "{told} instead of {expected} for {who:?}");
        }
        ensure!(reason(world.get("apr-none").await) == "APPROVAL_NOT_FOUND");
        world.decide_as(&operator(), answer(&asked, "ada", Decision::Reject)).await?;
        ensure!(reason(world.get_as(&visitor("cy"), &asked.id).await) == "OK", "what is decided is seen");
        ensure!(reason(world.get_as(&elsewhere, &asked.id).await) == "APPROVAL_NOT_FOUND");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn lists_show_what_is_theirs_to_see() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut ids = Vec::new();
        for (title, instance, who) in [
            ("one", INSTANCE, "ada"),
            ("two", INSTANCE, "bob"),
            ("three", OTHER, "ada"),
            ("four", INSTANCE, "ada"),
            ("five", INSTANCE, "bob"),
        ] {
            world.clock.advance(std::time::Duration::from_secs(1));
            let message = RequestApprovalRequest {
                title: title.to_owned(),
                instance_id: instance.to_owned(),
                approver_ids: vec![who.to_owned()],
                ..asking()
            };
            ids.push(world.ask(message).await?);
        }
        world.decide_as(&operator(), answer(&ids[1], "bob", Decision::Approve)).await?;
        world.decide_as(&operator(), answer(&ids[3], "ada", Decision::Reject)).await?;

        let all = ListApprovalsRequest { all: true, ..ListApprovalsRequest::default() };
        let of = |instance: &str| ListApprovalsRequest { instance_id: instance.to_owned(), ..all.clone() };
        let pending = ListApprovalsRequest::default();
        let by = |who: &str| ListApprovalsRequest { approver_id: who.to_owned(), ..all.clone() };
        let rejected = ListApprovalsRequest { status: ApprovalStatus::Rejected.into(), ..pending.clone() };
        let table: Vec<(&str, Principal, ListApprovalsRequest, Vec<&str>)> = vec![
            ("all", operator(), all.clone(), vec!["five", "four", "three", "two", "one"]),
            ("pending by default", operator(), pending.clone(), vec!["five", "three", "one"]),
            ("of an instance", operator(), of(INSTANCE), vec!["five", "four", "two", "one"]),
            ("rejected", operator(), rejected.clone(), vec!["four"]),
            ("of a person", operator(), by("ada"), vec!["four", "three", "one"]),
            ("of nobody", operator(), by("eve"), vec![]),
            ("a person's own, and decided ones", visitor("ada"), all.clone(), vec!["four", "two", "one"]),
            ("a person's own", visitor("ada"), pending, vec!["one"]),
            ("what another has to do", visitor("ada"), by("bob"), vec![]),
            ("rejected, for anybody", visitor("bob"), rejected, vec!["four"]),
            ("another tenant's", stranger(), all.clone(), vec![]),
        ];
        for (name, who, message, expected) in table {
            let listed = list(&world, &who, message).await?;
            ensure!(titles(&listed.approvals) == expected, "{name}: {:?}", titles(&listed.approvals));
        }
        for (expected, who, message) in [
            ("INSTANCE_NOT_FOUND", operator(), of("proc-inst-none")),
            ("INSTANCE_NOT_FOUND", visitor("ada"), of(OTHER)),
            ("PAGE_SIZE_INVALID", operator(), ListApprovalsRequest { page_size: -1, ..all.clone() }),
            (
                "PAGE_TOKEN_INVALID",
                operator(),
                ListApprovalsRequest { page_token: "x".to_owned(), ..all.clone() },
            ),
            (
                "ENUM_INVALID",
                operator(),
                ListApprovalsRequest { status: 77, ..ListApprovalsRequest::default() },
            ),
            ("LINK_PERMISSION_MISSING", visitor_of(INSTANCE, "ada", &[]), all.clone()),
        ] {
            let told = reason(list(&world, &who, message).await);
            ensure!(told == expected, "{told} instead of {expected}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pages_hold_everything_once() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let mut expected = Vec::new();
        for index in 0..7 {
            // Several at the same time, so that the id decides.
            let title = format!("number {index}");
            expected.push(world.ask(RequestApprovalRequest { title, ..asking() }).await?.id);
        }
        expected.sort();
        expected.reverse();
        let first = ListApprovalsRequest { page_size: 3, ..ListApprovalsRequest::default() };
        let (mut ids, mut page, mut sizes) = (Vec::new(), first.clone(), Vec::new());
        let mut tokens = Vec::new();
        loop {
            let listed = list(&world, &operator(), page.clone()).await?;
            sizes.push(listed.approvals.len());
            ids.extend(listed.approvals.into_iter().map(|one| one.id));
            if listed.next_page_token.is_empty() {
                break;
            }
            tokens.push(listed.next_page_token.clone());
            page.page_token = listed.next_page_token;
        }
        ensure!(sizes == [3, 3, 1] && ids == expected);
        let token = tokens.remove(0);
        let elsewhere = ListApprovalsRequest { all: true, page_token: token.clone(), ..first.clone() };
        ensure!(reason(list(&world, &operator(), elsewhere).await) == "PAGE_TOKEN_INVALID");
        let theirs = ListApprovalsRequest { page_token: token, ..first };
        ensure!(reason(list(&world, &stranger(), theirs).await) == "PAGE_TOKEN_INVALID");
        Ok(())
    })
    .await
}

async fn list(
    world: &World,
    who: &Principal,
    message: ListApprovalsRequest,
) -> Result<ListApprovalsResponse, Status> {
    Ok(world.client().list_approvals(world.call(who, message)).await?.into_inner())
}

fn titles(approvals: &[Approval]) -> Vec<&str> {
    approvals.iter().map(|one| one.title.as_str()).collect()
}
