//! What is wrong with a call before anybody looks at what it says.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use phasegate_bad_input::{Case, Check, Refusal, World, alone, find, on_both};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

const MALFORMED: &str = "INVALID_ARGUMENT 400 MALFORMED_JSON";
const TYPE: &str = "INVALID_ARGUMENT 400 TYPE_INVALID";
const NUMBER: &str = "INVALID_ARGUMENT 400 INVALID_NUMBER";
const TEXT: &str = "INVALID_ARGUMENT 400 INVALID_TEXT";
const STARTS: &str = "/api/processes/launch/instances";

fn post(
    world: &World,
    path: &str,
    body: impl Into<reqwest::Body>,
) -> anyhow::Result<reqwest::RequestBuilder> {
    Ok(world.doors.request("POST", path)?.header("content-type", "application/json").body(body))
}

#[test]
fn bodies_must_be_json() -> anyhow::Result<()> {
    let deep = format!("{{\"context\":{}1{}}}", "[".repeat(65), "]".repeat(65));
    let table: Vec<(&str, &[u8], &str, &str)> = vec![
        ("B001", b"{", MALFORMED, ""),
        ("B001", b"{\"name\": \"x\"", MALFORMED, ""),
        ("B001", b"name=x", MALFORMED, ""),
        ("B001", b"{} {}", MALFORMED, ""),
        ("B001", b"<name>x</name>", MALFORMED, ""),
        ("B001", b"[]", TYPE, "the body"),
        ("B001", b"null", TYPE, "the body"),
        ("B001", b"{\"name\": [\"x\"]}", TYPE, "/name"),
        ("B001", b"{\"name\": \"x\", \"name\": \"y\"}", "INVALID_ARGUMENT 400 DUPLICATE_KEY", ""),
        ("B002", deep.as_bytes(), "INVALID_ARGUMENT 400 JSON_TOO_DEEP", ""),
        ("B004", b"{\"name\": \"\\ud800\"}", TEXT, ""),
        ("B004", b"{\"name\": \"a\\u0000b\"}", TEXT, ""),
        ("B004", b"{\"name\": \"\xff\"}", TEXT, ""),
        ("B005", b"{\"context\": {\"n\": 1e400}}", NUMBER, ""),
        ("B005", b"{\"context\": {\"n\": NaN}}", NUMBER, ""),
        ("B005", b"{\"context\": {\"n\": 9007199254740993}}", NUMBER, "/context/n"),
    ];
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for (row, body, refusal, at) in &table {
            let request = post(world, STARTS, body.to_vec())?;
            check
                .refused_by_rest(
                    row,
                    String::from_utf8_lossy(&body[..body.len().min(60)]),
                    request,
                    refusal,
                    at,
                )
                .await?;
        }
        check.done()
    })
}

#[test]
fn bodies_are_bounded() -> anyhow::Result<()> {
    let large = "RESOURCE_EXHAUSTED 413 BODY_TOO_LARGE";
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let name = format!("{{\"name\": \"{}\"}}", "x".repeat(1024 * 1024));
        check.refused_by_rest("B006", "1 MiB", post(world, STARTS, name)?, large, "").await?;
        // Without a length, in pieces; and longer than it is right.
        let pieces = (0..64).map(|_| Ok::<_, std::io::Error>(vec![b'{'; 32 * 1024]));
        let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
        check.refused_by_rest("B006", "in chunks", post(world, STARTS, body)?, large, "").await?;
        let path = format!("/api/processes/instances/{}/artifacts", scene.instance);
        let body = vec![b' '; 13 * 1024 * 1024];
        check.refused_by_rest("B006", "an artifact", post(world, &path, body)?, large, "").await?;
        // What would unpack to gigabytes is not unpacked.
        let bomb = post(world, STARTS, vec![0x1f, 0x8b, 8, 0])?.header("content-encoding", "gzip");
        let refusal = "INVALID_ARGUMENT 415 UNSUPPORTED_MEDIA_TYPE";
        check.refused_by_rest("B006", "compressed", bomb, refusal, "").await?;
        check.done()
    })
}

#[test]
fn bodies_must_be_declared_as_json() -> anyhow::Result<()> {
    let refusal = "INVALID_ARGUMENT 415 UNSUPPORTED_MEDIA_TYPE";
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for declared in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json; charset=utf-16",
            "application/yaml",
        ] {
            let request = world.doors.request("POST", STARTS)?.header("content-type", declared);
            let request = request.body("{\"externalParticipants\": []}");
            check.refused_by_rest("B007", declared, request, refusal, "").await?;
        }
        let request = world.doors.request("POST", STARTS)?.body("{}");
        check.refused_by_rest("B007", "nothing", request, refusal, "").await?;
        check.done()
    })
}

#[test]
fn routes_must_exist() -> anyhow::Result<()> {
    on_both(async |world, scene| {
        let mut check = Check::new(world).await?;
        let base = format!("/api/processes/instances/{}", scene.instance);
        for (verb, path) in [
            ("GET", "/api/proceses"),
            ("GET", "/api/processes/"),
            ("GET", "/api"),
            ("POST", "/api/processes/launch/instances/x/y"),
            ("GET", "/api/../etc/passwd"),
            ("GET", "/phasegate.instance.v1.InstanceService/GetInstance"),
            ("POST", "/phasegate.internal.instance.v1.InstanceInternalService/ConfirmLease"),
        ] {
            let request = world.doors.request(verb, path)?;
            check.refused_by_rest("B008", path, request, "NOT_FOUND 404 NO_ROUTE", "").await?;
        }
        for (verb, path, allow) in [
            ("DELETE", "/api/processes/launch", "GET, HEAD"),
            ("DELETE", &base, "GET, HEAD"),
            ("GET", "/api/processes/validate", "POST"),
            ("PATCH", "/api/processes", "GET, HEAD, POST"),
        ] {
            let request = world.doors.request(verb, path)?;
            check.refused_by_rest("B008", path, request, "UNIMPLEMENTED 405 NO_ROUTE", "").await?;
            let answer = world.doors.send(world.doors.request(verb, path)?).await?;
            ensure!(
                answer.headers["allow"] == allow,
                "B008: {:?} is allowed on {path}",
                answer.headers["allow"]
            );
        }
        // Methods that are for services among themselves are not there, and neither are others.
        for path in [
            "/phasegate.internal.instance.v1.InstanceInternalService/ConfirmLease",
            "/phasegate.internal.participant.v1.ParticipantInternalService/SignLink",
            "/phasegate.instance.v1.InstanceService/DeleteInstance",
            "/phasegate.nowhere.v1.Service/Method",
        ] {
            let refusal = world.doors.grpc_frame(path, frame(b""), &[]).await;
            check.note("B008", path, told(refusal, "UNIMPLEMENTED", "NO_ROUTE")).await?;
        }
        check.done()
    })
}

/// A gRPC message in its frame, which says that it is not packed.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], length.to_be_bytes().as_slice(), message].concat()
}

/// Is it refused like this?
fn told(refusal: anyhow::Result<Refusal>, code: &str, reason: &str) -> anyhow::Result<()> {
    let refusal = refusal?;
    ensure!(
        refusal.code == code && refusal.reason == reason,
        "expected {code} {reason}, and it is {refusal:?}"
    );
    ensure!(refusal.domain == "phasegate", "the domain is {:?}", refusal.domain);
    Ok(())
}

#[test]
fn grpc_messages_must_be_the_messages() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for method in
            ["StartInstance", "CreateProcessDefinition", "DecideApproval", "CreateLink", "StoreArtifact"]
        {
            for bytes in [&b"\xff\xff\xff\xff"[..], b"\x0a\xff", b"\x0a\x02\xff\xfe", b"{\"name\": 1}"] {
                let answer = world.doors.grpc_bytes(&find(method)?, Bytes::copy_from_slice(bytes)).await?;
                // The code is the transport's own; nothing of ours has seen the message.
                let outcome = match answer {
                    Err(status) if status.code() == Code::Internal && status.message().contains("decode") => {
                        Ok(())
                    }
                    other => Err(anyhow::anyhow!("{other:?}")),
                };
                check.note("B010", method, outcome).await?;
            }
        }
        check.done()
    })
}

#[test]
fn grpc_messages_are_bounded() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        let method = find("StartInstance")?;
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let (code, reason) = ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE");
        let large = world.doors.grpc_frame(&path, frame(&vec![0; 4 * 1024 * 1024 + 1]), &[]).await;
        check.note("B011", "4 MiB and a byte", told(large, code, reason)).await?;
        // Announced, and never sent.
        let announced = world.doors.grpc_frame(&path, vec![0, 0xff, 0xff, 0xff, 0xff], &[]).await;
        check.note("B011", "4 GiB announced", told(announced, code, reason)).await?;
        // A name of 64 MiB, packed in some ten thousand bytes.
        let name = json!({"processId": "launch", "name": "0".repeat(64 * 1024 * 1024)});
        let bytes = Bytes::from(phasegate_bad_input::message("StartInstance", &name)?);
        // Nothing packed is taken at all; the transport says so in the way that clients know.
        let packed = world.doors.grpc_packed(&method, bytes).await?;
        ensure!(packed.code == "UNIMPLEMENTED" && packed.message.contains("gzip"), "B012: {packed:?}");
        check.note("B012", "64 MiB, packed", Ok(())).await?;
        check.done()
    })
}

#[test]
fn silence_is_cut_off() -> anyhow::Result<()> {
    alone(async |world| {
        let mut check = Check::new(world).await?;
        let host = world.doors.address.trim_start_matches("http://");
        // B013: a length, and then nothing; over REST and over gRPC, both at once.
        let rest = format!(
            "POST {STARTS} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n{{"
        );
        let rest_large = rest.replace("4000000", "1000");
        let grpc = format!(
            "POST /phasegate.instance.v1.InstanceService/StartInstance HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/grpc\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\n\0\0\u{0}\u{1}\0\r\n"
        );
        let before = Instant::now();
        let (too_large, silent, grpc) =
            tokio::try_join!(raw(host, &rest), raw(host, &rest_large), raw(host, &grpc))?;
        ensure!(before.elapsed() < Duration::from_secs(20), "it took {:?}", before.elapsed());
        let told = |answer: &str, wanted: &str| {
            ensure!(answer.contains(wanted), "{answer:?} lacks {wanted}");
            Ok(())
        };
        check.note("B013", "a large length", told(&too_large, "BODY_TOO_LARGE")).await?;
        check.note("B013", "a body that stops", told(&silent, "BODY_TOO_SLOW")).await?;
        check.note("B013", "a message that stops", told(&grpc, "grpc-status: 4")).await?;
        check.done()
    })
}

/// Sends bytes and reads until the other side has no more to say.
async fn raw(host: &str, bytes: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(bytes.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let waited = tokio::time::timeout(Duration::from_secs(15), stream.read(&mut piece)).await;
        let count = waited.context("no answer for 15 s")??;
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer);
        if count == 0 || text.contains("grpc-status") || text.contains("\"error\"") {
            return Ok(text.into_owned());
        }
    }
}

#[test]
fn headers_are_bounded() -> anyhow::Result<()> {
    let refusal = "RESOURCE_EXHAUSTED 431 HEADERS_TOO_LARGE";
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        let request = world.doors.request("GET", "/api/processes")?.header("x-long", "x".repeat(17 * 1024));
        check.refused_by_rest("B014", "17 KiB", request, refusal, "").await?;
        let mut request = world.doors.request("GET", "/api/processes")?;
        for number in 0..120 {
            request = request.header(format!("x-{number}"), "y");
        }
        check.refused_by_rest("B014", "120 headers", request, refusal, "").await?;
        let long = "x".repeat(17 * 1024);
        let path = "/phasegate.instance.v1.InstanceService/GetInstance";
        let refusal = world.doors.grpc_frame(path, frame(b""), &[("x-long", &long)]).await;
        let outcome = told(refusal, "RESOURCE_EXHAUSTED", "HEADERS_TOO_LARGE");
        check.note("B014", "17 KiB of metadata", outcome).await?;
        check.done()
    })
}

#[test]
fn credentials_stay_out_of_addresses() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for name in ["api_key", "apiKey", "access_token", "authorization", "bearer-token", "secret"] {
            let request = world.doors.request("GET", &format!("/api/processes?{name}=x"))?;
            let refusal = "UNAUTHENTICATED 401 CREDENTIALS_IN_URL";
            check.refused_by_rest("B020", name, request, refusal, "").await?;
        }
        check.done()
    })
}

#[test]
fn credentials_that_are_none_of_ours_open_nothing() -> anyhow::Result<()> {
    let refusal = "UNAUTHENTICATED 401 CREDENTIALS_INVALID";
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for value in ["Bearer pok_live_nobody", "Bearer x", "Basic ZGV2OmRldg==", "nonsense"] {
            let request = world.doors.request("GET", "/api/processes")?.header("authorization", value);
            check.refused_by_rest("B018", value, request, refusal, "").await?;
            let path = "/phasegate.definition.v1.DefinitionService/ListProcessDefinitions";
            let refusal = world.doors.grpc_frame(path, frame(b""), &[("authorization", value)]).await;
            let outcome = told(refusal, "UNAUTHENTICATED", "CREDENTIALS_INVALID");
            check.note("B018", &format!("{value} over gRPC"), outcome).await?;
        }
        check.done()
    })
}

#[test]
fn deadlines_are_kept() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        let path = "/phasegate.definition.v1.DefinitionService/ListProcessDefinitions";
        for (value, code, reason) in [
            ("0n", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
            ("1n", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
            ("soon", "INVALID_ARGUMENT", "DURATION_INVALID"),
            ("-1S", "INVALID_ARGUMENT", "DURATION_INVALID"),
            ("123456789S", "INVALID_ARGUMENT", "DURATION_INVALID"),
        ] {
            let refusal = world.doors.grpc_frame(path, frame(b""), &[("grpc-timeout", value)]).await;
            check.note("B030", value, told(refusal, code, reason)).await?;
        }
        check.done()
    })
}

#[test]
fn other_origins_get_no_leave() -> anyhow::Result<()> {
    on_both(async |world, _| {
        let mut check = Check::new(world).await?;
        for origin in ["https://evil.example", "null"] {
            let preflight = world
                .doors
                .request("OPTIONS", "/api/processes")?
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "content-type");
            let answer = world.doors.send(preflight).await?;
            let is_mute = answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-"));
            ensure!(answer.status == 204 && is_mute, "B035: {answer:?}");
            let read = world.doors.request("GET", "/api/processes")?.header("origin", origin);
            let answer = world.doors.send(read).await?;
            let is_mute = answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-"));
            ensure!(is_mute, "B035: {answer:?}");
            let write = world.doors.request("POST", "/api/processes")?.header("origin", origin);
            let write = write.json(&phasegate_bad_input::launch());
            check.refused_by_rest("B034", origin, write, "PERMISSION_DENIED 403 CSRF", "").await?;
        }
        let write = world.doors.request("POST", "/api/processes")?.header("sec-fetch-site", "cross-site");
        let write = write.json(&phasegate_bad_input::launch());
        check.refused_by_rest("B034", "cross-site", write, "PERMISSION_DENIED 403 CSRF", "").await?;
        let rebound = world.doors.request("GET", "/api/processes")?.header("host", "evil.example");
        check.refused_by_rest("B034", "another host", rebound, "PERMISSION_DENIED 403 CSRF", "").await?;
        check.done()
    })
}

#[test]
fn what_grpc_allows_is_said_the_same_way() -> anyhow::Result<()> {
    on_both(async |world, _| {
        // B008: the one method that the gateway itself serves over both.
        let mut check = Check::new(world).await?;
        check.accepted(Case::new("B008", "the caller", "GetCaller", json!({}), "200", "")).await?;
        check.done()
    })
}
