//! Who calls: what a call from outside brings along becomes a principal, or the call is refused. Nothing else of a call is
//! believed: no header of ours from outside is passed on, and a cookie of the portal opens nothing here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use phasegate_principal::{ApiKey, Caller, DEFAULT_TENANT, KEY_PREFIX, Principal, Scope, SpeaksFor};
use phasegate_proto::internal::participant::v1::key_internal_service_client::KeyInternalServiceClient;
use phasegate_proto::internal::participant::v1::{ResolveKeyRequest, ResolveKeyResponse};
use phasegate_serve::{Context, Peers, Service};
use phasegate_telemetry::Outage;
use tokio::time::Instant;

use crate::config::Config;
use crate::oidc::Oidc;
use crate::rate::{Ledger, Peer};
use crate::refusal::Refused;

/// How long an answer about a key is believed: a key that is revoked is refused from then on.
const BELIEVED: Duration = Duration::from_secs(1);
/// Keys that are remembered at a time.
const REMEMBERED_MAX: usize = 10_000;
/// How long whoever calls waits for the answer about a key.
const PATIENCE: Duration = Duration::from_secs(5);

/// Finds out who calls.
#[derive(Debug)]
pub(crate) struct Callers {
    dev: bool,
    peers: Peers,
    oidc: Option<Oidc>,
    ledger: Arc<Ledger>,
    /// Keys that were good a moment ago, by their digest. Others are asked about every time.
    good: Mutex<BTreeMap<[u8; 32], (Instant, Principal)>>,
    /// Whether somebody says whose a key is.
    outage: Outage,
}

impl Callers {
    pub(crate) fn new(
        config: &Config,
        context: &Context,
        ledger: Arc<Ledger>,
    ) -> Result<Self, reqwest::Error> {
        let oidc =
            config.oidc.clone().map(|settings| Oidc::new(settings, context.clock.clone())).transpose()?;
        let outage = Outage::new("whoever knows the keys, the participant service,", "participant");
        Ok(Self {
            dev: config.dev,
            peers: context.peers.clone(),
            oidc,
            ledger,
            good: Mutex::default(),
            outage,
        })
    }

    /// Finds out who calls, and counts the call: as its caller's and its tenant's, or, where nobody is known, as its
    /// address's.
    pub(crate) async fn identify(&self, parts: &Parts) -> Result<Principal, Refused> {
        let address = self.ledger.address(parts.extensions.get::<Peer>(), &parts.headers);
        match self.find(&parts.headers, address).await {
            Ok(principal) => {
                self.ledger.called(&principal).await?;
                Ok(principal)
            }
            Err(stranger @ (Refused::CredentialsMissing | Refused::CredentialsInvalid)) => {
                self.ledger.knocked(address).await?;
                Err(stranger)
            }
            Err(refused) => Err(refused),
        }
    }

    /// Whether a credential that was good is good still. Where nobody can tell, it is.
    pub(crate) async fn still_lets_in(&self, headers: &HeaderMap, tenant: &str) -> bool {
        match self.find(headers, None).await {
            Ok(principal) => principal.tenant == tenant,
            Err(Refused::CredentialsMissing | Refused::CredentialsInvalid) => false,
            Err(_) => true,
        }
    }

    /// In `dev` a call without a credential is the operator's; elsewhere it is refused. One that brings a credential is its
    /// owner's in `dev`, too.
    async fn find(&self, headers: &HeaderMap, address: Option<IpAddr>) -> Result<Principal, Refused> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let credential = match (given.next(), given.next()) {
            (None, _) if self.dev => return Ok(Principal::dev_operator()),
            (None, _) => return Err(Refused::CredentialsMissing),
            (Some(credential), None) => credential,
            (Some(_), Some(_)) => return Err(Refused::CredentialsInvalid),
        };
        let token = credential.to_str().ok().and_then(bearer).ok_or(Refused::CredentialsInvalid)?;
        if token.starts_with(KEY_PREFIX) {
            let key = ApiKey::parse(token).ok_or(Refused::CredentialsInvalid)?;
            return self.holder(&key, address).await;
        }
        self.ledger.admit(address)?;
        match &self.oidc {
            Some(oidc) => oidc.verify(token).await,
            None => Err(Refused::CredentialsInvalid),
        }
    }

    async fn holder(&self, key: &ApiKey, address: Option<IpAddr>) -> Result<Principal, Refused> {
        let digest = key.digest();
        let now = Instant::now();
        if let Some(principal) = self.remembered(&digest, now) {
            return Ok(principal);
        }
        self.ledger.admit(address)?;
        let message = ResolveKeyRequest { prefix: key.prefix().to_owned(), digest: digest.to_vec() };
        let gateway = Principal::system("gateway", DEFAULT_TENANT);
        let mut request = self.peers.request(Service::Participant, &gateway, message);
        request.set_timeout(PATIENCE);
        let mut client = KeyInternalServiceClient::new(self.peers.channel(Service::Participant));
        let answer = tokio::time::timeout(PATIENCE, client.resolve_key(request)).await;
        match answer {
            Ok(Ok(answer)) => {
                self.outage.passed();
                let principal = principal(answer.into_inner()).ok_or(Refused::CredentialsInvalid)?;
                // Believed from when it was asked for, not from when the answer came.
                self.remember(digest, now, principal.clone());
                Ok(principal)
            }
            Ok(Err(status))
                if status.code() == tonic::Code::Unauthenticated
                    && phasegate_rpc_error::reason_of(&status).as_deref() == Some("CREDENTIALS_INVALID") =>
            {
                Err(Refused::CredentialsInvalid)
            }
            Ok(Err(status)) => {
                self.outage.failed(&status);
                Err(Refused::Down { service: Service::Participant.name() })
            }
            Err(late) => {
                self.outage.failed(&late);
                Err(Refused::Down { service: Service::Participant.name() })
            }
        }
    }

    fn remembered(&self, digest: &[u8; 32], now: Instant) -> Option<Principal> {
        // Nobody panics while holding the lock.
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.get(digest).filter(|(asked, _)| is_fresh(*asked, now)).map(|(_, principal)| principal.clone())
    }

    fn remember(&self, digest: [u8; 32], asked: Instant, principal: Principal) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= REMEMBERED_MAX {
            good.retain(|_, (asked, _)| is_fresh(*asked, Instant::now()));
        }
        if good.len() < REMEMBERED_MAX {
            good.insert(digest, (asked, principal));
        }
    }
}

fn is_fresh(asked: Instant, now: Instant) -> bool {
    now.saturating_duration_since(asked) < BELIEVED
}

/// The token behind `Bearer`.
fn bearer(credential: &str) -> Option<&str> {
    let (scheme, token) = credential.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The holder of a key. A scope that this program does not know is none.
fn principal(key: ResolveKeyResponse) -> Option<Principal> {
    if key.tenant_id.is_empty() || key.key_id.is_empty() {
        return None;
    }
    Some(Principal {
        tenant: key.tenant_id,
        kind: Caller::Service,
        id: if key.service.is_empty() { key.key_id } else { key.service },
        name: key.name,
        participation: None,
        scopes: key.scopes.iter().filter_map(|scope| Scope::parse(scope)).collect(),
        queues: key.queues,
        speaks_for: match key.participant_id {
            participant if participant.is_empty() => SpeaksFor::Nobody,
            participant => SpeaksFor::Participant(participant),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bearer_tokens_are_read() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for credential in ["", "Bearer", "Basic abc", "abc"] {
            assert_eq!(bearer(credential), None, "{credential:?}");
        }
    }

    #[test]
    fn a_key_without_a_tenant_is_nobodys() {
        assert_eq!(principal(ResolveKeyResponse::default()), None);
        let key = ResolveKeyResponse {
            tenant_id: "acme".to_owned(),
            key_id: "key-1".to_owned(),
            scopes: vec!["tasks:read".to_owned(), "of:tomorrow".to_owned()],
            participant_id: "ciso".to_owned(),
            ..ResolveKeyResponse::default()
        };
        let principal = principal(key).unwrap();
        assert_eq!(principal.scopes, [Scope::TasksRead]);
        assert_eq!((principal.id.as_str(), principal.represents()), ("key-1", Some("ciso")));
    }
}
