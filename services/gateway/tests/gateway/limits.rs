//! Who calls too often, and what happens when too much is under way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use phasegate_bus::Settings as Redis;
use phasegate_gateway::{Config, Limits, Rate, Rates};
use phasegate_proto::gateway::v1::GetCallerRequest;
use phasegate_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use phasegate_proto::instance::v1::GetInstanceRequest;
use phasegate_proto::instance::v1::instance_service_client::InstanceServiceClient;
use phasegate_rpc_error::reason_of;
use phasegate_test_redis::TestRedis;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::backend::{Answer, Server, read, reason};

const CALLER: &str = "/api/caller";

fn rated(rates: Rates) -> Config {
    Config { dev: true, rates, ..Config::default() }
}

const fn rate(per_second: u32, burst: u32) -> Rate {
    Rate { per_second, burst }
}

/// How many of so many calls pass.
async fn passing(server: &Server, calls: usize) -> Result<usize> {
    let answers = join_all((0..calls).map(|_| server.call("GET", CALLER, None))).await;
    let mut passed = 0;
    for answer in answers {
        let (status, error) = answer?;
        match status {
            200 => passed += 1,
            status => ensure!((status, reason(&error)) == (429, "RATE_LIMITED"), "{error}"),
        }
    }
    Ok(passed)
}

#[tokio::test]
async fn whoever_calls_too_often_is_told_when_to_come_back() -> Result<()> {
    for (limit, rates) in [
        ("tenant", Rates { tenant: Some(rate(2, 4)), ..Rates::default() }),
        ("caller", Rates { caller: Some(rate(2, 4)), tenant: Some(rate(100, 100)), ..Rates::default() }),
    ] {
        let server = Server::start_with(rated(rates)).await?;
        assert_eq!(passing(&server, 4).await?, 4, "{limit}");
        let answer = server.http.get(server.url(CALLER)).send().await?;
        assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &"1".parse()?));
        let error: Value = answer.json().await?;
        let info = &error["error"]["details"][0];
        assert_eq!((reason(&error), &info["metadata"]["limit"]), ("RATE_LIMITED", &json!(limit)));
        let told: u64 = info["metadata"]["retry_after_ms"].as_str().context("no time")?.parse()?;
        assert!((1..=501).contains(&told), "{told}");

        let mut client = GatewayServiceClient::connect(server.url("")).await?;
        let refused = client.get_caller(GetCallerRequest {}).await.err().context("not refused")?;
        assert_eq!(
            (refused.code(), reason_of(&refused).as_deref()),
            (Code::ResourceExhausted, Some("RATE_LIMITED"))
        );
        let wait = refused.get_details_retry_info().and_then(|info| info.retry_delay).context("no time")?;
        tokio::time::sleep(wait).await;
        client.get_caller(GetCallerRequest {}).await?;
        // What asks for health is never counted.
        for path in ["/healthz", "/openapi.json"] {
            assert_eq!(server.http.get(server.url(path)).send().await?.status().as_u16(), 200);
        }
    }
    Ok(())
}

#[tokio::test]
async fn all_gateways_share_a_budget_and_each_has_its_own_while_redis_is_away() -> Result<()> {
    let mut redis = TestRedis::start().await?;
    let rates = || Rates {
        tenant: Some(rate(1, 40)),
        redis: Some(Redis::new(redis.url())),
        // What is shown is how they count, not how fast this machine is.
        patience: Duration::from_secs(2),
        ..Rates::default()
    };
    let one = Server::start_with(rated(rates())).await?;
    let two = Server::start_with(rated(rates())).await?;
    // Each counts by itself until it has found Redis.
    let mut connection = redis.connection().await?;
    let both_ask = async || -> Result<usize> { Ok(passing(&one, 30).await? + passing(&two, 30).await?) };
    until(async || {
        for server in [&one, &two] {
            passing(server, 1).await?;
        }
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("phasegate:rate:*").query_async(&mut connection.clone()).await?;
        Ok(keys == ["phasegate:rate:tenant:default"])
    })
    .await?;
    redis.empty().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    let passed = both_ask().await?;
    // A batch is in hand of each from before, and some come back while this runs.
    let late = 4 + usize::try_from(start.elapsed().as_secs())? + 1;
    assert!((40..=40 + late).contains(&passed), "{passed} passed");

    redis.kill();
    // Each was told that there is nothing for a second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let passed = both_ask().await?;
    assert!(passed >= 50, "only {passed} passed while Redis was away");
    let metrics = phasegate_telemetry::metrics::text().await;
    assert!(metrics.contains("phasegate_rate_limits_alone"), "{metrics}");
    assert!(metrics.contains("phasegate_rate_limited_total{limit=\"tenant\"}"), "{metrics}");

    redis.restart().await?;
    connection = redis.connection().await?;
    until(async || {
        passing(&one, 1).await?;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("phasegate:rate:*").query_async(&mut connection.clone()).await?;
        Ok(!keys.is_empty())
    })
    .await
}

async fn until(look: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !look().await? {
        ensure!(start.elapsed() < Duration::from_secs(20), "it did not come about");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test]
async fn who_guesses_keys_is_stopped_by_address() -> Result<()> {
    let rates = Rates { address: Some(rate(1, 3)), proxies: 1, ..Rates::default() };
    let server = Server::start_with(Config { rates, ..Config::default() }).await?;
    let call = async |from: &str, key: &str| {
        let request = server.http.get(server.url("/api/processes")).header("x-forwarded-for", from);
        let request =
            if key.is_empty() { request } else { request.header("authorization", format!("Bearer {key}")) };
        read(request).await
    };
    for key in ["", "nonsense", "phg_nonsense"] {
        let (status, error) = call("192.0.2.1", key).await?;
        assert_eq!(status, 401, "{error}");
    }
    let (status, error) = call("192.0.2.1", "nonsense").await?;
    assert_eq!((status, reason(&error)), (429, "RATE_LIMITED"));
    assert_eq!(call("192.0.2.2, 192.0.2.1", "").await?.0, 429);
    assert_eq!(call("192.0.2.1, 192.0.2.2", "").await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn who_opens_too_many_pages_reads_a_page() -> Result<()> {
    let rates = Rates { address: Some(rate(1, 2)), ..Rates::default() };
    let server = Server::start_with(rated(rates)).await?;
    let open = async || server.http.get(server.url("/external/approve?token=x")).send().await;
    for _ in 0..2 {
        assert_eq!(open().await?.status().as_u16(), 404);
    }
    let answer = open().await?;
    assert_eq!(answer.status().as_u16(), 429);
    assert!(answer.headers().contains_key("retry-after"));
    assert!(answer.headers()["content-type"].to_str()?.starts_with("text/html"));
    let page = answer.text().await?;
    assert!(page.contains("not recorded") && page.contains("Wait a minute"), "{page}");
    // Calls of those who are known are not counted by address.
    assert_eq!(passing(&server, 5).await?, 5);
    Ok(())
}

#[tokio::test]
async fn a_flood_of_one_kind_of_call_leaves_room() -> Result<()> {
    let limits = Limits { calls_max: 8, polls_max: 8, ..Limits::default() };
    let server = Server::start_with(Config { dev: true, limits, ..Config::default() }).await?;
    server.backend.lay("GetInstance", Answer::Silence);
    server.backend.lay("PollTasks", Answer::Silence);
    server.backend.lay("WatchEvents", Answer::Endless);
    let silent: Vec<_> = (0..20)
        .map(|_| tokio::spawn(server.http.get(server.url("/api/processes/instances/i")).send()))
        .collect();
    // Those that found a place wait; the others have their answer.
    until(async || Ok(silent.iter().filter(|call| call.is_finished()).count() == 14)).await?;
    for call in silent {
        if !call.is_finished() {
            call.abort();
            continue;
        }
        let answer = call.await??;
        assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"1".parse()?));
        let error: Value = answer.json().await?;
        assert_eq!(reason(&error), "OVERLOADED");
        assert_eq!(error["error"]["details"][0]["metadata"]["service"], "gateway");
    }
    // What those held who gave up is free again.
    until(async || {
        let call = tokio::spawn(server.http.get(server.url("/api/processes/instances/i")).send());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let waits = !call.is_finished();
        call.abort();
        Ok(waits)
    })
    .await?;
    assert_eq!(server.http.get(server.url("/healthz")).send().await?.status().as_u16(), 200);
    // Long polls and streams wait elsewhere.
    let waiting: Vec<_> = (0..6)
        .map(|_| {
            tokio::spawn(server.http.post(server.url("/api/workers/tasks/poll")).json(&json!({})).send())
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut open = server.http.get(server.url("/api/processes/instances/i/events")).send().await?;
    assert!(open.chunk().await?.is_some());
    server.backend.answer("GetInstance", json!({}));
    assert_eq!(server.call("GET", "/api/processes/instances/i", None).await?.0, 200);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

#[tokio::test]
async fn what_is_left_of_the_time_goes_along() -> Result<()> {
    let server = Server::start().await?;
    server.backend.answer("GetInstance", json!({}));
    let told = || -> Result<u64> {
        let headers = server.backend.last()?.headers;
        let text = headers.get("grpc-timeout").context("no deadline")?.to_str()?.to_owned();
        Ok(text.strip_suffix('m').context(text.clone())?.parse()?)
    };
    // A body that comes slowly uses up the time of its call.
    let path = server.url("/phasegate.instance.v1.InstanceService/GetInstance");
    let slow = || {
        futures::stream::unfold(0, |step| async move {
            if step == 1 {
                tokio::time::sleep(Duration::from_millis(600)).await;
            }
            (step < 2).then(|| (Ok::<_, std::io::Error>([vec![0, 0, 0], vec![0, 0]][step].clone()), step + 1))
        })
    };
    let call = async |timeout: &str| {
        let request = server.http.post(&path).header("content-type", "application/grpc");
        let body = reqwest::Body::wrap_stream(slow());
        request.header("grpc-timeout", timeout).body(body).send().await
    };
    call("5S").await?;
    let left = told()?;
    assert!((1_000..=4_400).contains(&left), "{left}");
    // Nobody is asked when it is over.
    let answer = call("300m").await?;
    assert_eq!((&answer.headers()["grpc-status"], server.backend.asked()), (&"4".parse()?, 0));
    // Over REST it is what the gateway gives an answer.
    server.call("GET", "/api/processes/instances/i", None).await?;
    let rest = server.backend.last()?.headers;
    let rest = rest.get("grpc-timeout").context("no deadline")?.to_str()?;
    let left = phasegate_serve::timeout(rest).context("no time")?;
    assert!(left > Duration::from_secs(20) && left <= Duration::from_secs(30), "{left:?}");
    // And the deadline of a client of ours.
    let mut client = InstanceServiceClient::connect(server.url("")).await?;
    let mut request = Request::new(GetInstanceRequest::default());
    request.set_timeout(Duration::from_secs(7));
    client.get_instance(request).await?;
    assert!((1_000..=7_000).contains(&told()?));
    Ok(())
}

#[tokio::test]
async fn what_failed_is_not_tried_again_on_the_way() -> Result<()> {
    let server = Server::start().await?;
    server.backend.lay("AdvancePhase", Answer::Down);
    let (status, _) = server.call("POST", "/api/processes/instances/i/phase", Some(&json!({}))).await?;
    assert_eq!((status, server.backend.asked()), (503, 1));
    Ok(())
}

#[tokio::test]
async fn a_connection_is_given_up_when_it_is_old_and_not_before() -> Result<()> {
    let limits = Limits { connection_age_max: Duration::from_millis(500), ..Limits::default() };
    let server = Server::start_with(Config { dev: true, limits, ..Config::default() }).await?;
    let address = server.url("").replace("http://", "");
    let mut connection = TcpStream::connect(address.trim_end_matches('/')).await?;
    let call = format!("GET {CALLER} HTTP/1.1\r\nHost: {}\r\n\r\n", address.trim_end_matches('/'));
    let began = Instant::now();
    // It serves one call after the other...
    for _ in 0..2 {
        connection.write_all(call.as_bytes()).await?;
        let mut status = [0; 15];
        connection.read_exact(&mut status).await?;
        ensure!(&status == b"HTTP/1.1 200 OK", "{}", String::from_utf8_lossy(&status));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut rest = vec![0; 16 * 1024];
        ensure!(connection.read(&mut rest).await? > 0);
    }
    // ...and ends by itself, although nobody has hung up.
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), connection.read_to_end(&mut rest))
        .await
        .context("it stays")??;
    ensure!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    ensure!(server.call("GET", CALLER, None).await?.0 == 200, "a further one is served");
    Ok(())
}
