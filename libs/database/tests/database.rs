//! The promises of the crate, kept on both databases.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_clock::Timestamp;
use phasegate_database::{Database, Dialect, Error, Migration, Opening, Settings, args};
use phasegate_test_database::{TestDatabase, both, postgres, sqlite};

const ITEM: Migration = Migration {
    version: 1,
    name: "item",
    postgres: "create table item (item_id text primary key, amount bigint, is_done boolean, body bytea);
               create index item_amount on item (amount);",
    sqlite: "create table item (item_id text primary key, amount integer, is_done integer, body blob) strict;
             create index item_amount on item (amount);",
};

async fn add(db: &Database, id: &str, amount: i64) -> Result<u64, Error> {
    let id = id.to_owned();
    db.transaction(move |tx| {
        Box::pin(async move {
            tx.execute("insert into item (item_id, amount) values ($1, $2)", args![id, amount]).await
        })
    })
    .await
}

async fn count(db: &Database) -> anyhow::Result<i64> {
    let row = db.fetch_optional("select count(*) as n from item", args![]).await?;
    Ok(row.context("one row")?.get("n")?)
}

#[tokio::test]
async fn values_come_back_as_they_went_in() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[ITEM]).await?;
        let at = Timestamp::from_micros(1_700_000_000_123_456);
        let rows = db
            .transaction(move |tx| {
                Box::pin(async move {
                    tx.fetch_all(
                        "insert into item (item_id, amount, is_done, body) values ($1, $2, $3, $4), ($5, $6, $7, $8)
                         returning item_id, amount, is_done, body",
                        args![
                            "a",
                            at,
                            true,
                            vec![0_u8, 255],
                            "b",
                            None::<i64>,
                            None::<bool>,
                            None::<Vec<u8>>
                        ],
                    )
                    .await
                })
            })
            .await;
        let rows = rows.map_err(|error: Error| error)?;
        ensure!(rows.len() == 2);
        ensure!(rows[0].get::<Timestamp>("amount")? == at);
        ensure!(rows[0].get::<bool>("is_done")?);
        ensure!(rows[0].get::<Vec<u8>>("body")? == [0, 255]);
        ensure!(rows[1].get::<Option<i64>>("amount")?.is_none());
        ensure!(rows[1].get::<Option<bool>>("is_done")?.is_none());
        ensure!(rows[1].get::<Option<Vec<u8>>>("body")?.is_none());
        ensure!(rows[1].get::<i64>("amount").is_err());
        ensure!(rows[1].get::<i64>("no_such").is_err());
        // Outside a transaction, and with a condition that is true or false.
        let found = db
            .fetch_optional(
                "select exists (select 1 from item where amount = $1) as found, cast($2 as integer) as small",
                args![at, 7_i32],
            )
            .await?
            .context("one row")?;
        ensure!(found.get::<bool>("found")?);
        ensure!(found.get::<i32>("small")? == 7);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_failed_is_rolled_back_and_named() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[ITEM]).await?;
        add(&db, "a", 1).await?;
        let again = db
            .transaction(|tx| {
                Box::pin(async move {
                    tx.execute("insert into item (item_id) values ($1)", args!["b"]).await?;
                    tx.execute("insert into item (item_id) values ($1)", args!["a"]).await
                })
            })
            .await;
        let Err(error) = again else { anyhow::bail!("a key was used twice") };
        let error: Error = error;
        ensure!(error.is_unique_violation() && !error.is_transient(), "{error:?}");
        ensure!(count(&db).await? == 1);
        // The connection is usable afterwards.
        add(&db, "c", 1).await?;
        ensure!(count(&db).await? == 2);
        let quiet = db
            .transaction(|tx| {
                Box::pin(async move {
                    tx.execute("insert into item (item_id) values ($1) on conflict do nothing", args!["a"])
                        .await
                })
            })
            .await;
        ensure!(quiet.map_err(|error: Error| error)? == 0);
        Ok(())
    })
    .await
}

/// Ends the connection, or refuses, when a transaction that wrote a certain row is committed.
const FATAL: Migration = Migration {
    version: 2,
    name: "fatal",
    postgres: "
create function at_commit() returns trigger language plpgsql as $$
begin
    if new.item_id = 'lost' then perform pg_terminate_backend(pg_backend_pid());
    elsif new.item_id = 'refused' then raise exception 'not this one';
    end if;
    return null;
end $$;
create constraint trigger item_at_commit after insert on item
    deferrable initially deferred for each row execute function at_commit();",
    sqlite: "",
};

#[tokio::test]
async fn a_commit_that_was_not_answered_is_in_doubt_and_a_refused_one_is_not() -> anyhow::Result<()> {
    let fresh = postgres().await?;
    let db = fresh.open(&[ITEM, FATAL]).await?;
    for (id, in_doubt) in [("lost", true), ("refused", false)] {
        let Err(error) = add(&db, id, 1).await else { anyhow::bail!("{id} was committed") };
        ensure!(error.is_in_doubt() == in_doubt && error.is_transient() == in_doubt, "{id}: {error:?}");
    }
    add(&db, "kept", 1).await?;
    ensure!(count(&db).await? == 1);
    Ok(())
}

#[tokio::test]
async fn a_panic_rolls_back_and_leaves_the_database_usable() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[ITEM]).await?;
        for _ in 0..5 {
            let broken: Result<(), Error> = db
                .transaction(|tx| {
                    Box::pin(async move {
                        tx.execute("insert into item (item_id) values ($1)", args!["a"]).await?;
                        panic!("a bug");
                    })
                })
                .await;
            ensure!(matches!(broken, Err(Error::Aborted(_))), "{broken:?}");
        }
        add(&db, "a", 1).await?;
        ensure!(count(&db).await? == 1);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_lose_nothing() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[ITEM]).await?;
        add(&db, "sum", 0).await?;
        let writers = (0..8).map(|_| {
            let db = db.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    db.transaction(|tx| {
                        Box::pin(async move {
                            let lock = tx.dialect().pick(
                                "select amount from item where item_id = 'sum' for update",
                                "select amount from item where item_id = 'sum'",
                            );
                            let row = tx.fetch_optional(lock, args![]).await?;
                            let amount = row.map_or(Ok(0), |row| row.get::<i64>("amount"))?;
                            tx.execute(
                                "update item set amount = $1 where item_id = 'sum'",
                                args![amount + 1],
                            )
                            .await?;
                            Ok::<_, Error>(())
                        })
                    })
                    .await?;
                }
                Ok::<_, Error>(())
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await??;
        }
        let row = db.fetch_optional("select amount from item", args![]).await?.context("the row")?;
        ensure!(row.get::<i64>("amount")? == 200);
        Ok(())
    })
    .await
}

/// SQLite commits those together that are there at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_many_at_a_time_is_done_or_undone_by_itself() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[ITEM]).await?;
        let work = (0..100).map(|number| {
            let db = db.clone();
            tokio::spawn(async move {
                let id = format!("{number:03}");
                let done: Result<(), Error> = db
                    .transaction(move |tx| {
                        Box::pin(async move {
                            tx.execute("insert into item (item_id) values ($1)", args![id]).await?;
                            match number % 5 {
                                3 => Err(Error::Settings("not this one".to_owned())),
                                4 => panic!("a bug"),
                                _ => Ok(()),
                            }
                        })
                    })
                    .await;
                // What was acknowledged is there for everybody at once.
                let id = format!("{number:03}");
                let found = db.fetch_all("select item_id from item where item_id = $1", args![id]).await?;
                Ok::<_, Error>((number, done.is_ok(), found.len()))
            })
        });
        for one in work.collect::<Vec<_>>() {
            let (number, is_done, found) = one.await??;
            ensure!(
                is_done == (number % 5 < 3) && found == usize::from(is_done),
                "{number} {is_done} {found}"
            );
        }
        ensure!(count(&db).await? == 60);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_statement_by_itself_is_a_transaction() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[ITEM]).await?;
        let insert = "insert into item (item_id, amount) values ($1, 1), ($2, 2) returning amount";
        ensure!(db.write(insert, args!["a", "b"]).await?.len() == 2);
        let refused = db.write(insert, args!["c", "a"]).await;
        ensure!(refused.is_err_and(|error| error.is_unique_violation()));
        ensure!(count(&db).await? == 2, "all of a statement or nothing");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_caller_that_goes_away_stops_nothing_half_way() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[ITEM]).await?;
        for round in 0..40 {
            let id = round.to_string();
            let work = db.transaction(move |tx| {
                Box::pin(async move {
                    tx.execute("insert into item (item_id) values ($1)", args![format!("{id}-first")])
                        .await?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    tx.execute("insert into item (item_id) values ($1)", args![format!("{id}-second")])
                        .await?;
                    Ok::<_, Error>(())
                })
            });
            // Polled once, so that it has begun, and dropped.
            let _ = tokio::time::timeout(Duration::from_micros(50), work).await;
        }
        let mut found = 0;
        for _ in 0..200 {
            found = count(&db).await?;
            if found == 80 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ensure!(found == 80, "{found} of 80 rows");
        Ok(())
    })
    .await
}

/// Begins `work` again and again and drops it after 0 to 400 us; then looks, through a connection that is not of the
/// pool under test, whether a connection of that pool is left inside a transaction. Says how many were dropped, and how
/// often one was left after so many looks, 2 ms apart.
async fn drop_under_way<T, F>(
    outside: &sqlx::PgPool,
    name: &str,
    looks: u32,
    work: impl Fn(u64) -> F,
) -> anyhow::Result<(u32, u32)>
where
    F: Future<Output = T>,
{
    let (mut dropped, mut left) = (0, 0);
    for round in 0..400_u64 {
        let patience = Duration::from_micros(round);
        let started = std::time::Instant::now();
        let mut work = Box::pin(work(round));
        // A timer of tokio is no finer than a millisecond, so the future is polled by hand until its time is up.
        let is_done = loop {
            if futures::poll!(&mut work).is_ready() {
                break true;
            }
            if started.elapsed() >= patience {
                break false;
            }
            tokio::task::yield_now().await;
        };
        drop(work);
        if is_done {
            continue;
        }
        dropped += 1;
        // What still runs in its own task is given the time to finish.
        let mut is_left = true;
        for _ in 0..looks {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let open = sqlx::query_scalar::<_, i64>(
                "select count(*) from pg_stat_activity
                  where application_name = $1 and state like 'idle in transaction%'",
            );
            is_left = open.bind(name).fetch_one(outside).await? > 0;
            if !is_left {
                break;
            }
        }
        left += u32::from(is_left);
    }
    Ok((dropped, left))
}

/// A dropped `begin()` of sqlx 0.9.0 leaves its connection inside an open transaction; ours never does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_transaction_never_leaves_a_connection_open_in_it() -> anyhow::Result<()> {
    let fresh = postgres().await?;
    let outside = sqlx::PgPool::connect(fresh.url()).await?;
    let Settings::Postgres { url, schema, .. } = fresh.settings() else { anyhow::bail!("not PostgreSQL") };
    let name = format!("phasegate/{schema}").chars().take(63).collect::<String>();
    let settings = Settings::Postgres { url, schema, max_connections: 2, opening: Opening::Migrate };
    let db = Database::open(&settings, &[ITEM]).await?;
    let work = |round: u64| {
        db.transaction(move |tx| {
            Box::pin(async move {
                tx.execute("insert into item (item_id) values ($1)", args![round.to_string()]).await
            })
        })
    };
    let (dropped, left) = drop_under_way(&outside, &name, 100, |round| async move {
        let _: Result<u64, Error> = work(round).await;
    })
    .await?;
    ensure!(dropped > 50, "only {dropped} of 400 were dropped under way: the test shows nothing");
    ensure!(left == 0, "{left} of {dropped} left a connection inside a transaction");
    // Dropped or not, every one of them was done to its end.
    for _ in 0..100 {
        if count(&db).await? == 400 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(count(&db).await? == 400);
    Ok(())
}

/// Shows that the test above would see a leak: the same with the bare pool leaves connections open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_pool_does_leave_a_connection_open() -> anyhow::Result<()> {
    let fresh = postgres().await?;
    let outside = sqlx::PgPool::connect(fresh.url()).await?;
    let options: sqlx::postgres::PgConnectOptions = fresh.url().parse()?;
    let options = options.application_name("bare");
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(2)
        .test_before_acquire(false)
        .connect_with(options)
        .await?;
    // How often depends on the machine's mood; once in three rounds is enough.
    for _ in 0..3 {
        let (_, left) = drop_under_way(&outside, "bare", 5, |_| async {
            let begun = pool.begin().await;
            begun.ok()?.commit().await.ok()
        })
        .await?;
        if left > 0 {
            return Ok(());
        }
    }
    anyhow::bail!("no connection was left open: the test beside this one may see nothing either")
}

#[tokio::test]
async fn migrations_run_once_and_a_changed_one_is_refused() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let settings = fresh.settings();
        // Several processes may start at once.
        let both = [ITEM];
        let (first, second, third) = tokio::join!(
            Database::open(&settings, &both),
            Database::open(&settings, &both),
            fresh.open(&both)
        );
        let db = first?;
        second?;
        third?;
        add(&db, "a", 1).await?;
        let later = Migration {
            version: 10,
            name: "colour",
            postgres: "alter table item add column colour text;",
            sqlite: "alter table item add column colour text;",
        };
        let db = fresh.open(&[later, ITEM]).await?;
        ensure!(db.fetch_all("select colour from item", args![]).await?.len() == 1);
        let changed = Migration { postgres: "select 1;", sqlite: "select 1;", ..ITEM };
        let refused = Database::open(&settings, &[changed]).await;
        ensure!(matches!(refused, Err(Error::Migration { version: 1, .. })), "{refused:?}");
        let twice = Database::open(&settings, &[ITEM, ITEM]).await;
        ensure!(matches!(twice, Err(Error::Migration { .. })), "{twice:?}");
        let broken = Migration {
            version: 11,
            name: "x",
            postgres: "create table y (a text); oops;",
            sqlite: "create table y (a text); oops;",
        };
        ensure!(Database::open(&settings, &[ITEM, later, broken]).await.is_err());
        ensure!(db.fetch_all("select * from y", args![]).await.is_err(), "half a migration stayed");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn readers_of_sqlite_cannot_write() -> anyhow::Result<()> {
    let fresh = sqlite().await?;
    let db = fresh.open(&[ITEM]).await?;
    ensure!(
        db.fetch_all("insert into item (item_id) values ('x') returning item_id", args![]).await.is_err()
    );
    ensure!(db.dialect() == Dialect::Sqlite && count(&db).await? == 0);
    Ok(())
}

/// On the one thread that they all share here.
#[tokio::test]
async fn whoever_reads_for_long_or_on_and_on_lets_others_have_their_turn() -> anyhow::Result<()> {
    both(async |fresh: TestDatabase| {
        let db = fresh.open(&[ITEM]).await?;
        let long = "with recursive n (n) as (select 1 union all select n + 1 from n where n < 300000)
                    select count(*) as n from n";
        let (reading, writing) = tokio::join!(db.fetch_optional(long, args![]), add(&db, "meanwhile", 1));
        ensure!(reading?.context("a count")?.get::<i64>("n")? == 300_000 && writing? == 1);
        let writer = tokio::spawn({
            let db = db.clone();
            async move { add(&db, "at last", 2).await }
        });
        let seen = async {
            while count(&db).await? < 2 {}
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await??;
        ensure!(writer.await?? == 1);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn another_process_that_writes_is_waited_for_and_holds_no_thread() -> anyhow::Result<()> {
    let fresh = sqlite().await?;
    let (db, other) = (fresh.open(&[ITEM]).await?, fresh.open(&[ITEM]).await?);
    let slow = other.transaction(|tx| {
        Box::pin(async move {
            tx.execute("insert into item (item_id) values ('slow')", args![]).await?;
            // On the one thread that both share here.
            tokio::time::sleep(Duration::from_millis(300)).await;
            tx.execute("update item set amount = 1 where item_id = 'slow'", args![]).await
        })
    });
    let (slow, quick) = tokio::join!(slow, add(&db, "quick", 2));
    ensure!(slow.map_err(|error: Error| error)? == 1 && quick? == 1 && count(&db).await? == 2);
    Ok(())
}

/// Transactions that are in the log of an SQLite file: frames that say how long the file is after them.
fn commits(settings: &Settings) -> anyhow::Result<usize> {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 4_096;
    let Settings::Sqlite { path } = settings else { anyhow::bail!("not a file") };
    let log = std::fs::read(format!("{}-wal", path.display()))?;
    let frames = log.get(HEADER..).unwrap_or_default().chunks_exact(FRAME);
    Ok(frames.filter(|frame| frame.get(4..8) != Some(&[0; 4])).count())
}

#[tokio::test]
async fn whoever_nobody_waits_for_is_committed_with_the_next_one() -> anyhow::Result<()> {
    let fresh = sqlite().await?;
    let db = fresh.open(&[ITEM]).await?;
    let mut is_shared = false;
    for n in 0..20 {
        let before = commits(&fresh.settings())?;
        let (done, is_done) = tokio::sync::oneshot::channel();
        let unhurried = db.transaction(move |tx| {
            Box::pin(async move {
                tx.linger();
                let id = format!("unhurried {n}");
                let added = tx.execute("insert into item (item_id) values ($1)", args![id]).await;
                let _ = done.send(());
                added
            })
        });
        let hurried = async {
            is_done.await?;
            add(&db, &format!("hurried {n}"), 1).await?;
            anyhow::Ok(count(&db).await?)
        };
        let (unhurried, counted) = tokio::join!(unhurried, hurried);
        ensure!(unhurried.map_err(|error: Error| error)? == 1 && counted? == 2 * (n + 1));
        // Unless it had waited for so long already.
        is_shared |= commits(&fresh.settings())? == before + 1;
    }
    ensure!(is_shared);
    // Alone it is committed as well, and what is closed meanwhile loses nothing.
    let (done, is_done) = tokio::sync::oneshot::channel();
    let unhurried = |id: &'static str, done: Option<tokio::sync::oneshot::Sender<()>>| {
        db.transaction(move |tx| {
            Box::pin(async move {
                tx.linger();
                let added = tx.execute("insert into item (item_id) values ($1)", args![id]).await;
                drop(done);
                added
            })
        })
    };
    ensure!(unhurried("alone", None).await.map_err(|error: Error| error)? == 1);
    let closing = async {
        let _ = is_done.await;
        db.close().await;
    };
    let (last, ()) = tokio::join!(unhurried("last", Some(done)), closing);
    ensure!(last.map_err(|error: Error| error)? == 1);
    ensure!(count(&fresh.open(&[ITEM]).await?).await? == 42);
    Ok(())
}

#[tokio::test]
async fn arrays_make_rows_on_postgres() -> anyhow::Result<()> {
    let db = postgres().await?.open(&[ITEM]).await?;
    let rows = db
        .fetch_all(
            "select * from unnest($1::text[], $2::bigint[], $3::bytea[]) as t (a, b, c) order by b",
            args![vec!["x".to_owned(), "y".to_owned()], vec![2_i64, 1], vec![vec![1_u8], vec![2_u8]]],
        )
        .await?;
    ensure!(rows.len() == 2 && rows[0].get::<String>("a")? == "y" && rows[0].get::<Vec<u8>>("c")? == [2]);
    Ok(())
}

#[tokio::test]
async fn a_server_that_could_lose_what_it_acknowledged_is_refused() -> anyhow::Result<()> {
    let database = postgres().await?;
    let Settings::Postgres { url, schema, max_connections, .. } = database.settings() else {
        anyhow::bail!("not PostgreSQL")
    };
    let mark = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{mark}options[synchronous_commit]=off");
    let settings = Settings::Postgres { url, schema, max_connections, opening: Opening::Check };
    let refused = Database::open(&settings, &[]).await.err().context("it was opened")?;
    // A server that tests start keeps nothing safe at all.
    ensure!(matches!(refused, Error::Unsafe(_)) && refused.to_string().contains(" is off"), "{refused}");
    Ok(())
}
