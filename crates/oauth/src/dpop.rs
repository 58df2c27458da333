//! Proofs that a request comes from whoever its token is bound to (RFC 9449), without IO.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use midward_core::{AccessToken, Random, WallTime};
use serde::Serialize;
use url::Url;

/// The header of a proof (RFC 9449 4.1).
pub const DPOP: HeaderName = HeaderName::from_static("dpop");
/// The header by which a server says which nonce the next proof must hold (RFC 9449 8).
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// The key that one token is bound to: made for it in this process, never written anywhere, gone with it. Clones share
/// it. ES256 is the one algorithm that every server is likely to know.
#[derive(Clone)]
pub struct DpopKey(Arc<Key>);

struct Key {
    /// The library wipes it when it is freed.
    pair: EcdsaKeyPair,
    /// The JOSE header, which is the same in every proof, in base64url.
    header: String,
}

/// No proof could be made: the library has no randomness, or it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no DPoP proof could be made")]
pub struct ProofError;

/// What a proof is for.
#[derive(Clone, Copy, Debug)]
pub struct Proven<'a> {
    pub method: &'a str,
    /// Query and fragment are left out of the proof.
    pub url: &'a Url,
    /// What the server asked for last.
    pub nonce: Option<&'a str>,
    /// For a call of an API: the token that goes with it.
    pub token: Option<&'a AccessToken>,
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'static str,
    alg: &'static str,
    jwk: Jwk<'a>,
}

/// RFC 7517, RFC 7518 6.2.1.
#[derive(Serialize)]
struct Jwk<'a> {
    kty: &'static str,
    crv: &'static str,
    x: &'a str,
    y: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    jti: String,
    htm: &'a str,
    htu: &'a str,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

impl DpopKey {
    /// How proofs are signed, by its name in RFC 7518.
    pub(crate) const ALGORITHM: &str = "ES256";

    pub(crate) fn generate() -> Result<Self, ProofError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| ProofError)?;
        // An uncompressed point: 4, x, y (SEC 1 2.3.3).
        let point = pair.public_key().as_ref();
        let coordinate = |from: usize| point.get(from..from + 32).map(|part| URL_SAFE_NO_PAD.encode(part));
        let (x, y) = coordinate(1).zip(coordinate(33)).ok_or(ProofError)?;
        let header =
            part(&Header { typ: "dpop+jwt", alg: Self::ALGORITHM, jwk: Jwk { kty: "EC", crv: "P-256", x: &x, y: &y } });
        Ok(Self(Arc::new(Key { pair, header })))
    }

    /// The value of [`DPOP`] for one request: never use it twice, servers refuse a `jti` that they have seen. It counts
    /// from the wall clock, because that is what the server compares it with.
    pub fn proof(&self, of: &Proven<'_>, now: WallTime, random: &dyn Random) -> Result<HeaderValue, ProofError> {
        let mut unique = [0; 16];
        random.fill(&mut unique);
        let mut url = of.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        let hash = |token: &AccessToken| digest::digest(&digest::SHA256, token.expose().as_bytes());
        let claims = Claims {
            jti: URL_SAFE_NO_PAD.encode(unique),
            htm: of.method,
            htu: url.as_str(),
            iat: now.unix_seconds(),
            ath: of.token.map(|token| URL_SAFE_NO_PAD.encode(hash(token))),
            nonce: of.nonce,
        };
        let input = format!("{}.{}", self.0.header, part(&claims));
        let signature = self.0.pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| ProofError)?;
        let proof = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        let mut value = HeaderValue::try_from(proof).map_err(|_| ProofError)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for DpopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DpopKey(redacted)")
    }
}

fn part(json: &impl Serialize) -> String {
    // Structs of text and numbers always have a JSON form.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(json).unwrap_or_default())
}

/// The nonces that servers handed out last, by origin. One set for authorization servers and one for APIs: RFC 9449 9
/// keeps them apart also where both share an origin. They are no secret.
#[derive(Debug, Default)]
pub struct DpopNonces(Mutex<HashMap<String, Arc<str>>>);

impl DpopNonces {
    /// Most origins that are remembered.
    const MAX_ORIGINS: usize = 1024;
    /// Longest nonce that is taken, in bytes.
    const MAX_LEN: usize = 1024;

    /// What the next proof for a request to this URL should hold.
    pub fn of(&self, url: &Url) -> Option<Arc<str>> {
        let nonces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.get(&origin(url)).map(Arc::clone)
    }

    /// Takes the nonce out of a reply, whatever its status (RFC 9449 8.2), and returns it. None or more than one, or one
    /// that is none by its characters, changes nothing.
    pub fn take(&self, url: &Url, headers: &HeaderMap) -> Option<Arc<str>> {
        let mut all = headers.get_all(DPOP_NONCE).iter();
        let (value, None) = (all.next()?, all.next()) else { return None };
        let nonce: Arc<str> = Some(value.as_bytes())
            .filter(|bytes| (1..=Self::MAX_LEN).contains(&bytes.len()) && bytes.iter().copied().all(is_nonce_char))
            .and_then(|bytes| std::str::from_utf8(bytes).ok())?
            .into();
        let mut nonces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = origin(url);
        if nonces.len() >= Self::MAX_ORIGINS && !nonces.contains_key(&origin) {
            // Whoever's is forgotten is asked for another.
            nonces.clear();
        }
        nonces.insert(origin, Arc::clone(&nonce));
        Some(nonce)
    }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// `NQCHAR` (RFC 9449 8.1, RFC 6749 appendix A).
fn is_nonce_char(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use midward_core::{Secret, SeededRandom};
    use serde_json::{Value, json};

    use super::*;

    fn decode(part: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(part).expect("base64url")
    }

    /// Header and claims of a proof whose signature is good by the key in it.
    fn opened(proof: &HeaderValue) -> (Value, Value) {
        let proof = proof.to_str().expect("ASCII");
        let (input, signature) = proof.rsplit_once('.').expect("a signature");
        let (header, claims) = input.split_once('.').expect("claims");
        let json = |part| serde_json::from_slice::<Value>(&decode(part)).expect("JSON");
        let (header, claims) = (json(header), json(claims));
        let coordinate = |name: &str| decode(header["jwk"][name].as_str().expect("text"));
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(input.as_bytes(), &decode(signature))
            .expect("signed by the key that it names");
        (header, claims)
    }

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    const NOW: WallTime = WallTime::from_unix_millis(1_700_000_000_999);

    #[test]
    fn a_proof_says_which_request_it_is_for() {
        let (key, random) = (DpopKey::generate().expect("a key"), SeededRandom::new(1));
        // RFC 9449 7.1 has this token and its hash.
        let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
        let token = AccessToken::new(Secret::from(token)).expect("legal");
        let of = Proven {
            method: "GET",
            url: &url("https://API.example:443/a/../b%20c?x=1#f"),
            nonce: Some("n-0"),
            token: Some(&token),
        };
        let proof = key.proof(&of, NOW, &random).expect("a proof");
        assert!(proof.is_sensitive());
        let (header, mut claims) = opened(&proof);
        assert_eq!((&header["typ"], &header["alg"]), (&json!("dpop+jwt"), &json!("ES256")));
        // Nothing of the private key, and no more than a thumbprint takes (RFC 7638 3.2).
        let members: Vec<&str> = header["jwk"].as_object().expect("a key").keys().map(String::as_str).collect();
        assert_eq!(members, ["crv", "kty", "x", "y"]);
        let jti = claims.as_object_mut().and_then(|claims| claims.remove("jti")).expect("jti");
        assert_eq!(jti.as_str().map(str::len), Some(22));
        let expected = json!({
            "htm": "GET", "htu": "https://api.example/b%20c", "iat": 1_700_000_000, "nonce": "n-0",
            "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
        });
        assert_eq!(claims, expected);

        let (again, other) = (key.proof(&of, NOW, &random), DpopKey::generate().expect("a key"));
        let (same_key, second) = opened(&again.expect("a proof"));
        assert_ne!(second["jti"], jti);
        assert_eq!(same_key["jwk"], header["jwk"]);
        let bare = Proven { method: "POST", url: &url("https://as.example/token"), nonce: None, token: None };
        let (its_key, claims) = opened(&other.proof(&bare, NOW, &random).expect("a proof"));
        assert_ne!(its_key["jwk"], header["jwk"]);
        assert!(claims.get("ath").is_none() && claims.get("nonce").is_none(), "{claims}");
        assert!(!format!("{key:?}").contains(header["jwk"]["x"].as_str().expect("x")));
    }

    fn headers(nonces: &[&str]) -> HeaderMap {
        nonces.iter().map(|nonce| (DPOP_NONCE, HeaderValue::from_str(nonce).expect("a value"))).collect()
    }

    #[test]
    fn a_nonce_is_its_origins_until_the_next() {
        let nonces = DpopNonces::default();
        let taken = |from: &str, values: &[&str]| nonces.take(&url(from), &headers(values)).map(|n| n.to_string());
        assert_eq!(taken("https://a.example/token", &["one"]).as_deref(), Some("one"));
        assert_eq!(taken("https://b.example/token", &["two"]).as_deref(), Some("two"));
        for unusable in [&[][..], &["three", "four"], &[""], &["sp ace"], &["quo\"te"], &[&"x".repeat(1025)]] {
            assert_eq!(taken("https://a.example/token", unusable), None, "{unusable:?}");
        }
        assert_eq!(nonces.of(&url("https://a.example:443/other?q")).as_deref(), Some("one"));
        assert_eq!(nonces.of(&url("http://a.example/token")), None);
        assert_eq!(nonces.of(&url("https://a.example:8443/token")), None);
        taken("https://a.example/", &["five"]);
        assert_eq!(nonces.of(&url("https://a.example/")).as_deref(), Some("five"));
        for number in 0..3000 {
            taken(&format!("https://h{number}.example/"), &["n"]);
        }
        assert!(nonces.0.lock().expect("no panic").len() <= DpopNonces::MAX_ORIGINS);
    }
}
