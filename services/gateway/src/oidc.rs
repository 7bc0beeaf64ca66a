//! Operators who sign in elsewhere: access tokens of one `OpenID` Connect issuer, verified with the keys that it publishes.
//!
//! Only RS256 and ES256 are believed, only for our audience, and only while the issuer still publishes the key. The keys
//! are fetched when they are needed, kept for some minutes, and fetched again when a token names one that is not known, so
//! that the issuer can change them when it likes. Whoever brings a token with a known key never waits for the issuer, and
//! nobody who goes away takes the fetching with him.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use phasegate_clock::SharedClock;
use phasegate_principal::{Caller, Principal, Scope, SpeaksFor};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::refusal::Refused;

/// How long keys are used before they are fetched again.
const KEPT: Duration = Duration::from_mins(10);
/// How long they are used at most where they cannot be fetched again.
const KEPT_MAX: Duration = Duration::from_hours(1);
/// The issuer is asked no more often than that, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer of the issuer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Longest token.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest subject.
const SUBJECT_CHARS_MAX: usize = 128;
/// Of a name as much is kept, in characters.
const NAME_CHARS_MAX: usize = 200;
/// How far the issuer's clock and ours may be apart, in seconds.
const LEEWAY: i64 = 30;

/// Which tokens are believed, and what they say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Issuer: its discovery document is below it at `/.well-known/openid-configuration`.
    pub issuer: String,
    /// Audience that tokens must be for.
    pub audience: String,
    /// Claim with the roles: a list of texts, or one text.
    pub roles_claim: String,
    /// Claim with the tenant.
    pub tenant_claim: String,
}

/// The issuer, and the clock that its tokens are held against.
#[derive(Debug)]
pub(crate) struct Oidc {
    clock: SharedClock,
    issuer: Arc<Issuer>,
}

#[derive(Debug)]
struct Issuer {
    settings: Settings,
    http: reqwest::Client,
    /// The keys, and when they were fetched.
    known: RwLock<Option<(Instant, Arc<JwkSet>)>>,
    /// Held while they are fetched; when that was tried last.
    asked: Arc<Mutex<Option<Instant>>>,
}

impl Oidc {
    pub(crate) fn new(settings: Settings, clock: SharedClock) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let issuer = Issuer { settings, http, known: RwLock::default(), asked: Arc::default() };
        Ok(Self { clock, issuer: Arc::new(issuer) })
    }

    /// The operator of a token. Refuses one that is not believed; why not, nobody outside needs to know. Without any keys
    /// of the issuer nothing can be said about it.
    pub(crate) async fn verify(&self, token: &str) -> Result<Principal, Refused> {
        let invalid = || Refused::CredentialsInvalid;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid());
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| invalid())?;
        let kid = header.kid.filter(|_| matches!(header.alg, Algorithm::RS256 | Algorithm::ES256));
        let kid = kid.ok_or_else(invalid)?;
        let keys = self.issuer.keys(&kid).await.ok_or(Refused::Down { service: "issuer" })?;
        let key = keys.find(&kid).and_then(|key| DecodingKey::from_jwk(key).ok()).ok_or_else(invalid)?;
        self.holder(token, header.alg, &key).ok_or_else(invalid)
    }

    fn holder(&self, token: &str, algorithm: Algorithm, key: &DecodingKey) -> Option<Principal> {
        let settings = &self.issuer.settings;
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Time is an input: compared with our clock below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation).ok()?.claims;
        self.is_in_time(&claims).then(|| principal(settings, &claims))?
    }

    fn is_in_time(&self, claims: &Map<String, Value>) -> bool {
        let now = self.clock.now().as_micros() / 1_000_000;
        let begun =
            claims.get("nbf").is_none_or(|time| time.as_i64().is_some_and(|time| time <= now + LEEWAY));
        let ends = claims.get("exp").and_then(Value::as_i64);
        begun && ends.is_some_and(|end| end >= now - LEEWAY)
    }
}

impl Issuer {
    /// Its keys, with the one of that name if it publishes it. Nothing as long as it has not told them, or not for too long.
    async fn keys(self: &Arc<Self>, kid: &str) -> Option<Arc<JwkSet>> {
        let known = self.known();
        let has_it = known.as_ref().is_some_and(|(_, keys)| keys.find(kid).is_some());
        match known {
            Some((fetched, keys)) if has_it && fetched.elapsed() <= KEPT_MAX => {
                if fetched.elapsed() > KEPT {
                    drop(self.fetching());
                }
                return Some(keys);
            }
            Some(_) | None => {}
        }
        match self.fetching() {
            // A fetch that fails says so itself.
            Some(fetching) => drop(fetching.await),
            // Somebody else's is under way: it ends in bounded time, and whoever holds the lock next does not fetch.
            None => drop(self.asked.lock().await),
        }
        self.known().filter(|(fetched, _)| fetched.elapsed() <= KEPT_MAX).map(|(_, keys)| keys)
    }

    /// Fetches the keys in a task of its own, unless that is being done.
    fn fetching(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        let mut asked = self.asked.clone().try_lock_owned().ok()?;
        let issuer = self.clone();
        Some(tokio::spawn(async move {
            if asked.is_some_and(|asked| asked.elapsed() < PAUSE) {
                return;
            }
            let now = Instant::now();
            *asked = Some(now);
            match issuer.fetch().await {
                Ok(keys) => {
                    let mut known = issuer.known.write().unwrap_or_else(PoisonError::into_inner);
                    *known = Some((now, Arc::new(keys)));
                }
                Err(error) => {
                    tracing::warn!(%error, issuer = issuer.settings.issuer, "no keys of the issuer");
                }
            }
        }))
    }

    fn known(&self) -> Option<(Instant, Arc<JwkSet>)> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn fetch(&self) -> Result<JwkSet, Unusable> {
        let issuer = self.settings.issuer.trim_end_matches('/');
        let found: Map<String, Value> =
            self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        let text = |name: &str| found.get(name).and_then(Value::as_str);
        if text("issuer") != Some(&self.settings.issuer) {
            return Err(Unusable::Issuer);
        }
        let keys = text("jwks_uri").ok_or(Unusable::Form)?;
        // What came over TLS does not send us where anybody can listen.
        if issuer.starts_with("https://") && !keys.starts_with("https://") {
            return Err(Unusable::Form);
        }
        self.get(keys).await
    }

    async fn get<T: DeserializeOwned>(&self, url: &str) -> Result<T, Unusable> {
        let mut answer = self.http.get(url).send().await?.error_for_status()?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(Unusable::Form);
            }
        }
        serde_json::from_slice(&bytes).map_err(|_| Unusable::Form)
    }
}

/// The operator whom claims name. Nothing where they name no tenant, or nobody.
fn principal(settings: &Settings, claims: &Map<String, Value>) -> Option<Principal> {
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str).filter(|text| !text.is_empty());
    let tenant = text(&settings.tenant_claim).filter(|tenant| is_slug(tenant))?;
    let subject = text("sub")
        .filter(|id| id.len() <= SUBJECT_CHARS_MAX && id.bytes().all(|byte| byte.is_ascii_graphic()))?;
    let roles: Vec<&str> = match claims.get(&settings.roles_claim) {
        Some(Value::Array(roles)) => roles.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(role)) => vec![role.as_str()],
        _ => Vec::new(),
    };
    let mut scopes: Vec<Scope> = roles.iter().flat_map(|role| scopes_of(role)).collect();
    scopes.sort_unstable();
    scopes.dedup();
    Some(Principal {
        tenant: tenant.to_owned(),
        kind: Caller::Operator,
        id: subject.to_owned(),
        name: name_of(text("name").unwrap_or_default()),
        participation: None,
        scopes,
        queues: Vec::new(),
        speaks_for: SpeaksFor::Nobody,
    })
}

/// A name as it goes into the record and onto pages: whoever chose it with the issuer must not lead readers astray.
fn name_of(claim: &str) -> String {
    let one_line: String = claim.chars().filter(|one| !one.is_control()).take(NAME_CHARS_MAX).collect();
    phasegate_plain_text::shown(&one_line)
}

/// Why the keys cannot be had.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it does not answer: {0}")]
    Http(#[from] reqwest::Error),
    #[error("its discovery document names another issuer")]
    Issuer,
    #[error("what it answers is not what was asked for")]
    Form,
}

/// What a role allows. A role that is not known allows nothing.
fn scopes_of(role: &str) -> Vec<Scope> {
    let viewer = [
        Scope::DefinitionsRead,
        Scope::InstancesRead,
        Scope::TasksRead,
        Scope::ApprovalsRead,
        Scope::ArtifactsRead,
        Scope::CommentsRead,
        Scope::ParticipantsRead,
        Scope::NotificationsRead,
    ];
    let operator = [
        Scope::InstancesStart,
        Scope::InstancesOperate,
        Scope::TasksOperate,
        Scope::ApprovalsRequest,
        Scope::ApprovalsManage,
        Scope::ArtifactsWrite,
        Scope::CommentsWrite,
        Scope::LinksCreate,
        Scope::LinksRevoke,
        Scope::AuditRead,
    ];
    let process_admin = [Scope::DefinitionsWrite, Scope::DefinitionsPublish, Scope::InstancesForce];
    match role {
        "viewer" => viewer.to_vec(),
        "operator" => [viewer.as_slice(), &operator].concat(),
        "process_admin" => [viewer.as_slice(), &operator, &process_admin].concat(),
        "admin" => vec![Scope::Admin],
        _ => Vec::new(),
    }
}

/// Whether a text can be a tenant's name.
fn is_slug(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
}
