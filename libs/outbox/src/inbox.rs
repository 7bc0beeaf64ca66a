//! Taking effect once, however often an event arrives.

use phasegate_clock::Timestamp;
use phasegate_database::{Error, Transaction, args};
use phasegate_planted::{self as planted, Bug};

/// Notes that `consumer` takes an event of a tenant, in the transaction of the effect. False when it was taken before:
/// then there is nothing to do. Who names an event of one tenant cannot make another one's pass for taken.
pub async fn inbox_receive(
    tx: &mut Transaction,
    tenant_id: impl AsRef<str> + Send,
    consumer: &str,
    event_id: impl AsRef<str> + Send,
    now: Timestamp,
) -> Result<bool, Error> {
    if planted::is(Bug::NoInbox) {
        return Ok(true);
    }
    let noted = tx
        .execute(
            "insert into inbox (tenant_id, consumer, event_id, received_at) values ($1, $2, $3, $4)
             on conflict do nothing",
            args![tenant_id.as_ref(), consumer, event_id.as_ref(), now],
        )
        .await?;
    Ok(noted == 1)
}
