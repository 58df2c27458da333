//! An OpenTelemetry collector: takes what is posted to `/v1/traces` (OTLP/HTTP with JSON), and shows the spans.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fault::{Faults, HttpFault, after, receive};
use crate::http::{App, Body, Dropped, Wire, base_url, json, serve, text};
use crate::serve::{Listening, lock};
use crate::tls::Tls;

/// A running collector; it ends when this is dropped.
pub struct Collector {
    state: Arc<State>,
    listening: Listening,
    tls: Tls,
}

struct State {
    faults: Faults<HttpFault>,
    posts: Mutex<Vec<Post>>,
    count: watch::Sender<usize>,
}

/// One message that was taken.
#[derive(Clone, Debug)]
pub struct Post {
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A span, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// `service.name` of its resource.
    pub service: String,
    pub trace_id: String,
    pub id: String,
    pub parent: Option<String>,
    pub name: String,
    pub kind: u64,
    /// Unix nanoseconds.
    pub begin: u64,
    pub end: u64,
    /// Numbers as text.
    pub attributes: BTreeMap<String, String>,
    pub events: Vec<String>,
    pub failed: bool,
}

impl Collector {
    pub fn start(tls: Tls) -> io::Result<Self> {
        let state = State { faults: Faults::default(), posts: Mutex::default(), count: watch::Sender::new(0) };
        let state = Arc::new(state);
        let listening = serve(Arc::clone(&state), &tls, 0)?;
        Ok(Self { state, listening, tls })
    }

    pub fn url(&self) -> String {
        base_url(&self.tls, self.listening.addr())
    }

    /// Orders a fault for the next `requests` requests; `None` is until cleared.
    pub fn set_fault(&self, fault: HttpFault, requests: Option<u32>) {
        self.state.faults.order(fault, requests);
    }

    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    pub fn posts(&self) -> Vec<Post> {
        lock(&self.state.posts).clone()
    }

    /// All spans that were taken; messages that are no OTLP have none.
    pub fn spans(&self) -> Vec<Received> {
        self.posts().iter().flat_map(|post| spans(&post.body)).collect()
    }

    /// Waits until the spans are as wanted, and returns them; an error tells what was there when the time was over.
    pub async fn wait_for(
        &self,
        limit: Duration,
        wanted: impl Fn(&[Received]) -> bool,
    ) -> Result<Vec<Received>, String> {
        let mut count = self.state.count.subscribe();
        let found = async {
            loop {
                count.borrow_and_update();
                let spans = self.spans();
                if wanted(&spans) {
                    return spans;
                }
                if count.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(limit, found).await.map_err(|_| format!("the collector has {:#?}", self.spans()))
    }
}

impl App for State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        let fault = self.faults.take(|_| true);
        let (parts, body) = match receive(fault.as_ref(), request, &wire).await? {
            Ok(received) => received,
            Err(answer) => return Ok(answer),
        };
        let is_json = parts.headers.get("content-type").is_some_and(|value| value == "application/json");
        let response = match (&parts.method, parts.uri.path(), is_json) {
            (&Method::POST, "/v1/traces", true) => {
                let headers = parts.headers.iter().map(|(name, value)| {
                    (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                });
                lock(&self.posts).push(Post { headers: headers.collect(), body: body.to_vec() });
                self.count.send_modify(|count| *count += 1);
                json(StatusCode::OK, &json!({ "partialSuccess": {} }))
            }
            (&Method::POST, "/v1/traces", false) => text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "JSON only\n"),
            _ => text(StatusCode::NOT_FOUND, "spans go to /v1/traces\n"),
        };
        after(fault.as_ref(), response).await
    }
}

fn spans(body: &[u8]) -> Vec<Received> {
    let whole: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut found = Vec::new();
    for resource in list(&whole["resourceSpans"]) {
        let service = attributes(&resource["resource"]).remove("service.name").unwrap_or_default();
        let scopes = list(&resource["scopeSpans"]).iter();
        found.extend(scopes.flat_map(|scope| list(&scope["spans"])).map(|span| received(&service, span)));
    }
    found
}

fn received(service: &str, span: &Value) -> Received {
    let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| span[key].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    Received {
        service: service.to_owned(),
        trace_id: text("traceId"),
        id: text("spanId"),
        parent: span["parentSpanId"].as_str().map(str::to_owned),
        name: text("name"),
        kind: span["kind"].as_u64().unwrap_or(0),
        begin: number("startTimeUnixNano"),
        end: number("endTimeUnixNano"),
        attributes: attributes(span),
        events: list(&span["events"])
            .iter()
            .map(|event| event["name"].as_str().unwrap_or_default().to_owned())
            .collect(),
        failed: span["status"]["code"] == 2,
    }
}

fn attributes(of: &Value) -> BTreeMap<String, String> {
    let one = |attribute: &Value| {
        let value = &attribute["value"];
        let text = value["stringValue"].as_str().or(value["intValue"].as_str()).unwrap_or_default();
        (attribute["key"].as_str().unwrap_or_default().to_owned(), text.to_owned())
    };
    list(&of["attributes"]).iter().map(one).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
