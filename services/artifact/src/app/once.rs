//! One effect for one request id. The answer is kept in the transaction of the effect; a repetition gets it again, and
//! of two that come at once one loses the race, looks again, and gets the other's.

use std::time::{Duration, Instant};

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Transaction};
use phasegate_idempotency::{self as idempotency, Key};
use phasegate_principal::Principal;
use phasegate_rpc_error::Invalid;

use super::Error;
use crate::store;

/// Longest request id.
const REQUEST_ID_CHARS_MAX: usize = 128;
/// How often a change is tried when others write at the same time.
const ATTEMPTS_MAX: usize = 4;
/// A database that has taken this long is not asked again: the caller is waiting, and can ask again itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// How a request is told from its repetition, and how its answer is kept.
#[derive(Debug)]
pub struct Once<T> {
    key: Key,
    fingerprint: [u8; 32],
    encode: Encode<T>,
}

/// Makes the answer that is kept.
type Encode<T> = fn(&T) -> Result<Vec<u8>, Error>;

/// What a change comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// It was done.
    First(T),
    /// It had been done: the answer as it was encoded then.
    Repeated(Vec<u8>),
}

// === impl Once ===

impl<T> Clone for Once<T> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), fingerprint: self.fingerprint, encode: self.encode }
    }
}

impl<T> Once<T> {
    /// Reads the request id of a request; nothing where there is none.
    pub fn of(
        principal: &Principal,
        method: &'static str,
        request_id: &str,
        request: &impl prost::Message,
        encode: Encode<T>,
    ) -> Result<Option<Self>, Error> {
        if request_id.is_empty() {
            return Ok(None);
        }
        if request_id.len() > REQUEST_ID_CHARS_MAX || !request_id.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let message = format!("must be at most {REQUEST_ID_CHARS_MAX} visible ASCII characters");
            return Err(Invalid::new("REQUEST_ID_INVALID", "request_id", message).into());
        }
        let actor = format!("{:?}:{}", principal.kind, principal.id).to_ascii_lowercase();
        let key = Key::new(&principal.tenant, actor, method, request_id);
        Ok(Some(Self { key, fingerprint: idempotency::fingerprint(request), encode }))
    }

    /// Keeps the answer with the effect.
    pub async fn keep_in(&self, tx: &mut Transaction, answer: &T, now: Timestamp) -> Result<(), Error> {
        idempotency::store(tx, &self.key, self.fingerprint, (self.encode)(answer)?, now)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn lookup(&self, db: &Database) -> Result<Option<Vec<u8>>, Error> {
        idempotency::lookup(db, &self.key, self.fingerprint).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: idempotency::Error) -> Error {
        let request_id = self.key.request_id.clone();
        match error {
            idempotency::Error::Reused => Error::RequestIdReused { request_id },
            idempotency::Error::Raced => Error::RequestInProgress { request_id },
            idempotency::Error::Database(error) => Error::Store(store::Error::Database(error)),
        }
    }
}

/// Does `change` unless it was done before, again while others write at the same time.
pub async fn run<T, F>(
    db: &Database,
    once: Option<&Once<T>>,
    change: impl Fn() -> F,
) -> Result<Answer<T>, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let begun = Instant::now();
    let mut attempt = 1;
    loop {
        if let Some(once) = once
            && let Some(answer) = once.lookup(db).await?
        {
            return Ok(Answer::Repeated(answer));
        }
        match change().await {
            Ok(answer) => return Ok(Answer::First(answer)),
            Err(error) if error.is_race() && attempt < ATTEMPTS_MAX && begun.elapsed() < PATIENCE => {
                attempt += 1;
            }
            // What is in the way may be the effect of the first one, which was done meanwhile.
            Err(error) => {
                return match once {
                    Some(once) => once.lookup(db).await?.map(Answer::Repeated).ok_or(error),
                    None => Err(error),
                };
            }
        }
    }
}
