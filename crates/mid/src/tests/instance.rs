//! An instance that answers as it is told to: a real server on the loopback.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use midward_core::{Secret, SystemClock, SystemRandom};
use midward_net::WayOut;
use midward_wire::{MidState, SignedState, TokenError, paths, state_signing_input};
use tokio::net::TcpListener;

use crate::http::InstanceWay;
use crate::link::Link;
use crate::state::Enrollment;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) authorization: String,
    /// The proof (RFC 9449), if there is one.
    pub(super) dpop: String,
    pub(super) body: Bytes,
}

type Handler = dyn Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync;

/// The server; it stops when dropped.
pub(super) struct Scripted {
    pub(super) url: String,
    key: Ed25519KeyPair,
    handler: Arc<Mutex<Arc<Handler>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Scripted {
    pub(super) async fn start(handler: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let handler: Arc<Mutex<Arc<Handler>>> = Arc::new(Mutex::new(Arc::new(handler)));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, Arc::clone(&handler), Arc::clone(&seen)));
        Self { url, key: Ed25519KeyPair::generate().expect("a key"), handler, seen, task }
    }

    pub(super) fn answer_with(&self, handler: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static) {
        *self.handler.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(handler);
    }

    /// Requests for a path, so far.
    pub(super) fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// A link to it, with a new key of the MID.
    pub(super) fn link(&self) -> Link {
        let enrollment = Enrollment {
            instance_url: self.url.clone(),
            instance_id: "instance".into(),
            instance_key: URL_SAFE_NO_PAD.encode(self.key.public_key()),
            mid_id: "mid-1".into(),
            name: "edge".into(),
        };
        let way = WayOut::plain_default().expect("a way");
        let key = Ed25519KeyPair::generate().expect("a key").to_pkcs8().expect("PKCS #8");
        let key = Secret::new(key.as_ref().to_vec());
        let http = Arc::new(InstanceWay::new(way));
        Link::new(http, enrollment, &key, Arc::new(SystemClock), Arc::new(SystemRandom)).expect("a link")
    }

    /// The signed word about the MID, in answer to a token request.
    pub(super) fn signer(&self) -> impl Fn(MidState, &Seen) -> Response<Full<Bytes>> + Send + Sync + use<> {
        let key = Ed25519KeyPair::from_pkcs8(self.key.to_pkcs8().expect("PKCS #8").as_ref()).expect("a key");
        move |state, seen| {
            let signature = key.sign(&state_signing_input("mid-1", state, &jti(seen)));
            signed_answer(state, URL_SAFE_NO_PAD.encode(signature))
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A token for a token request, `None` for anything else.
pub(super) fn token_answer(seen: &Seen) -> Option<Response<Full<Bytes>>> {
    (seen.path == paths::TOKEN)
        .then(|| json(200, r#"{"access_token":"own-token","token_type":"Bearer","expires_in":300}"#))
}

pub(super) fn signed_answer(state: MidState, signature: String) -> Response<Full<Bytes>> {
    let error = TokenError {
        error: "invalid_client".into(),
        error_description: None,
        state: Some(SignedState { state, signature }),
    };
    json(401, serde_json::to_string(&error).expect("JSON"))
}

pub(super) fn json(status: u16, body: impl Into<String>) -> Response<Full<Bytes>> {
    answer(status, "application/json", body)
}

pub(super) fn answer(status: u16, media_type: &str, body: impl Into<String>) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", media_type)
        .body(Full::new(Bytes::from(body.into())))
        .expect("an answer")
}

/// The identifier of the client assertion in a token request.
pub(super) fn jti(seen: &Seen) -> String {
    claims(seen)["jti"].as_str().expect("a jti").to_owned()
}

/// The claims of the client assertion in a token request.
pub(super) fn claims(seen: &Seen) -> serde_json::Value {
    let body = String::from_utf8(seen.body.to_vec()).expect("text");
    let assertion = body.split("client_assertion=").nth(1).expect("an assertion");
    let payload = assertion.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON")
}

/// Waits until `done`, which happens soon or the test fails.
pub(super) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen");
}

async fn serve(listener: TcpListener, handler: Arc<Mutex<Arc<Handler>>>, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
                async move { Ok::<_, Infallible>(respond(request, &handler, &seen).await) }
            });
            // A client that goes away is no failure of a test.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    handler: &Mutex<Arc<Handler>>,
    seen: &Mutex<Vec<Seen>>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let now = Seen {
        path: parts.uri.path().to_owned(),
        authorization: header("authorization"),
        dpop: header("dpop"),
        body: body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(now.clone());
    let handler = Arc::clone(&handler.lock().unwrap_or_else(PoisonError::into_inner));
    let answer = handler(&now);
    // `202` stands for a poll that is held open with nothing to give.
    if answer.status() == 202 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut held = answer;
        *held.status_mut() = http::StatusCode::OK;
        return held;
    }
    answer
}
