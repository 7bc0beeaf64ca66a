//! The settings of this service.

use phasegate_database::Settings;

/// Every setting, with its meaning.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the database is.
    pub database: Settings,
}

impl Config {
    /// The usual settings on a database.
    pub fn new(database: Settings) -> Self {
        Self { database }
    }
}
