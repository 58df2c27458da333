//! The admin endpoints of the program.

use hyper::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{State, TokenFault};
use crate::fault::FaultOrder;
use crate::http::{Body, json, text};
use crate::serve::lock;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSecret {
    secret: String,
    #[serde(default)]
    keep_old: bool,
}

impl State {
    pub(super) fn admin(&self, method: &Method, path: &str, body: &[u8]) -> Response<Body> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method, segments.as_slice()) {
            (&Method::POST, ["_faults"]) => match serde_json::from_slice::<FaultOrder<TokenFault>>(body) {
                Ok(order) => {
                    self.faults.order(order.fault, order.requests);
                    text(StatusCode::OK, "ordered\n")
                }
                Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            },
            (&Method::DELETE, ["_faults"]) => {
                self.faults.clear();
                text(StatusCode::OK, "cleared\n")
            }
            (&Method::POST, ["_clients", id, "secret"]) => {
                let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy();
                match serde_json::from_slice::<NewSecret>(body) {
                    Ok(new) if self.set_client_secret(&id, &new.secret, new.keep_old) => {
                        text(StatusCode::OK, "changed\n")
                    }
                    Ok(_) => text(StatusCode::NOT_FOUND, "no such client\n"),
                    Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
                }
            }
            (&Method::GET, ["_stats"]) => {
                let requests = lock(&self.requests);
                let granted = requests.iter().filter(|request| request.error.is_none()).count();
                json(StatusCode::OK, &json!({ "token_requests": requests.len(), "granted": granted }))
            }
            _ => text(StatusCode::NOT_FOUND, "no such endpoint\n"),
        }
    }
}
