//! The database goes away under a running Phasegate, and comes back.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use phasegate_bad_input::{Kind, Refusal, World, alone, launch};
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

/// A way to PostgreSQL that can be cut.
struct Road {
    port: u16,
    cut: CancellationToken,
}

impl Road {
    /// Builds it on a port, or on a free one.
    async fn build(url: &str, port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        let options = Arc::new(PgConnectOptions::from_str(url)?);
        let cut = CancellationToken::new();
        let end = cut.clone();
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(end.clone().run_until_cancelled_owned(travel(near, options.clone())));
            }
        }));
        Ok(Self { port, cut })
    }
}

async fn travel(near: TcpStream, options: Arc<PgConnectOptions>) -> anyhow::Result<()> {
    let port = options.get_port();
    // A path in the URL is the folder of a Unix socket.
    let folder = options
        .get_socket()
        .cloned()
        .or_else(|| options.get_host().starts_with('/').then(|| PathBuf::from(options.get_host())));
    match folder {
        Some(folder) => join(near, UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?).await,
        None => join(near, TcpStream::connect((options.get_host(), port)).await?).await,
    }
}

async fn join(mut near: TcpStream, mut far: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<()> {
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}

/// One call for each service, and the service whose database it meets first.
fn calls(instance: &str) -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("GetProcessDefinition", json!({"processId": "launch"}), "STORE_UNAVAILABLE"),
        ("CreateTeamTemplate", json!({"teamTemplate": phasegate_bad_input::crew()}), "STORE_UNAVAILABLE"),
        ("GetInstance", json!({"instanceId": instance}), "STORE_UNAVAILABLE"),
        (
            "SetFacts",
            json!({"instanceId": instance, "facts": {"ready": true}, "reason": "r"}),
            "STORE_UNAVAILABLE",
        ),
        ("GetApproval", json!({"approvalId": "apr-0"}), "STORE_UNAVAILABLE"),
        ("RevokeLink", json!({"linkId": "lnk-0", "reason": "r"}), "STORE_UNAVAILABLE"),
        ("GetNotification", json!({"notificationId": "ntf-0"}), "STORE_UNAVAILABLE"),
        // The artifact service asks the instance service first, which is down for it.
        (
            "StoreArtifact",
            json!({"instanceId": instance, "key": "k", "type": "t", "content": 1}),
            "DEPENDENCY_DOWN",
        ),
    ]
}

/// All of them are told that it is not their fault, and nothing of our statements.
async fn is_said_so(world: &World, calls: Vec<(&'static str, Value, &'static str)>) -> anyhow::Result<()> {
    let told = calls.into_iter().map(async |(method, message, reason)| {
        let (by_grpc, by_rest) =
            tokio::join!(world.doors.grpc(method, &message), world.doors.rest(method, &message));
        let status = match by_grpc? {
            Ok(answer) => anyhow::bail!("B032: {method} answers {answer}"),
            Err(status) => status,
        };
        let (by_grpc, by_rest) = (Refusal::of_status(&status), by_rest?);
        ensure!(by_rest.status == 503, "B032: {method}: {} {}", by_rest.status, by_rest.body);
        ensure!(by_rest.headers.contains_key("retry-after"), "B032: {method} does not say when to come back");
        ensure!(Refusal::of_body(&by_rest.body)? == by_grpc, "B032: {method}: {} {by_grpc:?}", by_rest.body);
        let is_right = by_grpc.code == "UNAVAILABLE" && by_grpc.reason == reason && by_grpc.retries;
        ensure!(is_right && by_grpc.message.ends_with(" did not answer"), "B032: {method}: {by_grpc:?}");
        Ok(())
    });
    try_join_all(told).await?;
    Ok(())
}

/// Starts an instance to ask about.
async fn start(world: &World) -> anyhow::Result<String> {
    world.call("CreateProcessDefinition", json!({"processDefinition": launch()})).await?;
    let people: Vec<Value> = ["editor", "owner"]
        .map(|id| json!({"participantId": id, "email": format!("{id}@example.com")}))
        .to_vec();
    let start = json!({"processId": "launch", "context": {"region": "eu"}, "externalParticipants": people});
    let started = world.call("StartInstance", start).await?;
    Ok(started["instance"]["id"].as_str().context("an id")?.to_owned())
}

#[test]
fn a_missing_database_is_said_so() -> anyhow::Result<()> {
    phasegate_bad_input::on_postgres(async || {
        let url = phasegate_test_database::postgres_url().await?;
        let road = Road::build(&url, 0).await?;
        let options = PgConnectOptions::from_str(&url)?;
        let database = options.get_database().context("a database")?;
        let through = format!("postgres://{}@127.0.0.1:{}/{database}", options.get_username(), road.port);
        let world = World::start_through(Kind::Postgres, &through, url.clone()).await?;
        let instance = start(&world).await?;
        let before = world.settled().await?;
        road.cut.cancel();
        is_said_so(&world, calls(&instance)).await?;
        ensure!(
            world.rows.read().await? == before,
            "B032: {:?}",
            world.rows.read().await?.changes_since(&before)
        );
        let road = Road::build(&url, road.port).await?;
        world
            .eventually("the database's return", async || {
                Ok(world.doors.grpc("GetInstance", &json!({"instanceId": instance})).await?.ok())
            })
            .await?;
        ensure!(
            world.settled().await? == before,
            "B032: {:?}",
            world.settled().await?.changes_since(&before)
        );
        drop(world);
        road.cut.cancel();
        Ok(())
    })
}

#[test]
fn a_locked_file_is_said_so() -> anyhow::Result<()> {
    alone(async |world| {
        if world.kind != Kind::Sqlite {
            return Ok(());
        }
        let instance = start(world).await?;
        let before = world.settled().await?;
        let mut held = Vec::new();
        for service in ["definition", "instance", "participant"] {
            let path = world.folder.path().join(format!("data/{service}.db"));
            let mut connection = SqliteConnectOptions::new().filename(path).connect().await?;
            sqlx::raw_sql("begin immediate").execute(&mut connection).await?;
            held.push(connection);
        }
        let writes = ["CreateTeamTemplate", "SetFacts"];
        let calls = calls(&instance).into_iter().filter(|(method, ..)| writes.contains(method)).collect();
        tokio::time::timeout(Duration::from_secs(40), is_said_so(world, calls)).await??;
        drop(held);
        ensure!(
            world.rows.read().await? == before,
            "B032: {:?}",
            world.rows.read().await?.changes_since(&before)
        );
        Ok(())
    })
}
