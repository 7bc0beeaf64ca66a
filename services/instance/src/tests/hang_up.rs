//! A worker that goes away while it is given work.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_proto::worker::v1::{PollTasksRequest, ReleaseTaskRequest};

use super::house::{House, both, plain};
use crate::app::Poll;

#[tokio::test]
async fn who_hangs_up_while_work_is_given_keeps_none() -> anyhow::Result<()> {
    both(async |house: &mut House| {
        house.define(plain())?;
        house.start("plain").await?;
        let poll = Poll {
            worker: "w-gone".to_owned(),
            tools: Vec::new(),
            queues: vec!["bot".to_owned()],
            instance: String::new(),
            tasks_max: 1,
            wait: Duration::ZERO,
            lease: Duration::from_mins(1),
        };
        let app = house.apps.first().context("it runs")?.clone();
        let mut polling = Box::pin(app.poll(&house.principal, poll));
        // Begun, and given up before there is an answer.
        ensure!(futures::poll!(&mut polling).is_pending());
        drop(polling);
        let request = PollTasksRequest {
            wait: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
            ..House::poll_request("bot")
        };
        let leased = async {
            // Whoever is faster than the lease that was given away in vain finds the task before it.
            loop {
                let polled = house.workers().poll_tasks(house.call(request.clone())).await?.into_inner();
                let task = polled.tasks.into_iter().next().context("the task is not handed out")?;
                let lease = task.lease.context("a lease")?;
                if lease.fencing_token > 1 {
                    return anyhow::Ok(());
                }
                let release = ReleaseTaskRequest { task_token: lease.task_token, ..Default::default() };
                house.workers().release_task(house.call(release)).await?;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), leased).await?
    })
    .await
}
