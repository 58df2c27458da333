//! What the server knows, and what it answers.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hyper::header::{CONTENT_ENCODING, HeaderValue};
use hyper::{Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::{ConjurConfig, Identity};
use crate::fault::{Faults, HttpFault};
use crate::http::{Body, json as json_response, respond, text};
use crate::serve::lock;

pub(super) struct State {
    account: String,
    identities: Mutex<Vec<Identity>>,
    variables: Mutex<HashMap<String, Vec<u8>>>,
    forbidden: Mutex<HashSet<String>>,
    /// As they stand in the header.
    tokens: Mutex<HashSet<String>>,
    issued: AtomicU64,
    pub(super) faults: Faults<HttpFault>,
    pub(super) sign_in_faults: Faults<HttpFault>,
    asked: Mutex<Vec<String>>,
}

impl State {
    pub(super) fn new(config: ConjurConfig) -> Self {
        let variables = config.variables.into_iter().map(|variable| (variable.id, variable.value.into_bytes()));
        Self {
            account: config.account,
            identities: Mutex::new(config.identities),
            variables: Mutex::new(variables.collect()),
            forbidden: Mutex::default(),
            tokens: Mutex::default(),
            issued: AtomicU64::new(0),
            faults: Faults::default(),
            sign_in_faults: Faults::default(),
            asked: Mutex::default(),
        }
    }

    pub(super) fn set(&self, id: &str, value: Vec<u8>) {
        lock(&self.variables).insert(id.to_owned(), value);
    }

    pub(super) fn forbid(&self, id: &str) {
        lock(&self.forbidden).insert(id.to_owned());
    }

    pub(super) fn permit(&self, id: &str) {
        lock(&self.forbidden).remove(id);
    }

    pub(super) fn set_api_key(&self, login: &str, api_key: &str) -> bool {
        let mut identities = lock(&self.identities);
        let Some(identity) = identities.iter_mut().find(|identity| identity.login == login) else { return false };
        identity.api_key = Some(api_key.to_owned());
        true
    }

    pub(super) fn expire_tokens(&self) {
        lock(&self.tokens).clear();
    }

    pub(super) fn record(&self, line: String) {
        lock(&self.asked).push(line);
    }

    pub(super) fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }

    /// `/authn/ACCOUNT/LOGIN/authenticate`, `/authn-jwt/SERVICE/ACCOUNT[/HOST]/authenticate`.
    pub(super) fn authenticate(&self, path: &str, body: &[u8]) -> Response<Body> {
        let parts: Vec<String> = path.split('/').skip(1).map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let identities = lock(&self.identities).clone();
        let found = match parts.as_slice() {
            ["authn", account, login, _] if *account == self.account => identities.iter().find(|identity| {
                identity.login == *login && identity.api_key.as_deref().map(str::as_bytes) == Some(body)
            }),
            ["authn-jwt", service, account, rest @ .., _] if *account == self.account => {
                let shown = url::form_urlencoded::parse(body).find(|(name, _)| name == "jwt");
                let shown = shown.map(|(_, token)| token.into_owned()).unwrap_or_default();
                identities.iter().find(|identity| {
                    let host = identity.login.strip_prefix("host/").unwrap_or(&identity.login);
                    let named = rest.is_empty() || rest == [host] || rest == [identity.login.as_str()];
                    let jwt = identity.jwt.as_ref();
                    named && jwt.is_some_and(|(own, token)| own == service && *token == shown)
                })
            }
            _ => None,
        };
        let Some(identity) = found else { return text(StatusCode::UNAUTHORIZED, "") };
        let iat = 1_700_000_000 + self.issued.fetch_add(1, Ordering::Relaxed);
        let token = json!({
            "protected": URL_SAFE.encode(r#"{"alg":"conjur.org/slosilo/v2","kid":"fake"}"#),
            "payload": URL_SAFE.encode(json!({"sub": identity.login, "iat": iat}).to_string()),
            "signature": URL_SAFE.encode(format!("signature {iat}")),
        })
        .to_string();
        lock(&self.tokens).insert(STANDARD.encode(&token));
        respond(StatusCode::OK, "application/json", token)
    }

    /// `/secrets?variable_ids=A,B` and `/secrets/ACCOUNT/variable/ID`.
    pub(super) fn read(&self, path: &str, query: Option<&str>, authorization: &str, base64: bool) -> Response<Body> {
        let token = authorization.strip_prefix("Token token=\"").and_then(|rest| rest.strip_suffix('"'));
        if !token.is_some_and(|token| lock(&self.tokens).contains(token)) {
            return text(StatusCode::UNAUTHORIZED, "");
        }
        let one = format!("/secrets/{}/variable/", self.account);
        if let Some(id) = path.strip_prefix(&one) {
            return match self.value(&decoded(id)) {
                Ok(value) if base64 => {
                    encoded(respond(StatusCode::OK, "application/octet-stream", STANDARD.encode(value)))
                }
                Ok(value) => respond(StatusCode::OK, "application/octet-stream", value),
                Err(status) => refused(status, id),
            };
        }
        let ids = query
            .and_then(|query| url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "variable_ids"));
        let Some((_, ids)) = ids.filter(|_| path == "/secrets") else { return text(StatusCode::NOT_FOUND, "") };
        let mut values = Map::new();
        for full in ids.split(',') {
            let Some(id) = full.strip_prefix(&format!("{}:variable:", self.account)) else {
                return refused(StatusCode::NOT_FOUND, full);
            };
            let value = match self.value(id) {
                Ok(value) => value,
                Err(status) => return refused(status, full),
            };
            let text = if base64 { Ok(STANDARD.encode(value)) } else { String::from_utf8(value) };
            let Ok(text) = text else { return json_error(StatusCode::NOT_ACCEPTABLE, "not_acceptable", full) };
            values.insert(full.to_owned(), text.into());
        }
        let response = json_response(StatusCode::OK, &Value::Object(values));
        if base64 { encoded(response) } else { response }
    }

    fn value(&self, id: &str) -> Result<Vec<u8>, StatusCode> {
        if lock(&self.forbidden).contains(id) {
            return Err(StatusCode::FORBIDDEN);
        }
        lock(&self.variables).get(id).cloned().ok_or(StatusCode::NOT_FOUND)
    }
}

fn refused(status: StatusCode, id: &str) -> Response<Body> {
    if status == StatusCode::FORBIDDEN {
        return text(status, "");
    }
    json_error(status, "not_found", &format!("Variable '{id}' not found in account"))
}

fn json_error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    json_response(status, &json!({"error": {"code": code, "message": message, "target": "canary"}}))
}

fn encoded(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("base64"));
    response
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}
