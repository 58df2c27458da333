//! An OAuth 2.0 authorization server for the client credentials grant and token exchange, with JWT access tokens.

mod admin;
mod issue;
mod token;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use midward_core::{Clock, SystemClock};
use serde::Deserialize;
use serde_json::json;

use crate::fault::{Before, Faults, HttpFault, after, before};
use crate::http::{App, Body, Dropped, Wire, base_url, json, read_body, serve, text};
use crate::serve::{Listening, lock};
use crate::tls::Tls;
use issue::Signer;

/// How a client shows who it is in the Basic header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BasicDecoding {
    /// Client id and secret are form-urlencoded each (RFC 6749 2.3.1).
    #[default]
    Form,
    /// They are taken as they come, as some servers do.
    Raw,
}

/// The signature of the access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum SigningAlgorithm {
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "RS256")]
    Rs256,
}

/// A registered client.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuthClient {
    pub client_id: String,
    /// Each of these is valid: two while a rotation lets both live.
    pub client_secrets: Vec<String>,
    /// The scopes that may be granted; absent means any.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
}

impl OAuthClient {
    pub fn new(client_id: &str, client_secret: &str) -> Self {
        Self { client_id: client_id.to_owned(), client_secrets: vec![client_secret.to_owned()], scopes: None }
    }
}

/// A token of another server's that may be exchanged (RFC 8693).
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectToken {
    pub token: String,
    /// Its `subject_token_type`.
    pub token_type: String,
    /// Who must act, if anybody: the actor token.
    #[serde(default)]
    pub actor_token: Option<String>,
}

/// How the server is set up.
#[derive(Clone)]
pub struct AuthorizationServerConfig {
    /// 0 takes a free port.
    pub port: u16,
    pub tls: Tls,
    pub clients: Vec<OAuthClient>,
    pub subject_tokens: Vec<SubjectToken>,
    /// How long access tokens live.
    pub lifetime: Duration,
    /// `aud` when the request names neither `resource` nor `audience`.
    pub default_audience: String,
    pub algorithm: SigningAlgorithm,
    pub basic_decoding: BasicDecoding,
    pub clock: Arc<dyn Clock>,
}

impl Default for AuthorizationServerConfig {
    fn default() -> Self {
        Self {
            port: 0,
            tls: Tls::Plain,
            clients: Vec::new(),
            subject_tokens: Vec::new(),
            lifetime: Duration::from_mins(5),
            default_audience: "https://api.example".to_owned(),
            algorithm: SigningAlgorithm::default(),
            basic_decoding: BasicDecoding::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// What goes wrong at the token endpoint. As JSON either an [`HttpFault`] or one of these.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TokenFault {
    Http(HttpFault),
    OAuth(OAuthFault),
}

/// Faults that only a token endpoint can have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OAuthFault {
    /// 200 with `{"error": "server_error"}`.
    Error200,
    /// 401 `invalid_client`, although the secret is right.
    InvalidClient,
    /// 400 `unauthorized_client`, as Keycloak answers a wrong secret.
    UnauthorizedClient,
    /// A good token without `expires_in`.
    WithoutExpiresIn,
    /// A good token with this JSON text as `expires_in`.
    ExpiresIn { json: String },
    /// A good token with this JSON text as `token_type`.
    TokenType { json: String },
    /// A good token, and a narrower scope than the one asked for.
    Scope { scope: String },
    /// The same token as the last time, as long as it lives.
    SameToken,
    /// A good token with this JSON text as `issued_token_type`; empty: without it.
    IssuedTokenType { json: String },
}

/// One request at the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// Empty when the request named none.
    pub client_id: String,
    /// `client_secret_basic`, `client_secret_post` or `none`.
    pub method: &'static str,
    /// All form fields but the secret, in order.
    pub form: Vec<(String, String)>,
    /// The `Authorization` header was there.
    pub authorization: bool,
    /// The `error` of the answer; none for a token. A fault counts as `fault`.
    pub error: Option<String>,
}

/// A running authorization server; it ends when this is dropped.
pub struct AuthorizationServer {
    state: Arc<State>,
    listening: Listening,
}

struct State {
    config: AuthorizationServerConfig,
    clients: Mutex<Vec<OAuthClient>>,
    lifetime: Mutex<Duration>,
    faults: Faults<TokenFault>,
    requests: Mutex<Vec<TokenRequest>>,
    signer: Signer,
    /// Set once the port is known, before the first request can come.
    issuer: Mutex<String>,
    revoked: Mutex<Vec<String>>,
    revocation_faults: Faults<HttpFault>,
    revocations: Mutex<usize>,
    metadata_faults: Faults<HttpFault>,
    /// Members that replace those of the metadata.
    metadata_changes: Mutex<serde_json::Map<String, serde_json::Value>>,
    last_token: Mutex<Option<String>>,
    with_admin: bool,
}

impl AuthorizationServer {
    pub fn start(config: AuthorizationServerConfig) -> io::Result<Self> {
        Self::launch(config, false)
    }

    /// Also serves `/_faults`, `/_clients/{id}/secret` and `/_stats`: for the program, on loopback.
    pub fn start_with_admin(config: AuthorizationServerConfig) -> io::Result<Self> {
        Self::launch(config, true)
    }

    fn launch(config: AuthorizationServerConfig, with_admin: bool) -> io::Result<Self> {
        let state = Arc::new(State {
            clients: Mutex::new(config.clients.clone()),
            lifetime: Mutex::new(config.lifetime),
            faults: Faults::default(),
            requests: Mutex::new(Vec::new()),
            signer: Signer::generate(config.algorithm)?,
            issuer: Mutex::new(String::new()),
            revoked: Mutex::new(Vec::new()),
            revocation_faults: Faults::default(),
            revocations: Mutex::new(0),
            metadata_faults: Faults::default(),
            metadata_changes: Mutex::default(),
            last_token: Mutex::new(None),
            with_admin,
            config,
        });
        // Requests wait for this lock until the port is known, and with it the issuer.
        let mut issuer = lock(&state.issuer);
        let listening = serve(Arc::clone(&state), &state.config.tls, state.config.port)?;
        *issuer = base_url(&state.config.tls, listening.addr());
        drop(issuer);
        Ok(Self { state, listening })
    }

    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    /// The issuer identifier, which is also the base URL.
    pub fn url(&self) -> String {
        lock(&self.state.issuer).clone()
    }

    pub fn token_url(&self) -> String {
        format!("{}/token", self.url())
    }

    pub fn jwks_url(&self) -> String {
        format!("{}/jwks", self.url())
    }

    /// Orders a fault for the next `requests` token requests; `None` is until cleared.
    pub fn set_fault(&self, fault: TokenFault, requests: Option<u32>) {
        self.state.faults.order(fault, requests);
    }

    pub fn clear_faults(&self) {
        self.state.faults.clear();
        self.state.revocation_faults.clear();
        self.state.metadata_faults.clear();
    }

    pub fn revocation_url(&self) -> String {
        format!("{}/revoke", self.url())
    }

    /// Orders a fault for the next revocation requests; `None` is until cleared.
    pub fn set_revocation_fault(&self, fault: HttpFault, requests: Option<u32>) {
        self.state.revocation_faults.order(fault, requests);
    }

    /// Orders a fault for the next requests for metadata; `None` is until cleared.
    pub fn set_metadata_fault(&self, fault: HttpFault, requests: Option<u32>) {
        self.state.metadata_faults.order(fault, requests);
    }

    /// Says something else in the metadata from now on.
    pub fn set_metadata(&self, member: &str, value: serde_json::Value) {
        lock(&self.state.metadata_changes).insert(member.to_owned(), value);
    }

    /// Revocation requests so far, those that a fault answered included.
    pub fn revocation_count(&self) -> usize {
        *lock(&self.state.revocations)
    }

    /// The tokens that were revoked, in order.
    pub fn revoked(&self) -> Vec<String> {
        lock(&self.state.revoked).clone()
    }

    /// Rotates a client's secret; with `keep_old` the old ones stay valid. False when there is no such client.
    pub fn set_client_secret(&self, client_id: &str, secret: &str, keep_old: bool) -> bool {
        self.state.set_client_secret(client_id, secret, keep_old)
    }

    /// The lifetime of tokens issued from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        *lock(&self.state.lifetime) = lifetime;
    }

    /// All token requests so far, those that a fault answered included.
    pub fn requests(&self) -> Vec<TokenRequest> {
        lock(&self.state.requests).clone()
    }

    pub fn request_count(&self) -> usize {
        lock(&self.state.requests).len()
    }

    /// A token as the endpoint would issue it, without a request.
    pub fn issue(&self, client_id: &str, scope: &str, audience: &str) -> io::Result<String> {
        self.state.issue(client_id, scope, &[audience.to_owned()]).map_err(io::Error::other)
    }
}

impl State {
    fn set_client_secret(&self, client_id: &str, secret: &str, keep_old: bool) -> bool {
        let mut clients = lock(&self.clients);
        let Some(client) = clients.iter_mut().find(|client| client.client_id == client_id) else { return false };
        if !keep_old {
            client.client_secrets.clear();
        }
        client.client_secrets.push(secret.to_owned());
        true
    }

    fn metadata(&self) -> serde_json::Value {
        let issuer = lock(&self.issuer).clone();
        let mut metadata = json!({
            "issuer": issuer,
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks"),
            "introspection_endpoint": format!("{issuer}/introspect"),
            "revocation_endpoint": format!("{issuer}/revoke"),
            "grant_types_supported": ["client_credentials", token::TOKEN_EXCHANGE],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        });
        for (member, value) in &*lock(&self.metadata_changes) {
            metadata[member.as_str()] = value.clone();
        }
        metadata
    }
}

impl App for State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        let path = request.uri().path().to_owned();
        match (request.method().clone(), path.as_str()) {
            (Method::POST, "/token") => self.token_with_faults(request, wire).await,
            (Method::GET, "/jwks") => Ok(json(StatusCode::OK, self.signer.jwks())),
            (Method::GET, "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration") => {
                let fault = self.metadata_faults.take(|_| true);
                match before(fault.as_ref(), &wire).await? {
                    Before::Continue => after(fault.as_ref(), json(StatusCode::OK, &self.metadata())).await,
                    Before::Answer(response) => Ok(response),
                    Before::DropAfterRead => Err(Dropped),
                }
            }
            (Method::POST, "/introspect") => self.introspect(request).await,
            (Method::POST, "/revoke") => {
                *lock(&self.revocations) += 1;
                let fault = self.revocation_faults.take(|_| true);
                match before(fault.as_ref(), &wire).await? {
                    Before::Continue => after(fault.as_ref(), self.revoke(request).await?).await,
                    Before::Answer(response) => Ok(response),
                    Before::DropAfterRead => Err(Dropped),
                }
            }
            (method, admin) if self.with_admin && admin.starts_with("/_") => {
                let body = read_body(request.into_body()).await?;
                Ok(self.admin(&method, admin, &body))
            }
            _ => Ok(text(StatusCode::NOT_FOUND, "no such endpoint\n")),
        }
    }
}

impl State {
    async fn token_with_faults(&self, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        let (http, oauth) = match self.faults.take(|_| true) {
            Some(TokenFault::Http(fault)) => (Some(fault), None),
            Some(TokenFault::OAuth(fault)) => (None, Some(fault)),
            None => (None, None),
        };
        let (parts, body) = request.into_parts();
        if http == Some(HttpFault::DropBeforeRead) {
            lock(&self.requests).push(TokenRequest::unread());
            return Err(Dropped);
        }
        let form = read_body(body).await?;
        // It counts from the moment it is here, also when its answer never comes.
        let number = self.record(&parts.headers, &form);
        match before(http.as_ref(), &wire).await? {
            Before::Continue => {
                let response = self.token(number, &parts.headers, &form, oauth.as_ref());
                after(http.as_ref(), response).await
            }
            Before::Answer(response) => Ok(response),
            Before::DropAfterRead => Err(Dropped),
        }
    }
}
