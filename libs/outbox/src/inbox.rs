//! Taking effect once, however often an event arrives.

use futures::future::BoxFuture;
use phasegate_clock::Timestamp;
use phasegate_database::{Database, Dialect, Error, Transaction, args};
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

/// What one takes an event with.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Whose event it is.
    pub tenant_id: String,
    /// Who takes it.
    pub consumer: &'static str,
    /// The event.
    pub event_id: String,
    /// When.
    pub at: Timestamp,
}

/// Does `work` in a transaction that takes an event. `None` where that was taken before: then nothing is done.
pub async fn inbox_take<T, E, F>(db: &Database, receipt: Receipt, work: F) -> Result<Option<T>, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: for<'t> FnOnce(&'t mut Transaction) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
{
    let Receipt { tenant_id, consumer, event_id, at } = receipt.clone();
    let taking = db.transaction(move |tx| {
        Box::pin(async move {
            match tx.dialect() {
                Dialect::Postgres => {
                    if !inbox_receive(tx, &tenant_id, consumer, &event_id, at).await? {
                        return Ok(None);
                    }
                }
                // Nobody waits to hear of it: it hardly ever was taken before, and then the transaction fails.
                Dialect::Sqlite if planted::is(Bug::NoInbox) => {}
                Dialect::Sqlite => {
                    tx.put(
                        "insert into inbox (tenant_id, consumer, event_id, received_at) values ($1, $2, $3, $4)",
                        args![tenant_id, consumer, event_id, at],
                    )
                    .await?;
                }
            }
            work(tx).await.map(Some)
        })
    });
    match taking.await {
        Err(error) => {
            if is_taken(db, receipt).await? {
                Ok(None)
            } else {
                Err(error)
            }
        }
        done => done,
    }
}

async fn is_taken(db: &Database, receipt: Receipt) -> Result<bool, Error> {
    let sql = "select 1 as one from inbox where tenant_id = $1 and consumer = $2 and event_id = $3";
    let row = db.fetch_optional(sql, args![receipt.tenant_id, receipt.consumer, receipt.event_id]).await?;
    Ok(row.is_some())
}
