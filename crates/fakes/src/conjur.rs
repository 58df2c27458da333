//! CyberArk Conjur (Secrets Manager), after its public REST documentation: signing in with an API key or a JWT, access
//! tokens of 480 seconds, and batches of variables.

mod admin;
mod state;

use std::io;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;

use crate::fault::{HttpFault, after, receive};
use crate::http::{App, Body, Dropped, Wire, base_url, read_body, serve, text};
use crate::serve::Listening;
use crate::tls::Tls;

use self::state::State;

/// Who may sign in, and what is stored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConjurConfig {
    #[serde(default)]
    pub port: u16,
    pub account: String,
    #[serde(default)]
    pub identities: Vec<Identity>,
    #[serde(default)]
    pub variables: Vec<Variable>,
}

/// A host or a user.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// `host/NAME`, or a user's name.
    pub login: String,
    #[serde(default)]
    pub api_key: Option<String>,
    /// The authn-jwt service that lets it in, and the whole token that it must show.
    #[serde(default)]
    pub jwt: Option<(String, String)>,
}

/// A variable that every identity may read, unless it is forbidden.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    pub id: String,
    pub value: String,
}

/// A running server; it ends when this is dropped.
pub struct Conjur {
    state: Arc<State>,
    listening: Listening,
    tls: Tls,
}

impl Conjur {
    pub fn start(config: ConjurConfig, tls: Tls) -> io::Result<Self> {
        let port = config.port;
        let state = Arc::new(State::new(config));
        let listening = serve(Arc::clone(&state), &tls, port)?;
        Ok(Self { state, listening, tls })
    }

    pub fn url(&self) -> String {
        base_url(&self.tls, self.listening.addr())
    }

    /// A new value; the variable is made if it is not there.
    pub fn set(&self, id: &str, value: impl Into<Vec<u8>>) {
        self.state.set(id, value.into());
    }

    /// From now on nobody may read it.
    pub fn forbid(&self, id: &str) {
        self.state.forbid(id);
    }

    /// From now on everybody may.
    pub fn permit(&self, id: &str) {
        self.state.permit(id);
    }

    /// A new API key; the old one stops working at once. `false`: there is no such identity.
    pub fn set_api_key(&self, login: &str, api_key: &str) -> bool {
        self.state.set_api_key(login, api_key)
    }

    /// All access tokens have ended.
    pub fn expire_tokens(&self) {
        self.state.expire_tokens();
    }

    /// What look-ups get from now on, in place of what was ordered before.
    pub fn set_fault(&self, fault: HttpFault) {
        self.state.faults.clear();
        self.state.faults.order(fault, None);
    }

    /// The same for sign-ins.
    pub fn set_sign_in_fault(&self, fault: HttpFault) {
        self.state.sign_in_faults.clear();
        self.state.sign_in_faults.order(fault, None);
    }

    pub fn clear_faults(&self) {
        self.state.faults.clear();
        self.state.sign_in_faults.clear();
    }

    /// Method and target of every request that came.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked()
    }

    pub fn sign_ins(&self) -> usize {
        self.asked().iter().filter(|line| line.starts_with("POST /authn")).count()
    }
}

impl App for State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        let path = request.uri().path().to_owned();
        if path.starts_with("/_") {
            let (parts, body) = request.into_parts();
            let body = read_body(body).await?;
            return Ok(self.order(&parts.method, &path, &body));
        }
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        self.record(format!("{} {target}", request.method()));
        let signs_in = path.ends_with("/authenticate");
        let fault = if signs_in { &self.sign_in_faults } else { &self.faults }.take(|_| true);
        let (parts, body) = match receive(fault.as_ref(), request, &wire).await? {
            Ok(received) => received,
            Err(answer) => return Ok(answer),
        };
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let response = match (&parts.method, signs_in) {
            (&Method::POST, true) => self.authenticate(&path, &body),
            (&Method::GET, false) => {
                let base64 = header(ACCEPT_ENCODING.as_str()).eq_ignore_ascii_case("base64");
                self.read(&path, parts.uri.query(), header(AUTHORIZATION.as_str()), base64)
            }
            _ => text(StatusCode::NOT_FOUND, ""),
        };
        after(fault.as_ref(), response).await
    }
}
