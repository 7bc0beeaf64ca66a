//! What is around the calls: browsers, keys, documents, probes, the bytes of artifacts.

use anyhow::{Context as _, Result};
use phasegate_gateway::Config;
use phasegate_proto::instance::v1::GetInstanceRequest;
use phasegate_proto::instance::v1::instance_service_client::InstanceServiceClient;
use phasegate_rpc_error::reason_of;
use serde_json::{Value, json};

use crate::backend::{Server, read, reason};

#[tokio::test]
async fn pages_of_other_sites_cannot_drive_the_server() -> Result<()> {
    let server = Server::start().await?;
    server.backend.answer("AdvancePhase", json!({}));
    let url = server.url("/api/processes/instances/i/phase");
    for (name, value) in
        [("origin", "http://evil.test"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
    {
        let (status, error) = read(server.http.post(&url).header(name, value)).await?;
        assert_eq!((status, reason(&error)), (403, "CSRF"), "{name}: {value}");
    }
    let (status, error) =
        read(server.http.get(server.url("/api/processes")).header("host", "evil.test")).await?;
    assert_eq!((status, reason(&error)), (403, "CSRF"));
    assert_eq!(server.backend.asked(), 0);
    let own = server.http.post(&url).header("origin", server.url(""));
    assert_eq!(read(own).await?.0, 200);

    let preflight = server.http.request("OPTIONS".parse()?, &url).header("origin", "http://evil.test");
    let answer = preflight.header("access-control-request-method", "POST").send().await?;
    assert_eq!(answer.status().as_u16(), 204);
    assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
    Ok(())
}

#[tokio::test]
async fn nobody_is_somebody_without_a_key() -> Result<()> {
    let dev = Server::start().await?;
    dev.backend.answer("GetInstance", json!({}));
    let request = dev.http.get(dev.url("/api/processes/instances/i")).header("authorization", "Bearer x");
    let (status, error) = read(request).await?;
    assert_eq!((status, reason(&error)), (401, "CREDENTIALS_INVALID"));

    let server = Server::start_with(Config::default()).await?;
    let answer = server.http.get(server.url("/api/processes/instances/i")).send().await?;
    assert_eq!(answer.status().as_u16(), 401);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    assert_eq!(reason(&answer.json().await?), "CREDENTIALS_MISSING");
    let mut client = InstanceServiceClient::connect(server.url("")).await?;
    let refused = client.get_instance(GetInstanceRequest::default()).await.err().context("not refused")?;
    assert_eq!(reason_of(&refused).as_deref(), Some("CREDENTIALS_MISSING"));
    assert_eq!(server.backend.asked() + dev.backend.asked(), 0);
    assert_eq!(server.http.get(server.url("/healthz")).send().await?.status().as_u16(), 200);
    assert_eq!(server.http.get(server.url("/")).send().await?.status().as_u16(), 404);
    Ok(())
}

#[tokio::test]
async fn a_development_server_stays_on_its_machine() -> Result<()> {
    let server = Server::start().await?;
    let config = Config { dev: true, ..Config::default() };
    let gateway = phasegate_gateway::Service::open(config, server.context.clone(), axum::Router::new())?;
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await?;
    let refused = gateway.run(listener).await.err().context("not refused")?;
    assert!(refused.to_string().contains("loopback"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn answers_are_not_kept_nor_guessed_at() -> Result<()> {
    let server = Server::start().await?;
    server.backend.answer("ListProcessDefinitions", json!({}));
    let url = server.url("/api/processes");
    let got = server.http.get(&url).header("x-request-id", "my-1").send().await?;
    for (name, value) in [
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-request-id", "my-1"),
    ] {
        assert_eq!(got.headers()[name], value);
    }
    let body = got.text().await?;
    let head = server.http.head(&url).send().await?;
    assert_eq!(head.status().as_u16(), 200);
    assert_eq!(head.headers()["content-length"], body.len().to_string().as_str());
    assert_eq!(head.text().await?, "");
    Ok(())
}

#[tokio::test]
async fn the_bytes_of_an_artifact_are_a_download() -> Result<()> {
    let server = Server::start().await?;
    let url = server.url("/api/processes/instances/i/artifacts/page.html/content");
    server.backend.answer("GetArtifact", json!({"artifact": {
        "key": "page.html", "rawContent": "PGI+aGk8L2I+", "contentType": "text/html", "digest": "sha256:abc",
    }}));
    let answer = server.http.get(format!("{url}?version=3")).send().await?;
    assert_eq!(server.backend.last()?.message, json!({"instanceId": "i", "key": "page.html", "version": 3}));
    for (name, value) in [
        ("content-type", "text/html"),
        ("content-disposition", "attachment; filename=\"page.html\""),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; sandbox"),
        ("etag", "\"sha256:abc\""),
    ] {
        assert_eq!(answer.headers()[name], value);
    }
    assert_eq!(answer.text().await?, "<b>hi</b>");
    let same = server.http.get(&url).header("if-none-match", "\"x\", \"sha256:abc\"").send().await?;
    assert_eq!((same.status().as_u16(), same.text().await?.as_str()), (304, ""));

    let content = json!({"b": [1, 2.5], "a": null});
    server.backend.answer("GetArtifact", json!({"artifact": {"key": "k", "content": content}}));
    let answer = server.http.get(&url).send().await?;
    assert_eq!(answer.headers()["content-disposition"], "attachment; filename=\"k.json\"");
    assert_eq!(answer.text().await?, r#"{"a":null,"b":[1,2.5]}"#);
    Ok(())
}

#[tokio::test]
async fn the_documents_describe_every_route() -> Result<()> {
    let server = Server::start().await?;
    let (status, document) = server.call("GET", "/openapi.json", None).await?;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let start = &document["paths"]["/api/processes/{processId}/instances"]["post"];
    assert_eq!(start["operationId"], "InstanceService_StartInstance");
    assert_eq!(
        start["requestBody"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/StartInstanceRequest"
    );
    assert_eq!(
        start["responses"]["201"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/ProcessInstance"
    );
    let words = &document["components"]["schemas"]["GateType"]["enum"];
    assert_eq!(words, &json!(["approval", "condition", "manual"]));
    let text = document.to_string();
    assert!(!text.contains("internal.v1") && !text.contains("phasegate.internal"));
    // Every reference leads somewhere, and every operation has a name of its own.
    for piece in text.split("\"#/components/").skip(1) {
        let pointer = format!("/components/{}", piece.split('"').next().unwrap_or_default());
        assert!(document.pointer(&pointer).is_some_and(|schema| !schema.is_null()), "{pointer}");
    }
    for operation in operations(&document) {
        let summary = operation["summary"].as_str().unwrap_or_default();
        assert!(!summary.is_empty() && !summary.contains('\n') && !summary.contains("Refuses"), "{summary}");
    }
    let mut names: Vec<&str> =
        operations(&document).filter_map(|operation| operation["operationId"].as_str()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(count > 50, "{count}");

    let docs = server.http.get(server.url("/docs")).send().await?.text().await?;
    assert!(
        docs.contains("InstanceService_StartInstance") && !docs.contains("<script") && !docs.contains("src=")
    );
    let index = server.http.get(server.url("/")).send().await?.text().await?;
    assert!(index.contains("/dev/mail") && index.contains(&server.url("/api/processes")));
    Ok(())
}

fn operations(document: &Value) -> impl Iterator<Item = &Value> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(_, item)| item.as_object().into_iter().flatten().map(|(_, operation)| operation))
}

#[tokio::test]
async fn probes_tell_who_is_missing() -> Result<()> {
    let server = Server::start().await?;
    let ready = server.http.get(server.url("/readyz")).send().await?;
    assert_eq!((ready.status().as_u16(), ready.text().await?.as_str()), (200, "ready\n"));
    assert_eq!(server.http.get(server.url("/healthz")).send().await?.text().await?, "ok\n");
    Ok(())
}
