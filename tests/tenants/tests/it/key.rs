//! Keys: what opens the gateway, what does not, and for how long.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use phasegate_principal::{ApiKey, HEADER, Principal};
use phasegate_proto::instance::v1::WatchEventsRequest;
use phasegate_proto::instance::v1::event_service_client::EventServiceClient;
use phasegate_rpc_error::reason_of;
use phasegate_serve::Service;
use phasegate_tenants::call::{call, named};
use phasegate_tenants::scene::{Scene, leased, text};
use phasegate_tenants::world::{World, bearer};
use phasegate_test_database::both;
use serde_json::{Value, json};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request};

/// Longer than an answer about a key is believed.
const FORGOTTEN: Duration = Duration::from_millis(1_200);
/// Longer than an open stream goes on after its key.
const ENDED: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn only_a_good_key_opens_and_the_others_read_the_same() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let admin = world.tenant("acme").await?.expose().to_owned();
        let caller = world.done(&admin, "GetCaller", json!({})).await?;
        ensure!(caller["tenantId"] == "acme" && caller["scopes"] == json!(["admin"]), "{caller}");

        let short = json!({"name": "short", "scopes": ["instances:read"], "expiresIn": "5m"});
        let made = world.done(&admin, "CreateKey", short).await?;
        let (revoked, id) = (text(&made, "/secret")?, text(&made, "/key/id")?);
        ensure!(world.call(&revoked, "ListInstances", &json!({})).await?.is_ok(), "it is good");
        world.done(&admin, "RevokeKey", json!({"keyId": id})).await?;
        // Believed for a second at most after it was asked about last.
        tokio::time::sleep(FORGOTTEN).await;
        let unknown = ApiKey::generate()?.expose().to_owned();
        let mut mistyped = unknown.clone();
        mistyped.replace_range(30..31, if &mistyped[30..31] == "a" { "b" } else { "a" });
        let mut seen = Vec::new();
        for wrong in [&revoked, &unknown, &mistyped, "nonsense", "phasegate_sk_", "a.b.c"] {
            let by_grpc =
                world.call(wrong, "ListInstances", &json!({})).await?.err().context("it was taken")?;
            let credential = format!("Bearer {wrong}");
            let headers = [("authorization", credential.as_str())];
            let (status, challenge, body) = http(&world, "/api/processes/instances", &headers).await?;
            ensure!((status, challenge.as_str()) == (401, "Bearer"), "{wrong}: {status} {challenge}");
            ensure!(by_grpc.code() == Code::Unauthenticated, "{wrong}: {by_grpc:?}");
            ensure!(body["error"]["message"] == by_grpc.message(), "{wrong}: {body}");
            seen.push((reason_of(&by_grpc), by_grpc.message().to_owned()));
        }
        ensure!(seen.iter().all(|one| *one == seen[0]), "B018: {seen:?}");
        ensure!(seen[0].0.as_deref() == Some("CREDENTIALS_INVALID"), "B018: {seen:?}");

        let none =
            world.call("", "ListInstances", &json!({})).await?.err().context("B017: nobody was let in")?;
        ensure!(reason_of(&none).as_deref() == Some("CREDENTIALS_MISSING"), "B017: {none:?}");
        let (status, _, body) =
            http(&world, &format!("/api/processes/instances?api_key={admin}"), &[]).await?;
        ensure!(status == 401 && body.to_string().contains("CREDENTIALS_IN_URL"), "B020: {status} {body}");
        ensure!(!body.to_string().contains(&admin), "B020: the answer repeats the key");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_soon_after_its_key_and_others_go_on() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let scene = Scene::set(&world, "acme").await?;
        let wish = json!({"name": "watcher", "scopes": ["instances:read"]});
        let made = world.done(&scene.key, "CreateKey", wish).await?;
        let (watcher, id) = (text(&made, "/secret")?, text(&made, "/key/id")?);
        let instance = scene.instance.clone();
        let watch = async |key: &str| -> anyhow::Result<_> {
            let request = WatchEventsRequest { instance_id: instance.clone(), ..Default::default() };
            let request = Request::from_parts(bearer(key)?, tonic::Extensions::new(), request);
            let mut client = EventServiceClient::new(world.gateway.clone());
            Ok(client.watch_events(request).await?.into_inner())
        };
        let (mut revoked, mut good) = (watch(&watcher).await?, watch(&scene.key).await?);
        let url = format!("{}/api/processes/instances/{instance}/events", world.address);
        let mut events = reqwest::Client::new().get(url).bearer_auth(&watcher).send().await?;
        ensure!(events.status() == 200, "{events:?}");
        world.done(&scene.key, "RevokeKey", json!({"keyId": id})).await?;
        let end = async {
            while revoked.message().await?.is_some() {}
            Ok::<_, tonic::Status>(())
        };
        let ended = tokio::time::timeout(ENDED, end).await.context("the stream goes on without its key")?;
        let status = ended.err().context("it ended as if there was nothing more")?;
        ensure!(status.code() == Code::Unavailable, "{status:?}");
        let end = async {
            while events.chunk().await?.is_some() {}
            Ok::<_, reqwest::Error>(())
        };
        tokio::time::timeout(ENDED, end).await.context("the events go on without their key")??;
        let refused = watch(&watcher).await.err().context("it was let in again")?;
        let refused = refused.downcast::<tonic::Status>()?;
        ensure!(refused.code() == Code::Unauthenticated, "{refused:?}");
        // Whoever is still let in hears what comes next.
        world.done(&scene.key, "PauseInstance", json!({"instanceId": instance, "reason": "look"})).await?;
        let heard = async {
            loop {
                let message = good.message().await?.context("the other one ended, too")?;
                if message.events.iter().any(|event| event.r#type == "instance.paused") {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(ENDED, heard).await.context("the other one hears nothing")?
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_what_its_scopes_say_and_no_more() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let scene = Scene::set(&world, "acme").await?;
        let make = async |wish: Value| text(&world.done(&scene.key, "CreateKey", wish).await?, "/secret");
        let refused = async |key: &str, method: &str, message: Value| -> anyhow::Result<String> {
            let refused = world.call(key, method, &message).await?.err();
            let refused = refused.with_context(|| format!("{method} was not refused"))?;
            ensure!(refused.code() == Code::PermissionDenied, "{method}: {refused:?}");
            Ok(reason_of(&refused).unwrap_or_default())
        };
        let of = json!({"instanceId": scene.instance});

        let reader = make(json!({"name": "reader", "scopes": ["instances:read"]})).await?;
        world.done(&reader, "GetInstance", of.clone()).await?;
        for (method, message) in [
            ("ListTasks", of.clone()),
            ("ListAuditEntries", of.clone()),
            ("CancelInstance", json!({"instanceId": scene.instance, "reason": "because"})),
            ("CreateKey", json!({"name": "more", "scopes": ["instances:read"]})),
            ("ListKeys", json!({})),
        ] {
            ensure!(refused(&reader, method, message).await? == "SCOPE_MISSING", "B021: {method}");
        }
        // The feed says what happened, and shows of the people and their words what the key may read elsewhere.
        let watch = json!({"instanceId": scene.instance, "resumeToken": "0"});
        let all = world.done(&scene.key, "WatchEvents", watch.clone()).await?.to_string();
        ensure!(all.contains("approver@acme.example") && all.contains("When?"), "{all}");
        let little = world.done(&reader, "WatchEvents", watch).await?.to_string();
        ensure!(little.contains("comment") && !little.contains("approver@acme.example"), "{little}");
        ensure!(!little.contains("When?"), "{little}");
        let mover = make(json!({"name": "mover", "scopes": ["instances:operate"]})).await?;
        let force = json!({"instanceId": scene.instance, "force": true, "reason": "because"});
        ensure!(refused(&mover, "AdvancePhase", force).await? == "SCOPE_MISSING", "force needs its own scope");
        let writer = make(json!({"name": "writer", "scopes": ["definitions:write"]})).await?;
        let launch = json!({"id": "b", "name": "B", "version": "1.0.0", "phases": []});
        let launch = json!({"processDefinition": launch});
        ensure!(refused(&writer, "CreateProcessDefinition", launch).await? == "SCOPE_MISSING", "publishing, too");

        // An agent: its own queues, and no decision.
        let agent = json!({
            "name": "agent", "scopes": ["workers:poll", "artifacts:write", "approvals:request"], "queues": ["acme_critic"],
        });
        let agent = make(agent).await?;
        let poll = |queue: &str| {
            json!({"worker": {"workerId": "w"}, "queues": [queue], "wait": "5s", "leaseDuration": "60s"})
        };
        ensure!(refused(&agent, "PollTasks", poll("acme_writer")).await? == "QUEUE_FORBIDDEN", "another queue");
        let token = leased(&world, &agent, "acme_critic").await?;
        // A token of a lease is worth nothing with the key of another agent.
        let thief = json!({"name": "thief", "scopes": ["workers:poll", "artifacts:write"], "queues": ["acme_other"]});
        let thief = make(thief).await?;
        let store = json!({
            "instanceId": scene.instance, "key": "loot", "type": "document", "content": {}, "taskToken": token,
        });
        for (method, message) in [
            ("HeartbeatTasks", json!({"items": [{"taskToken": token}]})),
            ("CompleteTask", json!({"taskToken": token})),
            ("FailTask", json!({"taskToken": token, "failure": {"type": "X", "message": "x"}})),
            ("ReleaseTask", json!({"taskToken": token})),
            ("StoreArtifact", store),
        ] {
            ensure!(refused(&thief, method, message).await? == "QUEUE_FORBIDDEN", "{method} with a stolen token");
        }
        let facts = json!({"instanceId": scene.instance, "facts": {"a": true}, "reason": "because"});
        ensure!(refused(&agent, "SetFacts", facts.clone()).await? == "SCOPE_MISSING", "without a lease");
        let content = json!({"instanceId": scene.instance, "key": "loose", "content": "x", "type": "note"});
        ensure!(refused(&agent, "StoreArtifact", content).await? == "LEASE_MISSING", "an artifact without a lease");
        let question = json!({
            "instanceId": scene.instance, "approverIds": ["acme_approver"], "title": "Rename the logo",
        });
        ensure!(refused(&agent, "RequestApproval", question).await? == "LEASE_MISSING", "a request without a lease");
        let mut leased = facts;
        leased["taskToken"] = json!(token);
        world.done(&agent, "SetFacts", leased).await?;
        world.done(&agent, "CompleteTask", json!({"taskToken": token})).await?;
        let decision = |approver: &str| {
            json!({
                "approvalId": scene.approval, "approverId": approver, "decision": "approve",
                "contentDigest": scene.digest,
            })
        };
        let decided = refused(&agent, "DecideApproval", decision("acme_approver")).await?;
        ensure!(decided == "HUMAN_REQUIRED", "B109: {decided}");

        // A key decides for the one whom it names, and the record says so.
        let decided = refused(&scene.key, "DecideApproval", decision("acme_approver")).await?;
        ensure!(decided == "HUMAN_REQUIRED", "an administrator is no approver: {decided}");
        let other = json!({"name": "o", "scopes": ["approvals:decide"], "participantId": "somebody"});
        let decided = refused(&make(other).await?, "DecideApproval", decision("acme_approver")).await?;
        ensure!(decided == "NOT_AN_APPROVER", "{decided}");
        let own = json!({
            "name": "p", "scopes": ["approvals:decide"], "participantId": "acme_approver", "service": "desk",
        });
        let done = world.done(&make(own).await?, "DecideApproval", decision("")).await?;
        ensure!(done["approval"]["status"] == "approved", "{done}");
        // The engine hears of it by an event.
        world
            .eventually("the decision in the record", async || {
                let page = json!({"instanceId": scene.instance, "pageSize": 500});
                let entries = world.done(&scene.key, "ListAuditEntries", page).await?;
                let is_said = entries["entries"].as_array().into_iter().flatten().any(|entry| {
                    entry["actor"]["kind"] == "service"
                        && entry["actor"]["id"] == "desk"
                        && entry["actor"]["onBehalfOf"] == "acme_approver"
                });
                Ok(is_said.then_some(()))
            })
            .await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_checked_kept_as_hashes_and_rotated() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let admin = world.tenant("acme").await?.expose().to_owned();
        for (wish, reason) in [
            (json!({"name": "a", "scopes": []}), "SCOPE_INVALID"),
            (json!({"name": "a", "scopes": ["everything"]}), "SCOPE_INVALID"),
            (json!({"name": "", "scopes": ["tasks:read"]}), "TEXT_INVALID"),
            (json!({"name": "a", "scopes": ["workers:poll"]}), "QUEUES_INVALID"),
            (json!({"name": "a", "scopes": ["approvals:decide"]}), "PARTICIPANT_INVALID"),
            (json!({"name": "a", "scopes": ["tasks:read"], "expiresIn": "1s"}), "EXPIRY_INVALID"),
        ] {
            let refused = world.call(&admin, "CreateKey", &wish).await?.err().context("B156")?;
            ensure!(reason_of(&refused).as_deref() == Some(reason), "B156: {wish}: {refused:?}");
        }
        let wish = json!({"name": "ci", "scopes": ["tasks:read", "admin"], "requestId": "r-1"});
        let made = world.done(&admin, "CreateKey", wish.clone()).await?;
        let again = world.done(&admin, "CreateKey", wish).await?;
        ensure!(again["key"]["id"] == made["key"]["id"] && again["secret"] == "", "shown once: {again}");
        let (id, old) = (text(&made, "/key/id")?, text(&made, "/secret")?);
        let good = async |key: &str| anyhow::Ok(world.call(key, "ListKeys", &json!({})).await?.is_ok());

        // Two secrets, and no third.
        let rotated = world.done(&admin, "RotateKey", json!({"keyId": id, "grace": "1h"})).await?;
        let new = text(&rotated, "/secret")?;
        ensure!(good(&old).await? && good(&new).await?, "both are good");
        let third = world.call(&admin, "RotateKey", &json!({"keyId": id})).await?.err().context("B157")?;
        ensure!(
            third.code() == Code::FailedPrecondition
                && reason_of(&third).as_deref() == Some("ROTATION_PENDING"),
            "B157: {third:?}"
        );
        let first = ApiKey::parse(&old).context("a key")?.prefix().to_owned();
        world.done(&admin, "RevokeKey", json!({"keyId": id, "prefix": first})).await?;
        tokio::time::sleep(FORGOTTEN).await;
        ensure!(!good(&old).await? && good(&new).await?, "the older one has gone");
        let rotated = world.done(&admin, "RotateKey", json!({"keyId": id, "grace": "0s"})).await?;
        tokio::time::sleep(FORGOTTEN).await;
        ensure!(!good(&new).await? && good(&text(&rotated, "/secret")?).await?, "without grace");

        // What is listed and what is kept opens nothing.
        let listed = world.done(&admin, "ListKeys", json!({"all": true})).await?;
        let kept = dump(&world).await?;
        for secret in [&admin, &old, &new, &text(&rotated, "/secret")?] {
            let hidden = &secret[21..];
            ensure!(!listed.to_string().contains(hidden), "a list shows a secret");
            ensure!(!kept.contains(hidden), "the database holds a secret");
        }
        ensure!(
            listed["keys"][0]["secrets"][0]["prefix"].as_str().is_some_and(|prefix| prefix.len() == 21),
            "{listed}"
        );
        world.done(&admin, "RevokeKey", json!({"keyId": id})).await?;
        let over = world.call(&admin, "RotateKey", &json!({"keyId": id})).await?.err().context("revoked")?;
        ensure!(reason_of(&over).as_deref() == Some("KEY_REVOKED"), "{over:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_of_a_call_says_who_calls() -> anyhow::Result<()> {
    both(|database| async move {
        let world = World::start(&database, None).await?;
        let theirs = Scene::set(&world, "acme").await?;
        let mine = Scene::set(&world, "globex").await?;
        // The best forgery there can be: a principal that the services would believe, sent from outside.
        let mut genuine = MetadataMap::new();
        let them = Principal { tenant: "acme".to_owned(), ..Principal::dev_operator() };
        world.context.peers.sign(Service::Instance, &them, &mut genuine);
        let principal = genuine.get(HEADER).context("a principal")?.clone();
        let mut metadata = bearer(&mine.key)?;
        metadata.insert(HEADER, principal.clone());
        let message = json!({"instanceId": theirs.instance});
        let method = named("GetInstance")?;
        let refused = call(world.gateway.clone(), &method, &message, metadata).await?.err().context("taken")?;
        ensure!(refused.code() == Code::NotFound, "{refused:?}");
        let mut metadata = MetadataMap::new();
        metadata.insert(HEADER, principal.clone());
        let refused = call(world.gateway.clone(), &method, &message, metadata).await?.err().context("taken")?;
        ensure!(reason_of(&refused).as_deref() == Some("CREDENTIALS_MISSING"), "{refused:?}");
        let path = format!("/api/processes/instances/{}", theirs.instance);
        let (status, _, _) = http(&world, &path, &[(HEADER, principal.to_str()?)]).await?;
        ensure!(status == 401, "over REST: {status}");

        // A session of the portal opens no method, and a key no page.
        let token = &theirs.link_token;
        let exchange = phasegate_proto::internal::participant::v1::ExchangeLinkRequest { token: token.clone() };
        let gateway = Principal::system("gateway", "default");
        let exchange = world.context.peers.request(Service::Participant, &gateway, exchange);
        let port = world.ports.get(&Service::Participant).context("a port")?.clone();
        let mut sessions = phasegate_proto::internal::participant::v1::participant_internal_service_client::ParticipantInternalServiceClient::new(port);
        let session = sessions.exchange_link(exchange).await?.into_inner().session_token;
        let cookie = format!("__Host-phasegate_{}={session}", theirs.link);
        let page = format!("/external/{}", theirs.link);
        let (status, _, _) = http(&world, &page, &[("cookie", &cookie)]).await?;
        ensure!(status == 200, "the session is good for its page: {status}");
        for given in [("cookie", cookie.clone()), ("authorization", format!("Bearer {session}"))] {
            let (status, _, _) = http(&world, &path, &[(given.0, &given.1)]).await?;
            ensure!(status == 401, "a session as {}: {status}", given.0);
        }
        let key = format!("Bearer {}", theirs.key);
        let (status, _, body) = http(&world, &page, &[("authorization", &key)]).await?;
        ensure!(status != 200, "a key opens a page: {status} {body}");
        Ok(())
    })
    .await
}

async fn http(world: &World, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<(u16, String, Value)> {
    let mut request = reqwest::Client::new().get(format!("{}{path}", world.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    let challenge = answer.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
    let (status, challenge) = (answer.status().as_u16(), challenge.unwrap_or_default().to_owned());
    let body = answer.bytes().await?;
    Ok((status, challenge, serde_json::from_slice(&body).unwrap_or_default()))
}

/// Everything that could hold a secret, as text.
async fn dump(world: &World) -> anyhow::Result<String> {
    use std::fmt::Write as _;

    use phasegate_database::{Database, args};
    let db = Database::open(&world.people, &phasegate_participant::store::MIGRATIONS).await?.across_tenants();
    let mut text = String::new();
    for table in ["api_key", "api_key_secret", "tenant"] {
        write!(text, "{:?}", db.fetch_all(format!("select * from {table}"), args![]).await?)?;
    }
    for (table, column) in [("idempotency", "answer"), ("outbox", "payload"), ("api_key_secret", "digest")] {
        for row in db.fetch_all(format!("select {column} from {table}"), args![]).await? {
            text.push_str(&String::from_utf8_lossy(&row.get::<Vec<u8>>(column)?));
        }
    }
    db.close().await;
    Ok(text)
}
