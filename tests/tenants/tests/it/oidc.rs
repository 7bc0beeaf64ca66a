//! Operators who sign in at an issuer of `OpenID` Connect: a small one, started here. Its keys were made for this test.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::routing::get;
use axum::{Json, Router};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use phasegate_clock::{Clock as _, SystemClock};
use phasegate_gateway::Oidc;
use phasegate_rpc_error::reason_of;
use phasegate_tenants::world::World;
use phasegate_test_database::both;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const KEYS: &str = include_str!("issuer/keys.json");
/// Longer than the issuer is left alone.
const LATER: Duration = Duration::from_millis(1_100);

/// An issuer that publishes some of its keys.
#[derive(Clone)]
struct Issuer {
    address: String,
    published: Arc<Mutex<Vec<&'static str>>>,
    /// Whether it keeps whoever asks for its keys waiting.
    silent: Arc<AtomicBool>,
}

impl Issuer {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let issuer = Self {
            address: address.clone(),
            published: Arc::new(Mutex::new(vec!["rsa-1", "ec"])),
            silent: Arc::default(),
        };
        let keys = issuer.clone();
        let discovery = json!({"issuer": address, "jwks_uri": format!("{address}/keys")});
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(move || std::future::ready(Json(discovery))))
            .route("/keys", get(move || keys.answer()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(issuer)
    }

    fn publish(&self, names: &[&'static str]) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = names.to_vec();
    }

    fn settings(&self) -> Oidc {
        Oidc {
            issuer: self.address.clone(),
            audience: "phasegate".to_owned(),
            roles_claim: "roles".to_owned(),
            tenant_claim: "tenant".to_owned(),
        }
    }

    async fn answer(self) -> Json<Value> {
        while self.silent.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Json(self.keys())
    }

    fn keys(&self) -> Value {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys: Value = serde_json::from_str(KEYS).unwrap_or_default();
        if let Some(keys) = keys["keys"].as_array_mut() {
            keys.retain(|key| published.iter().any(|name| key["kid"] == *name));
        }
        keys
    }

    /// What the issuer says of somebody.
    fn claims(&self, roles: Value) -> Value {
        let now = SystemClock.now().as_micros() / 1_000_000;
        json!({
            "iss": self.address, "aud": "phasegate", "sub": "ada", "name": "Ada", "tenant": "acme",
            "roles": roles, "iat": now, "exp": now + 300,
        })
    }
}

fn sign(key: &str, claims: &Value) -> anyhow::Result<String> {
    let (algorithm, secret) = match key {
        "rsa-1" => (Algorithm::RS256, EncodingKey::from_rsa_der(include_bytes!("issuer/rsa-1.der"))),
        "rsa-2" => (Algorithm::RS256, EncodingKey::from_rsa_der(include_bytes!("issuer/rsa-2.der"))),
        _ => (Algorithm::ES256, EncodingKey::from_ec_der(include_bytes!("issuer/ec.der"))),
    };
    let mut header = Header::new(algorithm);
    header.kid = Some(key.to_owned());
    Ok(jsonwebtoken::encode(&header, claims, &secret)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_come_with_tokens_of_the_issuer() -> anyhow::Result<()> {
    both(|database| async move {
        let issuer = Issuer::start().await?;
        let world = World::start(&database, Some(issuer.settings())).await?;
        let admin = world.tenant("acme").await?.expose().to_owned();
        let none = json!({});
        for key in ["rsa-1", "ec"] {
            let token = sign(key, &issuer.claims(json!(["viewer"])))?;
            let caller = world.done(&token, "GetCaller", none.clone()).await?;
            ensure!(caller["tenantId"] == "acme", "{caller}");
            ensure!(caller["actor"]["kind"] == "operator" && caller["actor"]["id"] == "ada", "{caller}");
            ensure!(world.call(&token, "ListInstances", &none).await?.is_ok(), "a viewer reads");
            let refused =
                world.call(&token, "ListKeys", &none).await?.err().context("a viewer makes keys")?;
            ensure!(reason_of(&refused).as_deref() == Some("SCOPE_MISSING"), "{refused:?}");
        }
        let token = sign("ec", &issuer.claims(json!("admin")))?;
        ensure!(world.call(&token, "ListKeys", &none).await?.is_ok(), "an administrator does");
        ensure!(world.call(&admin, "ListKeys", &none).await?.is_ok(), "and keys are good beside");

        // Nothing but a token of this issuer, for us, in time, signed by a key that it publishes.
        let with = |field: &str, value: Value| {
            let mut claims = issuer.claims(json!(["admin"]));
            claims[field] = value;
            claims
        };
        // A name that turns what is written after it is shown as what it is.
        let token = sign("ec", &with("name", json!("Ada\u{202e}\n nimda")))?;
        let caller = world.done(&token, "GetCaller", none.clone()).await?;
        ensure!(caller["actor"]["name"] == "Ada\u{fffd} nimda", "{caller}");

        let now = SystemClock.now().as_micros() / 1_000_000;
        let mut bad = Vec::new();
        for claims in [
            with("iss", json!("http://127.0.0.1:9")),
            with("aud", json!("somebody")),
            with("exp", json!(now - 60)),
            with("nbf", json!(now + 600)),
            with("tenant", json!("")),
            with("tenant", json!("No Slug")),
            with("sub", json!("")),
        ] {
            bad.push(sign("rsa-1", &claims)?);
        }
        // A key that is not published, under the name of one that is; and the public key as a shared secret.
        let good = issuer.claims(json!(["admin"]));
        let mut renamed = Header::new(Algorithm::RS256);
        renamed.kid = Some("rsa-1".to_owned());
        let other = EncodingKey::from_rsa_der(include_bytes!("issuer/rsa-2.der"));
        bad.push(jsonwebtoken::encode(&renamed, &good, &other)?);
        let mut shared = Header::new(Algorithm::HS256);
        shared.kid = Some("rsa-1".to_owned());
        bad.push(jsonwebtoken::encode(&shared, &good, &EncodingKey::from_secret(KEYS.as_bytes()))?);
        let unsigned = sign("rsa-1", &good)?;
        bad.push(unsigned.rsplit_once('.').map(|(rest, _)| format!("{rest}.")).context("a token")?);
        for (number, token) in bad.iter().enumerate() {
            let refused = world.call(token, "ListInstances", &none).await?.err();
            let refused = refused.with_context(|| format!("token {number} was taken"))?;
            ensure!(reason_of(&refused).as_deref() == Some("CREDENTIALS_INVALID"), "{number}: {refused:?}");
        }

        // The issuer changes its keys: the new one is found, the old one is gone.
        let new = sign("rsa-2", &issuer.claims(json!(["viewer"])))?;
        let old = sign("rsa-1", &issuer.claims(json!(["viewer"])))?;
        ensure!(world.call(&new, "ListInstances", &none).await?.is_err(), "not yet published");
        issuer.publish(&["rsa-2"]);
        tokio::time::sleep(LATER).await;
        ensure!(world.call(&new, "ListInstances", &none).await?.is_ok(), "published");
        ensure!(world.call(&old, "ListInstances", &none).await?.is_err(), "no longer published");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_issuer_holds_up_nobody_whose_key_is_known() -> anyhow::Result<()> {
    both(|database| async move {
        let issuer = Issuer::start().await?;
        let world = Arc::new(World::start(&database, Some(issuer.settings())).await?);
        world.tenant("acme").await?;
        issuer.silent.store(true, Ordering::Relaxed);
        let known = sign("rsa-1", &issuer.claims(json!(["viewer"])))?;
        let refused = world.call(&known, "ListInstances", &json!({})).await?.err();
        let refused = refused.context("nobody knows the keys yet")?;
        ensure!(reason_of(&refused).as_deref() == Some("DEPENDENCY_DOWN"), "{refused:?}");
        issuer.silent.store(false, Ordering::Relaxed);
        tokio::time::sleep(LATER).await;
        ensure!(world.call(&known, "ListInstances", &json!({})).await?.is_ok(), "the issuer has spoken");

        tokio::time::sleep(LATER).await;
        issuer.silent.store(true, Ordering::Relaxed);
        let unknown = sign("rsa-2", &issuer.claims(json!(["viewer"])))?;
        let asking = tokio::spawn({
            let world = world.clone();
            async move { world.call(&unknown, "ListInstances", &json!({})).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        ensure!(world.call(&known, "ListInstances", &json!({})).await?.is_ok(), "its key is known");
        ensure!(!asking.is_finished(), "the other should still be waiting for the issuer");
        // Whoever goes away does not take the question along.
        asking.abort();
        issuer.publish(&["rsa-1", "rsa-2"]);
        issuer.silent.store(false, Ordering::Relaxed);
        let token = sign("rsa-2", &issuer.claims(json!(["viewer"])))?;
        world
            .eventually("the new key", async || {
                Ok(world.call(&token, "ListInstances", &json!({})).await?.is_ok().then_some(()))
            })
            .await
    })
    .await
}
