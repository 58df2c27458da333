//! The service on a link-local address that gives a cloud's machine its identity: AWS (IMDSv2), Azure, Google.
//! After their public documentation; plain HTTP, as theirs.

use std::io;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::fault::{Before, Faults, HttpFault, after, before};
use crate::http::{App, Body, Dropped, Wire, json, read_body, respond, serve, text};
use crate::serve::{Listening, lock};
use crate::tls::Tls;

/// The token that the service gives to Azure's and Google's machines.
pub const ACCESS_TOKEN: &str = "metadata-access-token";

const AWS_SESSION: &str = "aws-metadata-session";
const ROLES: &str = "/latest/meta-data/iam/security-credentials";

/// A running service; it ends when this is dropped.
pub struct InstanceMetadata {
    state: Arc<State>,
    listening: Listening,
}

#[derive(Default)]
struct State {
    faults: Faults<HttpFault>,
    asked: Mutex<Vec<String>>,
}

impl InstanceMetadata {
    pub fn start() -> io::Result<Self> {
        let state = Arc::new(State::default());
        let listening = serve(Arc::clone(&state), &Tls::Plain, 0)?;
        Ok(Self { state, listening })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listening.addr())
    }

    /// The answer from now on, in place of the one before.
    pub fn set_fault(&self, fault: HttpFault) {
        self.state.faults.clear();
        self.state.faults.order(fault, None);
    }

    /// Method and path of every request that came, and its query where it has one.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state.asked).clone()
    }
}

impl App for State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let target = if target.contains('?') { target } else { target.trim_end_matches('/') };
        lock(&self.asked).push(format!("{} {target}", request.method()));
        let fault = self.faults.take(|_| true);
        let dropped = match before(fault.as_ref(), &wire).await? {
            Before::Answer(response) => return Ok(response),
            Before::DropAfterRead => true,
            Before::Continue => false,
        };
        let response = answer(&request);
        read_body(request.into_body()).await?;
        if dropped {
            return Err(Dropped);
        }
        after(fault.as_ref(), response).await
    }
}

fn answer(request: &Request<Incoming>) -> Response<Body> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let path = request.uri().path().trim_end_matches('/');
    let query = request.uri().query().unwrap_or_default();
    match (request.method(), path) {
        (&Method::PUT, "/latest/api/token") => match header("x-aws-ec2-metadata-token-ttl-seconds") {
            Some(seconds) => {
                let mut response = respond(StatusCode::OK, "text/plain", AWS_SESSION);
                if let Ok(value) = seconds.parse() {
                    response.headers_mut().insert("x-aws-ec2-metadata-token-ttl-seconds", value);
                }
                response
            }
            None => text(StatusCode::BAD_REQUEST, "no ttl"),
        },
        (&Method::GET, path) if path.starts_with(ROLES) => {
            if header("x-aws-ec2-metadata-token") != Some(AWS_SESSION) {
                return text(StatusCode::UNAUTHORIZED, "no session");
            }
            match path.strip_prefix(ROLES) {
                Some("") => text(StatusCode::OK, "midward-role"),
                Some("/midward-role") => json(
                    StatusCode::OK,
                    &json!({
                        "Code": "Success",
                        "LastUpdated": "2026-01-01T00:00:00Z",
                        "Type": "AWS-HMAC",
                        "AccessKeyId": "ASIAMETADATA",
                        "SecretAccessKey": "metadata-secret-access-key",
                        "Token": "metadata-session-token",
                        "Expiration": "2099-01-01T00:00:00Z",
                    }),
                ),
                _ => text(StatusCode::NOT_FOUND, "no such role"),
            }
        }
        (&Method::GET, "/metadata/identity/oauth2/token") => {
            if header("metadata") != Some("true") || !query.contains("resource=") || !query.contains("api-version=") {
                return json(StatusCode::BAD_REQUEST, &json!({"error": "invalid_request"}));
            }
            let token = json!({
                "access_token": ACCESS_TOKEN,
                "expires_in": "86400",
                "expires_on": "4070908800",
                "not_before": "0",
                "resource": "https://vault.azure.net",
                "token_type": "Bearer",
            });
            json(StatusCode::OK, &token)
        }
        (&Method::GET, "/computeMetadata/v1/instance/service-accounts/default/token") => {
            if header("metadata-flavor") != Some("Google") {
                return text(StatusCode::FORBIDDEN, "no flavor");
            }
            let token = json!({"access_token": ACCESS_TOKEN, "expires_in": 3599, "token_type": "Bearer"});
            let mut response = json(StatusCode::OK, &token);
            response.headers_mut().insert("metadata-flavor", HeaderValue::from_static("Google"));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "unknown"),
    }
}
