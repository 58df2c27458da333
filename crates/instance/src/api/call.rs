//! Synchronous calls: the second listener. It is another origin than the API's, because what it answers is what
//! customers' APIs answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{map_response, map_response_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use midward_core::{Failure, Hop};
use midward_telemetry::TraceContext;
use midward_wire::{ApiCall, ApiReply, Bytes64, HeaderKind, Outcome, ReplayRule, header_bytes};
use tracing::Instrument as _;

use super::submit;
use super::{Body, body, no_such_path};
use crate::app::{App, Shared};
use crate::auth;
use crate::check;
use crate::client::ApiClient;
use crate::problem::Problem;
use crate::queue::{Submitted, Wants};
use crate::store::StoreError;
use crate::store::requests::Priority;
use crate::traces::{Answered, Traced};

const REQUEST_ID: HeaderName = HeaderName::from_static("midward-request-id");
const TRACE: HeaderName = HeaderName::from_static("midward-trace");
const REPLAY: HeaderName = HeaderName::from_static("midward-replay");
const WAIT_MS: HeaderName = HeaderName::from_static("midward-wait-ms");
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const ROUTE: &str = "/api/v1/connections/{alias}/call/{path}";

pub(crate) fn router(app: Shared) -> Router {
    Router::new()
        .route("/api/v1/connections/{alias}/call", any(call_root))
        .route("/api/v1/connections/{alias}/call/", any(call_root))
        .route("/api/v1/connections/{alias}/call/{*path}", any(call_path))
        .route("/healthz", get(async || "ok\n"))
        .fallback(no_such_path)
        .layer(DefaultBodyLimit::max(app.limits.body_bytes))
        .layer(map_response(harmless))
        .layer(map_response_with_state(Arc::clone(&app), super::see_store))
        .with_state(app)
}

/// Whatever is answered here, a browser neither guesses what it is nor lets it do anything.
async fn harmless(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    response
}

async fn call_root(state: State<Shared>, Path(alias): Path<String>, request: Request) -> Response {
    call(state, alias, request).await
}

async fn call_path(state: State<Shared>, Path((alias, _)): Path<(String, String)>, request: Request) -> Response {
    call(state, alias, request).await
}

async fn call(State(app): State<Shared>, alias: String, request: Request) -> Response {
    let id = app.new_id();
    let caller = request.headers().get(header::AUTHORIZATION).cloned();
    let shows_trace = request.headers().get(&TRACE).is_some_and(|value| value == "1");
    let method = request.method().clone();
    let asked = format!("call {method} {alias}");
    let mut traced = Traced::default();
    let answer = execute(&app, &id, &alias, request, &mut traced).await;
    // Whatever was accepted has its entry from the queue.
    if let Err((problem, None)) = &answer
        && problem.failure.code != "wait_over"
    {
        let caller = HeaderMap::from_iter(caller.map(|value| (header::AUTHORIZATION, value)));
        let client = auth::client(&app, &caller).await;
        let client = client.as_ref().map_or("", |client| &client.id);
        app.audit.refused(&problem.failure.code, client, &asked);
    }
    let failure = answer.as_ref().err().map(|(problem, _)| problem.failure.clone());
    let (mut response, trace) = match answer {
        Ok((reply, trace)) => (passed_on(reply, &method), Some(trace)),
        Err((problem, trace)) => (failed(problem.with_request(&id)), trace),
    };
    traced.end(
        &app,
        &Answered {
            method: &method,
            route: ROUTE,
            request_id: &id,
            connection: Some(alias.as_str())
                .filter(|_| failure.as_ref().is_none_or(|failure| failure.hop != Hop::Caller)),
            status: response.status(),
            failure: failure.as_deref(),
        },
    );
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(value) = trace.filter(|_| shows_trace).and_then(|trace| HeaderValue::from_str(&trace).ok()) {
        headers.insert(TRACE, value);
    }
    response
}

type Trace = Arc<str>;

async fn execute(
    app: &App,
    id: &str,
    alias: &str,
    request: Request,
    traced: &mut Traced,
) -> Result<(ApiReply, Trace), (Problem, Option<Trace>)> {
    let began = app.clock.boot();
    // Nothing of a stranger's body is read.
    let longest = Duration::from_millis(app.limits.call_wait_ms);
    let patience = wait_time(longest, request.headers()).unwrap_or(longest);
    let client = within(patience, auth::admit(app, request.headers())).await.map_err(|problem| (problem, None))?;
    *traced = Traced::enter(app, began, request.headers(), None);
    admitted(app, id, alias, request, &client, traced).instrument(traced.log(id)).await
}

async fn admitted(
    app: &App,
    id: &str,
    alias: &str,
    mut request: Request,
    client: &ApiClient,
    traced: &Traced,
) -> Result<(ApiReply, Trace), (Problem, Option<Trace>)> {
    let early = |problem: Problem| (problem, None);
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let headers = std::mem::take(request.headers_mut());
    let (request, held) = app.intakes.callers.meter(request);
    let content = Bytes::from_request(request, &()).await;
    held.refused().map_or(Ok(()), Err).map_err(early)?;
    let mut call = api_call(app, alias, &method, &uri, &headers, content).map_err(early)?;
    // It has its place in the trace already.
    TraceContext::take(&mut call.headers);
    let wait = wait_time(Duration::from_millis(app.limits.call_wait_ms), &headers).map_err(early)?;
    let asked = app.clock.boot();
    let left = || wait.saturating_sub(app.clock.boot().saturating_since(asked));
    let route = within(left(), submit::route(app, client, alias)).await.map_err(early)?;
    let now = app.clock.boot();
    if !app.fleet.serves(&route, now) {
        return Err(early(Problem::new(StatusCode::SERVICE_UNAVAILABLE, app.fleet.explain(&route, now))));
    }
    // Registered before it is submitted: the outcome may come at once.
    let waiting = app.waiters.wait(id, Wants::Answer);
    let priority = Priority::Interactive;
    let terms =
        submit::Terms { priority, idempotency_key: None, not_before: 0, patience: left(), retries: false, traced };
    let submitted = submit::submit(app, client, &route, id.to_owned(), call, wait, terms).await.map_err(early)?;
    // It is in the queue, or with a MID.
    drop(held);
    match submitted {
        Submitted::New(_) => {}
        Submitted::Full => return Err(early(Problem::queue_full())),
        Submitted::Known(_) | Submitted::KeyReused(_) => return Err(early(submit::key_reused())),
    }
    if let Some(ended) = submit::wait(app, id, waiting, left(), Some(&route)).await {
        let trace = Some(Arc::clone(&ended.trace));
        // Nobody else listens to this outcome as a rule, so it is not copied.
        match Arc::unwrap_or_clone(ended.outcome) {
            Outcome::Replied { reply } => Ok((reply, ended.trace)),
            Outcome::Failed { failure } | Outcome::Unknown { failure } => Err((Problem::of_call(failure), trace)),
        }
    } else {
        let failure = Failure::transient(
            Hop::Instance,
            "wait_over",
            if app.stop.closing.is_cancelled() {
                "the instance stopped before the answer came; a call that was sent already may still end".to_owned()
            } else {
                format!("no answer came within {} ms; a call that was sent already may still end", wait.as_millis())
            },
            format!("See how it ended: `midward get requests {id}`; wait longer with Midward-Wait-Ms."),
        );
        Err(early(Problem::new(StatusCode::GATEWAY_TIMEOUT, failure)))
    }
}

/// What asks the database before anything is accepted, for as long as the caller waits.
async fn within<T>(patience: Duration, asking: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    tokio::time::timeout(patience, asking).await.unwrap_or_else(|_| Err(StoreError::Slow.into()))
}

fn api_call(
    app: &App,
    alias: &str,
    method: &Method,
    uri: &http::Uri,
    headers: &HeaderMap,
    content: Body,
) -> Result<ApiCall, Problem> {
    check::method(method.as_str())?;
    let body = body(content, app.limits.body_bytes)?;
    // The path as it was sent: a decoded one would be another one.
    let sent = uri.path_and_query().map_or("/", |whole| whole.as_str());
    let prefix = format!("/api/v1/connections/{alias}/call");
    let below = sent.strip_prefix(&prefix).ok_or_else(|| {
        Problem::bad_request("path_refused", "the connection's alias is percent-encoded", "Write the alias as it is.")
    })?;
    let path = match below.as_bytes().first() {
        Some(b'/') => below.to_owned(),
        _ => format!("/{below}"),
    };
    check::path(&path)?;
    let hops = named_by_connection(headers);
    let mut kept = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        if check::kind_of(name.as_str()) == HeaderKind::Consumed || hops.contains(name) {
            continue;
        }
        let value = value.to_str().map_err(|_| {
            Problem::bad_request("header_refused", format!("header {name} holds more than visible ASCII"), "Encode it.")
        })?;
        kept.push((name.as_str().to_owned(), value.to_owned()));
    }
    check::headers(&kept)?;
    let replay = match headers.get(&REPLAY).map(HeaderValue::as_bytes) {
        None => ReplayRule::ByMethod,
        Some(b"safe") => ReplayRule::Safe,
        Some(_) => {
            return Err(Problem::bad_request(
                "header_refused",
                "Midward-Replay is not `safe`",
                "Leave it out, or say safe.",
            ));
        }
    };
    Ok(ApiCall { method: method.as_str().to_owned(), path, headers: kept, body: Bytes64(body.into()), replay })
}

/// Headers for this connection only (RFC 9110 7.6.1).
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

/// How long the caller waits: as it says, and `longest` at most.
fn wait_time(longest: Duration, headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(value) = headers.get(&WAIT_MS) else { return Ok(longest) };
    let millis = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).filter(|millis| *millis > 0);
    let millis = millis.ok_or_else(|| {
        Problem::bad_request(
            "header_refused",
            "Midward-Wait-Ms is not a number of milliseconds",
            "Give a whole number.",
        )
    })?;
    Ok(Duration::from_millis(millis).min(longest))
}

/// The API's own answer. To HEAD, its length is what the caller asked for.
fn passed_on(reply: ApiReply, method: &Method) -> Response {
    let mut response = Response::new(axum::body::Body::from(reply.body.0));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    for (name, value) in reply.headers {
        if *method == Method::HEAD
            && name.eq_ignore_ascii_case("content-length")
            && let Ok(length) = value.parse::<u64>()
        {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        if check::is_dropped_reply_header(&name) {
            continue;
        }
        let value = HeaderValue::from_bytes(&header_bytes(&value));
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value) {
            headers.append(name, value);
        }
    }
    let received = format!("midward; received-status={}", reply.status);
    if let Ok(value) = HeaderValue::from_str(&received) {
        headers.insert(PROXY_STATUS, value);
    }
    response
}

/// An answer of Midward's own; `Proxy-Status` (RFC 9209) says so.
fn failed(problem: Problem) -> Response {
    let error = match problem.status {
        StatusCode::GATEWAY_TIMEOUT => "connection_timeout",
        StatusCode::SERVICE_UNAVAILABLE => "destination_unavailable",
        StatusCode::FORBIDDEN => "http_request_denied",
        status if status.is_client_error() => "http_request_error",
        _ => "proxy_internal_response",
    };
    let status = format!("midward; error={error}; details=\"{}\"", problem.failure.code);
    let mut response = problem.into_response();
    if let Ok(value) = HeaderValue::from_str(&status) {
        response.headers_mut().insert(PROXY_STATUS, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_waits_as_long_as_it_says_and_as_it_may() {
        let longest = Duration::from_mins(2);
        let wait = |value: Option<&'static str>| {
            let header = value.map(|value| (WAIT_MS, HeaderValue::from_static(value)));
            wait_time(longest, &header.into_iter().collect()).map_err(|problem| problem.failure.code)
        };
        assert_eq!(wait(None), Ok(longest), "who says nothing waits as long as the instance allows");
        assert_eq!(wait(Some("1500")), Ok(Duration::from_millis(1500)));
        assert_eq!(wait(Some("120001")), Ok(longest));
        for refused in ["0", "-1", "1.5", "1s", ""] {
            assert_eq!(wait(Some(refused)), Err("header_refused".to_owned()), "{refused:?}");
        }
    }
}
