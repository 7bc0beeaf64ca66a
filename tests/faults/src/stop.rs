//! Stops every process in order, under load and with open streams, and starts it again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::load::{INSTANCES_WATCHED, Load};
use crate::plan::Plan;
use crate::world::World;

/// Longest time from SIGTERM to the end of the process.
const ENDS: Duration = Duration::from_secs(10);
/// Afterwards it is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells one copy of every service at a time to stop, then the other, until there were enough. What is watched may come to
/// its end meanwhile: while both copies of the gateway have yet to stop, something newer is watched, too.
pub(crate) async fn in_turn(world: &Arc<World>, plan: &Plan, load: &mut Load) -> anyhow::Result<()> {
    let mut begun = 0;
    for turn in 0_usize.. {
        let mut stopping = JoinSet::new();
        for copy in world.machine.copies.iter().skip(turn % 2).step_by(2) {
            if begun >= plan.terminated {
                break;
            }
            begun += 1;
            let (copy, world) = (copy.clone(), world.clone());
            stopping.spawn(async move {
                match copy.terminate(PATIENCE).await {
                    Ok(time) => {
                        let mut counts = world.counts();
                        counts.exits.push(time);
                        counts.exits_late += u64::from(time > ENDS);
                    }
                    Err(error) => {
                        world.run.fault(format!("SIGTERM: {error:#}"));
                        let mut counts = world.counts();
                        counts.exits.push(PATIENCE);
                        counts.exits_late += 1;
                    }
                }
                copy.ready().await
            });
        }
        while let Some(stopped) = stopping.join_next().await {
            stopped??;
        }
        if begun >= plan.terminated {
            return Ok(());
        }
        // The others find those that are back.
        tokio::time::sleep(Duration::from_secs(1)).await;
        if begun + world.machine.copies.len() as u64 <= plan.terminated {
            load.watch(world, plan.watched.div_ceil(INSTANCES_WATCHED), 1).await;
        }
    }
    Ok(())
}
