//! The signed form of a principal, good for one service and a minute.

use std::fmt;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use phasegate_clock::{SharedClock, Timestamp};
use phasegate_keyring::KeyRing;
use serde::{Deserialize, Serialize};

use crate::Principal;

/// Metadata key that carries the token. The gateway strips it from what comes from outside.
pub const HEADER: &str = "phasegate-principal";

/// How long a token is good, in seconds.
pub const TOKEN_SECONDS: u64 = 60;

/// How far the clocks of two services may be apart.
const LEEWAY: Duration = Duration::from_secs(30);

/// Signs principals.
#[derive(Clone)]
pub struct Signer {
    keys: KeyRing,
    clock: SharedClock,
}

/// Verifies principals for one service.
#[derive(Clone)]
pub struct Verifier {
    keys: KeyRing,
    validation: Validation,
    clock: SharedClock,
}

/// Why a call is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No token.
    #[error("the call carries no principal")]
    Missing,
    /// Not signed by us, or for another service.
    #[error("the principal of the call is not valid here")]
    Invalid,
    /// Too old.
    #[error("the principal of the call has expired")]
    Expired,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    exp: u64,
    #[serde(flatten)]
    principal: Principal,
}

// === impl Signer ===

impl Signer {
    /// Signs with the first of these keys.
    pub fn new(keys: impl Into<KeyRing>, clock: SharedClock) -> Self {
        Self { keys: keys.into(), clock }
    }

    /// Signs a principal for one service. Fails only where the library does.
    pub fn sign(&self, principal: &Principal, audience: &str) -> Result<String, Refused> {
        let claims = Claims {
            aud: audience.to_owned(),
            exp: seconds(self.clock.machine() + Duration::from_secs(TOKEN_SECONDS)),
            principal: principal.clone(),
        };
        let key = EncodingKey::from_secret(&self.keys.signing());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|_| Refused::Invalid)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(..)")
    }
}

// === impl Verifier ===

impl Verifier {
    /// Believes what is signed with one of these keys for one service.
    pub fn new(keys: impl Into<KeyRing>, audience: &str, clock: SharedClock) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["aud", "exp"]);
        // Time is an input: the claim is compared with our clock below.
        validation.validate_exp = false;
        Self { keys: keys.into(), validation, clock }
    }

    /// Reads a token.
    pub fn verify(&self, token: &str) -> Result<Principal, Refused> {
        let decoded = self.keys.all().iter().find_map(|key| {
            jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(key), &self.validation).ok()
        });
        let claims = decoded.ok_or(Refused::Invalid)?.claims;
        if claims.exp < seconds(self.clock.machine() - LEEWAY) {
            return Err(Refused::Expired);
        }
        Ok(claims.principal)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_micros() / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use phasegate_clock::ManualClock;

    use super::*;
    use crate::{Participation, Permission};

    const KEY: [u8; 32] = [7; 32];

    fn person() -> Principal {
        let participation = Participation {
            instance_id: "proc-inst-1".into(),
            participant_id: "customer_ciso".into(),
            link_id: "lnk-1".into(),
            permissions: vec![Permission::View, Permission::Approve],
        };
        Principal::participant("default", "Jane Doe", participation)
    }

    #[test]
    fn a_token_is_good_for_one_service_and_a_minute() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_700_000_000_000_000)));
        let token = Signer::new(KEY, clock.clone()).sign(&person(), "approval").unwrap();
        let verifier = Verifier::new(KEY, "approval", clock.clone());
        assert_eq!(verifier.verify(&token), Ok(person()));
        assert_eq!(Verifier::new(KEY, "instance", clock.clone()).verify(&token), Err(Refused::Invalid));
        assert_eq!(Verifier::new([8; 32], "approval", clock.clone()).verify(&token), Err(Refused::Invalid));
        clock.advance(Duration::from_secs(TOKEN_SECONDS + 31));
        assert_eq!(verifier.verify(&token), Err(Refused::Expired));
    }

    #[test]
    fn a_token_of_the_key_before_is_believed_until_that_key_is_gone() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_700_000_000_000_000)));
        let ring = KeyRing::of(KEY);
        let token = Signer::new(&ring, clock.clone()).sign(&person(), "approval").unwrap();
        let verifier = Verifier::new(&ring, "approval", clock);
        ring.replace(vec![[8; 32], KEY]);
        assert_eq!(verifier.verify(&token), Ok(person()));
        ring.replace(vec![[8; 32]]);
        assert_eq!(verifier.verify(&token), Err(Refused::Invalid));
    }

    #[test]
    fn a_forged_token_is_refused() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_700_000_000_000_000)));
        let verifier = Verifier::new(KEY, "approval", clock);
        // {"alg":"none"} and a payload.
        for token in ["", "a.b.c", "eyJhbGciOiJub25lIn0.eyJhdWQiOiJhcHByb3ZhbCIsImV4cCI6OTk5OTk5OTk5OX0."] {
            assert_eq!(verifier.verify(token), Err(Refused::Invalid), "{token:?}");
        }
    }

    #[test]
    fn a_person_sees_the_own_instance_only() {
        assert!(person().sees_instance("proc-inst-1"));
        assert!(!person().sees_instance("proc-inst-2"));
        assert!(person().permits(Permission::Approve));
        assert!(!person().permits(Permission::Comment));
        assert!(Principal::dev_operator().sees_instance("proc-inst-2"));
    }
}
