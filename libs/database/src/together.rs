//! Writing what belongs to many callers in one statement.
//!
//! A commit waits for the disk and a statement for the way there and back, and both cost the same for one as for many.
//! Nobody waits for a piece that may come: a writer that is free takes what is there. Only behind a statement that held
//! several is a moment waited for those who had them, and who come back with the next ones together.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::{Error, Reach};

/// Statements that are under way at a time. One, so that what comes while it waits for the disk is written together: a
/// statement costs more processor time than its rows.
const WRITERS: usize = 1;
/// Pieces of a statement behind which a moment is waited.
const SEVERAL: usize = 4;
/// The moment.
const MOMENT: Duration = Duration::from_millis(1);
/// Pieces in one statement at most, so that none waits for long.
const TOGETHER_MAX: usize = 64;

/// Writes pieces of many callers together; `O` is what becomes of each. Copies share it.
///
/// Pieces of one key are never in the same statement nor in two at a time, and keep their order: they are what would have
/// to wait for each other's rows. What waits is bounded by the callers, each of whom waits for its piece.
pub struct Together<P, O>(Arc<Shared<P, O>>);

/// Writes all pieces in one transaction, and says in their order what became of each.
type Write<P, O> = dyn Fn(Vec<Arc<P>>) -> BoxFuture<'static, Result<Vec<O>, Error>> + Send + Sync;

struct Shared<P, O> {
    write: Box<Write<P, O>>,
    state: Mutex<State<P, O>>,
}

struct State<P, O> {
    waiting: VecDeque<Waiting<P, O>>,
    /// Keys of what is being written.
    busy: HashSet<String>,
    writers: usize,
}

struct Waiting<P, O> {
    key: String,
    piece: Arc<P>,
    done: oneshot::Sender<Result<O, Error>>,
}

/// One who writes, until there is nothing left that can be written.
struct Writer<P, O> {
    together: Together<P, O>,
    /// Keys of what it is writing.
    keys: Vec<String>,
    /// It is one of those who are counted.
    is_counted: bool,
}

impl<P: Send + Sync + 'static, O: Send + 'static> Together<P, O> {
    /// Pieces that `write` writes. It is given those of all tenants, and reaches all of them. A statement that fails with
    /// all of them is tried with each alone, unless the database was away: then each is told so.
    pub fn new(
        write: impl Fn(Vec<Arc<P>>) -> BoxFuture<'static, Result<Vec<O>, Error>> + Send + Sync + 'static,
    ) -> Self {
        let state = State { waiting: VecDeque::new(), busy: HashSet::new(), writers: 0 };
        Self(Arc::new(Shared { write: Box::new(write), state: Mutex::new(state) }))
    }

    /// Writes a piece with others, or nothing of it. It is written even where the caller goes away.
    pub async fn write(&self, key: String, piece: P) -> Result<O, Error> {
        let (done, written) = oneshot::channel();
        let needs_writer = {
            let mut state = self.0.state();
            state.waiting.push_back(Waiting { key, piece: Arc::new(piece), done });
            let needs_writer = state.writers < WRITERS;
            state.writers += usize::from(needs_writer);
            needs_writer
        };
        if needs_writer {
            // A task, because whoever waits may go away, and others wait for the same statement.
            let writer = Writer { together: self.clone(), keys: Vec::new(), is_counted: true };
            tokio::spawn(Reach::across_tenants().within(writer.run()));
        }
        written.await.unwrap_or_else(|_| Err(Error::Aborted("who wrote it has ended".to_owned())))
    }
}

impl<P: Send + Sync + 'static, O: Send + 'static> Writer<P, O> {
    async fn run(mut self) {
        while let Some(taken) = self.take() {
            let (pieces, done): (Vec<_>, Vec<_>) = taken.into_iter().map(|one| (one.piece, one.done)).unzip();
            let outcomes = self.write(pieces).await;
            let count = done.len();
            if let Some(Err(error)) = outcomes.first()
                && error.has_no_connection()
            {
                self.turn_away(error);
            }
            for (one, outcome) in done.into_iter().zip(outcomes) {
                // Whoever waited may have gone.
                let _ = one.send(outcome);
            }
            if count >= SEVERAL {
                tokio::time::sleep(MOMENT).await;
            }
        }
    }

    /// What can be written now; the keys of what was written before are free.
    fn take(&mut self) -> Option<Vec<Waiting<P, O>>> {
        let mut state = self.together.0.state();
        for key in self.keys.drain(..) {
            state.busy.remove(&key);
        }
        let mut taken = Vec::new();
        let mut left = VecDeque::new();
        // What is behind one that has to wait may be of the same key, and waits, too.
        while let Some(one) = state.waiting.pop_front() {
            if state.busy.contains(&one.key) {
                left.push_back(one);
                continue;
            }
            state.busy.insert(one.key.clone());
            self.keys.push(one.key.clone());
            taken.push(one);
            if taken.len() == TOGETHER_MAX {
                break;
            }
        }
        left.append(&mut state.waiting);
        state.waiting = left;
        if taken.is_empty() {
            // Counted here, because the next one to come must find either a writer who looks again or none.
            state.writers -= 1;
            self.is_counted = false;
            return None;
        }
        Some(taken)
    }

    /// Tells those who wait, too, that there is no connection: they have waited for one as long as this one has, and the next
    /// ones would have to wait for as long again, one statement after the other.
    fn turn_away(&self, error: &Error) {
        let waiting = std::mem::take(&mut self.together.0.state().waiting);
        for one in waiting {
            let _ = one.done.send(Err(error.for_another()));
        }
    }

    async fn write(&self, pieces: Vec<Arc<P>>) -> Vec<Result<O, Error>> {
        let write = &self.together.0.write;
        match write(pieces.clone()).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(error) if error.is_away() => pieces.iter().map(|_| Err(error.for_another())).collect(),
            // One of them is in the way of the others.
            Err(error) if pieces.len() > 1 => {
                tracing::debug!(%error, "what waited could not be written together");
                let mut outcomes = Vec::with_capacity(pieces.len());
                for piece in pieces {
                    let alone = write(vec![piece]).await;
                    let none = || Error::Aborted("its statement said nothing of it".to_owned());
                    outcomes.push(alone.and_then(|outcomes| outcomes.into_iter().next().ok_or_else(none)));
                }
                outcomes
            }
            Err(error) => vec![Err(error)],
        }
    }
}

impl<P, O> Drop for Writer<P, O> {
    fn drop(&mut self) {
        let mut state = self.together.0.state();
        state.writers -= usize::from(self.is_counted);
        for key in &self.keys {
            state.busy.remove(key);
        }
    }
}

impl<P, O> Shared<P, O> {
    fn state(&self) -> MutexGuard<'_, State<P, O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P, O> Clone for Together<P, O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P, O> fmt::Debug for Together<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").field("waiting", &self.0.state().waiting.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;

    use super::*;

    /// What is written: the pieces of each statement.
    type Statements = Arc<Mutex<Vec<Vec<u32>>>>;

    /// A database that fails with every statement that has a 13 and another piece in it, is away with a 99, and gives no
    /// connection for a 98.
    fn together(statements: &Statements) -> Together<u32, u32> {
        let statements = Arc::clone(statements);
        Together::new(move |pieces| {
            let statements = Arc::clone(&statements);
            Box::pin(async move {
                let pieces: Vec<u32> = pieces.iter().map(|piece| **piece).collect();
                statements.lock().unwrap().push(pieces.clone());
                tokio::time::sleep(Duration::from_millis(10)).await;
                if pieces.contains(&99) {
                    return Err(Error::InDoubt(sqlx::Error::Protocol("cut".to_owned())));
                }
                if pieces.contains(&98) {
                    return Err(Error::doing("connect", sqlx::Error::PoolTimedOut));
                }
                if pieces.contains(&13) && pieces.len() > 1 {
                    return Err(Error::Aborted("in the way".to_owned()));
                }
                Ok(pieces.iter().map(|piece| piece * 2).collect())
            })
        })
    }

    async fn write_all(together: &Together<u32, u32>, pieces: &[(&str, u32)]) -> Vec<Option<u32>> {
        let written = pieces.iter().map(|(key, piece)| together.write((*key).to_owned(), *piece));
        futures::future::join_all(written).await.into_iter().map(Result::ok).collect()
    }

    #[tokio::test]
    async fn what_waits_is_written_in_one_statement() {
        let statements = Statements::default();
        let together = together(&statements);
        let pieces: Vec<(String, u32)> = (0..100).map(|n| (n.to_string(), 100 + n)).collect();
        let pieces: Vec<(&str, u32)> = pieces.iter().map(|(key, n)| (key.as_str(), *n)).collect();
        let doubled: Vec<Option<u32>> = pieces.iter().map(|(_, n)| Some(n * 2)).collect();
        assert_eq!(write_all(&together, &pieces).await, doubled);
        let sizes: Vec<usize> = statements.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, [TOGETHER_MAX, 100 - TOGETHER_MAX]);
    }

    #[tokio::test]
    async fn pieces_of_one_key_keep_their_order_and_never_meet() {
        let statements = Statements::default();
        let together = together(&statements);
        let pieces = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("a", 5), ("b", 6)];
        assert_eq!(write_all(&together, &pieces).await.len(), pieces.len());
        assert_eq!(*statements.lock().unwrap(), [vec![1, 2, 4], vec![3, 6], vec![5]]);
    }

    #[tokio::test]
    async fn one_that_is_in_the_way_is_written_alone() {
        let statements = Statements::default();
        let together = together(&statements);
        assert_eq!(
            write_all(&together, &[("a", 1), ("b", 13), ("c", 3)]).await,
            [Some(2), Some(26), Some(6)]
        );
        assert_eq!(*statements.lock().unwrap(), [vec![1, 13, 3], vec![1], vec![13], vec![3]]);
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_not_asked_for_each() {
        let statements = Statements::default();
        let together = together(&statements);
        assert_eq!(write_all(&together, &[("a", 1), ("b", 99), ("c", 3)]).await, [None, None, None]);
        assert_eq!(statements.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn whoever_waits_behind_those_who_got_no_connection_does_not_wait_for_one_again() {
        let statements = Statements::default();
        let together = together(&statements);
        let pieces = [("a", 98), ("b", 2), ("a", 3), ("c", 98), ("a", 4)];
        assert_eq!(write_all(&together, &pieces).await, [None; 5]);
        assert_eq!(*statements.lock().unwrap(), [vec![98, 2, 98]]);
        assert_eq!(write_all(&together, &[("a", 5)]).await, [Some(10)]);
    }

    #[tokio::test]
    async fn whoever_goes_away_is_written_all_the_same_and_a_panic_holds_nobody_up() {
        let written = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&written);
        let together = Together::new(move |pieces: Vec<Arc<bool>>| {
            let count = Arc::clone(&count);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert!(pieces.iter().all(|fine| **fine), "out of order");
                count.fetch_add(pieces.len(), Ordering::SeqCst);
                Ok(pieces.iter().map(|_| ()).collect())
            })
        });
        assert!(together.write("a".to_owned(), true).now_or_never().is_none());
        // Its writer takes it, and nothing else with it.
        tokio::task::yield_now().await;
        for _ in 0..2 * WRITERS {
            assert!(together.write("b".to_owned(), false).await.is_err());
        }
        assert!(together.write("b".to_owned(), true).await.is_ok());
        assert_eq!(written.load(Ordering::SeqCst), 2);
    }
}
