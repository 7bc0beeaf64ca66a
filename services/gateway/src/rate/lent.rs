//! The budgets that all copies of the gateway have in common, in Redis. Nobody waits long for it: where it does not answer,
//! each copy counts by itself until it does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use phasegate_bus::Settings;
use phasegate_telemetry::metrics::{Held, Level};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{RedisError, Script};
use tokio::time::Instant;

use super::budget::Rate;

/// Spends up to so many calls of a budget, by the clock of Redis: how many, and the microseconds until there is one again.
/// The key holds the microsecond at which the budget is full again, and is gone by then.
const SPEND: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local room = interval * burst - (full_at - now)
local spent = math.min(math.floor(room / interval), wanted)
if spent < 1 then return {0, math.ceil(interval - room)} end
full_at = full_at + spent * interval
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
return {spent, 0}
";

/// How long a connection to Redis may take, and a question whether it is back.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// From one such question to the next.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// A Redis that comes and goes is told of this often.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// Whether this copy counts by itself.
static COUNTED_ALONE: Level<0> = Level::new(
    "phasegate_rate_limits_alone",
    "1 while a gateway keeps rate limits by itself, because Redis does not answer.",
    [],
);

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lent {
    /// So many calls.
    Calls(u32),
    /// None, for so long.
    Nothing(Duration),
}

/// Redis.
pub(super) struct Shared {
    connection: ConnectionManager,
    script: Script,
    prefix: String,
    /// How long a call waits for an answer.
    patience: Duration,
    is_there: AtomicBool,
    standing: Mutex<Standing>,
}

/// What is told of a Redis that is away.
#[derive(Debug, Default)]
struct Standing {
    is_alone: bool,
    counted: Option<Held>,
    said: Option<Instant>,
}

impl Shared {
    /// Does not connect yet: until [`Shared::watch`] has, each copy counts by itself.
    pub(super) fn new(settings: &Settings, patience: Duration) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(200))
            .set_connection_timeout(Some(CONNECT_TIME_MAX))
            .set_response_timeout(Some(CONNECT_TIME_MAX));
        let client = redis::Client::open(settings.url.as_str())?;
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(client, config)?,
            script: Script::new(SPEND),
            prefix: settings.prefix.clone(),
            patience,
            is_there: AtomicBool::new(false),
            standing: Mutex::default(),
        })
    }

    /// Whether it is worth asking.
    pub(super) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Relaxed)
    }

    /// Takes up to so many calls out of a budget; nothing if Redis does not say in time.
    pub(super) async fn spend(&self, name: &str, rate: Rate, wanted: u32) -> Option<Lent> {
        let mut connection = self.connection.clone();
        let mut question = self.script.key(format!("{}:rate:{name}", self.prefix));
        let interval = rate.interval().as_nanos();
        question.arg(format!("{}.{:03}", interval / 1_000, interval % 1_000)).arg(rate.burst).arg(wanted);
        let answer = tokio::time::timeout(self.patience, question.invoke_async(&mut connection)).await;
        let problem = match answer {
            Ok(Ok((0_u32, micros))) => return Some(Lent::Nothing(Duration::from_micros(micros))),
            Ok(Ok((calls, _))) => return Some(Lent::Calls(calls)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} ms", self.patience.as_millis()),
        };
        self.is_away(&problem);
        None
    }

    /// Asks again and again while Redis is away whether it is back. Ends never.
    pub(super) async fn watch(&self) {
        loop {
            if !self.is_there() {
                let mut connection = self.connection.clone();
                let ping = async { redis::cmd("PING").exec_async(&mut connection).await };
                match tokio::time::timeout(CONNECT_TIME_MAX, ping).await {
                    Ok(Ok(())) => self.is_back(),
                    Ok(Err(error)) => self.is_away(&error.to_string()),
                    Err(_) => self.is_away("no answer"),
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn is_back(&self) {
        self.is_there.store(true, Ordering::Relaxed);
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.counted = None;
        if std::mem::replace(&mut standing.is_alone, false) {
            tracing::info!("Redis is back: rate limits are kept in common");
        }
    }

    /// Says so once, and not again for a while.
    fn is_away(&self, problem: &str) {
        self.is_there.store(false, Ordering::Relaxed);
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut standing.is_alone, true) {
            return;
        }
        standing.counted = COUNTED_ALONE.hold([]);
        if standing.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            standing.said = Some(Instant::now());
            tracing::warn!(problem, "Redis is away: each gateway keeps rate limits by itself");
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("prefix", &self.prefix)
            .field("is_there", &self.is_there())
            .finish_non_exhaustive()
    }
}
