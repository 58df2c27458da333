//! Azure Key Vault and the part of Microsoft Entra ID that gives access tokens to applications, in one server; after
//! their public REST documentation ("Get Secret", "Azure Key Vault REST API Error Codes", "Application authentication
//! certificate credentials").

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::fault::{Faults, HttpFault, after, receive};
use crate::http::{App, Body, Dropped, Wire, base_url, json, serve};
use crate::instance_metadata;
use crate::serve::{Listening, lock};
use crate::tls::Tls;

pub const TENANT: &str = "11111111-2222-3333-4444-555555555555";
pub const CLIENT: &str = "66666666-7777-8888-9999-000000000000";
/// The token that stands in a workload's file.
pub const FEDERATED_TOKEN: &str = "federated.workload.token";
const RESOURCE: &str = "https://vault.azure.net";
const ACCESS_TOKEN: &str = "entra-access-token";

/// A certificate that the application has registered.
pub struct Registered {
    /// PEM.
    pub public_key: String,
    /// Base64url of the certificate's SHA-256.
    pub thumbprint: String,
}

/// A running vault; it ends when this is dropped.
pub struct AzureKeyVault {
    state: Arc<State>,
    listening: Listening,
    tls: Tls,
}

struct State {
    secrets: Mutex<HashMap<String, Stored>>,
    registered: Mutex<Option<Registered>>,
    faults: Faults<HttpFault>,
    token_faults: Faults<HttpFault>,
    asked: Mutex<Vec<String>>,
    origin: Mutex<String>,
}

#[derive(Clone)]
struct Stored {
    version: String,
    value: String,
    enabled: bool,
    forbidden: bool,
}

impl AzureKeyVault {
    pub fn start(tls: Tls) -> io::Result<Self> {
        let state = Arc::new(State {
            secrets: Mutex::default(),
            registered: Mutex::default(),
            faults: Faults::default(),
            token_faults: Faults::default(),
            asked: Mutex::default(),
            origin: Mutex::default(),
        });
        let listening = serve(Arc::clone(&state), &tls, 0)?;
        let vault = Self { state, listening, tls };
        *lock(&vault.state.origin) = vault.url();
        Ok(vault)
    }

    pub fn url(&self) -> String {
        base_url(&self.tls, self.listening.addr())
    }

    /// Stores a new version; its name comes back.
    pub fn put(&self, name: &str, value: &str) -> String {
        let mut secrets = lock(&self.state.secrets);
        let number = secrets.get(name).map_or(1, |stored| 1 + u32::from_str_radix(&stored.version, 16).unwrap_or(0));
        let version = format!("{number:032x}");
        let stored = Stored { version: version.clone(), value: value.to_owned(), enabled: true, forbidden: false };
        secrets.insert(name.to_owned(), stored);
        version
    }

    /// The secret stays, but it is switched off.
    pub fn disable(&self, name: &str) {
        if let Some(stored) = lock(&self.state.secrets).get_mut(name) {
            stored.enabled = false;
        }
    }

    /// Nobody may read it.
    pub fn forbid(&self, name: &str) {
        if let Some(stored) = lock(&self.state.secrets).get_mut(name) {
            stored.forbidden = true;
        }
    }

    pub fn register(&self, certificate: Registered) {
        *lock(&self.state.registered) = Some(certificate);
    }

    /// What the vault does from now on, in place of what was ordered before.
    pub fn set_fault(&self, fault: HttpFault) {
        self.state.faults.clear();
        self.state.faults.order(fault, None);
    }

    /// The vault is well again.
    pub fn clear_fault(&self) {
        self.state.faults.clear();
    }

    /// What the token endpoint does from now on.
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
        let is_token = path == format!("/{TENANT}/oauth2/v2.0/token");
        let fault = if is_token { &self.token_faults } else { &self.faults }.take(|_| true);
        let (parts, body) = match receive(fault.as_ref(), request, &wire).await? {
            Ok(received) => received,
            Err(answer) => return Ok(answer),
        };
        let response = match (&parts.method, is_token, path.strip_prefix("/secrets/")) {
            (&Method::POST, true, _) => self.token(&body),
            (&Method::GET, false, Some(name)) => {
                let bearer = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
                let versioned = parts.uri.query().is_some_and(|query| query.contains("api-version="));
                self.secret(name.trim_end_matches('/'), bearer, versioned)
            }
            _ => error(StatusCode::NOT_FOUND, "ResourceNotFound", None),
        };
        after(fault.as_ref(), response).await
    }
}

impl State {
    fn secret(&self, name: &str, bearer: Option<&str>, versioned: bool) -> Response<Body> {
        let tokens = [ACCESS_TOKEN, instance_metadata::ACCESS_TOKEN].map(|token| format!("Bearer {token}"));
        if !bearer.is_some_and(|bearer| tokens.iter().any(|token| token == bearer)) {
            let mut response = error(StatusCode::UNAUTHORIZED, "Unauthorized", None);
            let challenge =
                format!(r#"Bearer authorization="https://login.windows.net/{TENANT}", resource="{RESOURCE}""#);
            if let Ok(challenge) = challenge.parse() {
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            return response;
        }
        if !versioned {
            return error(StatusCode::BAD_REQUEST, "BadParameter", None);
        }
        let Some(stored) = lock(&self.secrets).get(name).cloned() else {
            return error(StatusCode::NOT_FOUND, "SecretNotFound", None);
        };
        if stored.forbidden {
            return error(StatusCode::FORBIDDEN, "Forbidden", Some("ForbiddenByRbac"));
        }
        if !stored.enabled {
            return error(StatusCode::FORBIDDEN, "Forbidden", Some("SecretDisabled"));
        }
        let id = format!("{}/secrets/{name}/{}", lock(&self.origin), stored.version);
        let attributes = json!({"enabled": true, "created": 1_700_000_000, "updated": 1_700_000_000, "recoveryLevel": "Recoverable"});
        json(StatusCode::OK, &json!({"value": stored.value, "id": id, "attributes": attributes, "tags": {}}))
    }

    fn token(&self, body: &[u8]) -> Response<Body> {
        let form: HashMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let right = field("grant_type") == "client_credentials"
            && field("client_id") == CLIENT
            && field("scope") == format!("{RESOURCE}/.default")
            && field("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let assertion = field("client_assertion");
        if !right || (assertion != FEDERATED_TOKEN && !self.is_signed(assertion)) {
            let body = json!({
                "error": "invalid_client",
                "error_description": "AADSTS700027: canary: the client assertion is wrong",
                "error_codes": [700_027],
                "timestamp": "2026-01-01 00:00:00Z",
                "trace_id": "trace",
                "correlation_id": "correlation",
            });
            return json(StatusCode::UNAUTHORIZED, &body);
        }
        let token =
            json!({"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": ACCESS_TOKEN});
        json(StatusCode::OK, &token)
    }

    /// PS256 over the right header and claims.
    fn is_signed(&self, assertion: &str) -> bool {
        let registered = lock(&self.registered);
        let Some(registered) = registered.as_ref() else { return false };
        let Ok(key) = DecodingKey::from_rsa_pem(registered.public_key.as_bytes()) else { return false };
        let mut rules = Validation::new(Algorithm::PS256);
        rules.set_audience(&[format!("{}/{TENANT}/oauth2/v2.0/token", lock(&self.origin))]);
        rules.set_issuer(&[CLIENT]);
        rules.set_required_spec_claims(&["aud", "iss", "sub", "exp", "nbf"]);
        rules.sub = Some(CLIENT.to_owned());
        rules.validate_nbf = true;
        let Ok(token) = jsonwebtoken::decode::<Value>(assertion, &key, &rules) else { return false };
        token.header.x5t_s256.as_deref() == Some(&registered.thumbprint) && token.claims["jti"].is_string()
    }
}

fn error(status: StatusCode, code: &str, inner: Option<&str>) -> Response<Body> {
    let inner = inner.map(|inner| json!({"code": inner}));
    json(status, &json!({"error": {"code": code, "message": "canary: what the vault says", "innererror": inner}}))
}
