//! The settings of the service.

use std::time::Duration;

use phasegate_database::Settings;

/// What the service is run with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where its database is.
    pub database: Settings,
    /// How often leases are looked at that may have run out.
    pub lease_scan: Duration,
    /// Instances whose state stays in memory.
    pub cached_instances: usize,
    /// A watcher hears that nothing has happened this often.
    pub checkpoint: Duration,
}

impl Config {
    /// The usual settings on a database.
    pub fn new(database: Settings) -> Self {
        Self {
            database,
            lease_scan: Duration::from_millis(500),
            cached_instances: 2_000,
            checkpoint: Duration::from_secs(15),
        }
    }
}
