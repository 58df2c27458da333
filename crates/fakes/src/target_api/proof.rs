//! The check of DPoP proofs (RFC 9449 4.3 and 7.1), with a nonce if the API wants one (9).

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use jsonwebtoken::jwk::ThumbprintHash;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use midward_core::Clock;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::verify::Refused;
use crate::serve::lock;

/// How far a proof's time may be off, in seconds.
const TOLERANCE: i64 = 60;

pub(super) struct ProofChecker {
    clock: Arc<dyn Clock>,
    /// `http` or `https`: what this API is called by.
    scheme: &'static str,
    nonce: Mutex<Option<String>>,
    seen: Mutex<HashSet<String>>,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: i64,
    ath: String,
    nonce: Option<String>,
}

impl ProofChecker {
    pub(super) fn new(clock: Arc<dyn Clock>, scheme: &'static str) -> Self {
        Self { clock, scheme, nonce: Mutex::default(), seen: Mutex::default() }
    }

    pub(super) fn want_nonce(&self, nonce: Option<&str>) {
        *lock(&self.nonce) = nonce.map(str::to_owned);
    }

    /// Each answer names the nonce that the next proof must hold.
    pub(super) fn tell_nonce(&self, headers: &mut HeaderMap) {
        if let Some(nonce) = lock(&self.nonce).as_deref().and_then(|nonce| HeaderValue::from_str(nonce).ok()) {
            headers.insert("dpop-nonce", nonce);
        }
    }

    /// The proof of a request must be made by the key with this thumbprint.
    pub(super) fn check(&self, parts: &Parts, token: &str, bound_to: &str) -> Result<(), Refused> {
        let mut proofs = parts.headers.get_all("dpop").iter();
        let (Some(proof), None) = (proofs.next().and_then(|value| value.to_str().ok()), proofs.next()) else {
            return Err(Refused::Proof("there is not one proof"));
        };
        let malformed = || Refused::Proof("the proof is no JWT with a key");
        let header = jsonwebtoken::decode_header(proof).map_err(|_| malformed())?;
        let key = header.jwk.ok_or_else(malformed)?;
        if header.typ.as_deref() != Some("dpop+jwt") || header.alg != Algorithm::ES256 {
            return Err(Refused::Proof("the proof's type or algorithm is wrong"));
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims::<&str>(&[]);
        let public = DecodingKey::from_jwk(&key).map_err(|_| malformed())?;
        let claims = jsonwebtoken::decode::<Claims>(proof, &public, &validation)
            .map_err(|_| Refused::Proof("the proof's signature or claims are wrong"))?
            .claims;
        if key.thumbprint(ThumbprintHash::SHA256).map_err(|_| malformed())? != bound_to {
            return Err(Refused::Invalid("the token is bound to another key than the proof's"));
        }
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let url = format!("{}://{host}{}", self.scheme, parts.uri.path());
        if claims.htm != parts.method.as_str() || claims.htu != url {
            return Err(Refused::Proof("the proof is for another request"));
        }
        if claims.ath != URL_SAFE_NO_PAD.encode(Sha256::digest(token)) {
            return Err(Refused::Proof("the proof is for another token"));
        }
        if lock(&self.nonce).as_ref().is_some_and(|wanted| claims.nonce.as_ref() != Some(wanted)) {
            return Err(Refused::Nonce);
        }
        if claims.iat.abs_diff(self.clock.wall().unix_seconds()) > TOLERANCE.unsigned_abs() {
            return Err(Refused::Proof("the proof is of another time"));
        }
        if !lock(&self.seen).insert(claims.jti) {
            return Err(Refused::Proof("the proof was used before"));
        }
        Ok(())
    }
}
