//! A change that takes effect once for each request, whoever asks again and when: after the answer was lost, or while
//! the first request is still being done.

use std::fmt;
use std::time::{Duration, Instant};

use phasegate_clock::Timestamp;
use phasegate_database::{Database, Transaction};
use phasegate_principal::Principal;
use phasegate_rpc_error::{Invalid, Kind, Refusal};

use crate::{Error, Key, fingerprint, lookup, store};

/// How often a change is tried when others write at the same time.
const ATTEMPTS_MAX: u32 = 4;
/// A database that has taken this long is not asked again: the caller is waiting, and can ask again itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// How a request is told from its repetition, and how its answer is kept.
pub struct Once<T, E> {
    key: Key,
    fingerprint: [u8; 32],
    encode: Encode<T, E>,
}

/// Makes the answer that is kept.
pub type Encode<T, E> = fn(&T) -> Result<Vec<u8>, E>;

/// What a change comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// It was done.
    First(T),
    /// It had been done: the answer as it was encoded then.
    Repeated(Vec<u8>),
}

/// What the id of a request stands in the way of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The id was used for another request.
    #[error("request id {request_id} was used for another request")]
    Reused {
        /// The id.
        request_id: String,
    },
    /// The same request is being answered by somebody else.
    #[error("request id {request_id} is still being answered")]
    InProgress {
        /// The id.
        request_id: String,
    },
}

/// The error of a service whose changes run once.
pub trait Failure: From<Refused> + From<phasegate_database::Error> {
    /// Somebody else wrote at the same time, or the database was busy: nothing took effect, and the same may succeed if
    /// it is tried again.
    fn is_passing(&self) -> bool;
}

/// Does `change` unless it was done before, and again while others write at the same time. `change` keeps its answer
/// with [`Once::keep_in`], in the transaction of its effect.
pub async fn run<T, E, F>(
    db: &Database,
    once: Option<&Once<T, E>>,
    change: impl Fn() -> F,
) -> Result<Answer<T>, E>
where
    E: Failure,
    F: Future<Output = Result<T, E>>,
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
            Err(error) if error.is_passing() && is_worth_another(attempt, begun.elapsed()) => attempt += 1,
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

fn is_worth_another(attempt: u32, elapsed: Duration) -> bool {
    attempt < ATTEMPTS_MAX && elapsed < PATIENCE
}

// === impl Once ===

impl<T, E> Once<T, E> {
    /// Reads the request id of a request; nothing where there is none.
    pub fn of(
        principal: &Principal,
        method: &'static str,
        request_id: &str,
        request: &impl prost::Message,
        encode: Encode<T, E>,
    ) -> Result<Option<Self>, Invalid> {
        let key = Key::of(principal, method, request_id)?;
        Ok(key.map(|key| Self { key, fingerprint: fingerprint(request), encode }))
    }
}

impl<T, E: Failure> Once<T, E> {
    /// Keeps the answer with the effect.
    pub async fn keep_in(&self, tx: &mut Transaction, answer: &T, now: Timestamp) -> Result<(), E> {
        let answer = (self.encode)(answer)?;
        store(tx, &self.key, self.fingerprint, answer, now).await.map_err(|error| self.failed(error))
    }

    async fn lookup(&self, db: &Database) -> Result<Option<Vec<u8>>, E> {
        lookup(db, &self.key, self.fingerprint).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: Error) -> E {
        let request_id = self.key.request_id.clone();
        match error {
            Error::Reused => Refused::Reused { request_id }.into(),
            Error::Raced => Refused::InProgress { request_id }.into(),
            Error::Database(error) => error.into(),
        }
    }
}

impl<T, E> Clone for Once<T, E> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), fingerprint: self.fingerprint, encode: self.encode }
    }
}

impl<T, E> fmt::Debug for Once<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("key", &self.key).finish_non_exhaustive()
    }
}

// === impl Refused ===

impl Refused {
    /// The same may succeed if it is tried again.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::InProgress { .. })
    }
}

impl Refusal for Refused {
    fn kind(&self) -> Kind {
        match self {
            Self::Reused { .. } => Kind::Invalid,
            Self::InProgress { .. } => Kind::Conflict,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Reused { .. } => "REQUEST_ID_REUSED",
            Self::InProgress { .. } => "REQUEST_IN_PROGRESS",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let (Self::Reused { request_id } | Self::InProgress { request_id }) = self;
        vec![("request_id", request_id.clone())]
    }

    fn retry_after(&self) -> Option<Duration> {
        self.is_passing().then_some(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use anyhow::ensure;
    use phasegate_database::{Migration, args};
    use phasegate_test_database::{TestDatabase, both};

    use super::*;
    use crate::MIGRATION;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000_000);

    /// What a change leaves behind: one row, and in `seal` one that nobody can write twice.
    const EFFECT: Migration = Migration {
        version: 10,
        name: "effect",
        postgres: "create table effect (name text not null); create table seal (name text primary key);",
        sqlite: "create table effect (name text not null); create table seal (name text primary key);",
    };

    #[derive(Debug, PartialEq, thiserror::Error)]
    enum Failed {
        #[error("the effect is there already")]
        Taken,
        #[error("somebody was faster")]
        Overtaken,
        #[error(transparent)]
        RequestId(#[from] Refused),
        #[error("the database: {0}")]
        Database(String),
    }

    impl From<phasegate_database::Error> for Failed {
        fn from(error: phasegate_database::Error) -> Self {
            if error.is_unique_violation() { Self::Taken } else { Self::Database(error.to_string()) }
        }
    }

    impl Failure for Failed {
        fn is_passing(&self) -> bool {
            match self {
                Self::Overtaken => true,
                Self::RequestId(refused) => refused.is_passing(),
                Self::Taken | Self::Database(_) => false,
            }
        }
    }

    type Said = Once<String, Failed>;

    fn once(request_id: &str, said: &str) -> Option<Said> {
        let encode = |answer: &String| Ok(answer.clone().into_bytes());
        Once::of(&Principal::dev_operator(), "Say", request_id, &said.to_owned(), encode).unwrap()
    }

    /// Writes the row, seals it where `is_sealed`, and answers `answer`.
    async fn effect(
        db: &Database,
        once: Option<Said>,
        answer: &str,
        is_sealed: bool,
    ) -> Result<String, Failed> {
        let answer = answer.to_owned();
        db.transaction(move |tx| {
            Box::pin(async move {
                if is_sealed {
                    tx.execute("insert into seal (name) values ('x')", args![]).await?;
                }
                tx.execute("insert into effect (name) values ('x')", args![]).await?;
                if let Some(once) = once {
                    once.keep_in(tx, &answer, NOW).await?;
                }
                Ok::<_, Failed>(answer)
            })
        })
        .await
    }

    async fn effects(db: &Database) -> anyhow::Result<i64> {
        let row = db.fetch_optional("select count(*) as n from effect", args![]).await?;
        Ok(row.map_or(Ok(0), |row| row.get("n"))?)
    }

    /// The repeat has looked, found nothing and begun; then the first request is done, and stands in its way: as an
    /// effect that cannot be had twice, or only as an answer that is kept already.
    #[tokio::test]
    async fn a_repeat_that_overtakes_its_own_first_request_gets_the_answer_of_the_first() -> anyhow::Result<()>
    {
        both(async |fresh: TestDatabase| {
            let db = fresh.open(&[MIGRATION, EFFECT]).await?;
            for (done, is_sealed) in [(1, false), (2, true)] {
                let request = once(&format!("r-{done}"), "hello");
                let tried = AtomicU32::new(0);
                let repeated = run(&db, request.as_ref(), || async {
                    if tried.fetch_add(1, Ordering::Relaxed) == 0 {
                        let first =
                            run(&db, request.as_ref(), || effect(&db, request.clone(), "first", is_sealed));
                        assert_eq!(first.await, Ok(Answer::First("first".to_owned())));
                    }
                    effect(&db, request.clone(), "second", is_sealed).await
                })
                .await;
                ensure!(repeated == Ok(Answer::Repeated(b"first".to_vec())), "{repeated:?}");
                ensure!(effects(&db).await? == done, "the effect came twice");
            }
            Ok(())
        })
        .await
    }

    #[tokio::test]
    async fn of_many_who_come_at_once_one_does_it_and_all_get_its_answer() -> anyhow::Result<()> {
        both(async |fresh: TestDatabase| {
            let db = fresh.open(&[MIGRATION, EFFECT]).await?;
            for round in 1..=20 {
                let mut callers = tokio::task::JoinSet::new();
                for caller in 0..4 {
                    let (db, request) = (db.clone(), once(&format!("r-{round}"), "hello"));
                    callers.spawn(async move {
                        let answer = caller.to_string();
                        let done =
                            run(&db, request.as_ref(), || effect(&db, request.clone(), &answer, false)).await;
                        match done? {
                            Answer::First(answer) => Ok::<_, Failed>((answer.into_bytes(), true)),
                            Answer::Repeated(answer) => Ok((answer, false)),
                        }
                    });
                }
                let mut answers = Vec::new();
                while let Some(done) = callers.join_next().await {
                    answers.push(done??);
                }
                ensure!(answers.iter().filter(|(_, is_first)| *is_first).count() == 1, "{answers:?}");
                ensure!(answers.iter().all(|(answer, _)| *answer == answers[0].0), "{answers:?}");
                ensure!(effects(&db).await? == round);
            }
            Ok(())
        })
        .await
    }

    #[tokio::test]
    async fn an_id_that_is_used_again_for_something_else_is_refused() -> anyhow::Result<()> {
        both(async |fresh: TestDatabase| {
            let db = fresh.open(&[MIGRATION, EFFECT]).await?;
            let (first, other) = (once("r-1", "hello"), once("r-1", "good bye"));
            run(&db, first.as_ref(), || effect(&db, first.clone(), "first", false)).await?;
            let refused = run(&db, other.as_ref(), || effect(&db, other.clone(), "other", false)).await;
            let expected = Refused::Reused { request_id: "r-1".to_owned() };
            ensure!(refused == Err(Failed::RequestId(expected)), "{refused:?}");
            ensure!(effects(&db).await? == 1);
            Ok(())
        })
        .await
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_tried_again_where_it_may_pass_and_not_for_ever() -> anyhow::Result<()> {
        both(async |fresh: TestDatabase| {
            let db = fresh.open(&[MIGRATION, EFFECT]).await?;
            for (outcomes, expected, tries) in [
                (vec![Ok("a")], Ok(Answer::First("a")), 1),
                (vec![Err(Failed::Overtaken), Ok("b")], Ok(Answer::First("b")), 2),
                (vec![Err(Failed::Taken), Ok("c")], Err(Failed::Taken), 1),
                ((0..9).map(|_| Err(Failed::Overtaken)).collect(), Err(Failed::Overtaken), 4),
            ] {
                let (outcomes, tried) = (Mutex::new(outcomes), AtomicU32::new(0));
                let done = run(&db, None::<&Once<&str, Failed>>, || async {
                    tried.fetch_add(1, Ordering::Relaxed);
                    outcomes.lock().unwrap().remove(0)
                })
                .await;
                ensure!(done == expected, "{done:?} {expected:?}");
                ensure!(tried.load(Ordering::Relaxed) == tries, "{expected:?}");
            }
            Ok(())
        })
        .await
    }

    #[test]
    fn a_caller_does_not_wait_for_a_database_that_is_away() {
        for (attempt, seconds, expected) in [(1, 0, true), (3, 2, true), (4, 0, false), (1, 3, false)] {
            assert_eq!(
                is_worth_another(attempt, Duration::from_secs(seconds)),
                expected,
                "{attempt} {seconds}"
            );
        }
    }
}
