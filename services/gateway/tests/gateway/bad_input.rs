//! What is refused before any service is asked: the same reason over REST and gRPC, and nothing passed on.

use anyhow::{Context as _, Result};
use phasegate_gateway::{Config, Limits};
use phasegate_proto::definition::v1::ListProcessDefinitionsRequest;
use phasegate_proto::definition::v1::definition_service_client::DefinitionServiceClient;
use phasegate_rpc_error::{Invalid, reason_of};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::{Answer, Server, read, reason};

#[tokio::test]
async fn bodies_that_are_not_the_json_of_the_call() -> Result<()> {
    let server = Server::start().await?;
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let deep_context = format!("{{\"context\":{}1{}}}", "{\"a\":".repeat(40), "}".repeat(40));
    let table: [(&[u8], &str); 22] = [
        (b"{", "MALFORMED_JSON"),
        (b"{\"name\": \"x\"", "MALFORMED_JSON"),
        (b"name=x", "MALFORMED_JSON"),
        (b"{} {}", "MALFORMED_JSON"),
        (b"[]", "TYPE_INVALID"),
        (b"null", "TYPE_INVALID"),
        (b"{\"name\": [\"x\"]}", "TYPE_INVALID"),
        (b"{\"name\": \"x\", \"name\": \"y\"}", "DUPLICATE_KEY"),
        (b"{\"name\": \"\\ud800\"}", "INVALID_TEXT"),
        (b"{\"name\": \"\\u0000\"}", "INVALID_TEXT"),
        (b"{\"name\": \"\xff\"}", "INVALID_TEXT"),
        (b"{\"context\": {\"n\": 1e400}}", "INVALID_NUMBER"),
        (b"{\"context\": {\"n\": NaN}}", "INVALID_NUMBER"),
        (b"{\"context\": {\"n\": 9007199254740993}}", "INVALID_NUMBER"),
        (b"{\"nmae\": \"x\"}", "UNKNOWN_FIELD"),
        (b"{\"process_id\": \"x\"}", "UNKNOWN_FIELD"),
        (b"{\"externalParticipants\": [{\"mail\": \"x\"}]}", "UNKNOWN_FIELD"),
        (b"{\"processId\": \"other\"}", "ID_MISMATCH"),
        (b"{\"validateOnly\": 1}", "TYPE_INVALID"),
        (deep.as_bytes(), "JSON_TOO_DEEP"),
        (deep_context.as_bytes(), "JSON_TOO_DEEP"),
        (b"{\"labels\": {\"a\": 1}}", "TYPE_INVALID"),
    ];
    for (body, expected) in table {
        let (status, error) = server.send("POST", "/api/processes/d/instances", body.to_vec()).await?;
        let shown = String::from_utf8_lossy(body);
        assert_eq!((status, reason(&error)), (400, expected), "{shown}: {error}");
        assert_eq!(error["error"]["status"], "INVALID_ARGUMENT");
        assert_eq!(error["error"]["code"], 400);
        assert_eq!(error["error"]["details"][0]["domain"], "phasegate");
    }
    assert_eq!(server.backend.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn every_fault_of_a_definition_is_told_with_its_place() -> Result<()> {
    let server = Server::start().await?;
    let body = json!({
        "id": "d", "phases": [{"requiredAproval": ["x"], "tasks": [{"asignee": "a"}]}],
        "gates": [{"type": "Approval"}], "nonsense": true,
    });
    let (status, error) = server.call("POST", "/api/processes", Some(&body)).await?;
    assert_eq!(status, 400);
    let violations = error["error"]["details"][1]["fieldViolations"].as_array().context("no violations")?;
    let mut found: Vec<(&str, &str)> = violations
        .iter()
        .filter_map(|violation| Some((violation["field"].as_str()?, violation["reason"].as_str()?)))
        .collect();
    found.sort_unstable();
    let expected = [
        ("/gates/0/type", "ENUM_INVALID"),
        ("/nonsense", "UNKNOWN_FIELD"),
        ("/phases/0/requiredAproval", "UNKNOWN_FIELD"),
        ("/phases/0/tasks/0/asignee", "UNKNOWN_FIELD"),
    ];
    assert_eq!(found, expected);
    assert_eq!(server.backend.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn addresses_that_say_what_cannot_be() -> Result<()> {
    let server = Server::start().await?;
    let table = [
        ("/api/processes?limit=abc", 400, "INVALID_NUMBER"),
        ("/api/processes?limit=1000000000000", 400, "INVALID_NUMBER"),
        ("/api/processes?limit=1&limit=2", 400, "DUPLICATE_KEY"),
        ("/api/processes?limit=1&pageSize=2", 400, "DUPLICATE_KEY"),
        ("/api/processes?pagesize=1", 400, "UNKNOWN_FIELD"),
        ("/api/processes?page_size=1", 400, "UNKNOWN_FIELD"),
        ("/api/processes?includeDrafts=yes", 400, "TYPE_INVALID"),
        ("/api/processes?pageToken=%ff", 400, "INVALID_TEXT"),
        ("/api/processes?pageToken=%00", 400, "INVALID_TEXT"),
        ("/api/processes/%zz", 400, "INVALID_TEXT"),
        ("/api/processes/instances/i/approvals?status=Pending", 400, "ENUM_INVALID"),
        ("/api/processes/instances/i/audit?since=yesterday", 400, "TIMESTAMP_INVALID"),
        ("/api/processes/instances/i/audit?processInstanceId=j", 400, "ID_MISMATCH"),
        ("/api/processes/instances/i/artifacts/k/versions/x", 400, "INVALID_NUMBER"),
        ("/api/processes?api_key=secret", 401, "CREDENTIALS_IN_URL"),
        ("/api/processes?access_token=secret", 401, "CREDENTIALS_IN_URL"),
        ("/api/proceses", 404, "NO_ROUTE"),
        ("/api/processes/", 404, "NO_ROUTE"),
        ("/nowhere", 404, "NO_ROUTE"),
        ("/phasegate.instance.v1.InstanceService/GetInstance", 404, "NO_ROUTE"),
    ];
    for (path, status, expected) in table {
        let (got, error) = server.call("GET", path, None).await?;
        assert_eq!((got, reason(&error)), (status, expected), "{path}: {error}");
    }
    assert_eq!(server.backend.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn other_methods_are_named() -> Result<()> {
    let server = Server::start().await?;
    for (verb, path, allow) in [
        ("DELETE", "/api/processes", "GET, HEAD, POST"),
        ("POST", "/api/processes/instances/i", "GET, HEAD"),
        ("GET", "/api/processes/validate", "POST"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ] {
        let answer = server.http.request(verb.parse()?, server.url(path)).send().await?;
        assert_eq!(answer.status().as_u16(), 405, "{verb} {path}");
        assert_eq!(answer.headers()["allow"], allow);
        assert_eq!(reason(&answer.json().await?), "NO_ROUTE");
    }
    Ok(())
}

#[tokio::test]
async fn only_json_is_read() -> Result<()> {
    let server = Server::start().await?;
    server.backend.answer("StartInstance", json!({}));
    let url = server.url("/api/processes/d/instances");
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        "application/json; charset=latin1",
    ] {
        for body in ["{}", ""] {
            let request = server.http.post(&url).header("content-type", content_type).body(body);
            let (status, error) = read(request).await?;
            assert_eq!((status, reason(&error)), (415, "UNSUPPORTED_MEDIA_TYPE"), "{content_type}");
        }
    }
    let (status, error) = read(server.http.post(&url).body("{}")).await?;
    assert_eq!((status, reason(&error)), (415, "UNSUPPORTED_MEDIA_TYPE"));
    // What unpacks to gigabytes is not unpacked at all.
    let bomb =
        server.http.post(&url).header("content-encoding", "gzip").header("content-type", "application/json");
    let (status, error) = read(bomb.body(vec![0x1f, 0x8b, 8, 0])).await?;
    assert_eq!((status, reason(&error)), (415, "UNSUPPORTED_MEDIA_TYPE"));
    assert_eq!(server.backend.asked(), 0);
    for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
        let request = server.http.post(&url).header("content-type", content_type).body("{}");
        assert_eq!(read(request).await?.0, 201, "{content_type}");
    }
    Ok(())
}

#[tokio::test]
async fn large_bodies_are_refused_before_they_are_read() -> Result<()> {
    let server = Server::start().await?;
    server.backend.answer("StoreArtifact", json!({}));
    server.backend.answer("StartInstance", json!({}));
    let text = |bytes: usize| format!("{{\"name\": \"{}\"}}", "x".repeat(bytes));
    let (status, error) = server.send("POST", "/api/processes/d/instances", text(1024 * 1024)).await?;
    assert_eq!((status, reason(&error)), (413, "BODY_TOO_LARGE"));
    assert_eq!(error["error"]["details"][0]["metadata"]["bytes_max"], "1048576");
    // Without a length, in pieces.
    let pieces = (0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 32 * 1024]));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let (status, error) = server.send("POST", "/api/processes/d/instances", body).await?;
    assert_eq!((status, reason(&error)), (413, "BODY_TOO_LARGE"));
    // Size comes before syntax.
    let (status, _) = server.send("POST", "/api/processes/d/instances", "{".repeat(1024 * 1024 + 1)).await?;
    assert_eq!(status, 413);
    assert_eq!(server.backend.asked(), 0);

    let content = json!({"key": "k", "content": "x".repeat(8 * 1024 * 1024)});
    assert_eq!(server.call("POST", "/api/processes/instances/i/artifacts", Some(&content)).await?.0, 201);
    let content = json!({"key": "k", "content": "x".repeat(13 * 1024 * 1024)});
    let (status, error) = server.call("POST", "/api/processes/instances/i/artifacts", Some(&content)).await?;
    assert_eq!((status, reason(&error)), (413, "BODY_TOO_LARGE"));
    assert_eq!(
        server
            .call("POST", "/api/processes/d/instances", Some(&json!({"name": "x".repeat(1_000_000)})))
            .await?
            .0,
        201
    );
    Ok(())
}

#[tokio::test]
async fn slow_and_oversized_arrivals_end() -> Result<()> {
    let soon = Duration::from_millis(300);
    let limits = Limits { arrival_time_max: soon, header_time_max: soon, ..Limits::default() };
    let server = Server::start_with(Config { dev: true, limits, ..Config::default() }).await?;
    let host = &server.address;
    // A body that never comes.
    let head = format!(
        "POST /api/processes/d/instances HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{{"
    );
    let answer = raw(host, &head).await?;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("BODY_TOO_SLOW"), "{answer}");
    // Headers that never end, and a connection that never speaks.
    for begun in ["", "P", "PRI * HTTP/2.0", "GET /api/processes HTTP/1.1\r\nHost: "] {
        let before = Instant::now();
        raw(host, begun).await?;
        assert!(before.elapsed() < Duration::from_secs(3), "{begun:?}");
    }
    // Too many and too large headers.
    let many = "A: b\r\n".repeat(150);
    let answer = raw(host, &format!("GET /api/processes HTTP/1.1\r\nHost: {host}\r\n{many}\r\n")).await?;
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("HEADERS_TOO_LARGE"), "{answer}");
    let many = "A: b\r\n".repeat(1000);
    let answer = raw(host, &format!("GET /api/processes HTTP/1.1\r\nHost: {host}\r\n{many}\r\n")).await?;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let large = "x".repeat(20_000);
    let answer =
        raw(host, &format!("GET /api/processes HTTP/1.1\r\nHost: {host}\r\nA: {large}\r\n\r\n")).await?;
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("HEADERS_TOO_LARGE"), "{answer}");
    // Two lengths, and a length beside chunks: two servers would see two calls.
    let lengths = "Content-Length: 2\r\nContent-Length: 3\r\n";
    let answer =
        raw(host, &format!("POST /api/processes HTTP/1.1\r\nHost: {host}\r\n{lengths}\r\n{{}}")).await?;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(server.backend.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn the_same_error_reads_the_same_over_both() -> Result<()> {
    let server = Server::start().await?;
    let refusals = [
        phasegate_rpc_error::status(&Invalid::new("PAGE_SIZE_INVALID", "page_size", "must not be negative")),
        tonic::Status::out_of_range(
            "Error, decoded message length too large: found 2 bytes, the limit is: 1 bytes",
        ),
        tonic::Status::cancelled("Timeout expired"),
        tonic::Status::unknown("transport error"),
        tonic::Status::data_loss("oops"),
    ];
    let expected = [
        (400, "INVALID_ARGUMENT", "PAGE_SIZE_INVALID"),
        (413, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE"),
        (504, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        (503, "UNAVAILABLE", "DEPENDENCY_DOWN"),
        (500, "INTERNAL", "INTERNAL"),
    ];
    let mut client = DefinitionServiceClient::connect(server.url("")).await?;
    for (refusal, (status, code, why)) in refusals.into_iter().zip(expected) {
        server.backend.lay("ListProcessDefinitions", Answer::Refusal(refusal));
        let (got, rest) = server.call("GET", "/api/processes", None).await?;
        assert_eq!((got, reason(&rest), &rest["error"]["status"]), (status, why, &json!(code)));
        let grpc = client.list_process_definitions(ListProcessDefinitionsRequest::default()).await;
        let grpc = grpc.err().context("not refused")?;
        assert_eq!(reason_of(&grpc).as_deref(), Some(why));
        assert_eq!(grpc.code().description(), code_of(code).description());
        assert_eq!(rest["error"]["message"], grpc.message());
        if why == "INTERNAL" {
            assert!(!grpc.message().contains("oops"));
        }
    }
    Ok(())
}

fn code_of(name: &str) -> tonic::Code {
    match name {
        "INVALID_ARGUMENT" => tonic::Code::InvalidArgument,
        "RESOURCE_EXHAUSTED" => tonic::Code::ResourceExhausted,
        "DEADLINE_EXCEEDED" => tonic::Code::DeadlineExceeded,
        "UNAVAILABLE" => tonic::Code::Unavailable,
        _ => tonic::Code::Internal,
    }
}

#[tokio::test]
async fn details_and_headers_follow_the_refusal() -> Result<()> {
    let server = Server::start().await?;
    let violation = Invalid::new("TEXT_INVALID", "title", "must be one line").with("length_max", "200");
    server.backend.lay("RequestApproval", Answer::Refusal(phasegate_rpc_error::status(&violation)));
    let (_, error) = server.call("POST", "/api/processes/instances/i/approvals", Some(&json!({}))).await?;
    let expected: Value = json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "title must be one line", "details": [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "phasegate", "reason": "TEXT_INVALID",
         "metadata": {"field": "title", "length_max": "200"}},
        {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [
            {"field": "title", "reason": "TEXT_INVALID", "description": "must be one line"}]},
    ]}});
    assert_eq!(error, expected);

    server.backend.lay("GetInstance", Answer::Down);
    let answer = server.http.get(server.url("/api/processes/instances/i")).send().await?;
    assert_eq!(answer.status().as_u16(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    let error: Value = answer.json().await?;
    assert_eq!(error["error"]["details"][1]["retryDelay"], "1s");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_not_the_message_is_our_mistake() -> Result<()> {
    let server = Server::start().await?;
    server.backend.lay("GetInstance", Answer::Nonsense);
    let (status, error) = server.call("GET", "/api/processes/instances/i", None).await?;
    assert_eq!((status, reason(&error)), (500, "INTERNAL"));
    let (status, error) = server.call("GET", "/dev/boom", None).await?;
    assert_eq!((status, reason(&error)), (500, "INTERNAL"));
    Ok(())
}

/// Sends text over a connection of its own, and reads until the other side closes.
async fn raw(address: &str, text: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    // A reset after the answer is an end, too.
    let reading = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer));
    let _ = reading.await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
