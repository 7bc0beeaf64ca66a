//! The tokens of magic links: a JWT that names the row of its link and its end, and proves that we made it. It is
//! signed anew whenever it is needed, byte for byte the same, so that it needs no storing. One algorithm; the key has
//! a name in the header, so that another one can take over.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use phasegate_clock::Timestamp;
use phasegate_id::LinkId;
use phasegate_keyring::{Key, KeyRing};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::secret::Secret;
use crate::domain::link::seconds;

/// Who makes the tokens.
const ISSUER: &str = "phasegate";
/// Whom they are for.
const AUDIENCE: &str = "phasegate-portal";

/// Signs and verifies.
#[derive(Clone)]
pub struct Tokens {
    keys: KeyRing,
    validation: Validation,
    public_url: String,
}

/// A token could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the token of a link could not be signed")]
pub struct NotSigned(#[source] jsonwebtoken::errors::Error);

/// Nothing about the person, the instance or a right: a URL ends in places where nobody should read those.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    jti: String,
    exp: i64,
}

// === impl Tokens ===

impl Tokens {
    /// Tokens under a key, or under one of several, in links that begin with `public_url`.
    pub fn new(keys: impl Into<KeyRing>, public_url: &str) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // Whether its time is over, the row says: only a genuine token may learn so.
        validation.validate_exp = false;
        Self { keys: keys.into(), validation, public_url: public_url.trim_end_matches('/').to_owned() }
    }

    /// The token of a link.
    pub fn sign(&self, link: &LinkId, expires_at: Timestamp) -> Result<Secret, NotSigned> {
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            jti: link.as_str().to_owned(),
            exp: seconds(expires_at),
        };
        let key = self.keys.signing();
        jsonwebtoken::encode(&header(&key), &claims, &EncodingKey::from_secret(&key))
            .map(Secret::new)
            .map_err(NotSigned)
    }

    /// Where a link leads.
    pub fn url(&self, link: &LinkId, expires_at: Timestamp) -> Result<Secret, NotSigned> {
        let token = self.sign(link, expires_at)?;
        Ok(Secret::new(format!("{}/external/approve?token={}", self.public_url, token.expose())))
    }

    /// The link that a token names, if we made the token. Why not, nobody needs to know.
    pub fn verify(&self, token: &Secret) -> Option<LinkId> {
        if !token.is_short() {
            return None;
        }
        let kid = jsonwebtoken::decode_header(token.expose()).ok()?.kid?;
        let key = self.keys.all().iter().find(|key| name(key) == kid).copied()?;
        let key = DecodingKey::from_secret(&key);
        let read = jsonwebtoken::decode::<Claims>(token.expose(), &key, &self.validation).ok()?;
        LinkId::parse(&read.claims.jti).ok()
    }
}

/// One algorithm, and which key it was.
fn header(key: &Key) -> Header {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(name(key));
    header
}

/// What a key is called: it tells nothing of it.
fn name(key: &Key) -> String {
    hex::encode(Sha256::digest([b"phasegate link key ".as_slice(), key].concat())).chars().take(8).collect()
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(..)")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn tokens() -> Tokens {
        Tokens::new([1; 32], "https://phasegate.example/")
    }

    fn link() -> (LinkId, Timestamp) {
        (LinkId::trusted("lnk-01jcabc"), Timestamp::from_micros(1_700_000_000_000_000))
    }

    #[test]
    fn a_token_names_its_link_and_is_the_same_every_time() -> Result<(), NotSigned> {
        let (id, end) = link();
        let token = tokens().sign(&id, end)?;
        assert_eq!(tokens().verify(&token), Some(id.clone()));
        assert_eq!(tokens().sign(&id, end)?, token);
        let url = tokens().url(&id, end)?;
        let expected = format!("https://phasegate.example/external/approve?token={}", token.expose());
        assert_eq!(url.expose(), expected);
        assert!(token.expose().starts_with("eyJ"));
        let claims = token.expose().split('.').nth(1).unwrap_or_default();
        let expected = r#"{"iss":"phasegate","aud":"phasegate-portal","jti":"lnk-01jcabc","exp":1700000000}"#;
        assert_eq!(claims, URL_SAFE_NO_PAD.encode(expected));
        Ok(())
    }

    #[test]
    fn a_link_outlives_the_key_that_signs_while_it_is_believed() -> Result<(), NotSigned> {
        let (id, end) = link();
        let ring = KeyRing::of([1; 32]);
        let tokens = Tokens::new(&ring, "");
        let token = tokens.sign(&id, end)?;
        ring.replace(vec![[2; 32], [1; 32]]);
        assert_eq!(tokens.verify(&token), Some(id.clone()));
        let fresh = tokens.sign(&id, end)?;
        ring.replace(vec![[2; 32]]);
        assert_eq!(tokens.verify(&token), None);
        assert_eq!(tokens.verify(&fresh), Some(id));
        Ok(())
    }

    #[test]
    fn nothing_else_is_a_token() -> Result<(), NotSigned> {
        let (id, end) = link();
        let token = tokens().sign(&id, end)?.expose().to_owned();
        // Every bit of it counts.
        for index in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[index] ^= 1;
            if let Ok(flipped) = String::from_utf8(bytes) {
                assert_eq!(tokens().verify(&Secret::new(&flipped)), None, "{index}");
            }
        }
        let other_key = Tokens::new([2; 32], "").sign(&id, end)?;
        let unsigned = {
            let mut parts = token.split('.').map(str::to_owned).collect::<Vec<_>>();
            parts[0] = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"none"}"#);
            parts[2] = String::new();
            parts.join(".")
        };
        let claims = |iss: &str, aud: &str| Claims {
            iss: iss.into(),
            aud: aud.into(),
            jti: id.as_str().into(),
            exp: seconds(end),
        };
        let signed = |header: &Header, claims: &Claims| {
            jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(&[1; 32])).map_err(NotSigned)
        };
        let header = header(&[1; 32]);
        let nameless = Header::new(Algorithm::HS256);
        let mut longer = header.clone();
        longer.alg = Algorithm::HS512;
        for bad in [
            String::new(),
            "nonsense".to_owned(),
            "a.b.c".to_owned(),
            "x".repeat(100_000),
            other_key.expose().to_owned(),
            unsigned,
            signed(&nameless, &claims(ISSUER, AUDIENCE))?,
            signed(&longer, &claims(ISSUER, AUDIENCE))?,
            signed(&header, &claims("somebody", AUDIENCE))?,
            signed(&header, &claims(ISSUER, "participant"))?,
        ] {
            assert_eq!(tokens().verify(&Secret::new(&bad)), None, "{bad:.80}");
        }
        assert!(tokens().verify(&Secret::new(signed(&header, &claims(ISSUER, AUDIENCE))?)).is_some());
        Ok(())
    }
}
