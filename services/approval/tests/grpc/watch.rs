//! The stream of answers.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_approval::Config;
use phasegate_principal::Principal;
use phasegate_proto::approval::v1::{
    Approval, Decision, RequestApprovalRequest, WatchApprovalResponsesRequest, WatchApprovalResponsesResponse,
};
use phasegate_test_database::both;
use tonic::{Status, Streaming};

use crate::world::{INSTANCE, OTHER, World, answer, asking, operator, reason, stranger, visitor};

#[tokio::test]
async fn a_watcher_misses_no_answer() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let asked = ask_many(&world, 12).await?;
        let mut live = watch(&world, &operator(), "").await?;
        ensure!(next(&mut live).await?.checkpoint, "the first message carries the position");
        let answers = asked.iter().map(|one| {
            let mut client = world.client();
            let request = world.call(&visitor("ada"), answer(one, "ada", Decision::Approve));
            tokio::spawn(async move { client.decide_approval(request).await })
        });
        let answers: Vec<_> = answers.collect();
        let (mut seen, mut token) = (Vec::new(), String::new());
        while seen.len() < 12 {
            let message = next(&mut live).await?;
            token.clone_from(&message.resume_token);
            seen.extend(message.responses);
            if seen.len() == 5 {
                // Away, and back with the token.
                live = watch(&world, &operator(), &token).await?;
            }
        }
        for one in answers {
            one.await??;
        }
        let mut ids: Vec<_> = seen.iter().map(|response| response.approval_id.clone()).collect();
        ids.sort();
        ids.dedup();
        ensure!(ids.len() == 12, "each once");
        let first = &seen[0];
        ensure!(first.approved && first.approver_id == "ada" && first.approver_email == "ada@acme.com");
        ensure!(first.comments == "because" && first.timestamp.is_some() && !first.id.is_empty());

        let mut all = watch(&world, &operator(), "0").await?;
        let mut from_start = Vec::new();
        while from_start.len() < 12 {
            from_start.extend(next(&mut all).await?.responses);
        }
        ensure!(from_start == seen, "in the same order for everybody, with the same ids");
        ensure!(token == "12");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_person_watches_what_is_theirs_to_see() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        let message =
            RequestApprovalRequest { approver_ids: vec!["ada".to_owned(), "bob".to_owned()], ..asking() };
        let open = world.ask(message).await?;
        let closed = world.ask(RequestApprovalRequest { title: "Another".to_owned(), ..asking() }).await?;
        world.decide_as(&operator(), answer(&open, "bob", Decision::Approve)).await?;
        world.decide_as(&operator(), answer(&closed, "bob", Decision::Reject)).await?;
        let mut theirs = watch(&world, &visitor("cy"), "0").await?;
        let message = next(&mut theirs).await?;
        let ids: Vec<_> = message.responses.iter().map(|one| one.approval_id.as_str()).collect();
        ensure!(ids == [closed.id.as_str()], "not that of a request that is open and asks others");
        ensure!(message.resume_token == "2");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_watcher_is_refused() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database).await?;
        for (expected, who, token) in [
            ("RESUME_TOKEN_INVALID", operator(), "17"),
            ("RESUME_TOKEN_INVALID", operator(), "-1"),
            ("RESUME_TOKEN_INVALID", operator(), "abc"),
        ] {
            ensure!(reason(watch(&world, &who, token).await) == expected, "{token}");
        }
        let of = |instance: &str| WatchApprovalResponsesRequest {
            instance_id: instance.to_owned(),
            resume_token: String::new(),
        };
        for (who, instance) in [(operator(), "proc-inst-none"), (operator(), ""), (visitor("ada"), OTHER)] {
            let request = world.call(&who, of(instance));
            let told = reason(world.client().watch_approval_responses(request).await);
            ensure!(told == "INSTANCE_NOT_FOUND", "{told} for {instance}");
        }
        world.ask(asking()).await?;
        world.fakes.says().instances.clear();
        let request = world.call(&stranger(), of(INSTANCE));
        let told = reason(world.client().watch_approval_responses(request).await);
        ensure!(told == "INSTANCE_NOT_FOUND", "another tenant's: {told}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_watcher_hears_something_even_when_nothing_happens() -> anyhow::Result<()> {
    both(|database| async move {
        let mut config = Config::new(database.settings());
        config.checkpoint_interval = Duration::from_millis(50);
        let world = World::start_with(config).await?;
        let mut live = watch(&world, &operator(), "").await?;
        for _ in 0..3 {
            let message = next(&mut live).await?;
            ensure!(message.checkpoint && message.resume_token == "0" && message.responses.is_empty());
        }
        world.shutdown.cancel();
        loop {
            let message = next(&mut live).await?;
            if message.going_away {
                ensure!(message.resume_token == "0");
                break;
            }
        }
        ensure!(live.message().await?.is_none(), "it ends well");
        Ok(())
    })
    .await
}

async fn watch(
    world: &World,
    who: &Principal,
    token: &str,
) -> Result<Streaming<WatchApprovalResponsesResponse>, Status> {
    let message =
        WatchApprovalResponsesRequest { instance_id: INSTANCE.to_owned(), resume_token: token.to_owned() };
    Ok(world.client().watch_approval_responses(world.call(who, message)).await?.into_inner())
}

async fn next(
    stream: &mut Streaming<WatchApprovalResponsesResponse>,
) -> anyhow::Result<WatchApprovalResponsesResponse> {
    let message = tokio::time::timeout(Duration::from_secs(20), stream.message()).await??;
    message.context("the stream goes on")
}

async fn ask_many(world: &World, count: usize) -> anyhow::Result<Vec<Approval>> {
    let mut asked = Vec::new();
    for index in 0..count {
        let title = format!("number {index}");
        asked.push(world.ask(RequestApprovalRequest { title, ..asking() }).await?);
    }
    Ok(asked)
}
