//! What is seen of a database: its connections.

use std::sync::Arc;

use futures::future::BoxFuture;
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
