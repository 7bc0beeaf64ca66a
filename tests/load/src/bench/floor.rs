//! What the machine can do at best, measured in the same run: calls that do nothing, and commits of rows like ours.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::record::Latencies;

/// Of a call, and of its answer.
const BYTES: usize = 256;
/// Calls in flight.
const IN_FLIGHT: usize = 64;
const CONNECTIONS: usize = 8;
/// Rows in one commit.
const BATCH: usize = 64;
/// Those who commit batches at a time.
const WRITERS: usize = 2;
/// Between the beginning and what counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// The floor.
#[derive(Debug, Default, Clone)]
pub(super) struct Floor {
    /// Calls a second.
    pub(super) echo: f64,
    /// Rows a second, many in a commit.
    pub(super) batched: f64,
    /// One row in one commit, one after the other.
    pub(super) commit: Latencies,
}

/// Answers what it is asked.
#[derive(Debug, Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "phasegate.load.Echo";
}

impl UnaryService<Vec<u8>> for Echo {
    type Response = Vec<u8>;
    type Future = BoxFuture<Response<Vec<u8>>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Vec<u8>, Vec<u8>>::default());
            Ok(grpc.unary(Self, request).await)
        })
    }
}

/// Bare unary calls a second, caller included.
pub(super) async fn echo(time: Duration) -> anyhow::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tokio::spawn(Server::builder().add_service(Echo).serve_with_incoming(incoming));
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(Endpoint::from_shared(address.clone())?.tcp_nodelay(true).connect().await?);
    }
    let rate = rate(IN_FLIGHT, time, move |number| {
        let channel = channels.get(number % CONNECTIONS).cloned();
        async move {
            let mut grpc = tonic::client::Grpc::new(channel.context("a connection")?);
            grpc.ready().await?;
            let path = PathAndQuery::from_static("/phasegate.load.Echo/Echo");
            let codec = ProstCodec::<Vec<u8>, Vec<u8>>::default();
            grpc.unary(Request::new(vec![7; BYTES]), path, codec).await?;
            Ok(1)
        }
    })
    .await;
    server.abort();
    rate
}

/// Commits on the PostgreSQL of the run.
pub(super) async fn postgres(url: &str, time: Duration) -> anyhow::Result<(f64, Latencies)> {
    let pool = PgPoolOptions::new().max_connections(8).connect(url).await?;
    sqlx::raw_sql("create table floor (id bigserial primary key, body bytea not null)")
        .execute(&pool)
        .await?;
    let one = |pool: PgPool| async move {
        let insert = sqlx::query("insert into floor (body) values ($1)").bind(vec![7_u8; BYTES]);
        insert.execute(&pool).await.map(drop)
    };
    let commit = one_by_one(time, || one(pool.clone())).await?;
    let writers = pool.clone();
    let batched = rate(WRITERS, time, move |_| {
        let pool = writers.clone();
        async move {
            let rows = vec![vec![7_u8; BYTES]; BATCH];
            let insert = sqlx::query("insert into floor (body) select unnest($1::bytea[])").bind(rows);
            Ok(insert.execute(&pool).await?.rows_affected())
        }
    })
    .await?;
    sqlx::raw_sql("drop table floor").execute(&pool).await?;
    pool.close().await;
    Ok((batched, commit))
}

/// Commits on SQLite, as the product sets it: a log that is written ahead, and each commit on the disk.
pub(super) async fn sqlite(folder: &Path, time: Duration) -> anyhow::Result<(f64, Latencies)> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join("floor.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    sqlx::raw_sql("create table floor (id integer primary key, body blob not null)").execute(&pool).await?;
    let one = |pool: SqlitePool| async move {
        let insert = sqlx::query("insert into floor (body) values ($1)").bind(vec![7_u8; BYTES]);
        insert.execute(&pool).await.map(drop)
    };
    let commit = one_by_one(time, || one(pool.clone())).await?;
    let writer = pool.clone();
    let batched = rate(1, time, move |_| {
        let pool = writer.clone();
        async move {
            let mut transaction = pool.begin().await?;
            for _ in 0..BATCH {
                let insert = sqlx::query("insert into floor (body) values ($1)").bind(vec![7_u8; BYTES]);
                insert.execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(BATCH as u64)
        }
    })
    .await?;
    pool.close().await;
    Ok((batched, commit))
}

/// What one caller waits for, again and again.
async fn one_by_one<F>(time: Duration, work: impl Fn() -> F) -> anyhow::Result<Latencies>
where
    F: Future<Output = sqlx::Result<()>>,
{
    let begun = Instant::now();
    let mut samples = Vec::new();
    while begun.elapsed() < WARM_UP + time {
        let due = Instant::now();
        work().await?;
        if begun.elapsed() > WARM_UP {
            samples.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
    Ok(Latencies::of(samples))
}

/// What so many do in a second who each begin anew when they are done.
async fn rate<F>(
    many: usize,
    time: Duration,
    work: impl Fn(usize) -> F + Send + Sync + 'static,
) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<u64>> + Send,
{
    let (done, work) = (Arc::new(AtomicU64::new(0)), Arc::new(work));
    let mut workers = JoinSet::new();
    for number in 0..many {
        let (done, work) = (Arc::clone(&done), Arc::clone(&work));
        workers.spawn(async move {
            loop {
                match work(number).await {
                    Ok(count) => done.fetch_add(count, Ordering::Relaxed),
                    Err(error) => return Err::<(), anyhow::Error>(error),
                };
            }
        });
    }
    let measured = async {
        tokio::time::sleep(WARM_UP).await;
        let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(time).await;
        #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
        let count = (done.load(Ordering::Relaxed) - before) as f64;
        count / began.elapsed().as_secs_f64()
    };
    tokio::select! {
        rate = measured => Ok(rate),
        Some(ended) = workers.join_next() => Err(ended?.err().context("a worker ended")?),
    }
}
