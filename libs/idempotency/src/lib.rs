//! The first answer to a request id: a repeated request gets it again and changes nothing.
//!
//! The answer is stored in the transaction of the effect, under tenant, caller and method, with a fingerprint of the
//! request: so a lost reply can be asked for again, nobody gets the answer of another, and an id that is used again for
//! something else is refused. [`run`] does a change once; a service that writes in another way uses [`lookup`] and
//! [`store`] themselves. What is in an answer is for each service to say.

mod once;

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Migration, Transaction, args};
use phasegate_planted::{self as planted, Bug};
use phasegate_principal::{Caller, Principal};
use phasegate_rpc_error::Invalid;
use sha2::{Digest as _, Sha256};
use tonic::Response;
use tonic::metadata::MetadataValue;

pub use once::{Answer, Encode, Failure, Once, Refused, run};

/// Metadata of an answer that is that of an earlier call, or that found its effect there already.
const REPEATED: &str = "phasegate-repeated";

/// The table of this crate. The second migration of every service.
pub const MIGRATION: Migration = Migration {
    version: 2,
    name: "idempotency",
    postgres: "
-- The first answer to a request id, kept for a week at least.
create table idempotency (
    tenant_id text not null,
    actor_id text not null,
    method text not null,
    request_id text not null,
    -- SHA-256 of the request: the same id for another request is refused.
    fingerprint bytea not null,
    answer bytea not null,
    created_at bigint not null,
    constraint idempotency_pk primary key (tenant_id, actor_id, method, request_id)
);
create index idempotency_created on idempotency (created_at);
",
    sqlite: "
-- The first answer to a request id, kept for a week at least.
create table idempotency (
    tenant_id text not null,
    actor_id text not null,
    method text not null,
    request_id text not null,
    -- SHA-256 of the request: the same id for another request is refused.
    fingerprint blob not null,
    answer blob not null,
    created_at integer not null,
    constraint idempotency_pk primary key (tenant_id, actor_id, method, request_id)
) strict;
create index idempotency_created on idempotency (created_at);
",
};

/// How long an answer stays, in microseconds: eight days, so that "seven days" holds whatever the clocks say.
const KEPT_MICROS: i64 = 8 * 24 * 3_600 * 1_000_000;
/// Old answers that one transaction deletes.
const DELETED_AT_ONCE: i64 = 500;
/// Longest request id.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// What a request is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Tenant of the caller.
    pub tenant: String,
    /// The caller: kind and id, and for a person the instance.
    pub actor: String,
    /// The method, such as `StartInstance`.
    pub method: String,
    /// What the caller sent.
    pub request_id: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id was used for another request.
    #[error("the request id was used for another request")]
    Reused,
    /// The same request was answered at the same time: roll back, and look up again.
    #[error("the same request was answered at the same time")]
    Raced,
    /// The database could not.
    #[error(transparent)]
    Database(#[from] phasegate_database::Error),
}

// === impl Key ===

impl Key {
    /// A key of its four parts.
    pub fn new(
        tenant: impl Into<String>,
        actor: impl Into<String>,
        method: impl Into<String>,
        request_id: impl Into<String>,
    ) -> Self {
        Self {
            tenant: tenant.into(),
            actor: actor.into(),
            method: method.into(),
            request_id: request_id.into(),
        }
    }

    /// What a caller's request is known by; nothing where it has no id.
    pub fn of(principal: &Principal, method: &str, request_id: &str) -> Result<Option<Self>, Invalid> {
        if request_id.is_empty() {
            return Ok(None);
        }
        if request_id.len() > REQUEST_ID_CHARS_MAX || !request_id.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let message = format!("must be at most {REQUEST_ID_CHARS_MAX} visible ASCII characters");
            return Err(Invalid::new("REQUEST_ID_INVALID", "request_id", message));
        }
        Ok(Some(Self::new(principal.tenant.as_str(), actor(principal), method, request_id)))
    }
}

/// Who calls. A person's id is the definition's, so that the same one stands for somebody else in every instance.
fn actor(principal: &Principal) -> String {
    let kind = match principal.kind {
        Caller::Operator => "operator",
        Caller::Service => "service",
        Caller::Participant => "participant",
        Caller::System => "system",
    };
    match &principal.participation {
        Some(own) => format!("{kind}:{}:{}", own.instance_id, principal.id),
        None => format!("{kind}:{}", principal.id),
    }
}

/// An answer on its way, marked where it is that of an earlier call or there was nothing to do.
pub fn respond<M>(message: M, is_repeated: bool) -> Response<M> {
    let mut response = Response::new(message);
    if is_repeated {
        response.metadata_mut().insert(REPEATED, MetadataValue::from_static("1"));
    }
    response
}

/// What a request says, in 32 bytes.
pub fn fingerprint(request: &impl prost::Message) -> [u8; 32] {
    Sha256::digest(request.encode_to_vec()).into()
}

/// The first answer, if there was one.
pub async fn lookup(db: &Database, key: &Key, fingerprint: [u8; 32]) -> Result<Option<Vec<u8>>, Error> {
    let row = db
        .fetch_optional(
            "select fingerprint, answer from idempotency
              where tenant_id = $1 and actor_id = $2 and method = $3 and request_id = $4",
            args![&key.tenant, &key.actor, &key.method, &key.request_id],
        )
        .await?;
    let Some(row) = row.filter(|_| !planted::is(Bug::RequestRunsAgain)) else { return Ok(None) };
    if row.get::<[u8; 32]>("fingerprint")? != fingerprint {
        return Err(Error::Reused);
    }
    Ok(Some(row.get("answer")?))
}

/// Keeps the answer, in the transaction of the effect.
pub async fn store(
    tx: &mut Transaction,
    key: &Key,
    fingerprint: [u8; 32],
    answer: Vec<u8>,
    now: Timestamp,
) -> Result<(), Error> {
    let stored = tx
        .execute(
            "insert into idempotency (tenant_id, actor_id, method, request_id, fingerprint, answer, created_at)
             values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
            args![&key.tenant, &key.actor, &key.method, &key.request_id, fingerprint, answer, now],
        )
        .await?;
    if stored == 0 && !planted::is(Bug::RequestRunsAgain) {
        return Err(Error::Raced);
    }
    if clears_up(&fingerprint) {
        clear_up(tx, now).await?;
    }
    Ok(())
}

/// One request in 256 clears up after the others, so that nobody has to run a loop for it.
pub const fn clears_up(fingerprint: &[u8; 32]) -> bool {
    fingerprint[0] == 0
}

/// Deletes some of the answers that nobody may ask for any more.
pub async fn clear_up(tx: &mut Transaction, now: Timestamp) -> Result<(), phasegate_database::Error> {
    tx.execute(
        "delete from idempotency where (tenant_id, actor_id, method, request_id) in (
                select tenant_id, actor_id, method, request_id from idempotency where created_at < $1 limit $2)",
        args![now.as_micros().saturating_sub(KEPT_MICROS), DELETED_AT_ONCE],
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;
    use phasegate_clock::Timestamp;
    use phasegate_database::{Database, args};
    use phasegate_principal::{Participation, Principal};
    use phasegate_test_database::{TestDatabase, both};

    use super::{Error, Key, MIGRATION, lookup, store};

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

    async fn keep(
        db: &Database,
        key: &Key,
        print: [u8; 32],
        answer: &[u8],
        now: Timestamp,
    ) -> Result<(), Error> {
        let (key, answer) = (key.clone(), answer.to_vec());
        db.transaction(move |tx| Box::pin(async move { store(tx, &key, print, answer, now).await })).await
    }

    #[tokio::test]
    async fn the_first_answer_is_given_again_to_the_same_request_of_the_same_caller() -> anyhow::Result<()> {
        both(async |fresh: TestDatabase| {
            let db = fresh.open(&[MIGRATION]).await?;
            let key = Key::new("t", "operator:dev", "StartInstance", "r-1");
            ensure!(lookup(&db, &key, [1; 32]).await?.is_none());
            keep(&db, &key, [1; 32], b"first", NOW).await?;
            ensure!(lookup(&db, &key, [1; 32]).await?.as_deref() == Some(b"first".as_slice()));
            ensure!(matches!(lookup(&db, &key, [2; 32]).await, Err(Error::Reused)));
            ensure!(matches!(keep(&db, &key, [1; 32], b"second", NOW).await, Err(Error::Raced)));
            ensure!(lookup(&db, &key, [1; 32]).await?.as_deref() == Some(b"first".as_slice()));
            for other in [
                Key { tenant: "u".to_owned(), ..key.clone() },
                Key { actor: "operator:eve".to_owned(), ..key.clone() },
                Key { method: "CancelInstance".to_owned(), ..key.clone() },
                Key { request_id: "r-2".to_owned(), ..key.clone() },
            ] {
                ensure!(lookup(&db, &other, [1; 32]).await?.is_none(), "{other:?} got the answer of another");
            }
            Ok(())
        })
        .await
    }

    fn person(instance: &str, id: &str) -> Principal {
        let participation = Participation {
            instance_id: instance.to_owned(),
            participant_id: id.to_owned(),
            link_id: "lnk-1".to_owned(),
            permissions: Vec::new(),
        };
        Principal::participant("t", "Jane Doe", participation)
    }

    #[test]
    fn every_caller_has_request_ids_of_its_own() {
        let operator = Principal { tenant: "t".to_owned(), ..Principal::dev_operator() };
        let callers = [
            person("proc-inst-1", "ciso"),
            person("proc-inst-2", "ciso"),
            person("proc-inst-1", "it_admin"),
            Principal::system("ciso", "t"),
            Principal { id: "ciso".to_owned(), ..operator.clone() },
            Principal { tenant: "u".to_owned(), ..operator.clone() },
            operator,
        ];
        let keys: Vec<Option<Key>> =
            callers.iter().map(|caller| Key::of(caller, "CreateComment", "r-1").unwrap()).collect();
        for (index, key) in keys.iter().enumerate() {
            assert!(key.is_some() && !keys[..index].contains(key), "{key:?} is shared");
        }
        // Whichever link brought the person in, it is the same person.
        let mut again = person("proc-inst-1", "ciso");
        again.participation.as_mut().unwrap().link_id = "lnk-2".to_owned();
        assert_eq!(Key::of(&again, "CreateComment", "r-1").unwrap(), keys[0]);
    }

    #[test]
    fn request_ids_have_a_form() {
        let caller = Principal::dev_operator();
        assert_eq!(Key::of(&caller, "M", ""), Ok(None));
        for good in ["r", "a/b:c", &"x".repeat(128)] {
            let key = Key::of(&caller, "M", good).unwrap().unwrap();
            assert_eq!(key, Key::new("default", "operator:dev", "M", good));
        }
        for bad in [" ", "a b", "a\n", "\u{e4}", "\0", &"x".repeat(129)] {
            let refused = Key::of(&caller, "M", bad).unwrap_err();
            assert_eq!(
                (refused.reason, refused.field.as_str()),
                ("REQUEST_ID_INVALID", "request_id"),
                "{bad:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_rolled_back_was_never_answered() -> anyhow::Result<()> {
        both(async |fresh: TestDatabase| {
            let db = fresh.open(&[MIGRATION]).await?;
            let key = Key::new("t", "a", "M", "r");
            let inner = key.clone();
            let outcome: Result<(), Error> = db
                .transaction(move |tx| {
                    Box::pin(async move {
                        store(tx, &inner, [1; 32], b"answer".to_vec(), NOW).await?;
                        Err(Error::Reused)
                    })
                })
                .await;
            ensure!(outcome.is_err() && lookup(&db, &key, [1; 32]).await?.is_none());
            Ok(())
        })
        .await
    }

    #[tokio::test]
    async fn answers_stay_for_a_week_and_not_for_ever() -> anyhow::Result<()> {
        both(async |fresh: TestDatabase| {
            let db = fresh.open(&[MIGRATION]).await?;
            let day = std::time::Duration::from_hours(24);
            keep(&db, &Key::new("t", "a", "M", "old"), [1; 32], b"", NOW - day * 9).await?;
            keep(&db, &Key::new("t", "a", "M", "week"), [1; 32], b"", NOW - day * 7).await?;
            keep(&db, &Key::new("t", "a", "M", "now"), [0; 32], b"", NOW).await?;
            let left =
                db.fetch_all("select request_id from idempotency order by request_id", args![]).await?;
            let left: Vec<String> = left.iter().map(|row| row.get("request_id")).collect::<Result<_, _>>()?;
            ensure!(left == ["now", "week"], "{left:?}");
            Ok(())
        })
        .await
    }
}
