//! The token check: signature by JWKS, issuer, audience, expiry, scope.

use std::collections::HashMap;
use std::sync::Mutex;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use midward_core::WallTime;
use serde::Deserialize;

use super::TargetApiConfig;
use crate::client;
use crate::http::ShownCertificate;
use crate::serve::lock;

/// The most verified tokens that are remembered.
const REMEMBERED: usize = 10_000;

/// Why a request is not carried out.
pub(super) enum Refused {
    NoToken,
    Invalid(&'static str),
    Scope,
    /// Of a DPoP proof.
    Proof(&'static str),
    /// The proof lacks the nonce.
    Nonce,
    KeysUnavailable,
}

impl Refused {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "no token",
            Self::Invalid(reason) | Self::Proof(reason) => reason,
            Self::Nonce => "the proof lacks the nonce",
            Self::Scope => "the token lacks the scope",
            Self::KeysUnavailable => "the issuer's keys cannot be had",
        }
    }
}

/// Checks tokens, and remembers those that were good until they expire.
pub(super) struct Verifier {
    config: TargetApiConfig,
    keys: Mutex<Option<JwkSet>>,
    good: Mutex<HashMap<String, Good>>,
    /// Unix milliseconds.
    revoked_until: Mutex<i64>,
}

#[derive(Clone)]
pub(super) struct Good {
    pub(super) jti: String,
    /// Thumbprint of the key that it is bound to (RFC 9449 6.1).
    pub(super) key: Option<String>,
    expiry_seconds: i64,
    issued_millis: i64,
    /// The certificate that it is bound to (RFC 8705 3.1).
    bound_to: Option<ShownCertificate>,
}

#[derive(Deserialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: Option<String>,
    jkt: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    cnf: Option<Confirmation>,
    exp: i64,
    #[serde(default)]
    iat: i64,
    #[serde(default)]
    iat_ms: Option<i64>,
    #[serde(default)]
    jti: String,
    #[serde(default)]
    scope: String,
}

impl Verifier {
    pub(super) fn new(config: TargetApiConfig) -> Self {
        Self { config, keys: Mutex::new(None), good: Mutex::new(HashMap::new()), revoked_until: Mutex::new(i64::MIN) }
    }

    pub(super) fn revoke_all_before(&self, time: WallTime) {
        *lock(&self.revoked_until) = time.unix_millis();
    }

    pub(super) fn revoke_all_now(&self) {
        self.revoke_all_before(self.config.clock.wall());
    }

    /// What is known of the token when it is good, and comes over the connection that it is bound to.
    pub(super) async fn verify(&self, token: &str, shown: Option<&ShownCertificate>) -> Result<Good, Refused> {
        let remembered = lock(&self.good).get(token).cloned();
        let good = match remembered {
            Some(good) => good,
            None => self.check(token).await?,
        };
        if good.expiry_seconds <= self.config.clock.wall().unix_seconds() {
            lock(&self.good).remove(token);
            return Err(Refused::Invalid("the token is expired"));
        }
        if good.issued_millis <= *lock(&self.revoked_until) {
            return Err(Refused::Invalid("the token is revoked"));
        }
        if good.bound_to.is_some() && good.bound_to.as_ref() != shown {
            return Err(Refused::Invalid("the token is bound to another certificate than the connection's"));
        }
        Ok(good)
    }

    async fn check(&self, token: &str) -> Result<Good, Refused> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refused::Invalid("the token is not a JWT"))?;
        if !matches!(header.alg, Algorithm::ES256 | Algorithm::RS256) {
            return Err(Refused::Invalid("the token's algorithm is not allowed"));
        }
        let key = self.key(&header.kid.unwrap_or_default()).await?;
        let mut validation = Validation::new(header.alg);
        // The library asks the machine's clock; `verify` checks the expiry by ours.
        validation.validate_exp = false;
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .map_err(|_| Refused::Invalid("the token's signature, issuer or audience is wrong"))?
            .claims;
        if let Some(required) = &self.config.required_scope
            && !claims.scope.split_ascii_whitespace().any(|scope| scope == required)
        {
            return Err(Refused::Scope);
        }
        let good = Good {
            key: claims.cnf.as_ref().and_then(|cnf| cnf.jkt.clone()),
            bound_to: claims.cnf.and_then(|cnf| cnf.certificate).map(ShownCertificate),
            jti: claims.jti,
            expiry_seconds: claims.exp,
            issued_millis: claims.iat_ms.unwrap_or(claims.iat.saturating_mul(1000)),
        };
        let mut remembered = lock(&self.good);
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(token.to_owned(), good.clone());
        Ok(good)
    }

    /// The key with this identifier; the JWKS is fetched again when it is unknown.
    async fn key(&self, kid: &str) -> Result<DecodingKey, Refused> {
        if let Some(key) = self.cached_key(kid) {
            return Ok(key);
        }
        let answer = client::get(&self.config.jwks_url, self.config.jwks_tls.clone()).await;
        let answer = answer.map_err(|_| Refused::KeysUnavailable)?;
        let keys: JwkSet = serde_json::from_slice(answer.body()).map_err(|_| Refused::KeysUnavailable)?;
        *lock(&self.keys) = Some(keys);
        self.cached_key(kid).ok_or(Refused::Invalid("the token's key is unknown"))
    }

    fn cached_key(&self, kid: &str) -> Option<DecodingKey> {
        let keys = lock(&self.keys);
        let key = keys.as_ref()?.find(kid)?;
        DecodingKey::from_jwk(key).ok()
    }
}
