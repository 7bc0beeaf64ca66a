//! Whether a PostgreSQL server keeps what it has acknowledged.

use crate::{Database, Error, args};

/// Settings of the server without which a power failure can lose what was acknowledged.
const NEEDED: [&str; 3] = ["fsync", "full_page_writes", "synchronous_commit"];

/// Refuses a server that may lose what it has acknowledged.
pub(crate) async fn check(database: &Database) -> Result<(), Error> {
    for name in NEEDED {
        let row = database
            .fetch_optional("select current_setting($1) as setting", args![name])
            .await?
            .ok_or_else(|| Error::Unsafe(format!("the server does not tell its {name}")))?;
        let setting: String = row.get("setting")?;
        if setting == "off" {
            return Err(Error::Unsafe(format!(
                "{name} is off, so that a power failure can lose what was acknowledged; turn it on"
            )));
        }
    }
    Ok(())
}
