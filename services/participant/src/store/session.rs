//! Sessions and nonces. Both are found by the hash of what their holder shows, and the row says whose they are.

use phasegate_clock::Timestamp;
use phasegate_database::{Transaction, args};

use super::{Error, Store, limit_of, row};
use crate::domain::session::Session;

/// Writes a session.
pub async fn session_insert_in(
    tx: &mut Transaction,
    session: &Session,
    hash: &[u8; 32],
    now: Timestamp,
) -> Result<(), Error> {
    tx.execute(
        "insert into session (tenant_id, session_hash, link_id, opened_at, last_used_at, ends_at, expires_at)
         values ($1, $2, $3, $4, $4, $5, $6)",
        args![session.tenant.as_str(), hash, session.link.as_str(), now, session.ends_at, session.expires_at],
    )
    .await?;
    Ok(())
}

/// Notes that a session was used: it now ends then, if it is not used again.
pub async fn session_touch_in(
    tx: &mut Transaction,
    hash: &[u8; 32],
    expires_at: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    tx.execute(
        "update session set last_used_at = $2, expires_at = $3
          where session_hash = $1 and expires_at > $2 and last_used_at < $2",
        args![hash, now, expires_at],
    )
    .await?;
    Ok(())
}

/// Notes that a live session writes. False when it has written before, or is over.
pub async fn session_write_in(tx: &mut Transaction, hash: &[u8; 32], now: Timestamp) -> Result<bool, Error> {
    let noted = tx
        .execute(
            "update session set wrote_at = $2 where session_hash = $1 and wrote_at is null and expires_at > $2",
            args![hash, now],
        )
        .await?;
    Ok(noted == 1)
}

/// Writes a nonce of a session.
pub async fn nonce_insert_in(
    tx: &mut Transaction,
    session: &Session,
    session_hash: &[u8; 32],
    nonce_hash: &[u8; 32],
    subject: &str,
    expires_at: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    tx.execute(
        "insert into nonce (tenant_id, nonce_hash, session_hash, subject, issued_at, expires_at)
         values ($1, $2, $3, $4, $5, $6)",
        args![session.tenant.as_str(), nonce_hash, session_hash, subject, now, expires_at],
    )
    .await?;
    Ok(())
}

/// Uses a nonce up. Everything that makes it good stands in this one statement, so that of many who come at once
/// exactly one is told that it was.
pub async fn nonce_use_in(
    tx: &mut Transaction,
    session_hash: &[u8; 32],
    nonce_hash: &[u8; 32],
    subject: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    let used = tx
        .execute(
            "update nonce set used_at = $4
              where nonce_hash = $1 and session_hash = $2 and subject = $3 and used_at is null and expires_at > $4
                and exists (
                    select 1 from session s join link l on l.tenant_id = s.tenant_id and l.link_id = s.link_id
                     where s.tenant_id = nonce.tenant_id and s.session_hash = nonce.session_hash
                       and s.expires_at > $4 and l.revoked_at is null and l.expires_at > $4)",
            args![nonce_hash, session_hash, subject, now],
        )
        .await?;
    Ok(used == 1)
}

// === impl Store ===

impl Store {
    /// Reads a session by the hash of its token, whoever's it is.
    pub async fn session_find(&self, hash: &[u8; 32]) -> Result<Option<Session>, Error> {
        let found = self
            .db
            .across_tenants()
            .fetch_optional(
                "select tenant_id, link_id, last_used_at, ends_at, expires_at, wrote_at
                   from session where session_hash = $1",
                args![hash],
            )
            .await?;
        found.as_ref().map(row::session).transpose()
    }

    /// Deletes sessions and nonces that ended before `before`, and asks for fresh links from before `asked_before`, at
    /// most `most` of each; answers whether there may be more.
    pub async fn sweep(
        &self,
        before: Timestamp,
        asked_before: Timestamp,
        most: usize,
    ) -> Result<bool, Error> {
        let limit = limit_of(most);
        self.db
            .across_tenants()
            .transaction(move |tx| {
                Box::pin(async move {
                    let nonces = tx
                        .execute(
                            "delete from nonce where (tenant_id, nonce_hash) in (
                                select tenant_id, nonce_hash from nonce where expires_at < $1
                                 order by expires_at limit $2)",
                            args![before, limit],
                        )
                        .await?;
                    let sessions = tx
                        .execute(
                            "delete from session where (tenant_id, session_hash) in (
                                select tenant_id, session_hash from session where expires_at < $1
                                 order by expires_at limit $2)",
                            args![before, limit],
                        )
                        .await?;
                    let asked = tx
                        .execute(
                            "delete from fresh_link where (tenant_id, fresh_link_id) in (
                                select tenant_id, fresh_link_id from fresh_link where asked_at < $1
                                 order by asked_at limit $2)",
                            args![asked_before, limit],
                        )
                        .await?;
                    let full = u64::try_from(most).unwrap_or(u64::MAX);
                    Ok::<_, Error>([nonces, sessions, asked].into_iter().any(|deleted| deleted >= full))
                })
            })
            .await
    }
}
