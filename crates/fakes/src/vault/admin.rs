//! The vault's admin endpoint, for the demo and for users who play.

use std::io;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{State, VaultFault, line};
use crate::http::{App, Body, Dropped, Wire, json, read_body, serve, text};
use crate::serve::{Listening, lock};
use crate::tls::Tls;

pub(super) fn start(state: Arc<State>) -> io::Result<Listening> {
    serve(Arc::new(Admin(state)), &Tls::Plain, 0)
}

struct Admin(Arc<State>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    password: String,
    #[serde(default)]
    password_change_in_process: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    fault: VaultFault,
    #[serde(default)]
    requests: Option<u32>,
    #[serde(default)]
    object: Option<String>,
}

impl App for Admin {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, _wire: Wire) -> Result<Response<Body>, Dropped> {
        let (parts, body) = request.into_parts();
        let body = read_body(body).await?;
        let segments: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        Ok(match (&parts.method, segments.as_slice()) {
            (&Method::POST, ["accounts", safe, name, "password"]) => {
                let (Ok(safe), Ok(name)) = (line::percent_decode(safe), line::percent_decode(name)) else {
                    return Ok(text(StatusCode::BAD_REQUEST, "the path is not percent-encoded UTF-8\n"));
                };
                match serde_json::from_slice::<NewPassword>(&body) {
                    Ok(new) => {
                        let changed = self.0.change(&safe, &name, |account| {
                            account.password = new.password;
                            account.password_change_in_process = new.password_change_in_process;
                        });
                        if changed { text(StatusCode::OK, "changed\n") } else { not_found() }
                    }
                    Err(error) => bad_request(&error),
                }
            }
            (&Method::POST, ["faults"]) => match serde_json::from_slice::<Order>(&body) {
                Ok(order) => {
                    self.0.faults.order((order.fault, order.object), order.requests);
                    text(StatusCode::OK, "ordered\n")
                }
                Err(error) => bad_request(&error),
            },
            (&Method::DELETE, ["faults"]) => {
                self.0.faults.clear();
                text(StatusCode::OK, "cleared\n")
            }
            (&Method::GET, ["stats"]) => {
                let results: Vec<String> = lock(&self.0.seen).iter().map(|seen| seen.result.clone()).collect();
                json(StatusCode::OK, &json!({ "requests": results.len(), "results": results }))
            }
            _ => not_found(),
        })
    }
}

fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "no such account or endpoint\n")
}

fn bad_request(error: &serde_json::Error) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, format!("{error}\n"))
}
