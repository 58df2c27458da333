//! Google Secret Manager and the token endpoint for service accounts, in one server; after their public REST documentation
//! ("projects.secrets.versions.access", "Errors", "Using OAuth 2.0 for Server to Server Applications").

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::{Method, Request, Response, StatusCode};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::fault::{Faults, HttpFault, after, receive};
use crate::http::{App, Body, Dropped, Wire, base_url, json, serve};
use crate::instance_metadata;
use crate::serve::{Listening, lock};
use crate::tls::Tls;

pub const PROJECT: &str = "crm-prod";
pub const CLIENT_EMAIL: &str = "midward@crm-prod.iam.gserviceaccount.com";
pub const KEY_ID: &str = "0123456789abcdef";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// A running vault; it ends when this is dropped.
pub struct GoogleSecretManager {
    state: Arc<State>,
    listening: Listening,
    tls: Tls,
}

#[derive(Default)]
struct State {
    secrets: Mutex<HashMap<String, Stored>>,
    /// PEM of the service account's public key.
    public_key: Mutex<Option<String>>,
    /// Tokens are numbered; those below it are no longer good.
    oldest_token: Mutex<u32>,
    tokens: Mutex<u32>,
    faults: Faults<HttpFault>,
    token_faults: Faults<HttpFault>,
    asked: Mutex<Vec<String>>,
    origin: Mutex<String>,
}

#[derive(Clone)]
struct Stored {
    version: u32,
    value: String,
    disabled: bool,
    forbidden: bool,
}

impl GoogleSecretManager {
    pub fn start(tls: Tls) -> io::Result<Self> {
        let state = Arc::new(State::default());
        let listening = serve(Arc::clone(&state), &tls, 0)?;
        let vault = Self { state, listening, tls };
        *lock(&vault.state.origin) = vault.url();
        Ok(vault)
    }

    pub fn url(&self) -> String {
        base_url(&self.tls, self.listening.addr())
    }

    pub fn token_url(&self) -> String {
        format!("{}/token", self.url())
    }

    /// Stores a new version; its number comes back.
    pub fn put(&self, name: &str, value: &str) -> u32 {
        let mut secrets = lock(&self.state.secrets);
        let version = secrets.get(name).map_or(1, |stored| stored.version + 1);
        let stored = Stored { version, value: value.to_owned(), disabled: false, forbidden: false };
        secrets.insert(name.to_owned(), stored);
        version
    }

    /// Switches the newest version off or on.
    pub fn disable(&self, name: &str, disabled: bool) {
        if let Some(stored) = lock(&self.state.secrets).get_mut(name) {
            stored.disabled = disabled;
        }
    }

    /// Whether nobody may read it.
    pub fn forbid(&self, name: &str, forbidden: bool) {
        if let Some(stored) = lock(&self.state.secrets).get_mut(name) {
            stored.forbidden = forbidden;
        }
    }

    /// Who holds the private key of this one may get tokens. PEM.
    pub fn register(&self, public_key: &str) {
        *lock(&self.state.public_key) = Some(public_key.to_owned());
    }

    /// No token that was given so far is good any more.
    pub fn revoke_tokens(&self) {
        *lock(&self.state.oldest_token) = *lock(&self.state.tokens) + 1;
    }

    /// What the vault does from now on, in place of what was ordered before.
    pub fn set_fault(&self, fault: HttpFault) {
        self.clear_faults();
        self.state.faults.order(fault, None);
    }

    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// The same for the token endpoint.
    pub fn set_token_fault(&self, fault: HttpFault) {
        self.state.token_faults.clear();
        self.state.token_faults.order(fault, None);
    }

    /// Method and path of every request that came.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state.asked).clone()
    }
}

impl App for State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        let path = request.uri().path().to_owned();
        lock(&self.asked).push(format!("{} {path}", request.method()));
        let is_token = path == "/token";
        let fault = if is_token { &self.token_faults } else { &self.faults }.take(|_| true);
        let (parts, body) = match receive(fault.as_ref(), request, &wire).await? {
            Ok(received) => received,
            Err(answer) => return Ok(answer),
        };
        let response = match (&parts.method, is_token) {
            (&Method::POST, true) => self.token(&body),
            (&Method::GET, false) => {
                let bearer = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
                self.access(&path, bearer)
            }
            _ => error(StatusCode::NOT_FOUND, "UNIMPLEMENTED"),
        };
        after(fault.as_ref(), response).await
    }
}

impl State {
    fn access(&self, path: &str, bearer: Option<&str>) -> Response<Body> {
        let token = bearer.and_then(|bearer| bearer.strip_prefix("Bearer ")).unwrap_or_default();
        let number = token.strip_prefix("ya29.").and_then(|number| number.parse::<u32>().ok());
        let good = number.is_some_and(|number| number >= *lock(&self.oldest_token) && number <= *lock(&self.tokens));
        if !good && token != instance_metadata::ACCESS_TOKEN {
            return error(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED");
        }
        let name = path.strip_prefix(&format!("/v1/projects/{PROJECT}/"));
        let name = name.map(|rest| rest.strip_prefix("locations/europe-west3/").unwrap_or(rest));
        let name =
            name.and_then(|rest| rest.strip_prefix("secrets/")?.strip_suffix(":access")?.split_once("/versions/"));
        let Some((name, version)) = name else { return error(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT") };
        let Some(stored) = lock(&self.secrets).get(name).cloned() else {
            return error(StatusCode::NOT_FOUND, "NOT_FOUND");
        };
        if stored.forbidden {
            return error(StatusCode::FORBIDDEN, "PERMISSION_DENIED");
        }
        if version != "latest" && version != stored.version.to_string() {
            return error(StatusCode::NOT_FOUND, "NOT_FOUND");
        }
        if stored.disabled {
            return error(StatusCode::BAD_REQUEST, "FAILED_PRECONDITION");
        }
        let name = format!("projects/123456/secrets/{name}/versions/{}", stored.version);
        let mut payload = json!({"dataCrc32c": crc32c(stored.value.as_bytes()).to_string()});
        if !stored.value.is_empty() {
            payload["data"] = STANDARD.encode(&stored.value).into();
        }
        json(StatusCode::OK, &json!({"name": name, "payload": payload}))
    }

    fn token(&self, body: &[u8]) -> Response<Body> {
        let form: HashMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        if field("grant_type") != JWT_BEARER || !self.is_signed(field("assertion")) {
            let refusal = json!({"error": "invalid_grant", "error_description": "canary: Invalid JWT Signature."});
            return json(StatusCode::BAD_REQUEST, &refusal);
        }
        let mut tokens = lock(&self.tokens);
        *tokens += 1;
        let token = json!({"access_token": format!("ya29.{tokens}"), "expires_in": 3599, "token_type": "Bearer"});
        json(StatusCode::OK, &token)
    }

    /// RS256 over the right header and claims.
    fn is_signed(&self, assertion: &str) -> bool {
        let key = lock(&self.public_key).as_ref().and_then(|pem| DecodingKey::from_rsa_pem(pem.as_bytes()).ok());
        let Some(key) = key else { return false };
        let mut rules = Validation::new(Algorithm::RS256);
        rules.set_audience(&[format!("{}/token", lock(&self.origin))]);
        rules.set_issuer(&[CLIENT_EMAIL]);
        rules.set_required_spec_claims(&["aud", "iss", "exp"]);
        let Ok(token) = jsonwebtoken::decode::<Value>(assertion, &key, &rules) else { return false };
        let claims = &token.claims;
        let life = claims["exp"].as_i64().unwrap_or(0) - claims["iat"].as_i64().unwrap_or(0);
        token.header.kid.as_deref() == Some(KEY_ID) && claims["scope"] == SCOPE && (1..=3600).contains(&life)
    }
}

fn error(status: StatusCode, word: &str) -> Response<Body> {
    let message = "canary: what the vault says";
    json(status, &json!({"error": {"code": status.as_u16(), "message": message, "status": word}}))
}

/// CRC-32C by a table, unlike whoever checks it.
fn crc32c(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256)
        .map(|index: u32| (0..8).fold(index, |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 }))
        .collect();
    !bytes.iter().fold(u32::MAX, |sum, byte| sum >> 8 ^ table[usize::from(sum.to_le_bytes()[0] ^ byte)])
}
