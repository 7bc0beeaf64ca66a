//! The secret of the installation changes under everything that it has signed, and nobody notices.

use anyhow::ensure;
use phasegate_tenants::scene::{Scene, text};
use phasegate_tenants::world::World;
use phasegate_test_database::both;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_outlives_the_secret_that_signs() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let scene = Scene::set(&world, "acme").await?;
        let page = world.done(&scene.key, "ListKeys", json!({"pageSize": 1})).await?;
        let next = json!({"pageToken": text(&page, "/nextPageToken")?});
        let (old, new) = ([1; 32], [2; 32]);
        let beat = json!({"items": [{"taskToken": scene.task_token}]});
        let link = format!("{}/external/approve?token={}", world.address, scene.link_token);
        let holds = async |expected: bool| -> anyhow::Result<()> {
            let beaten = world.call(&scene.key, "HeartbeatTasks", &beat).await?;
            ensure!(beaten.is_ok() == expected, "task token: {beaten:?}");
            let listed = world.call(&scene.key, "ListKeys", &next).await?;
            ensure!(listed.is_ok() == expected, "page token: {listed:?}");
            let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
            let opened = http.get(&link).send().await?.status();
            ensure!(opened.is_redirection() == expected, "link: {opened}");
            Ok(())
        };
        holds(true).await?;
        // Known, then signing, while calls between services go on: each of these is one.
        for secrets in [vec![old, new], vec![new, old]] {
            world.context.keys.replace(&secrets);
            holds(true).await?;
        }
        // Taken out: what it signed is over, and everything else goes on.
        world.context.keys.replace(&[new]);
        holds(false).await?;
        world.done(&scene.key, "GetInstance", json!({"instanceId": scene.instance})).await?;
        Ok(())
    })
    .await
}
