//! Everything that a run has, and the counts that the run itself keeps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use phasegate_load::ledger::Kind;
use phasegate_load::machine::{Machine, Postgres};
use phasegate_load::meter::Meter;
use phasegate_load::run::{Run, Swallower};
use phasegate_load::sink::Sink;
use phasegate_test_redis::TestRedis;
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;

use crate::proxy::{Keeper, Proxy};

/// What a run has.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) postgres: AsyncMutex<Postgres>,
    pub(crate) redis: AsyncMutex<TestRedis>,
    /// Before each copy of the gateway.
    pub(crate) to_gateways: Vec<Arc<Proxy>>,
    pub(crate) to_postgres: Arc<Proxy>,
    pub(crate) to_redis: Arc<Proxy>,
    pub(crate) sink: Arc<Sink>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) run: Arc<Run>,
    pub(crate) losses: Arc<Losses>,
    counts: Mutex<Counts>,
}

/// What was done to the processes and their servers, and what came of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) kills: BTreeMap<&'static str, u64>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) redis_lost: u64,
    /// Writes that were acknowledged by the time that nothing broke any more.
    pub(crate) acknowledged: u64,
    /// From PostgreSQL's being back to the first change that was acknowledged, each time.
    pub(crate) postgres_back: Vec<Duration>,
    pub(crate) duels: u64,
    pub(crate) duel_calls: u64,
    pub(crate) stale_tried: u64,
    pub(crate) stale_accepted: u64,
    pub(crate) exits: Vec<Duration>,
    pub(crate) exits_late: u64,
    pub(crate) converged: Option<Duration>,
}

impl World {
    pub(crate) fn new(
        machine: Machine,
        postgres: Postgres,
        redis: TestRedis,
        (to_gateways, to_postgres, to_redis): (Vec<Arc<Proxy>>, Arc<Proxy>, Arc<Proxy>),
        (sink, meter): (Arc<Sink>, Arc<Meter>),
        (run, losses): (Arc<Run>, Arc<Losses>),
    ) -> Self {
        let (postgres, redis) = (AsyncMutex::new(postgres), AsyncMutex::new(redis));
        let counts = Mutex::default();
        Self {
            machine,
            postgres,
            redis,
            to_gateways,
            to_postgres,
            to_redis,
            sink,
            meter,
            run,
            losses,
            counts,
        }
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_killed(&self, what: &'static str) {
        *self.counts().kills.entry(what).or_default() += 1;
    }

    pub(crate) fn has_broken(&self, what: &'static str) {
        *self.counts().faults.entry(what).or_default() += 1;
    }
}

/// Replies that are kept from the clients.
#[derive(Debug)]
pub(crate) struct Losses {
    keeper: Arc<Keeper>,
    port: u16,
    /// Of each kind of change.
    wanted: u64,
    kinds: Mutex<BTreeMap<Kind, Loss>>,
}

/// Of one kind.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Loss {
    /// Calls that could have lost their replies.
    tried: u64,
    /// Replies that were lost and came again.
    pub(crate) repeated: u64,
}

impl Losses {
    pub(crate) fn new(keeper: Arc<Keeper>, port: u16, wanted: u64) -> Self {
        Self { keeper, port, wanted, kinds: Mutex::default() }
    }

    pub(crate) fn kinds(&self) -> BTreeMap<Kind, Loss> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Swallower for Losses {
    /// Often until there were enough, then now and then.
    fn wants(&self, kind: Kind) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let loss = kinds.entry(kind).or_default();
        loss.tried += 1;
        let every = if loss.repeated < self.wanted { 2 } else { 40 };
        loss.tried.is_multiple_of(every)
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn reply(&self, request_id: &str) -> Option<(u16, Value)> {
        self.keeper.reply(request_id)
    }

    fn repeated(&self, kind: Kind) {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default().repeated += 1;
    }
}
