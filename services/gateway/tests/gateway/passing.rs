//! gRPC as it passes through.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axum::body::Bytes;
use phasegate_gateway::{Config, Limits};
use phasegate_proto::artifact::v1::StoreArtifactRequest;
use phasegate_proto::artifact::v1::artifact_service_client::ArtifactServiceClient;
use phasegate_proto::gateway::v1::gateway_service_client::GatewayServiceClient;
use phasegate_proto::gateway::v1::{GetCallerRequest, GetServerInfoRequest};
use phasegate_proto::instance::v1::event_service_client::EventServiceClient;
use phasegate_proto::instance::v1::instance_service_client::InstanceServiceClient;
use phasegate_proto::instance::v1::{GetInstanceRequest, StartInstanceRequest, WatchEventsRequest};
use phasegate_proto::internal::artifact::v1::GetCurrentVersionsRequest;
use phasegate_proto::internal::artifact::v1::artifact_internal_service_client::ArtifactInternalServiceClient;
use phasegate_proto::worker::v1::PollTasksRequest;
use phasegate_proto::worker::v1::worker_service_client::WorkerServiceClient;
use phasegate_rpc_error::reason_of;
use serde_json::json;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::backend::{Answer, Server};

#[tokio::test]
async fn messages_pass_and_principals_are_ours() -> Result<()> {
    let server = Server::start().await?;
    let message = json!({"instance": {"id": "proc-inst-123", "status": "running"}});
    server.backend.lay("GetInstance", Answer::Message { message, repeated: true });
    let mut client = InstanceServiceClient::connect(server.url("")).await?;
    let mut request = Request::new(GetInstanceRequest { instance_id: "proc-inst-123".into() });
    for (name, value) in [
        ("phasegate-principal", "forged"),
        ("phasegate-anything", "x"),
        ("cookie", "session=1"),
        ("x-forwarded-for", "10.0.0.1"),
    ] {
        request.metadata_mut().insert(name, value.parse()?);
    }
    request.set_timeout(Duration::from_secs(5));
    let answer = client.get_instance(request).await?;
    assert_eq!(
        answer.metadata().get("phasegate-repeated").map(tonic::metadata::MetadataValue::as_bytes),
        Some(&b"1"[..])
    );
    assert_eq!(answer.into_inner().instance.context("none")?.id, "proc-inst-123");
    let asked = server.backend.last()?;
    assert_eq!(asked.principal.id, "dev");
    for name in ["phasegate-anything", "cookie", "x-forwarded-for", "phasegate-principal"] {
        assert!(!asked.headers.contains_key(name), "{name}");
    }
    let timeout = asked.headers.get("grpc-timeout").context("no deadline")?.to_str()?;
    let left: u64 = timeout.strip_suffix('m').context("not in milliseconds")?.parse()?;
    assert!((4_000..=5_000).contains(&left), "{left}");
    Ok(())
}

#[tokio::test]
async fn streams_pass() -> Result<()> {
    let server = Server::start().await?;
    let messages = vec![json!({"resumeToken": "1"}), json!({"resumeToken": "2"})];
    server.backend.lay("WatchEvents", Answer::Stream(messages));
    let mut client = EventServiceClient::connect(server.url("")).await?;
    let mut stream = client.watch_events(WatchEventsRequest::default()).await?.into_inner();
    let mut tokens = Vec::new();
    while let Some(message) = stream.message().await? {
        tokens.push(message.resume_token);
    }
    assert_eq!(tokens, ["1", "2"]);
    Ok(())
}

#[tokio::test]
async fn a_stream_whose_service_dies_can_be_taken_up_again() -> Result<()> {
    let server = Server::start().await?;
    server.backend.lay("WatchEvents", Answer::Broken(vec![json!({"resumeToken": "1"})]));
    let mut client = EventServiceClient::connect(server.url("")).await?;
    let mut stream = client.watch_events(WatchEventsRequest::default()).await?.into_inner();
    assert_eq!(stream.message().await?.context("none")?.resume_token, "1");
    let broken = stream.message().await.err().context("it went on")?;
    assert_eq!((broken.code(), reason_of(&broken).as_deref()), (Code::Unavailable, Some("DEPENDENCY_DOWN")));

    // The connection is as good as before; so is a call with one answer that breaks off.
    server.backend.lay("GetInstance", Answer::Broken(Vec::new()));
    let mut instances = InstanceServiceClient::connect(server.url("")).await?;
    let broken = instances.get_instance(GetInstanceRequest::default()).await.err().context("not refused")?;
    assert_eq!((broken.code(), reason_of(&broken).as_deref()), (Code::Unavailable, Some("DEPENDENCY_DOWN")));
    server.backend.answer("GetInstance", json!({}));
    instances.get_instance(GetInstanceRequest::default()).await?;
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_stops_sends_watchers_and_workers_elsewhere() -> Result<()> {
    let server = Server::start().await?;
    server.backend.lay("WatchEvents", Answer::Endless);
    server.backend.lay("PollTasks", Answer::Silence);
    let mut events = EventServiceClient::connect(server.url("")).await?;
    let mut stream = events.watch_events(WatchEventsRequest::default()).await?.into_inner();
    let mut workers = WorkerServiceClient::connect(server.url("")).await?;
    let polling = tokio::spawn(async move { workers.poll_tasks(PollTasksRequest::default()).await });
    while server.backend.asked() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = Instant::now();
    server.context.shutdown.cancel();
    let ended = [stream.message().await.err(), polling.await?.err()];
    for status in ended {
        let status = status.context("it went on")?;
        assert_eq!((status.code(), reason_of(&status).as_deref()), (Code::Unavailable, Some("DRAINING")));
    }
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    Ok(())
}

#[tokio::test]
async fn what_is_internal_or_unknown_is_not_there() -> Result<()> {
    let server = Server::start().await?;
    let mut client = ArtifactInternalServiceClient::connect(server.url("")).await?;
    let refused = client.get_current_versions(GetCurrentVersionsRequest::default()).await;
    let refused = refused.err().context("not refused")?;
    assert_eq!((refused.code(), reason_of(&refused).as_deref()), (Code::Unimplemented, Some("NO_ROUTE")));
    for path in [
        "/x.Y/Z",
        "/phasegate.instance.v1.InstanceService/Nothing",
        "/phasegate.instance.v1.InstanceService/",
    ] {
        let answer =
            server.http.post(server.url(path)).header("content-type", "application/grpc").send().await?;
        assert_eq!(answer.headers()["grpc-status"], "12", "{path}");
    }
    assert_eq!(server.backend.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn messages_are_measured_and_not_believed() -> Result<()> {
    let limits = Limits { arrival_time_max: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start_with(Config { dev: true, limits, ..Config::default() }).await?;
    server.backend.answer("StartInstance", json!({}));
    server.backend.answer("StoreArtifact", json!({}));
    let mut instances = InstanceServiceClient::connect(server.url("")).await?;
    let large = StartInstanceRequest { name: "x".repeat(4 * 1024 * 1024 + 1), ..Default::default() };
    let refused = instances.start_instance(large).await.err().context("not refused")?;
    assert_eq!(
        (refused.code(), reason_of(&refused).as_deref()),
        (Code::ResourceExhausted, Some("MESSAGE_TOO_LARGE"))
    );
    let mut artifacts =
        ArtifactServiceClient::connect(server.url("")).await?.max_encoding_message_size(usize::MAX);
    let store = |bytes| StoreArtifactRequest { raw_content: vec![0; bytes], ..Default::default() };
    artifacts.store_artifact(store(8 * 1024 * 1024)).await?;
    let refused = artifacts.store_artifact(store(21 * 1024 * 1024)).await.err().context("not refused")?;
    assert_eq!(reason_of(&refused).as_deref(), Some("MESSAGE_TOO_LARGE"));

    let path = server.url("/phasegate.instance.v1.InstanceService/StartInstance");
    let call =
        |body: reqwest::Body| server.http.post(&path).header("content-type", "application/grpc").body(body);
    // A length of 2 GiB, and nothing after it.
    let before = Instant::now();
    let answer = call(vec![0, 0x7f, 0xff, 0xff, 0xff].into()).send().await?;
    assert_eq!(answer.headers()["grpc-status"], "8");
    // A length within the limit, and then silence.
    let head = Bytes::from_static(&[0, 0, 0x10, 0, 0]);
    let silence = futures::stream::unfold(Some(head), |head| async {
        if let Some(head) = head {
            return Some((Ok::<_, std::io::Error>(head), None));
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
        None
    });
    let answer = call(reqwest::Body::wrap_stream(silence)).send().await?;
    assert_eq!(answer.headers()["grpc-status"], "4");
    assert!(before.elapsed() < Duration::from_secs(5));
    // A malformed deadline.
    let answer = call(vec![0, 0, 0, 0, 0].into()).header("grpc-timeout", "soon").send().await?;
    assert_eq!(answer.headers()["grpc-status"], "3");
    Ok(())
}

#[tokio::test]
async fn deadlines_are_kept() -> Result<()> {
    let server = Server::start().await?;
    server.backend.lay("GetInstance", Answer::Silence);
    let mut client = InstanceServiceClient::connect(server.url("")).await?;
    let mut request = Request::new(GetInstanceRequest::default());
    request.metadata_mut().insert("grpc-timeout", "200m".parse()?);
    let before = Instant::now();
    let refused = client.get_instance(request).await.err().context("not refused")?;
    assert!(before.elapsed() < Duration::from_secs(3));
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&refused.code()), "{refused:?}");

    let limits = Limits { answer_time_max: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start_with(Config { dev: true, limits, ..Config::default() }).await?;
    server.backend.lay("GetInstance", Answer::Silence);
    let (status, error) = server.call("GET", "/api/processes/instances/i", None).await?;
    assert_eq!((status, crate::backend::reason(&error)), (504, "DEADLINE_EXCEEDED"));
    let mut client = InstanceServiceClient::connect(server.url("")).await?;
    let refused = client.get_instance(GetInstanceRequest::default()).await.err().context("not refused")?;
    assert_eq!(reason_of(&refused).as_deref(), Some("DEADLINE_EXCEEDED"));
    Ok(())
}

#[tokio::test]
async fn the_gateway_tells_about_itself() -> Result<()> {
    let server = Server::start().await?;
    let mut client = GatewayServiceClient::connect(server.url("")).await?;
    let info = client.get_server_info(GetServerInfoRequest {}).await?.into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    let caller = client.get_caller(GetCallerRequest {}).await?.into_inner();
    assert_eq!(caller.actor.context("none")?.id, "dev");
    let (status, json) = server.call("GET", "/api/caller", None).await?;
    assert_eq!(
        (status, &json["actor"]["id"], &json["actor"]["kind"]),
        (200, &json!("dev"), &json!("operator"))
    );

    let channel = tonic::transport::Endpoint::from_shared(server.url(""))?.connect().await?;
    let mut health = HealthClient::new(channel.clone());
    assert_eq!(health.check(HealthCheckRequest::default()).await?.into_inner().status, 1);
    let mut reflection = ServerReflectionClient::new(channel);
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        reflection.server_reflection_info(futures::stream::iter([question])).await?.into_inner();
    let answer = answers.message().await?.and_then(|answer| answer.message_response).context("no answer")?;
    let MessageResponse::ListServicesResponse(list) = answer else {
        anyhow::bail!("another answer: {answer:?}")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.iter().any(|name| name == "phasegate.instance.v1.InstanceService"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("internal")), "{names:?}");
    Ok(())
}

#[tokio::test]
async fn strangers_take_their_own_places_and_give_them_back() -> Result<()> {
    let limits = phasegate_gateway::Limits { streams_max: 1, ..Default::default() };
    let server =
        Server::start_with(phasegate_gateway::Config { dev: true, limits, ..Default::default() }).await?;
    let channel = tonic::transport::Endpoint::from_shared(server.url(""))?.connect().await?;
    let mut health = HealthClient::new(channel);
    let mut watched = health.watch(HealthCheckRequest::default()).await?.into_inner();
    assert_eq!(watched.message().await?.context("it says nothing")?.status, 1);
    let refused = health.watch(HealthCheckRequest::default()).await.err().context("not refused")?;
    assert_eq!(reason_of(&refused).as_deref(), Some("TOO_MANY_STREAMS"));
    // What balances loads is answered all the same, and those who are known have places of their own.
    assert_eq!(health.check(HealthCheckRequest::default()).await?.into_inner().status, 1);
    server.backend.lay("WatchEvents", Answer::Endless);
    let open = server.http.get(server.url("/api/processes/instances/i/events")).send().await?;
    assert_eq!(open.status().as_u16(), 200);
    drop(watched);
    let again = async {
        while health.watch(HealthCheckRequest::default()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), again).await.context("it stays taken")
}
