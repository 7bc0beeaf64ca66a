//! Two copies of the service on one database.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_database::args;
use phasegate_proto::instance::v1::instance_service_client::InstanceServiceClient;
use phasegate_proto::instance::v1::{
    GetInstanceRequest, InstanceStatus, ListInstancesRequest, PauseInstanceRequest, ResumeInstanceRequest,
    SetFactsRequest,
};
use phasegate_proto::worker::v1::worker_service_client::WorkerServiceClient;
use phasegate_proto::worker::v1::{CompleteTaskRequest, PollTasksRequest, WorkerInfo};

use tonic::{Code, Status};

use super::house::{House, both, plain};

/// Makes a call again for as long as it is answered with UNAVAILABLE.
async fn patiently<T, F>(call: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    for _ in 0..20 {
        match call().await {
            Err(status) if status.code() == Code::Unavailable => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
    call().await
}

/// How far the state of an instance is behind its history.
async fn state_lag(house: &House, id: &str) -> anyhow::Result<i64> {
    let sql = "select state_lag from instance where instance_id = $1";
    let row = house.database().await?.fetch_optional(sql, args![id]).await?;
    Ok(row.context("a row")?.get("state_lag")?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_state_that_is_behind_its_history_is_the_same_to_every_copy() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let second = house.second().await?;
        let (id, other) = (house.start("plain").await?, house.start("plain").await?);
        let mut lags = vec![state_lag(house, &id).await?];
        for n in 0..50 {
            // Each copy has to find out what the other one did.
            let channel = if n % 7 == 0 { second.clone() } else { house.channel.clone() };
            let facts = [(format!("fact{n}"), true)].into();
            let reason = "they are known".to_owned();
            let request = SetFactsRequest { instance_id: id.clone(), facts, reason, ..Default::default() };
            InstanceServiceClient::new(channel).set_facts(house.call(request)).await?;
            lags.push(state_lag(house, &id).await?);
        }
        ensure!(lags[0] == 0 && lags.iter().max() == Some(&31), "{lags:?}");
        ensure!(lags.iter().filter(|lag| **lag == 0).count() == 2 && lags.last() != Some(&0), "{lags:?}");
        let known = house.get(&id).await?;
        ensure!(known.facts.len() == 50, "{known:?}");
        for channel in [&house.channel, &second] {
            let mut client = InstanceServiceClient::new(channel.clone());
            let request = GetInstanceRequest { instance_id: id.clone() };
            let read = client.get_instance(house.call(request)).await?.into_inner().instance;
            ensure!(read.as_ref() == Some(&known), "{read:?}");
            let listed =
                client.list_instances(house.call(ListInstancesRequest::default())).await?.into_inner();
            let ids: Vec<&str> = listed.instances.iter().map(|one| one.id.as_str()).collect();
            ensure!(ids == [other.as_str(), id.as_str()], "{ids:?}");
            ensure!(listed.instances[1].version == known.version, "{listed:?}");
        }
        let (_, token) = house.lease("bot", "first").await?;
        house.complete(&token).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_goes_to_one_worker_only() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        let mut definition = plain();
        let tasks: Vec<_> = (0..10)
            .map(|n| serde_json::json!({"id": format!("t{n}"), "name": format!("T{n}"), "assignee": "bot"}))
            .collect();
        definition["phases"][0]["tasks"] = serde_json::json!(tasks);
        definition["phases"][0]["parallelExecution"] = serde_json::json!(true);
        house.define(definition)?;
        let second = house.second().await?;
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(house.start("plain").await?);
        }
        let mut workers = Vec::new();
        for n in 0..8 {
            let channel = if n % 2 == 0 { house.channel.clone() } else { second.clone() };
            let context = house.context.clone();
            let principal = house.principal.clone();
            workers.push(tokio::spawn(async move {
                let mut client = WorkerServiceClient::new(channel);
                let mut done = Vec::new();
                let mut idle = 0;
                while idle < 3 {
                    let poll = PollTasksRequest {
                        worker: Some(WorkerInfo { worker_id: format!("w-{n}"), ..Default::default() }),
                        max_tasks: 2,
                        ..House::poll_request("bot")
                    };
                    let tasks =
                        client.poll_tasks(House::sign(&context, &principal, poll)).await?.into_inner().tasks;
                    idle = if tasks.is_empty() { idle + 1 } else { 0 };
                    for task in tasks {
                        let lease = task.lease.clone().context("a lease")?;
                        done.push((format!("{}/{}", task.instance_id, task.task_id), lease.fencing_token));
                        let complete =
                            CompleteTaskRequest { task_token: lease.task_token, ..Default::default() };
                        // Copies that keep each other from one instance say so, and the same call is made again.
                        patiently(|| {
                            let (mut client, call) =
                                (client.clone(), House::sign(&context, &principal, complete.clone()));
                            async move { client.complete_task(call).await }
                        })
                        .await?;
                    }
                }
                anyhow::Ok(done)
            }));
        }
        let mut taken: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for worker in workers {
            for (task, fencing) in worker.await?? {
                taken.entry(task).or_default().push(fencing);
            }
        }
        ensure!(taken.len() == 40, "{} of 40 tasks were done", taken.len());
        ensure!(taken.values().all(|fencings| fencings == &[1]), "a task was handed out twice: {taken:?}");
        for id in ids {
            ensure!(house.get(&id).await?.status() == InstanceStatus::Completed);
            ensure!(house.verify(&id).await?.intact);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_copy_never_believes_what_it_remembers() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let mut second = InstanceServiceClient::new(house.second().await?);
        let id = house.start("plain").await?;
        for round in 0..5 {
            // Each copy in turn changes what the other one has in memory.
            house.get(&id).await?;
            let pause = PauseInstanceRequest {
                instance_id: id.clone(),
                reason: format!("round {round}"),
                ..Default::default()
            };
            second.pause_instance(house.call(pause)).await?;
            let instance = house.get(&id).await?;
            ensure!(instance.status() == InstanceStatus::Paused, "the first copy is behind");
            let resume = ResumeInstanceRequest {
                instance_id: id.clone(),
                reason: "on".to_owned(),
                ..Default::default()
            };
            house.instances().resume_instance(house.call(resume.clone())).await?;
            let get = GetInstanceRequest { instance_id: id.clone() };
            let seen =
                second.get_instance(house.call(get)).await?.into_inner().instance.context("an instance")?;
            ensure!(seen.status() == InstanceStatus::Running, "the second copy is behind");
            // Already so, as far as the newest state goes: nothing is written.
            let again = second.resume_instance(house.call(resume)).await?.into_inner();
            ensure!(again.instance.context("an instance")?.version == seen.version);
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_through_both_copies_at_once_all_count() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        let second = house.second().await?;
        let id = house.start("plain").await?;
        let mut writers = Vec::new();
        for writer in 0..4 {
            let channel = if writer % 2 == 0 { house.channel.clone() } else { second.clone() };
            let (context, principal, id) = (house.context.clone(), house.principal.clone(), id.clone());
            writers.push(tokio::spawn(async move {
                let client = InstanceServiceClient::new(channel);
                for step in 0..8 {
                    let request = SetFactsRequest {
                        instance_id: id.clone(),
                        facts: [(format!("w{writer}_s{step}"), true)].into(),
                        reason: "test".to_owned(),
                        request_id: format!("{writer}-{step}"),
                        ..Default::default()
                    };
                    patiently(|| {
                        let (mut client, call) =
                            (client.clone(), House::sign(&context, &principal, request.clone()));
                        async move { client.set_facts(call).await }
                    })
                    .await?;
                }
                anyhow::Ok(())
            }));
        }
        for writer in writers {
            writer.await??;
        }
        let instance = house.get(&id).await?;
        ensure!(instance.facts.len() == 32, "{} of 32 changes count", instance.facts.len());
        ensure!(house.verify(&id).await?.intact);
        Ok(())
    })
    .await
}
