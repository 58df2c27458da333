//! Access tokens in JWT form (RFC 9068) and the key that signs them.

use std::io;

use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use midward_core::{SystemRandom, new_id};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use super::{SigningAlgorithm, State};
use crate::serve::lock;

/// The signing key, new at each start.
pub(super) struct Signer {
    header: Header,
    key: EncodingKey,
    verifier: DecodingKey,
    jwks: Value,
}

impl Signer {
    pub(super) fn generate(algorithm: SigningAlgorithm) -> io::Result<Self> {
        let pair = match algorithm {
            SigningAlgorithm::Es256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            SigningAlgorithm::Rs256 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .map_err(io::Error::other)?;
        let pem = pair.serialize_pem();
        let (key, algorithm, named) = match algorithm {
            SigningAlgorithm::Es256 => {
                (EncodingKey::from_ec_pem(pem.as_bytes()), Algorithm::ES256, KeyAlgorithm::ES256)
            }
            SigningAlgorithm::Rs256 => {
                (EncodingKey::from_rsa_pem(pem.as_bytes()), Algorithm::RS256, KeyAlgorithm::RS256)
            }
        };
        let key = key.map_err(io::Error::other)?;
        let kid = new_id(midward_core::WallTime::from_unix_millis(0), &SystemRandom);
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).map_err(io::Error::other)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.key_algorithm = Some(named);
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let mut header = Header::new(algorithm);
        header.kid = Some(kid);
        header.typ = Some("at+jwt".to_owned());
        let verifier = DecodingKey::from_jwk(&jwk).map_err(io::Error::other)?;
        Ok(Self { header, key, verifier, jwks: json!({ "keys": [jwk] }) })
    }

    pub(super) fn jwks(&self) -> &Value {
        &self.jwks
    }
}

impl State {
    /// Signs a token. `iat_ms` is ours: the target API needs more than seconds to tell old tokens from new ones.
    pub(super) fn issue(
        &self,
        client_id: &str,
        scope: &str,
        audience: &[String],
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let now = self.config.clock.wall();
        let expiry = now + *lock(&self.lifetime);
        let audience = if let [one] = audience { json!(one) } else { json!(audience) };
        let mut claims = json!({
            "iss": *lock(&self.issuer),
            "sub": client_id,
            "client_id": client_id,
            "aud": audience,
            "iat": now.unix_seconds(),
            "iat_ms": now.unix_millis(),
            "exp": expiry.unix_seconds(),
            "jti": new_id(now, &SystemRandom),
        });
        if !scope.is_empty() {
            claims["scope"] = json!(scope);
        }
        jsonwebtoken::encode(&self.signer.header, &claims, &self.signer.key)
    }

    /// The claims of a token of ours that is neither expired nor revoked.
    pub(super) fn live_claims(&self, token: &str) -> Option<Value> {
        if lock(&self.revoked).iter().any(|known| known == token) {
            return None;
        }
        let mut validation = Validation::new(self.signer.header.alg);
        // The library asks the machine's clock; the expiry is checked below, by ours.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_issuer(&[lock(&self.issuer).clone()]);
        let claims = jsonwebtoken::decode::<Value>(token, &self.signer.verifier, &validation).ok()?.claims;
        (claims["exp"].as_i64()? > self.config.clock.wall().unix_seconds()).then_some(claims)
    }
}
