//! Settings.

use std::time::Duration;

use phasegate_database::Settings;

/// Settings of the approval service.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the tables are.
    pub database: Settings,
    /// How often it looks for timers that are due: they fire at most this late.
    pub timer_interval: Duration,
    /// How long a watcher of answers hears nothing at most. Callers are promised 15 s.
    pub checkpoint_interval: Duration,
}

impl Config {
    /// The usual settings.
    pub fn new(database: Settings) -> Self {
        Self {
            database,
            timer_interval: Duration::from_millis(500),
            checkpoint_interval: Duration::from_secs(10),
        }
    }
}
