//! Taking effect once, however often an event arrives.

use phasegate_clock::Timestamp;
use phasegate_database::{Error, Transaction, args};

/// Notes that `consumer` takes an event, in the transaction of the effect. False when it was taken before: then there
/// is nothing to do.
pub async fn inbox_receive(
    tx: &mut Transaction,
    consumer: &str,
    event_id: impl AsRef<str> + Send,
    now: Timestamp,
) -> Result<bool, Error> {
    let noted = tx
        .execute(
            "insert into inbox (consumer, event_id, received_at) values ($1, $2, $3) on conflict do nothing",
            args![consumer, event_id.as_ref(), now],
        )
        .await?;
    Ok(noted == 1)
}
