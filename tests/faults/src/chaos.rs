//! Breaks things, in an order that a seed gives.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::plan::Plan;
use crate::proxy::{Mode, Proxy};
use crate::world::World;

/// Takes away every third key, and half of the entries of every other stream.
const TRUNCATE: &str = "for i, key in ipairs(redis.call('KEYS', '*')) do \
    if i % 3 == 0 then redis.call('DEL', key) \
    elseif redis.call('TYPE', key).ok == 'stream' then \
    redis.call('XTRIM', key, 'MAXLEN', math.floor(redis.call('XLEN', key) / 2)) end end return 1";

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill(usize),
    Hold(usize),
    KillPostgres,
    KillRedis,
    EmptyRedis,
    TruncateRedis,
    On(Wire, Harm),
}

/// Between whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Clients,
    Postgres,
    Redis,
}

/// What a proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Cut,
    Delay,
    Silence,
    Swallow,
}

/// Breaks things for as long as the plan says. Returns once everything is whole again.
pub(crate) async fn rages(world: &Arc<World>, plan: &Plan, seed: u64) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut deck = deck(world, plan);
    deck.shuffle(&mut random);
    let began = Instant::now();
    let slots = u32::try_from(deck.len())?.max(1);
    let mut under_way = JoinSet::new();
    world.sink.misbehave(true);
    for (slot, fault) in (0..).zip(deck) {
        let jitter = random.random_range(0.0..1.0);
        let at = plan.chaos.mul_f64((f64::from(slot) + jitter) / f64::from(slots));
        tokio::time::sleep_until(began + at).await;
        let time = Duration::from_millis(random.random_range(200..2_500));
        let world = world.clone();
        under_way.spawn(async move { strikes(&world, fault, time).await });
        while let Some(ended) = under_way.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = under_way.join_next().await {
        ended??;
    }
    world.sink.misbehave(false);
    for proxy in world.to_gateways.iter().chain([&world.to_postgres, &world.to_redis]) {
        proxy.set(Mode::Pass);
        proxy.swallow(0);
    }
    Ok(())
}

/// Everything that has to happen, and a little more, because a process may just be down when its turn comes.
fn deck(world: &World, plan: &Plan) -> Vec<Fault> {
    let more = |count: u64| count + count / 8 + 1;
    let copies = world.machine.copies.len();
    let servers = [(Fault::KillPostgres, plan.kills_each * 2), (Fault::KillRedis, plan.kills_each * 2)];
    let mut deck = Vec::new();
    for (fault, count) in servers {
        deck.extend((0..more(count)).map(|_| fault));
    }
    let rest = more(plan.kills).saturating_sub(deck.len() as u64);
    deck.extend((0..copies).cycle().zip(0..rest).map(|(copy, _)| Fault::Kill(copy)));
    deck.extend((0..copies).cycle().zip(0..plan.faults_each * 6).map(|(copy, _)| Fault::Hold(copy)));
    for _ in 0..more(plan.faults_each.max(plan.losses)) {
        deck.extend([Fault::EmptyRedis, Fault::TruncateRedis]);
    }
    for wire in [Wire::Clients, Wire::Postgres, Wire::Redis] {
        for harm in [Harm::Cut, Harm::Delay, Harm::Silence, Harm::Swallow] {
            deck.extend((0..more(plan.faults_each)).map(|_| Fault::On(wire, harm)));
        }
    }
    deck
}

async fn strikes(world: &World, fault: Fault, time: Duration) -> anyhow::Result<()> {
    match fault {
        Fault::Kill(copy) => {
            let Some(copy) = world.machine.copies.get(copy) else { return Ok(()) };
            if copy.kill().await? {
                world.has_killed(copy.service);
            }
        }
        Fault::Hold(copy) => {
            let Some(copy) = world.machine.copies.get(copy) else { return Ok(()) };
            if copy.hold(time * 2).await? {
                world.has_broken("stop and continue");
            }
        }
        Fault::KillPostgres => kills_postgres(world, time / 4).await?,
        Fault::KillRedis => {
            let mut redis = world.redis.lock().await;
            redis.kill();
            tokio::time::sleep(time / 2).await;
            redis.restart().await?;
            drop(redis);
            world.has_killed("redis");
            world.counts().redis_lost += 1;
        }
        Fault::EmptyRedis => {
            world.redis.lock().await.empty().await?;
            world.has_broken("empty Redis");
            world.counts().redis_lost += 1;
        }
        Fault::TruncateRedis => {
            world.redis.lock().await.command(&["EVAL", TRUNCATE, "0"]).await?;
            world.has_broken("truncate Redis");
        }
        Fault::On(wire, harm) => harms(world, wire, harm, time).await,
    }
    Ok(())
}

/// Kills PostgreSQL, leaves it away for a time, starts it again, and measures how long until a change is acknowledged.
pub(crate) async fn kills_postgres(world: &World, away: Duration) -> anyhow::Result<()> {
    let mut postgres = world.postgres.lock().await;
    postgres.kill().await?;
    tokio::time::sleep(away).await;
    postgres.start_again().await?;
    drop(postgres);
    world.has_killed("postgres");
    let back = Instant::now();
    while world.run.acknowledged_at() <= back {
        if back.elapsed() > Duration::from_secs(30) {
            world.run.fault("PostgreSQL is back, and nothing was acknowledged for 30 s".to_owned());
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.counts().postgres_back.push(back.elapsed());
    Ok(())
}

async fn harms(world: &World, wire: Wire, harm: Harm, time: Duration) {
    let mut random = StdRng::seed_from_u64(u64::try_from(time.as_micros()).unwrap_or_default());
    let proxy: &Proxy = match wire {
        Wire::Clients => match world.to_gateways.choose(&mut random) {
            Some(proxy) => proxy,
            None => return,
        },
        Wire::Postgres => &world.to_postgres,
        Wire::Redis => &world.to_redis,
    };
    match harm {
        Harm::Cut => proxy.cut(),
        Harm::Swallow => proxy.swallow(5),
        Harm::Delay | Harm::Silence => {
            let mode = if harm == Harm::Delay { Mode::Delay(time / 50) } else { Mode::Silence };
            proxy.set(mode);
            tokio::time::sleep(time).await;
            if harm == Harm::Silence {
                proxy.cut();
            }
            proxy.set(Mode::Pass);
        }
    }
    world.has_broken(match (wire, harm) {
        (Wire::Clients, Harm::Cut) => "cut clients",
        (Wire::Clients, Harm::Delay) => "delay clients",
        (Wire::Clients, Harm::Silence) => "silence clients",
        (Wire::Clients, Harm::Swallow) => "swallow replies to clients",
        (Wire::Postgres, Harm::Cut) => "cut PostgreSQL",
        (Wire::Postgres, Harm::Delay) => "delay PostgreSQL",
        (Wire::Postgres, Harm::Silence) => "silence PostgreSQL",
        (Wire::Postgres, Harm::Swallow) => "swallow commits",
        (Wire::Redis, Harm::Cut) => "cut Redis",
        (Wire::Redis, Harm::Delay) => "delay Redis",
        (Wire::Redis, Harm::Silence) => "silence Redis",
        (Wire::Redis, Harm::Swallow) => "swallow replies of Redis",
    });
}
