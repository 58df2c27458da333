//! A protected API: verifies tokens (JWT, by the issuer's JWKS), with the certificate or key that they are bound to, and
//! shows what it executed.

mod endpoints;
mod proof;
mod verify;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use midward_core::{Clock, SystemClock, WallTime};
use rustls::ClientConfig;
use serde_json::json;

use crate::fault::{Before, FaultOrder, Faults, HttpFault, after, before};
use crate::http::{App, Body, Dropped, Wire, base_url, json, read_body, serve, text};
use crate::serve::{Listening, lock};
use crate::tls::Tls;
use proof::ProofChecker;
use verify::{Refused, Verifier};

/// How the API is set up.
#[derive(Clone)]
pub struct TargetApiConfig {
    /// 0 takes a free port.
    pub port: u16,
    pub tls: Tls,
    /// `iss` that tokens must carry.
    pub issuer: String,
    /// Where the issuer's keys are.
    pub jwks_url: String,
    /// How to reach an `https` JWKS URL.
    pub jwks_tls: Option<Arc<ClientConfig>>,
    /// `aud` that tokens must carry.
    pub audience: String,
    /// A scope that every call needs.
    pub required_scope: Option<String>,
    pub clock: Arc<dyn Clock>,
}

impl TargetApiConfig {
    /// Plain HTTP, the machine's clock, no scope needed.
    pub fn new(issuer: &str, jwks_url: &str, audience: &str) -> Self {
        Self {
            port: 0,
            tls: Tls::Plain,
            issuer: issuer.to_owned(),
            jwks_url: jwks_url.to_owned(),
            jwks_tls: None,
            audience: audience.to_owned(),
            required_scope: None,
            clock: Arc::new(SystemClock),
        }
    }
}

/// A request that passed the token check and was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    pub method: String,
    /// With the query.
    pub path: String,
    pub body: Vec<u8>,
    /// The `jti` of its token.
    pub jti: String,
}

/// A running API; it ends when this is dropped.
pub struct TargetApi {
    state: Arc<State>,
    listening: Listening,
}

struct State {
    verifier: Verifier,
    proofs: ProofChecker,
    tls: Tls,
    faults: Faults<HttpFault>,
    executed: Mutex<Vec<Executed>>,
    counter: AtomicU64,
    refused: AtomicU64,
    with_admin: bool,
}

impl TargetApi {
    pub fn start(config: TargetApiConfig) -> io::Result<Self> {
        Self::launch(config, false)
    }

    /// Also serves `/_faults`, `/_revoke` and `/_stats`, without a token: for the program, on loopback.
    pub fn start_with_admin(config: TargetApiConfig) -> io::Result<Self> {
        Self::launch(config, true)
    }

    fn launch(config: TargetApiConfig, with_admin: bool) -> io::Result<Self> {
        let (tls, port) = (config.tls.clone(), config.port);
        let scheme = if matches!(tls, Tls::Plain) { "http" } else { "https" };
        let state = Arc::new(State {
            proofs: ProofChecker::new(Arc::clone(&config.clock), scheme),
            verifier: Verifier::new(config),
            tls,
            faults: Faults::default(),
            executed: Mutex::new(Vec::new()),
            counter: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            with_admin,
        });
        let listening = serve(Arc::clone(&state), &state.tls, port)?;
        Ok(Self { state, listening })
    }

    pub fn addr(&self) -> SocketAddr {
        self.listening.addr()
    }

    pub fn url(&self) -> String {
        base_url(&self.state.tls, self.addr())
    }

    /// Orders a fault for the next `requests` requests; `None` is until cleared. It comes before the token check.
    pub fn set_fault(&self, fault: HttpFault, requests: Option<u32>) {
        self.state.faults.order(fault, requests);
    }

    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// Tokens issued at or before `time` get 401 from now on.
    pub fn revoke_all_before(&self, time: WallTime) {
        self.state.verifier.revoke_all_before(time);
    }

    /// DPoP proofs must hold this nonce from now on, and each answer names it.
    pub fn want_dpop_nonce(&self, nonce: Option<&str>) {
        self.state.proofs.want_nonce(nonce);
    }

    /// All requests that were carried out, in order.
    pub fn executed(&self) -> Vec<Executed> {
        lock(&self.state.executed).clone()
    }

    /// Forgets what was carried out, so that a long measurement keeps its memory.
    pub fn clear_executed(&self) {
        lock(&self.state.executed).clear();
    }

    /// How often `POST /api/counter` was carried out.
    pub fn counter(&self) -> u64 {
        self.state.counter.load(Ordering::SeqCst)
    }

    /// How many requests got 401 or 403.
    pub fn refused_count(&self) -> u64 {
        self.state.refused.load(Ordering::SeqCst)
    }
}

impl App for State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        if self.with_admin && request.uri().path().starts_with("/_") {
            return self.admin(request).await;
        }
        let fault = self.faults.take(|_| true);
        match before(fault.as_ref(), &wire).await? {
            Before::Continue => {}
            Before::Answer(response) => return Ok(response),
            Before::DropAfterRead => {
                // The request is carried out; only its answer is lost.
                self.answer(request).await?;
                return Err(Dropped);
            }
        }
        let response = self.answer(request).await?;
        after(fault.as_ref(), response).await
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        let (parts, body) = request.into_parts();
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (token, is_proven) = header.and_then(token).unzip();
        let verified = match token.zip(is_proven) {
            None => Err(Refused::NoToken),
            Some((token, is_proven)) => self.verify(&parts, token, is_proven).await,
        };
        let body = read_body(body).await?;
        match (verified, token) {
            (Ok(jti), Some(token)) => {
                let mut answer = self.carry_out(&parts, &body, token, jti).await?;
                self.proofs.tell_nonce(answer.headers_mut());
                Ok(answer)
            }
            (Err(refused), _) => Ok(self.refuse(&refused)),
            (Ok(_), None) => Ok(self.refuse(&Refused::NoToken)),
        }
    }

    async fn verify(&self, parts: &Parts, token: &str, is_proven: bool) -> Result<String, Refused> {
        let good = self.verifier.verify(token, parts.extensions.get()).await?;
        match (&good.key, is_proven) {
            (None, false) => {}
            (Some(key), true) => self.proofs.check(parts, token, key)?,
            // A bound token as bearer would be good for whoever saw it.
            (Some(_), false) => return Err(Refused::Invalid("the token is bound to a key")),
            (None, true) => return Err(Refused::Invalid("the token is bound to no key")),
        }
        Ok(good.jti)
    }

    async fn carry_out(&self, parts: &Parts, body: &[u8], token: &str, jti: String) -> Result<Response<Body>, Dropped> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let method = parts.method.to_string();
        lock(&self.executed).push(Executed { method, path, body: body.to_vec(), jti });
        endpoints::answer(&self.counter, parts, body, token).await
    }

    /// RFC 6750 3.
    fn refuse(&self, refused: &Refused) -> Response<Body> {
        self.refused.fetch_add(1, Ordering::SeqCst);
        let (status, challenge) = match refused {
            Refused::NoToken => (StatusCode::UNAUTHORIZED, "Bearer"),
            Refused::Invalid(_) => (StatusCode::UNAUTHORIZED, "Bearer error=\"invalid_token\""),
            Refused::Proof(_) => (StatusCode::UNAUTHORIZED, "DPoP error=\"invalid_dpop_proof\""),
            Refused::Nonce => (StatusCode::UNAUTHORIZED, "DPoP error=\"use_dpop_nonce\""),
            Refused::Scope => (StatusCode::FORBIDDEN, "Bearer error=\"insufficient_scope\""),
            Refused::KeysUnavailable => {
                return json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": "the issuer's keys cannot be had" }));
            }
        };
        let mut response = json(status, &json!({ "error": refused.reason() }));
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        self.proofs.tell_nonce(response.headers_mut());
        response
    }

    async fn admin(&self, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        let (parts, body) = request.into_parts();
        let body = read_body(body).await?;
        Ok(match (parts.method, parts.uri.path()) {
            (Method::POST, "/_faults") => match serde_json::from_slice::<FaultOrder<HttpFault>>(&body) {
                Ok(order) => {
                    self.faults.order(order.fault, order.requests);
                    text(StatusCode::OK, "ordered\n")
                }
                Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            },
            (Method::DELETE, "/_faults") => {
                self.faults.clear();
                text(StatusCode::OK, "cleared\n")
            }
            (Method::POST, "/_revoke") => {
                self.verifier.revoke_all_now();
                text(StatusCode::OK, "all tokens issued until now are refused\n")
            }
            (Method::GET, "/_stats") => {
                let executed = lock(&self.executed).len();
                let refused = self.refused.load(Ordering::SeqCst);
                json(StatusCode::OK, &json!({ "executed": executed, "refused": refused }))
            }
            _ => text(StatusCode::NOT_FOUND, "no such endpoint\n"),
        })
    }
}

/// The token, and whether it comes with a proof (RFC 9449 7.1).
fn token(header: &str) -> Option<(&str, bool)> {
    let (scheme, token) = header.split_once(' ')?;
    let is_proven = scheme.eq_ignore_ascii_case("dpop");
    (is_proven || scheme.eq_ignore_ascii_case("bearer")).then_some((token.trim(), is_proven))
}
