//! Nobody waits for long: not for a server that keeps its connections open and does not answer any more, as behind a proxy
//! that has lost it, and not for a migration that waits itself.

use std::io;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use phasegate_database::{Database, Error, Migration, Opening, Settings, args};
use phasegate_test_database::postgres;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

const ITEM: Migration = Migration {
    version: 1,
    name: "item",
    postgres: "create table item (item_id text primary key);",
    sqlite: "create table item (item_id text primary key) strict;",
};

const MORE: Migration = Migration {
    version: 2,
    name: "more",
    postgres: "alter table item add column amount bigint;",
    sqlite: "alter table item add column amount integer;",
};

/// Longer than anybody waits for an answer, on a machine that is busy.
const LONG: Duration = Duration::from_secs(40);

/// Stands before the server. Answers on connections that are there at [`Proxy::swallow`] are swallowed from then on.
struct Proxy {
    port: u16,
    silence: watch::Sender<u32>,
}

impl Proxy {
    async fn start(server: &str) -> anyhow::Result<Arc<Self>> {
        let server = PgConnectOptions::from_str(server)?;
        let socket = server.get_socket().map(|folder| folder.join(format!(".s.PGSQL.{}", server.get_port())));
        let address = format!("{}:{}", server.get_host(), server.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (silence, heard) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, socket.clone(), address.clone(), heard.clone()));
            }
        });
        Ok(Arc::new(Self { port, silence }))
    }

    fn swallow(&self) {
        self.silence.send_modify(|times| *times += 1);
    }
}

async fn pass_on(
    client: TcpStream,
    socket: Option<PathBuf>,
    address: String,
    heard: watch::Receiver<u32>,
) -> io::Result<()> {
    match socket {
        Some(socket) => pass_between(client, UnixStream::connect(socket).await?, heard).await,
        None => pass_between(client, TcpStream::connect(address).await?, heard).await,
    }
}

async fn pass_between(
    client: TcpStream,
    server: impl AsyncRead + AsyncWrite,
    mut heard: watch::Receiver<u32>,
) -> io::Result<()> {
    heard.mark_unchanged();
    let (mut questions, mut to_client) = client.into_split();
    let (mut answers, mut to_server) = tokio::io::split(server);
    let back = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = answers.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            if heard.has_changed().unwrap_or(false) {
                // Read, and never passed on.
                continue;
            }
            to_client.write_all(buffer.get(..length).unwrap_or_default()).await?;
        }
    };
    let forth = async { tokio::io::copy(&mut questions, &mut to_server).await.map(drop) };
    tokio::select! {
        done = back => done,
        done = forth => done,
    }
}

async fn through(proxy: &Proxy, settings: Settings) -> anyhow::Result<Database> {
    let Settings::Postgres { url, schema, .. } = settings else { anyhow::bail!("a PostgreSQL database") };
    let (server, database) = url.rsplit_once('/').context("a URL names a database")?;
    let user = server.rsplit_once('@').context("a URL names a user")?.0;
    let settings = Settings::Postgres {
        url: format!("{user}@127.0.0.1:{}/{database}?sslmode=disable", proxy.port),
        schema,
        max_connections: 2,
        opening: Opening::Migrate,
    };
    Ok(Database::open(&settings, &[ITEM]).await?)
}

async fn add(db: &Database, id: &'static str, before_the_end: Option<Arc<Proxy>>) -> Result<u64, Error> {
    db.transaction(move |tx| {
        Box::pin(async move {
            let added = tx.execute("insert into item (item_id) values ($1)", args![id]).await?;
            if let Some(proxy) = before_the_end {
                proxy.swallow();
            }
            Ok(added)
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_silent_server_is_given_up_and_new_connections_take_its_place() -> anyhow::Result<()> {
    let fresh = postgres().await?;
    let proxy = Proxy::start(fresh.url()).await?;
    let db = through(&proxy, fresh.settings()).await?;
    add(&db, "before", None).await?;
    let (reader, writer) = (db.clone(), db.clone());
    let reading = tokio::spawn(async move { reader.fetch_all("select pg_sleep(0.5)::text", args![]).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // All connections are in use now: one waits for the rows of a statement, the other one for the end of a commit.
    let writing = tokio::spawn({
        let proxy = proxy.clone();
        async move { add(&writer, "in doubt", Some(proxy)).await }
    });
    let read = tokio::time::timeout(LONG, reading).await.context("the statement hangs")??;
    ensure!(read.as_ref().is_err_and(Error::is_transient), "{read:?}");
    let written = tokio::time::timeout(LONG, writing).await.context("the commit hangs")??;
    ensure!(written.as_ref().is_err_and(Error::is_in_doubt), "{written:?}");
    // Nothing of it holds a place: what comes now finds new connections.
    for id in ["after", "later", "last"] {
        let added = tokio::time::timeout(Duration::from_secs(20), add(&db, id, None)).await;
        added.context("there is no connection left")??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn idle_connections_that_have_fallen_silent_are_replaced() -> anyhow::Result<()> {
    let fresh = postgres().await?;
    let proxy = Proxy::start(fresh.url()).await?;
    let db = through(&proxy, fresh.settings()).await?;
    let both = tokio::join!(
        db.fetch_all("select pg_sleep(0.3)::text", args![]),
        db.fetch_all("select pg_sleep(0.3)::text", args![])
    );
    ensure!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    proxy.swallow();
    // Longer than a connection is trusted.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let added = tokio::time::timeout(LONG, add(&db, "first", None)).await;
    added.context("there is no connection left")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_migration_that_has_to_wait_for_a_table_gives_way_and_comes_again() -> anyhow::Result<()> {
    let fresh = postgres().await?;
    let db = fresh.open(&[ITEM]).await?;
    let long = tokio::spawn({
        let db = db.clone();
        async move {
            db.transaction(|tx| {
                Box::pin(async move {
                    tx.fetch_all("select item_id from item", args![]).await?;
                    tx.fetch_all("select pg_sleep(8)::text", args![]).await
                })
            })
            .await
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let settings = fresh.settings();
    let mut migrating = tokio::spawn(async move { Database::open(&settings, &[ITEM, MORE]).await });
    let mut longest = Duration::ZERO;
    let migrated = loop {
        let asked = Instant::now();
        db.fetch_all("select item_id from item", args![]).await?;
        longest = longest.max(asked.elapsed());
        if let Ok(migrated) = tokio::time::timeout(Duration::from_millis(20), &mut migrating).await {
            break migrated??;
        }
    };
    ensure!(longest < Duration::from_secs(5), "a reader waited for {longest:?}");
    long.await??;
    migrated.fetch_all("select amount from item", args![]).await?;
    Ok(())
}
