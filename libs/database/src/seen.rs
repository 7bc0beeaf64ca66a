//! What is seen of a database: its connections.

use std::sync::Arc;

use futures::future::BoxFuture;
use phasegate_clock::Timestamp;
use phasegate_telemetry::metrics::{Gauge, Observed, Sample, Source, observe};

use crate::{Database, Error, Pools, args};

static CONNECTIONS: Gauge<2> = Gauge::new(
    "phasegate_db_pool_connections",
    "Connections of a service to its database, by what they are doing: used or idle.",
    ["service", "state"],
);

struct Connections(&'static str, Database);

impl Database {
    /// Tells of the connections of `service` until what is returned is dropped.
    pub fn observe(&self, service: &'static str) -> Observed {
        observe(Arc::new(Connections(service, self.clone())))
    }

    /// Asks the database for a sign of life.
    pub async fn ping(&self) -> Result<(), Error> {
        self.fetch_all("select 1 as alive", args![]).await.map(drop)
    }

    /// What time it is for the database, which all copies of a service share.
    pub async fn now(&self) -> Result<Timestamp, Error> {
        let sql = self.dialect().pick(
            "select (extract(epoch from clock_timestamp()) * 1000000)::bigint as now",
            "select cast(unixepoch('now', 'subsec') * 1000000 as integer) as now",
        );
        let row = self.fetch_optional(sql, args![]).await?;
        row.map_or_else(|| Ok(Timestamp::default()), |row| row.get("now"))
    }

    /// Whether the database answers, for whoever asks again and again.
    pub fn answers(&self) -> impl Fn() -> BoxFuture<'static, bool> + Send + use<> {
        let database = self.clone();
        move || {
            let database = database.clone();
            Box::pin(async move { database.ping().await.is_ok() })
        }
    }
}

impl Source for Connections {
    fn read(&self) -> BoxFuture<'_, Vec<Sample>> {
        let (all, idle) = match &self.1.pools {
            Pools::Postgres(pool) => pool.connections(),
            Pools::Sqlite(pool) => pool.connections(),
        };
        let count = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        Box::pin(std::future::ready(vec![
            CONNECTIONS.sample([self.0, "used"], count(all.saturating_sub(idle))),
            CONNECTIONS.sample([self.0, "idle"], count(idle)),
        ]))
    }
}
