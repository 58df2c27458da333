//! Orders for the server while it runs as a program.

use hyper::{Method, Response, StatusCode};
use serde::Deserialize;

use super::state::State;
use crate::fault::{FaultOrder, HttpFault};
use crate::http::{Body, text};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKey {
    api_key: String,
}

impl State {
    pub(super) fn order(&self, method: &Method, path: &str, body: &[u8]) -> Response<Body> {
        let done = match (method, path) {
            (&Method::DELETE, "/_faults") => {
                self.faults.clear();
                self.sign_in_faults.clear();
                true
            }
            (&Method::POST, "/_faults" | "/_sign_in_faults") => {
                let faults = if path == "/_faults" { &self.faults } else { &self.sign_in_faults };
                read::<FaultOrder<HttpFault>>(body).map(|order| faults.order(order.fault, order.requests)).is_some()
            }
            (&Method::DELETE, "/_tokens") => {
                self.expire_tokens();
                true
            }
            (&Method::POST, path) => {
                let variable = path.strip_prefix("/_variables/");
                let identity = path.strip_prefix("/_identities/").and_then(|rest| rest.strip_suffix("/api_key"));
                if let (Some(id), Some(order)) = (variable, read::<Value>(body)) {
                    self.set(id, order.value.into_bytes());
                    true
                } else if let (Some(login), Some(order)) = (identity, read::<ApiKey>(body)) {
                    self.set_api_key(login, &order.api_key)
                } else {
                    false
                }
            }
            _ => false,
        };
        if done { text(StatusCode::OK, "done") } else { text(StatusCode::BAD_REQUEST, "no such order") }
    }
}

fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}
